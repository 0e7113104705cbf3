"""Checkpoints in several safetensors files."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest

from moeplan.domain.quant import QuantTable
from moeplan.errors import SpecError
from moeplan.readers.safetensors import read_safetensors
from tests.support.safetensors_tables import (
    BASE,
    BITS,
    check,
    llama_table,
    write,
)


def sharded(folder: Path, *, index: bool = True) -> list[Path]:
    """The llama in three files, cut in the middle of layers."""
    (folder / "config.json").write_text(json.dumps(BASE | {"model_type": "llama"}))
    rows = list(llama_table().items())
    files, weight_map, total = [], {}, 0
    for i in range(3):
        name = f"model-{i + 1:05}-of-00003.safetensors"
        part = dict(rows[i * 7 : i * 7 + 7])
        files.append(write(folder / name, part))
        weight_map |= dict.fromkeys(part, name)
        total += sum(prod(shape) * BITS[dtype] // 8 for dtype, shape in part.values())
    if index:
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(text)
    return files


@pytest.mark.parametrize("named", ["", "model.safetensors.index.json", "model-00002-of-00003.safetensors"])
@pytest.mark.parametrize("index", [True, False])
def test_shards_are_joined(tmp_path: Path, quants: QuantTable, named: str, index: bool) -> None:
    files = sharded(tmp_path, index=index or named.endswith(".json"))
    model = read_safetensors(tmp_path / named, quants)
    check(model)
    assert model.file_bytes == sum(file.stat().st_size for file in files)


def test_an_index_without_its_files_gives_the_total(tmp_path: Path, quants: QuantTable) -> None:
    files = sharded(tmp_path)
    whole = read_safetensors(tmp_path, quants)
    assert whole.tensors is not None
    for file in files[1:]:
        file.unlink()
    model = read_safetensors(tmp_path / "model.safetensors.index.json", quants)
    assert model.tensors is None
    assert model.note.startswith("2 of 3 weight files are missing")
    assert model.file_bytes == sum(t.n_bytes for t in whole.tensors)
    assert model.quant == "bf16"


def test_a_missing_part_without_index_is_named(tmp_path: Path, quants: QuantTable) -> None:
    sharded(tmp_path, index=False)[2].unlink()
    with pytest.raises(SpecError, match=r"missing: model-00003-of-00003\.safetensors"):
        read_safetensors(tmp_path, quants)


def test_weights_without_config(tmp_path: Path, quants: QuantTable) -> None:
    write(tmp_path / "model.safetensors", llama_table())
    with pytest.raises(SpecError, match=r"no config\.json beside the weights"):
        read_safetensors(tmp_path / "model.safetensors", quants)
