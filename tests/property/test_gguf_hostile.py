"""Broken and hostile GGUF files: always one clear error, soon, in little memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeplan.domain.quant import QuantTable
from moeplan.errors import NotModelled, SpecError
from moeplan.readers.gguf import read_gguf, read_header
from moeplan.readers.quants import load_quants
from tests.support.make_gguf import MODELS, write_model

U8, U32, F32, STRING, ARRAY, U64 = 0, 4, 6, 8, 9, 10


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, dims: tuple[int, ...] = (32, 4), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf(n_tensors: int, n_keys: int, body: bytes = b"", version: int = 3, room: int = 4096) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + body + bytes(room)


ARCH = pair("general.architecture", STRING, text("llama"))

# what is wrong -> (the file, what the error must say). Offsets: magic 4, version 4, counts 8 + 8, so the
# first entry stands at byte 24 and the value of a key of n letters at 24 + 8 + n + 4.
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "one byte": (b"G", "not a GGUF file"),
    "text": (b"This is a model card, not a model.\n" * 9, "not a GGUF file"),
    "zeros": (bytes(5000), "not a GGUF file"),
    "magic alone": (b"GGUF", "24 bytes, this file has 4"),
    "half a header": (b"GGUF" + struct.pack("<IQ", 3, 1), "24 bytes, this file has 16"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "ggjt": (b"tjgg" + bytes(60), "before GGUF"),
    "safetensors": (struct.pack("<Q", 40) + b'{"__metadata__":{}}' + bytes(40), "safetensors"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(64), "byte 4: a big-endian"),
    "swapped magic": (b"FUGG" + bytes(60), "big-endian"),
    "version 1": (gguf(0, 0, version=1), "byte 4: GGUF version 1"),
    "version of the future": (gguf(0, 0, version=77), "byte 4: GGUF version 77"),
    "2^60 tensors": (gguf(2**60, 0), "byte 8: claims 1,152,921,504,606,846,976 tensors"),
    "2^60 keys": (gguf(0, 2**60), "byte 16: claims 1,152,921,504,606,846,976 metadata entries"),
    "2^64 - 1 tensors": (gguf(2**64 - 1, 0), "byte 8: claims"),
    "more tensors than rows": (gguf(4, 1, ARCH, room=200), r"byte \d+: .*'' has 0 dimensions"),
    "key beyond the end": (gguf(0, 1, struct.pack("<Q", 10**6)), "byte 24: claims 1,000,000 bytes in a"),
    "key of 2^63 bytes": (gguf(0, 1, struct.pack("<Q", 2**63)), "byte 24: claims"),
    "key of 100 kB": (gguf(0, 1, text(b"k" * 100_000)), "at most 256 are read"),
    "string beyond the end": (gguf(0, 1, pair("name", STRING, struct.pack("<Q", 2**40))), "byte 40: claims"),
    "value type 99": (gguf(0, 1, pair("name", 99, b"")), "byte 36: value type 99 of 'name'"),
    "key twice": (gguf(0, 2, ARCH + ARCH), "twice"),
    "array of 1e9 strings": (
        gguf(0, 1, pair("list", ARRAY, struct.pack("<IQ", STRING, 10**9))), "byte 40: claims 1,000,000,000",
    ),
    "array of 1e9 numbers": (
        gguf(0, 1, pair("list", ARRAY, struct.pack("<IQ", U64, 10**9))), "byte 40: claims 1,000,000,000 it",
    ),
    "array of 2^63 bytes": (
        gguf(0, 1, pair("list", ARRAY, struct.pack("<IQ", U8, 2**63))), "byte 40: claims",
    ),
    "array of arrays": (
        gguf(0, 1, pair("list", ARRAY, struct.pack("<IQ", ARRAY, 1))), "byte 40: .* array of arrays",
    ),
    "array type 99": (gguf(0, 1, pair("list", ARRAY, struct.pack("<IQ", 99, 1))), "byte 40: array type 99"),
    "strings past the end": (
        gguf(0, 1, pair("list", ARRAY, struct.pack("<IQ", STRING, 9) + struct.pack("<Q", 2**62)), room=300),
        "byte 52: the strings of 'list' run past",
    ),
    "alignment 0": (gguf(0, 1, pair("general.alignment", U32, struct.pack("<I", 0))), "alignment is 0"),
    "alignment 33": (gguf(0, 1, pair("general.alignment", U32, struct.pack("<I", 33))), "power of two"),
    "alignment 2^31": (gguf(0, 1, pair("general.alignment", U32, struct.pack("<I", 2**31))), "power of two"),
    "alignment a string": (gguf(0, 1, pair("general.alignment", STRING, text("32"))), "not a whole number"),
    "no dimensions": (gguf(1, 0, tensor("t", ())), "byte 24: tensor 't' has 0 dimensions"),
    "five dimensions": (gguf(1, 0, tensor("t", (1,) * 5)), "byte 24: tensor 't' has 5 dimensions"),
    "2^31 dimensions": (gguf(1, 0, text("t") + struct.pack("<I", 2**31)), "has 2147483648 dimensions"),
    "zero dimension": (gguf(1, 0, tensor("t", (32, 0))), r"byte 24: .*impossible shape \(0, 32\)"),
    "product of dimensions": (gguf(1, 0, tensor("t", (2**40, 2**40))), "byte 24: .*impossible shape"),
    "product wraps to a small number": (gguf(1, 0, tensor("t", (2**32, 2**32, 1, 32))), "impossible shape"),
    "offset not aligned": (gguf(1, 0, tensor("t", offset=5)), "byte 24: offset 5 .* multiple of 32"),
    "offset beyond the end": (gguf(1, 0, tensor("t", offset=2**40)), "byte 24: tensor 't' begins at byte"),
    "offset 2^64 - 32": (gguf(1, 0, tensor("t", offset=2**64 - 32)), "byte 24: tensor 't' begins at byte"),
    "tensor twice": (gguf(2, 0, tensor("t") + tensor("t")), "'t' stands there twice"),
    "tensor name beyond the end": (gguf(1, 0, struct.pack("<Q", 2**50)), "byte 24: claims"),
    "no architecture": (gguf(0, 0), "no metadata key 'general.architecture'"),
    "architecture a number": (
        gguf(0, 1, pair("general.architecture", F32, struct.pack("<f", 1))), "must be a string, got float",
    ),
    # 24 + 45 bytes of ARCH: the tensor row stands at byte 69
    "unknown tensor type": (gguf(1, 1, ARCH + tensor("t", kind=12345)), "byte 69: .*type number 12345"),
    "negative tensor type": (gguf(1, 1, ARCH + tensor("t", kind=2**32 - 1)), "type number 4294967295"),
    "removed tensor type": (gguf(1, 1, ARCH + tensor("t", kind=4)), "unknown type number 4"),
    "rows no whole blocks": (
        gguf(1, 1, ARCH + tensor("t", (33, 2), kind=2)), "rows of 33, type q4_0 has blocks of 32",
    ),
    "tensor past the end": (gguf(1, 1, ARCH + tensor("t", (1024, 1024))), "behind the end of the file"),
    "tensors overlap": (
        gguf(2, 1, ARCH + tensor("t") + tensor("u", offset=32)), "'u' overlaps",
    ),
}  # fmt: skip


@cache
def _quants() -> QuantTable:
    return load_quants()


@contextmanager
def _cheap() -> Iterator[None]:
    """At most half a second of CPU, and 40 MB."""
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
    finally:
        seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert seconds < 0.5
    assert peak < 40e6


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers(tmp_path: Path, case: str) -> None:
    content, message = HOSTILE[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    _quants()
    with pytest.raises(SpecError, match=message) as error, _cheap():
        read_gguf(path, _quants())
    assert error.value.path == str(path)
    assert "\n" not in str(error.value)


def test_counts_that_a_sparse_file_could_hold(tmp_path: Path) -> None:
    """A hole of 1 TB makes every count fit: the limits of what is read must stop it."""
    for body, message in (
        (gguf(2**30, 0), "at most 131,072 are read|MiB that a header may take"),
        (gguf(0, 2**30), "at most 65,536 are read|MiB that a header may take"),
        (gguf(0, 1, pair("list", ARRAY, struct.pack("<IQ", STRING, 10**9))), "MiB that a header may take"),
        (gguf(100_000, 0), "has 0 dimensions"),
        (gguf(0, 60_000), "twice"),
    ):
        path = tmp_path / "huge.gguf"
        path.write_bytes(body)
        with path.open("r+b") as file:
            file.truncate(2**40)
        with pytest.raises(SpecError, match=message), _cheap():
            read_header(path)


def test_many_small_values_are_bounded(tmp_path: Path) -> None:
    """30,000 keys with 4 kB each are refused before they are all in memory."""
    value = text("v" * 4000)
    body = b"".join(pair(f"key{i}", STRING, value) for i in range(30_000))
    path = tmp_path / "many.gguf"
    path.write_bytes(gguf(0, 30_000, body))
    tracemalloc.start()
    with pytest.raises(SpecError, match="64 MiB"):
        read_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is a directory"):
        read_gguf(tmp_path, _quants())
    with pytest.raises(SpecError, match="no such file"):
        read_gguf(tmp_path / "none.gguf", _quants())
    with pytest.raises(SpecError, match="not a regular file"):
        read_gguf(Path("/dev/zero"), _quants())


@cache
def _header_bytes(model: str) -> tuple[bytes, int]:
    """(header, file size) of a small valid file."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write_model(Path(folder) / "model.gguf", model)
        header = read_header(path)
        return path.read_bytes()[: header.data_offset], header.file_bytes


