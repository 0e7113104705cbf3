"""Reading a safetensors checkpoint: every tensor with its exact size, from the headers alone.

Format: https://github.com/huggingface/safetensors (8 bytes of length, then JSON: dtype, shape and offsets
of each tensor). What the model is comes from the config.json beside the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from moeplan.domain.graph import Tensor
from moeplan.domain.model import ModelSpec
from moeplan.domain.quant import QuantTable
from moeplan.domain.value import Value
from moeplan.errors import SpecError
from moeplan.readers.paths import require_file
from moeplan.readers.safetensors_matrices import Stored, matrices

__all__ = ["SafetensorsModel", "read_header", "read_safetensors"]

# The format's own limit of a header; the counts are far above any real checkpoint.
MAX_HEADER_BYTES: Final = 100_000_000
MAX_FILE_TENSORS: Final = 2**17
MAX_TENSORS: Final = 400_000
MAX_FILES: Final = 2_000
_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6,
    "F6_E3M2": 6, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
_INDEX = ".safetensors.index.json"

# Their layers are not those of the checkpoint: two for one, or an encoder's beside a decoder's.
_OTHER_LAYERS: Final = frozenset({"longcat_flash", "switch_transformers"})

T = TypeVar("T")


class SafetensorsModel(Value):
    """A checkpoint. ``tensors`` is None where they are not known one by one (weight files are missing,
    or the family names them in its own way); ``note`` says why. Tensors whose owner is not "base" are
    not part of the text model."""

    spec: ModelSpec
    tensors: tuple[Tensor, ...] | None
    quant: str
    file_bytes: int
    note: str = ""


class _Row(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class _Totals(msgspec.Struct):
    total_size: int | float | None = None


class _Index(msgspec.Struct):
    weight_map: dict[str, str]
    metadata: _Totals | None = None


def read_safetensors(path: Path, quants: QuantTable) -> SafetensorsModel:
    """The checkpoint at ``path``: a directory, a ``.safetensors`` file or its ``.index.json``.

    ``quants`` tells how many weights a packed word of the checkpoint's quantisation holds. Raises SpecError
    for broken files and without a config.json, NotModelled for an unknown kind of model.
    """
    folder, index, files = _locate(path)
    spec = _read_config(folder)
    missing = [file for file in files if not file.is_file()]
    if missing:
        return _from_index(spec, index, files, missing)
    stored: dict[str, Stored] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            if name in stored:
                raise SpecError(f"tensor {name!r} is also in another file", path=str(file))
            stored[name] = tensor
        if len(stored) > MAX_TENSORS:
            raise SpecError(f"more than {MAX_TENSORS:,} tensors", path=str(folder))
    file_bytes = sum(file.stat().st_size for file in files)
    if spec.architecture in _OTHER_LAYERS:
        note = f"the tensors of {spec.architecture} are not told apart: types are those of config.json"
        return SafetensorsModel(
            spec=spec, tensors=None, quant=spec.native_quant, file_bytes=file_bytes, note=note
        )
    tensors, quant = matrices(spec, stored, quants, str(folder))
    return SafetensorsModel(
        spec=replace(spec, native_quant=quant), tensors=tensors, quant=quant, file_bytes=file_bytes
    )


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one ``.safetensors`` file by name. Raises SpecError for anything that is not one."""
    size = require_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            room = min(size - 8, MAX_HEADER_BYTES)
            if len(start) < 8 or length < 2 or length > room:
                found = "it is empty" if not start else f"its header would take {length:,} bytes"
                raise SpecError(f"is not a safetensors file: {found}", path=str(path))
            raw = file.read(length)
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror or error}", path=str(path)) from None
    if raw[:1] != b"{" or raw.count(b":") > 4 * MAX_FILE_TENSORS:
        raise SpecError("byte 8: the header is not a list of tensors as safetensors has it", path=str(path))
    fields = _decode(raw, dict[str, msgspec.Raw], path)
    fields.pop("__metadata__", None)
    rows = {name: _decode(row, _Row, path, f"tensor {name!r}: ") for name, row in fields.items()}
    _check_offsets(rows, size - 8 - length, path)
    return {name: _stored(name, row, path) for name, row in rows.items()}


def _decode(raw: bytes | msgspec.Raw, kind: type[T], path: Path, what: str = "") -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise SpecError(f"{what}not valid: {error}", path=str(path)) from None


def _check_offsets(rows: Mapping[str, _Row], data_bytes: int, path: Path) -> None:
    """Every tensor must lie in the file, and none in another."""
    previous = 0
    for (begin, end), name in sorted((row.data_offsets, name) for name, row in rows.items()):
        if not 0 <= begin <= end:
            raise SpecError(f"tensor {name!r} has the impossible offsets {begin} to {end}", path=str(path))
        if end > data_bytes:
            missing = end - data_bytes
            raise SpecError(
                f"tensor {name!r} ends {missing:,} bytes behind the end of the file", path=str(path)
            )
        if begin < previous:
            raise SpecError(f"tensor {name!r} overlaps another", path=str(path))
        previous = end


