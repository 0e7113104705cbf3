"""Our header reader against the gguf package's GGUFReader, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Q
from gguf import GGUFReader
from gguf.constants import GGML_QUANT_SIZES

from moeplan.domain.quant import QuantTable
from moeplan.readers.gguf import read_gguf, read_header
from moeplan.readers.gguf_header import Skipped
from tests.support.make_gguf import MODELS, Row, Types, plain, write_gguf, write_model


def _mix(row: Row) -> Q:
    """Several types in one file: K-quants, legacy ones, F32 and BF16."""
    if row.small:
        return Q.F32
    for mark, kind in (("_exps", Q.MXFP4), ("ffn_down", Q.Q6_K), ("attn_v", Q.Q5_0), ("attn_k_b", Q.Q8_0)):
        if mark in row.name:
            return kind
    if "token_embd" in row.name:
        return Q.BF16
    return Q.Q4_K if row.shape[-1] % 256 == 0 else Q.Q8_0 if row.shape[-1] % 32 == 0 else Q.F16


@pytest.mark.parametrize("types", [plain, _mix], ids=["f16", "mixed"])
@pytest.mark.parametrize("model", MODELS)
def test_tensor_tables_are_equal(tmp_path: Path, quants: QuantTable, model: str, types: Types) -> None:
    path = write_model(tmp_path / "model.gguf", model, types)
    ours, theirs = read_gguf(path, quants), GGUFReader(path)
    assert len(ours.tensors) == len(theirs.tensors)
    for mine, other, info in zip(ours.tensors, theirs.tensors, ours.header.tensors, strict=True):
        assert mine.name == other.name
        assert mine.shape == tuple(reversed(other.shape.tolist()))
        assert mine.qtype == other.tensor_type.name.lower()
        assert mine.n_bytes == other.n_bytes
        assert ours.header.data_offset + info.offset == other.data_offset
    assert ours.header.data_offset == theirs.data_offset


@pytest.mark.parametrize("model", MODELS)
def test_bytes_add_up_to_the_file(tmp_path: Path, quants: QuantTable, model: str) -> None:
    path = write_model(tmp_path / "model.gguf", model, _mix)
    got = read_gguf(path, quants)
    padding = sum(-t.n_bytes % got.header.alignment for t in got.tensors)
    assert sum(t.n_bytes for t in got.tensors) + padding == path.stat().st_size - got.header.data_offset
    assert got.file_bytes == path.stat().st_size


def test_every_type_of_the_package_has_its_size(tmp_path: Path, quants: QuantTable) -> None:
    kinds = [kind for kind in GGML_QUANT_SIZES if kind.name not in ("Q8_1", "Q8_K")]  # never in files
    rows = [Row(f"blk.0.{kind.name}", (3, 1024)) for kind in kinds]
    path = write_gguf(tmp_path / "types.gguf", "llama", {}, rows, lambda row: Q[row.name[6:]])
    theirs = {tensor.name: tensor.n_bytes for tensor in GGUFReader(path).tensors}
    layouts = {layout.ggml_type: layout for layout in quants.types.values()}
    for info in read_header(path).tensors:
        layout = layouts[info.ggml_type]
        assert 3 * (1024 // layout.block_elements) * layout.block_bytes == theirs[info.name], info.name


def test_metadata_is_equal(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "block_count": 7,
        "attention.layer_norm_rms_epsilon": 0.5,
        "general.name": "ünïcode",
        "general.alignment": 32,
        "attention.causal": True,
        "attention.head_count_kv": [8, 0, 8, 0],
        "attention.sliding_window_pattern": [True, False, True],
        "tokenizer.ggml.tokens": [f"token {i}" for i in range(5000)],
        "tokenizer.ggml.scores": [float(-i) for i in range(5000)],
        "tokenizer.chat_template": "x" * 10_000,
    }
    path = write_gguf(tmp_path / "keys.gguf", "llama", keys, [])
    ours = read_header(path).metadata
    for name, field in GGUFReader(path).fields.items():
        if name.startswith("GGUF."):
            continue
        theirs = field.contents()
        mine = ours[name]
        if isinstance(mine, Skipped):
            assert mine.count == len(theirs)
        else:
            assert (list(mine) if isinstance(mine, tuple) else mine) == theirs
    skipped = {name for name, value in ours.items() if isinstance(value, Skipped)}
    assert skipped == {"tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.chat_template"}
