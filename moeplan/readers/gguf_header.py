"""The header of a GGUF file: its metadata and tensor table, read without touching a weight.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Every count in a file is checked against
the bytes that are left before it is believed, so that a hostile or broken file costs neither time nor
memory: it gives one SpecError that names the byte where it went wrong.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

from moeplan.domain.value import Value
from moeplan.errors import SpecError
from moeplan.readers.paths import require_file

if TYPE_CHECKING:
    import re

# Bounds far above any real file: headers are below 40 MB, with some 60 keys and 2,000 tensors.
MAX_HEADER_BYTES: Final = 128 * 2**20
MAX_KEPT_BYTES: Final = 64 * 2**20
MAX_KEYS: Final = 2**16
MAX_TENSORS: Final = 2**17
MAX_NAME_BYTES: Final = 256
# Values up to these sizes are kept; token lists and chat templates are skipped.
MAX_KEPT_ITEMS: Final = 4096
MAX_KEPT_TEXT_BYTES: Final = 4096

_U64 = struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
# Metadata value types by id: struct code of the fixed-size ones.
_CODES: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_KV_MIN_BYTES = 8 + 4 + 1
_TENSOR_MIN_BYTES = 8 + 4 + 8 + 4 + 8
_RUN = 128


class Skipped(Value):
    """A value that was passed over: an array of ``count`` items, or a text of ``count`` bytes."""

    kind: str
    count: int


MetaValue: TypeAlias = int | float | bool | str | tuple[int | float | bool, ...] | Skipped


class TensorInfo(Value):
    """One row of the tensor table. ``shape`` is outermost first (the file stores it innermost first);
    ``offset`` counts from the start of the data, ``at`` is where the row stands in the file."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int
    at: int


class GgufHeader(Value):
    """Everything in one GGUF file before the weights. ``data_offset`` is where those begin."""

    path: Path
    version: int
    metadata: Mapping[str, MetaValue]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int
    file_bytes: int


def read_header(path: Path) -> GgufHeader:
    """Metadata and tensor table of one GGUF file, version 2 or 3, little endian.

    Raises SpecError for anything else, with the file and the byte offset.
    """
    size = require_file(path)
    try:
        with path.open("rb") as file:
            _check_magic(path, file.read(64))
            with mmap.mmap(file.fileno(), min(size, MAX_HEADER_BYTES), access=mmap.ACCESS_READ) as view:
                return _Parser(path, view, size).header()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(f"cannot be read: {reason}", path=str(path)) from None


def _check_magic(path: Path, start: bytes) -> None:
    """Whether the file is GGUF at all; if not, what it looks like."""
    if start[:4] == b"GGUF" and len(start) >= 24:
        return
    problem = "is not a GGUF file (it does not begin with the bytes `GGUF`)"
    hint = None
    if not start:
        problem = "is empty"
    elif start[:4] == b"GGUF":
        problem = f"is cut off: a GGUF header needs at least 24 bytes, this file has {len(start)}"
    elif start[:4] == b"FUGG":
        problem = "is a big-endian GGUF file, which is not supported"
    elif start[:4] in (b"lmgg", b"tjgg", b"algg", b"fmgg"):
        problem, hint = (
            "is a GGML file of the time before GGUF",
            "convert it with llama.cpp, or get a GGUF file",
        )
    elif start.startswith(b"version https://git-lfs"):
        problem, hint = "is a Git LFS pointer, not the model", "fetch the file itself with `git lfs pull`"
    elif start[8:9] == b"{" and not any(start[4:8]):
        problem, hint = "looks like a safetensors file", "rename it to .safetensors"
    raise SpecError(problem, path=str(path), hint=hint)


