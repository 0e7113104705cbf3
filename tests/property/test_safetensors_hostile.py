"""Broken and hostile safetensors files and indices: always one clear error."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeplan.domain.quant import QuantTable
from moeplan.errors import SpecError
from moeplan.readers.safetensors import read_header, read_safetensors
from tests.support.safetensors_tables import BASE, llama_table, write


def file_of(header: Any, data: int = 64) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(data)


def one(dtype: Any = "F32", shape: Any = (4, 4), offsets: Any = (0, 64)) -> dict[str, Any]:
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "five bytes": (b"12345", "not a safetensors file"),
    "length beyond the end": (struct.pack("<Q", 10**6) + b"{}", "header would take 1,000,000 bytes"),
    "length 2^63": (struct.pack("<Q", 2**63) + b"{}", "header would take"),
    "length 0": (struct.pack("<Q", 0) + b"{}", "header would take 0 bytes"),
    "not JSON": (file_of(b"{nonsense"), "not valid"),
    "no object": (file_of(b"[1, 2, 3]"), "not a list of tensors"),
    "not UTF-8": (file_of(b'{"\xff\xfe": 1}'), "not valid"),
    "nested deeply": (file_of(b'{"a":' * 50_000), "not valid"),
    "a million keys": (file_of(b"{" + b'"a":1,' * 10**6 + b'"b":1}'), "not a list of tensors"),
    "a row that is none": (file_of({"t": 5}), "tensor 't': not valid"),
    "no offsets": (file_of({"t": {"dtype": "F32", "shape": [4]}}), "tensor 't': not valid"),
    "shape of text": (file_of(one(shape=["a"])), "tensor 't': not valid"),
    "negative size": (file_of(one(shape=(-4, -4))), "does not take 64 bytes"),
    "zero size": (file_of(one(shape=(0, 4), offsets=(0, 0))), "does not take 0 bytes"),
    "sizes that overflow": (file_of(one(shape=(2**40, 2**40))), "does not take 64 bytes"),
    "offsets the wrong way": (file_of(one(offsets=(64, 0))), "impossible offsets 64 to 0"),
    "negative offset": (file_of(one(offsets=(-64, 0))), "impossible offsets"),
    "offset beyond the end": (file_of(one(offsets=(64, 128))), "ends 64 bytes behind the end of the file"),
    "offset 2^70": (file_of(one(offsets=(0, 2**70))), "not valid|behind the end"),
    "too few bytes": (file_of(one(offsets=(0, 60))), "does not take 60 bytes"),
    "overlap": (
        file_of(one() | {"u": {"dtype": "U8", "shape": [8], "data_offsets": [8, 16]}}), "'u' overlaps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(tmp_path: Path, case: str) -> None:
    content, message = HOSTILE[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=message) as error:
        read_header(path)
    assert error.value.path == str(path)
    assert len(str(error.value)) < 400


@given(place=st.integers(0, 10**6), patch=st.binary(min_size=1, max_size=8))
def test_changed_headers_are_read_or_refused(place: int, patch: bytes) -> None:
    content = bytearray(
        file_of(one() | {"u": {"dtype": "BF16", "shape": [8, 4], "data_offsets": [64, 128]}}, 128)
    )
    place %= len(content) - 128
    content[place : place + len(patch)] = patch
    with NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(content)
        file.flush()
        try:
            table = read_header(Path(file.name))
        except SpecError:
            return
        assert sum(stored.n_bytes for stored in table.values()) <= 128


def test_types_that_are_new_are_sized_by_their_offsets(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(one(dtype="F3_NEW", offsets=(0, 6))))
    assert read_header(path)["t"].n_bytes == 6


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../../etc/passwd"}}, "outside its directory"),
        ({"weight_map": {"a": "/etc/passwd"}}, "outside its directory"),
        ({"weight_map": {}}, "names 0 weight files"),
        ({"weight_map": {"a": 5}}, "not valid"),
        ({"metadata": {}}, "not valid"),
        ([], "not valid"),
        ({"weight_map": {"a": "gone.safetensors"}}, "states no total_size"),
        ({"weight_map": {"a": "gone.safetensors"}, "metadata": {"total_size": -5}}, "states no total_size"),
    ],
)
def test_broken_indices(tmp_path: Path, quants: QuantTable, index: Any, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(BASE | {"model_type": "llama"}))
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(SpecError, match=message):
        read_safetensors(path, quants)


def test_directories_that_hold_no_model(tmp_path: Path, quants: QuantTable) -> None:
    with pytest.raises(SpecError, match=r"holds no \.safetensors files"):
        read_safetensors(tmp_path, quants)
    write(tmp_path / "adapter_model.safetensors", llama_table())
    with pytest.raises(SpecError, match="holds a LoRA adapter"):
        read_safetensors(tmp_path, quants)
    write(tmp_path / "other.safetensors", llama_table())
    with pytest.raises(SpecError, match=r"holds 2 \.safetensors files and no index"):
        read_safetensors(tmp_path, quants)
