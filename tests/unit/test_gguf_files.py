"""GGUF files that are no language model, contradict themselves, come in parts or are large."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from moeplan.domain.quant import QuantTable
from moeplan.errors import NotModelled, SpecError
from moeplan.readers.gguf import read_gguf, read_header
from tests.support.make_gguf import MODELS, model_keys, model_rows, tensor_rows, write_gguf, write_model

# ── files that are no language model ────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arch", "keys", "message"),
    [
        ("clip", {}, "multimodal projector"),
        ("llama", {"general.type": "mmproj"}, "multimodal projector"),
        ("llama", {"general.type": "adapter"}, "LoRA adapter"),
        ("llama", {"general.type": "imatrix"}, "importance matrix"),
        ("llama", {"block_count": 2, "embedding_length": 256}, "token_embd.weight"),
    ],
)
def test_other_kinds_of_file(tmp_path: Path, quants: QuantTable, arch: str, keys: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_gguf(write_gguf(tmp_path / "other.gguf", arch, keys, []), quants)


def test_unknown_architecture_is_named(tmp_path: Path, quants: QuantTable) -> None:
    with pytest.raises(NotModelled, match="'wavtokenizer-dec'"):
        read_gguf(write_gguf(tmp_path / "m.gguf", "wavtokenizer-dec", {}, []), quants)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"block_count": 3}, "tensors for 2 layers"),
        ({"block_count": 0}, "block_count"),
        ({"block_count": 2**31}, "block_count"),
        ({"block_count": "two"}, "must be a whole number, got str"),
        ({"embedding_length": 128}, "is 128 wide"),
        ({"attention.head_count": 7}, "7 heads"),
        ({"attention.head_count_kv": 5}, "5 heads"),
        ({"attention.head_count_kv": [2]}, "none for layer 1"),
        ({"attention.head_count": 0}, "head_count"),
        ({"nextn_predict_layers": 2}, "2 prediction layers among 2"),
    ],
)
def test_metadata_that_contradicts_the_tensors(
    tmp_path: Path, quants: QuantTable, keys: Any, message: str
) -> None:
    hp = MODELS["llama"]
    path = write_gguf(tmp_path / "m.gguf", "llama", model_keys(hp) | keys, list(model_rows(hp)))
    with pytest.raises(SpecError, match=message) as error:
        read_gguf(path, quants)
    assert str(path) in str(error.value)


def test_missing_key_is_named(tmp_path: Path, quants: QuantTable) -> None:
    keys = {k: v for k, v in model_keys(MODELS["mixtral"]).items() if k != "expert_used_count"}
    path = write_gguf(tmp_path / "m.gguf", "llama", keys, list(model_rows(MODELS["mixtral"])))
    with pytest.raises(SpecError, match=r"no metadata key 'llama\.expert_used_count'"):
        read_gguf(path, quants)


# ── split files ─────────────────────────────────────────────────────────────────────────────────


def _split(folder: Path, parts: int = 3) -> list[Path]:
    """The llama model in parts, as llama-gguf-split writes them: all keys in the first."""
    hp = MODELS["llama"]
    rows = list(model_rows(hp))
    paths = []
    for i in range(parts):
        keys = {"split.no": i, "split.count": parts, "split.tensors.count": len(rows)}
        path = folder / f"tiny-{i + 1:05}-of-{parts:05}.gguf"
        paths.append(write_gguf(path, "llama", keys | (model_keys(hp) if i == 0 else {}), rows[i::parts]))
    return paths


@pytest.mark.parametrize("given", [0, 2])
def test_split_files_are_joined_from_any_part(tmp_path: Path, quants: QuantTable, given: int) -> None:
    paths = _split(tmp_path)
    whole = read_gguf(write_model(tmp_path / "whole.gguf", "llama"), quants)
    got = read_gguf(paths[given], quants)
    assert tensor_rows(got.tensors) == tensor_rows(whole.tensors)
    assert got.spec.blocks == whole.spec.blocks
    assert got.spec.id == "tiny"
    assert got.file_bytes == sum(path.stat().st_size for path in paths)


def test_a_missing_part_is_named(tmp_path: Path, quants: QuantTable) -> None:
    paths = _split(tmp_path)
    paths[1].unlink()
    with pytest.raises(SpecError, match=r"missing: tiny-00002-of-00003\.gguf"):
        read_gguf(paths[0], quants)


def test_a_part_under_another_name(tmp_path: Path, quants: QuantTable) -> None:
    renamed = _split(tmp_path)[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(SpecError, match="one of 3 parts"):
        read_gguf(renamed, quants)


def test_parts_that_were_swapped(tmp_path: Path, quants: QuantTable) -> None:
    first, second, _ = _split(tmp_path)
    other = tmp_path / "x"
    second.rename(other)
    first.rename(second)
    other.rename(first)
    with pytest.raises(SpecError):
        read_gguf(first, quants)


def test_an_absurd_number_of_parts(tmp_path: Path, quants: QuantTable) -> None:
    path = tmp_path / "m-00001-of-99999.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(SpecError, match="part 1 of 99999"):
        read_gguf(path, quants)


# ── speed ───────────────────────────────────────────────────────────────────────────────────────


def test_a_large_vocabulary_is_skipped_quickly(tmp_path: Path) -> None:
    # 262,144 tokens of 1 to 90 bytes, as Gemma 3 has; on a desk this takes 20 ms
    lengths = [1 + (i * 7919) % (90 if i % 50 == 0 else 14) for i in range(262_144)]
    tokens = [b"t" * n for n in lengths]
    path = write_gguf(tmp_path / "m.gguf", "llama", {"tokenizer.ggml.tokens": tokens, "block_count": 9}, [])
    start = time.process_time()
    header = read_header(path)
    assert time.process_time() - start < 0.5
    assert header.metadata["tokenizer.ggml.tokens"].count == 262_144  # type: ignore[union-attr]
    assert header.metadata["llama.block_count"] == 9