class _Parser:
    """A cursor over the mapped beginning of a file."""

    __slots__ = ("_kept", "_pos", "_view", "path", "size")

    def __init__(self, path: Path, view: mmap.mmap, size: int) -> None:
        self.path = path
        self.size = size
        self._view = view
        self._pos = 4
        self._kept = 0

    def header(self) -> GgufHeader:
        """The whole header."""
        version = self._version()
        n_tensors, n_keys = self._u64("the tensor count"), self._u64("the metadata count")
        self._check_count(n_tensors, "tensors", _TENSOR_MIN_BYTES, MAX_TENSORS, at=8)
        self._check_count(n_keys, "metadata entries", _KV_MIN_BYTES, MAX_KEYS, at=16)
        metadata: dict[str, MetaValue] = {}
        for _ in range(n_keys):
            at = self._pos
            key = self._text("a metadata key")
            if key in metadata:
                self._fail(f"metadata key {key!r} stands there twice", at)
            metadata[key] = self._value(self._u32("a value type"), key)
        alignment = self._alignment(metadata)
        table = self._tensors(n_tensors, alignment)
        data_offset = -(-self._pos // alignment) * alignment
        for info in table:
            if data_offset + info.offset >= self.size:
                begin = f"tensor {info.name!r} begins at byte {data_offset + info.offset:,}"
                self._fail(f"{begin}, the file ends at {self.size:,}: it is cut off or broken", info.at)
        return GgufHeader(
            path=self.path,
            version=version,
            metadata=metadata,
            tensors=table,
            alignment=alignment,
            data_offset=data_offset,
            file_bytes=self.size,
        )

    def _version(self) -> int:
        version = self._u32("the version")
        if version & 0xFFFF == 0 and 1 <= version >> 24 <= 3:
            self._fail("a big-endian GGUF file, which is not supported", 4)
        if version not in (2, 3):
            self._fail(f"GGUF version {version} is not supported, only 2 and 3", 4)
        return version

    def _alignment(self, metadata: Mapping[str, MetaValue]) -> int:
        value = metadata.get("general.alignment", 32)
        if isinstance(value, bool) or not isinstance(value, int):
            self._fail("general.alignment is not a whole number", self._pos)
        if not 1 <= value <= 2**20 or value & (value - 1):
            self._fail(f"general.alignment is {value}, expected a power of two up to 2^20", self._pos)
        return value

    # ── metadata values ─────────────────────────────────────────────────────────────────────────

    def _value(self, kind: int, key: str) -> MetaValue:
        code = _CODES.get(kind)
        if code is not None:
            number: int | float | bool = self._unpack("<" + code, f"the value of {key!r}")[0]
            return number
        if kind == _STRING:
            return self._long_text(key)
        if kind == _ARRAY:
            return self._array(key)
        self._fail(f"value type {kind} of {key!r} does not exist", self._pos - 4)

    def _array(self, key: str) -> MetaValue:
        at = self._pos
        kind, count = self._u32("an array's type"), self._u64("an array's length")
        if kind == _ARRAY:
            self._fail(f"{key!r} is an array of arrays, which no reader supports", at)
        if kind == _STRING:
            self._check_count(count, f"strings in {key!r}", 8, MAX_HEADER_BYTES, at)
            self._skip_strings(count, key)
            return Skipped(kind="string", count=count)
        code = _CODES.get(kind)
        if code is None:
            self._fail(f"array type {kind} of {key!r} does not exist", at)
        item_bytes = struct.calcsize("<" + code)
        self._check_count(count, f"items in {key!r}", item_bytes, MAX_HEADER_BYTES, at)
        if count <= MAX_KEPT_ITEMS:
            self._keep(count * 32, at)
            return self._unpack(f"<{count}{code}", key)
        self._pos += count * item_bytes
        return Skipped(kind="number", count=count)

    def _long_text(self, key: str) -> str | Skipped:
        at = self._pos
        length = self._u64(f"the length of {key!r}")
        self._check_count(length, f"bytes in {key!r}", 1, MAX_HEADER_BYTES, at)
        if length > MAX_KEPT_TEXT_BYTES:
            self._pos += length
            return Skipped(kind="text", count=length)
        return self._decode(length, at)

    def _skip_strings(self, count: int, key: str) -> None:
        """Pass over ``count`` strings of a vocabulary.

        A vocabulary has up to 600,000 of them and each length must be read to find the next. The regular
        expression does that for 128 short strings at a time, in half the time of the loop.
        """
        view, pos, at = self._view, self._pos, self._pos
        left = count
        if count >= 32 * _RUN:
            match = _short_strings().match
            while left >= _RUN:
                run = match(view, pos)
                pos = run.end() if run else self._hop(pos, _RUN, key, at)
                left -= _RUN
            run = None  # it holds on to the mapping
        self._pos = self._hop(pos, left, key, at)

    def _hop(self, pos: int, count: int, key: str, at: int) -> int:
        view, length_at = self._view, _U64.unpack_from
        try:
            for _ in range(count):
                pos += length_at(view, pos)[0] + 8
        except (struct.error, OverflowError):
            pos = self.size + 1
        if pos > len(view):
            self._fail(f"the strings of {key!r} run past {self._end()}", at)
        return pos

    # ── tensor table ────────────────────────────────────────────────────────────────────────────

    def _tensors(self, count: int, alignment: int) -> tuple[TensorInfo, ...]:
        table: dict[str, TensorInfo] = {}
        for _ in range(count):
            info = self._tensor()
            if info.name in table:
                self._fail(f"tensor {info.name!r} stands there twice", info.at)
            if info.offset % alignment:
                self._fail(f"offset {info.offset} of {info.name!r} is not a multiple of {alignment}", info.at)
            table[info.name] = info
        return tuple(table.values())

    def _tensor(self) -> TensorInfo:
        at = self._pos
        name = self._text("a tensor name")
        n_dims = self._u32(f"the dimensions of {name!r}")
        if not 1 <= n_dims <= 4:
            self._fail(f"tensor {name!r} has {n_dims} dimensions, expected 1 to 4", at)
        self._keep(256, at)
        *sizes, ggml_type, offset = self._unpack(f"<{n_dims}QIQ", f"the row of {name!r}")
        n_elements = 1
        for size in sizes:
            n_elements *= size
        if not 0 < n_elements < 2**63:
            self._fail(f"tensor {name!r} has the impossible shape {tuple(reversed(sizes))}", at)
        return TensorInfo(name=name, shape=tuple(reversed(sizes)), ggml_type=ggml_type, offset=offset, at=at)

    # ── pieces ──────────────────────────────────────────────────────────────────────────────────

    def _u32(self, what: str) -> int:
        value: int = self._unpack("<I", what)[0]
        return value

    def _u64(self, what: str) -> int:
        value: int = self._unpack("<Q", what)[0]
        return value

    def _unpack(self, form: str, what: str) -> tuple[int, ...]:
        try:
            values: tuple[int, ...] = struct.unpack_from(form, self._view, self._pos)
        except struct.error:
            self._fail(f"{what} runs past {self._end()}", self._pos)
        self._pos += struct.calcsize(form)
        return values

    def _text(self, what: str) -> str:
        at = self._pos
        length = self._u64(f"the length of {what}")
        self._check_count(length, f"bytes in {what}", 1, MAX_NAME_BYTES, at)
        return self._decode(length, at)

    def _decode(self, length: int, at: int) -> str:
        self._keep(length + 64, at)
        raw = self._view[self._pos : self._pos + length]
        self._pos += length
        return raw.decode("utf-8", "backslashreplace")

    def _check_count(self, count: int, what: str, item_bytes: int, most: int, at: int) -> None:
        """Refuse a count that the rest of the file cannot hold, or that nothing real reaches."""
        left = len(self._view) - self._pos
        if count * item_bytes > left:
            self._fail(f"claims {count:,} {what}, but {self._end()} is {left:,} bytes away", at)
        if count > most:
            self._fail(f"claims {count:,} {what}, at most {most:,} are read", at)

    def _keep(self, n_bytes: int, at: int) -> None:
        """Count what is held in memory."""
        self._kept += n_bytes
        if self._kept > MAX_KEPT_BYTES:
            self._fail(f"names and values take more than {MAX_KEPT_BYTES // 2**20} MiB", at)

    def _end(self) -> str:
        if len(self._view) < self.size:
            return f"the {MAX_HEADER_BYTES // 2**20} MiB that a header may take"
        return "the end of the file"

    def _fail(self, problem: str, at: int) -> NoReturn:
        raise SpecError(f"byte {at}: {problem}", path=str(self.path))


def _short_strings() -> re.Pattern[bytes]:
    """Matches exactly 128 strings below 64 bytes, each an 8-byte length and its bytes."""
    import re

    # The commonest lengths first: the alternatives are tried in order, and their first bytes all differ.
    lengths = sorted(range(64), key=lambda n: abs(n - 6))
    strings = b"|".join(re.escape(_U64.pack(n)) + b".{%d}" % n for n in lengths)
    return re.compile(b"(?s:" + strings + b"){%d}" % _RUN)