def _reads_or_refuses(content: bytes, size: int) -> None:
    import os
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(content)
        file.flush()
        os.truncate(file.name, size)
        start = time.process_time()
        try:
            model = read_gguf(Path(file.name), _quants())
        except (SpecError, NotModelled):
            pass
        else:
            assert sum(t.n_bytes for t in model.tensors) <= size
        assert time.process_time() - start < 1.0


@given(
    model=st.sampled_from(sorted(MODELS)),
    flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_flipped_bytes(model: str, flips: list[tuple[int, int]]) -> None:
    header, size = _header_bytes(model)
    changed = bytearray(header)
    for place, value in flips:
        changed[place % len(changed)] = value
    _reads_or_refuses(bytes(changed), size)


@given(
    model=st.sampled_from(sorted(MODELS)),
    place=st.integers(0, 2**20),
    value=st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]),
    width=st.sampled_from([4, 8]),
)
def test_extreme_numbers_anywhere(model: str, place: int, value: int, width: int) -> None:
    header, size = _header_bytes(model)
    place %= len(header) - 8
    number = (value % 2 ** (8 * width)).to_bytes(width, "little")
    _reads_or_refuses(header[:place] + number + header[place + width :], size)


@given(model=st.sampled_from(sorted(MODELS)), keep=st.floats(0, 1))
def test_truncated_files(model: str, keep: float) -> None:
    header, _ = _header_bytes(model)
    end = int(len(header) * keep)
    _reads_or_refuses(header[:end], end)


@given(st.binary(max_size=300))
def test_random_bytes_behind_the_magic(noise: bytes) -> None:
    content = b"GGUF\x03\0\0\0" + noise
    _reads_or_refuses(content, len(content))