def _stored(name: str, row: _Row, path: Path) -> Stored:
    """One row of the table, its bytes checked against its type and shape."""
    n_bytes = row.data_offsets[1] - row.data_offsets[0]
    n_elements = 1
    for size in row.shape:
        n_elements *= size
    bits = _BITS.get(row.dtype)
    fits = bits is None or n_bytes == -(-n_elements * bits // 8)
    if not fits or any(size <= 0 for size in row.shape):
        given = f"{row.dtype[:20]} of shape {tuple(row.shape[:8])} does not take {n_bytes:,} bytes"
        raise SpecError(f"tensor {name!r}: {given}", path=str(path))
    return Stored(row.dtype, tuple(row.shape), n_bytes)


# ── finding the files ───────────────────────────────────────────────────────────────────────────


def _locate(path: Path) -> tuple[Path, Path | None, list[Path]]:
    """(directory, index, weight files) of a checkpoint; the files of an index may be missing."""
    if path.is_dir():
        return _locate_in(path)
    require_file(path)
    folder = path.parent
    if path.name.endswith(_INDEX):
        return folder, path, _indexed(path)
    index = folder / f"model{_INDEX}"
    if "-of-" in path.name and index.is_file():
        return folder, index, _indexed(index)
    return folder, None, _siblings(path)


def _locate_in(folder: Path) -> tuple[Path, Path | None, list[Path]]:
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise SpecError(f"cannot be listed: {error.strerror or error}", path=str(folder)) from None
    indices = [name for name in names if name.endswith(_INDEX)]
    if len(indices) == 1 or f"model{_INDEX}" in indices:
        index = folder / (indices[0] if len(indices) == 1 else f"model{_INDEX}")
        return folder, index, _indexed(index)
    weights = [name for name in names if name.endswith(".safetensors")]
    models = [name for name in weights if name.startswith("model")] or weights
    if models == ["adapter_model.safetensors"]:
        raise SpecError("holds a LoRA adapter", path=str(folder), hint="name the base model")
    if not models:
        raise SpecError("holds no .safetensors files", path=str(folder))
    if len(models) > 1 and "-of-" not in models[0]:
        raise SpecError(f"holds {len(models)} .safetensors files and no index; name one", path=str(folder))
    return folder, None, _siblings(folder / models[0])


def _siblings(path: Path) -> list[Path]:
    """All parts of ``model-00001-of-00003.safetensors``; a file of another name is alone."""
    pieces = path.stem.rsplit("-", 3)
    if len(pieces) != 4 or pieces[2] != "of" or not all(n.isdigit() and len(n) == 5 for n in pieces[1::2]):
        return [path]
    count = int(pieces[3])
    if not 1 <= count <= MAX_FILES:
        raise SpecError(f"has the name of one of {count} files, at most {MAX_FILES} are read", path=str(path))
    parts = [path.with_name(f"{pieces[0]}-{i:05}-of-{count:05}.safetensors") for i in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise SpecError(f"part of a checkpoint is missing: {part.name}", path=str(path))
    return parts


def _indexed(index: Path) -> list[Path]:
    """The weight files that an index names."""
    names = sorted(set(_read_index(index).weight_map.values()))
    if not 1 <= len(names) <= MAX_FILES:
        raise SpecError(f"names {len(names)} weight files, expected 1 to {MAX_FILES}", path=str(index))
    for name in names:
        if "/" in name or "\\" in name or "\0" in name or name in ("", ".", ".."):
            raise SpecError(f"names a weight file outside its directory: {name!r}", path=str(index))
    return [index.with_name(name) for name in names]


def _read_index(index: Path) -> _Index:
    size = require_file(index)
    if size > MAX_HEADER_BYTES:
        raise SpecError(f"is too large for an index: {size:,} bytes", path=str(index))
    try:
        raw = index.read_bytes()
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror or error}", path=str(index)) from None
    if raw.count(b":") > MAX_TENSORS + 100:
        raise SpecError(f"names more than {MAX_TENSORS:,} tensors", path=str(index))
    return _decode(raw, _Index, index)


def _read_config(folder: Path) -> ModelSpec:
    from moeplan.readers.hf import read_config

    if not (folder / "config.json").is_file():
        raise SpecError(
            "there is no config.json beside the weights",
            path=str(folder),
            hint="their names alone do not tell the number of heads or of experts per token",
        )
    return read_config(folder)


def _from_index(
    spec: ModelSpec, index: Path | None, files: list[Path], missing: list[Path]
) -> SafetensorsModel:
    """What an index tells without (all) its weight files: the total."""
    assert index is not None  # parts named without an index have been found
    metadata = _read_index(index).metadata
    total = metadata.total_size or 0 if metadata is not None else 0
    if not 0 < total < 1e18:
        raise SpecError(
            f"{len(missing)} of {len(files)} weight files are missing, for instance {missing[0].name}",
            path=str(index),
            hint="the index states no total_size either",
        )
    note = f"{len(missing)} of {len(files)} weight files are missing: types are those of config.json"
    return SafetensorsModel(
        spec=spec, tensors=None, quant=spec.native_quant, file_bytes=int(total), note=note
    )
