"""Reading a GGUF model file: every tensor with its exact size, and the ModelSpec, from the header alone.

read_header(path)          metadata and tensor table of one file
read_gguf(path, quants)    the whole model, split files joined
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from moeplan.domain.graph import Tensor
from moeplan.domain.model import ModelSpec
from moeplan.domain.quant import QuantTable, TypeLayout
from moeplan.domain.value import Value
from moeplan.errors import SpecError
from moeplan.readers.gguf_header import GgufHeader, TensorInfo, read_header
from moeplan.readers.gguf_metadata import Metadata
from moeplan.readers.gguf_names import Name, is_stacked, layer_traits, owner_of, role_of, split_name
from moeplan.readers.gguf_spec import check_architecture, layer_count, spec_of

__all__ = ["GgufHeader", "GgufModel", "TensorInfo", "read_gguf", "read_header", "split_paths"]

MAX_SPLITS: Final = 1000

# general.file_type, the enum llama_ftype of llama.cpp's include/llama.h: quantisation and, where that
# is a mix, the type that most of its weights have.
_FILE_TYPES: Final = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k",
    11: "q3_k_s q3_k", 12: "q3_k_m q3_k", 13: "q3_k_l q3_k", 14: "q4_k_s q4_k", 15: "q4_k_m q4_k",
    16: "q5_k_s q5_k", 17: "q5_k_m q5_k", 18: "q6_k", 19: "iq2_xxs", 20: "iq2_xs", 21: "q2_k_s q2_k",
    22: "iq3_xs iq3_s", 23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl", 26: "iq3_s", 27: "iq3_m iq3_s",
    28: "iq2_s iq2_xs", 29: "iq2_m iq2_s", 30: "iq4_xs", 31: "iq1_m", 32: "bf16", 36: "tq1_0", 37: "tq2_0",
    38: "mxfp4_moe mxfp4", 39: "nvfp4",
}  # fmt: skip


class GgufModel(Value):
    """A GGUF model. ``tensors`` carry exact sizes; those whose owner is not "base" are not part of
    the text model. ``file_bytes`` is the size of all parts, ``header`` that of the first."""

    spec: ModelSpec
    tensors: tuple[Tensor, ...]
    quant: str
    file_bytes: int
    header: GgufHeader


class _Entry(NamedTuple):
    name: Name
    shape: tuple[int, ...]
    qtype: str
    n_bytes: int


def read_gguf(path: Path, quants: QuantTable) -> GgufModel:
    """The model in ``path``: a GGUF file, or any part of a split one.

    Raises SpecError for a file that is broken or no language model, NotModelled for an architecture
    that moeplan has no rules for.
    """
    headers = [read_header(part) for part in split_paths(path)]
    meta = Metadata(headers[0].metadata, str(headers[0].path))
    check_architecture(meta)
    _check_parts(headers)
    layouts = {t.ggml_type: t for t in quants.types.values() if t.ggml_type is not None}
    entries = [entry for header in headers for entry in _entries(header, layouts)]
    tensors = _tensors(meta, _stack_experts(meta, entries))
    quant = _quant(meta, tensors)
    return GgufModel(
        spec=spec_of(meta, _stem(headers[0].path), quant, tensors),
        tensors=tensors,
        quant=quant,
        file_bytes=sum(header.file_bytes for header in headers),
        header=headers[0],
    )


# ── split files ─────────────────────────────────────────────────────────────────────────────────


def split_paths(path: Path) -> tuple[Path, ...]:
    """All parts of ``path``: itself, or ``name-00001-of-0000N.gguf`` to the last. None is opened."""
    numbers = _split_numbers(path)
    if numbers is None:
        return (path,)
    number, count = numbers
    if not 1 <= number <= count <= MAX_SPLITS:
        raise SpecError(
            f"has the name of part {number} of {count}, at most {MAX_SPLITS} are read", path=str(path)
        )
    base = path.name[: -len("-00001-of-00001.gguf")]
    parts = tuple(path.with_name(f"{base}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1))
    for part in parts:
        if not part.exists():
            raise SpecError(f"part of a split model is missing: {part.name}", path=str(path))
    return parts


def _split_numbers(path: Path) -> tuple[int, int] | None:
    """(part, parts) in a name of the form ``name-00001-of-00003.gguf``, else None."""
    pieces = path.name.removesuffix(".gguf").rsplit("-", 3)
    if len(pieces) != 4 or pieces[2] != "of" or not path.name.endswith(".gguf"):
        return None
    number, count = pieces[1], pieces[3]
    digits = all(len(n) == 5 and n.isascii() and n.isdigit() for n in (number, count))
    return (int(number), int(count)) if digits else None


def _stem(path: Path) -> str:
    """The name of the model: without ending and part number."""
    return path.name[: -len("-00001-of-00001.gguf")] if _split_numbers(path) else path.stem


def _check_parts(headers: Sequence[GgufHeader]) -> None:
    """Every file must say that it is the part that its name makes it."""
    names: set[str] = set()
    for number, header in enumerate(headers):
        where = str(header.path)
        count = header.metadata.get("split.count", 0)
        if count not in ((0, 1) if len(headers) == 1 else (len(headers),)):
            hint = "parts are named like name-00001-of-00003.gguf"
            raise SpecError(f"is one of {count} parts, not of {len(headers)}", path=where, hint=hint)
        if len(headers) > 1 and header.metadata.get("split.no") != number:
            said = header.metadata.get("split.no")
            raise SpecError(
                f"says that it is part number {said}, its name says {number} (from 0)", path=where
            )
        twice = names.intersection(info.name for info in header.tensors)
        if twice:
            raise SpecError(f"tensor {min(twice)!r} is also in an earlier part", path=where)
        names.update(info.name for info in header.tensors)
    stated = headers[0].metadata.get("split.tensors.count", len(names))
    if stated != len(names):
        raise SpecError(
            f"the parts hold {len(names)} tensors, {stated} were written", path=str(headers[0].path)
        )


# ── sizes ───────────────────────────────────────────────────────────────────────────────────────


def _entries(header: GgufHeader, layouts: Mapping[int, TypeLayout]) -> list[_Entry]:
    """The tensors of one file with their sizes, each checked to lie in the file beside the others."""
    entries = []
    ends = []
    for info in header.tensors:
        layout = layouts.get(info.ggml_type)
        if layout is None:
            raise _bad(header, info, f"has the unknown type number {info.ggml_type}")
        n_bytes = _n_bytes(header, info, layout)
        entries.append(_Entry(split_name(info.name), info.shape, layout.id, n_bytes))
        ends.append((info.offset, info.offset + n_bytes, info))
    ends.sort(key=lambda item: item[:2])
    available = header.file_bytes - header.data_offset
    previous = 0
    for start, end, info in ends:
        if start < previous:
            raise _bad(header, info, "overlaps the one before it")
        if end > available:
            missing = end - available
            raise _bad(header, info, f"ends {missing:,} bytes behind the end of the file, which is cut off")
        previous = end
    return entries


def _n_bytes(header: GgufHeader, info: TensorInfo, layout: TypeLayout) -> int:
    row = info.shape[-1]
    if row % layout.block_elements:
        raise _bad(header, info, f"has rows of {row}, type {layout.id} has blocks of {layout.block_elements}")
    n_rows = 1
    for size in info.shape[:-1]:
        n_rows *= size
    return n_rows * (row // layout.block_elements * layout.block_bytes + layout.row_bytes)


def _bad(header: GgufHeader, info: TensorInfo, problem: str) -> SpecError:
    return SpecError(f"byte {info.at}: tensor {info.name!r} {problem}", path=str(header.path))


# ── tensors ─────────────────────────────────────────────────────────────────────────────────────


def _stack_experts(meta: Metadata, entries: list[_Entry]) -> list[_Entry]:
    """Experts that are stored one matrix each (files made before April 2024) as one stacked entry."""
    groups: dict[Name, list[_Entry]] = {}
    result = []
    for entry in entries:
        if entry.name.expert < 0:
            result.append(entry)
        else:
            groups.setdefault(entry.name._replace(expert=-1), []).append(entry)
    for name, group in groups.items():
        numbers = sorted(entry.name.expert for entry in group)
        if numbers != list(range(len(group))) or len({entry.shape for entry in group}) > 1:
            raise meta.error(
                f"layer {name.layer} lacks some experts of {name.short!r}, or they differ in shape"
            )
        types = [entry.qtype for entry in group]
        commonest = max(sorted(set(types)), key=types.count)
        total = sum(entry.n_bytes for entry in group)
        result.append(_Entry(name, (len(group), *group[0].shape), commonest, total))
    return result


def _tensors(meta: Metadata, entries: Sequence[_Entry]) -> tuple[Tensor, ...]:
    n_layers = layer_count(meta)
    traits = layer_traits(
        {(e.name.layer, e.name.stem): e.shape for e in entries if e.name.suffix == "weight"}
    )
    return tuple(
        Tensor(
            name=f"blk.{name.layer}.{name.short}" if name.layer >= 0 else name.short,
            role=role_of(name, traits),
            layer=name.layer,
            shape=shape,
            qtype=qtype,
            n_bytes=n_bytes,
            expert_stacked=is_stacked(name),
            owner=owner_of(name, n_layers),
        )
        for name, shape, qtype, n_bytes in entries
    )


def _quant(meta: Metadata, tensors: Sequence[Tensor]) -> str:
    """The quantisation the file claims, if its weights bear that out, else their commonest type."""
    sizes: dict[str, int] = {}
    for t in tensors:
        sizes[t.qtype] = sizes.get(t.qtype, 0) + t.n_bytes
    claimed = _FILE_TYPES.get(meta.integer("general.file_type", -1, low=-1, high=2**31), "").split()
    if claimed and claimed[-1] in sizes:
        return claimed[0]
    return max(sorted(sizes), key=lambda qtype: sizes[qtype], default="")
