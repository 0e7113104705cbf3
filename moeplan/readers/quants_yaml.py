"""What configs/quants.yaml looks like, and turning it into a QuantTable: the slow, careful path."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from moeplan.domain.quant import QuantFamily, QuantScheme, QuantTable, Storage, TypeLayout, fold
from moeplan.errors import NotModelled, UnknownName
from moeplan.provenance import Source, SourceKind
from moeplan.readers.yaml_convert import convert
from moeplan.readers.yaml_doc import load_document

Positive = Annotated[int, msgspec.Meta(gt=0, le=2**20)]
Bits = Annotated[float, msgspec.Meta(ge=0, le=64)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**20)]


class _Wire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class _SourceWire(_Wire):
    kind: SourceKind
    ref: str
    retrieved: str = ""
    note: str = ""


class _TypeWire(_Wire):
    id: str
    elements: Positive
    bytes: Positive
    source: str
    ggml: Count | None = None
    row_bytes: Count = 0
    fallback: str = ""


class _MixWire(_Wire):
    id: str
    base: str
    source: str
    aliases: list[str] = []
    kind: Literal["gguf-type", "gguf-mix"] = "gguf-mix"
    rules: str = ""
    imatrix: bool = False
    dense: dict[str, str] = {}
    moe: dict[str, str] = {}
    moe_2026: dict[str, str] = {}
    engine: str = "llama.cpp"
    note: str = ""


class _StorageWire(_Wire):
    bits: Bits = 0
    word_bits: Positive = 8
    group: Annotated[int, msgspec.Meta(ge=-1, le=2**20)] = 0
    group_rows: Positive = 1
    flat: bool = False
    scale_bits: Count = 0
    zero_bits: Count = 0
    zero_packed: bool = False
    nested_group: Count = 0
    nested_bits: Count = 0
    column_bits: Count = 0
    row_bits: Count = 0
    matrix_bytes: Count = 0


class _MethodWire(_Wire):
    weights: dict[str, str]
    source: str
    id: str = ""
    aliases: list[str] = []
    kind: Literal["method", "gguf-mix"] = "method"
    storages: dict[str, _StorageWire] = {}
    keep_fused_experts: bool = False
    as_gguf: str = ""
    engine: str = "vllm"
    note: str = ""


class _FamilyWire(_Wire):
    pattern: str
    template: _MethodWire
    bits: list[Positive] = []
    bits_range: tuple[Bits, Bits] = (1.0, 16.0)
    group_range: tuple[Positive, Positive] = (16, 4096)
    common: list[str] = []
    aliases: dict[str, str] = {}


class _AbsentWire(_Wire):
    name: str
    why: str


class QuantsFile(_Wire):
    """What quants.yaml looks like."""

    sources: dict[str, _SourceWire] = {}
    types: list[_TypeWire] = []
    gguf: list[_MixWire] = []
    methods: list[_MethodWire] = []
    families: list[_FamilyWire] = []
    not_modelled: list[_AbsentWire] = []


def read_quants_yaml(path: Path, base: QuantTable) -> QuantTable:
    """The table of one file laid over ``base``. Raises SpecError with the place of what is wrong."""
    document = load_document(path)
    wire = convert(document, QuantsFile, help="moeplan schema quants")
    try:
        return _table(wire, base)
    except _WrongEntry as wrong:
        raise document.error(str(wrong), wrong.place) from None


class _WrongEntry(Exception):
    """An entry that refers to something that does not exist, and where it stands."""

    def __init__(self, message: str, *place: str | int) -> None:
        super().__init__(message)
        self.place = place


def _table(wire: QuantsFile, base: QuantTable) -> QuantTable:
    sources = {
        key: Source(kind=s.kind, ref=s.ref, retrieved=s.retrieved, note=s.note)
        for key, s in wire.sources.items()
    }
    types = dict(base.types)
    for i, t in enumerate(wire.types):
        types[t.id] = TypeLayout(
            id=t.id,
            block_elements=t.elements,
            block_bytes=t.bytes,
            ggml_type=t.ggml,
            row_bytes=t.row_bytes,
            fallback=t.fallback,
            source=_source(sources, t.source, "types", i),
        )
    schemes = dict(base.schemes)
    for i, m in enumerate(wire.gguf):
        schemes[m.id] = _mix(m, _source(sources, m.source, "gguf", i))
    for i, method in enumerate(wire.methods):
        schemes[method.id] = _method(method, _source(sources, method.source, "methods", i))
    families = []
    aliases: dict[str, str] = {}
    for i, f in enumerate(wire.families):
        families.append(_family(f, _source(sources, f.template.source, "families", i, "template")))
        aliases |= f.aliases
    table = QuantTable(
        types=types,
        schemes=schemes,
        names={},
        families=(*families, *base.families),
        not_modelled={**base.not_modelled, **{fold(a.name): a.why for a in wire.not_modelled}},
    )
    for i, f in enumerate(wire.families):
        for name in f.common:
            schemes[name] = _common(table, name, i)
    _check(table, wire)
    return msgspec.structs.replace(table, schemes=schemes, names={**base.names, **_names(schemes, aliases)})


def _source(sources: dict[str, Source], key: str, *place: str | int) -> Source:
    if key not in sources:
        raise _WrongEntry(f"no source `{key}` under `sources`", *place, "source")
    return sources[key]


def _mix(m: _MixWire, source: Source) -> QuantScheme:
    return QuantScheme(
        id=m.id,
        kind=m.kind,
        source=source,
        aliases=tuple(m.aliases),
        engine=m.engine,
        note=m.note,
        base_type=m.base,
        rules=m.rules,
        imatrix=m.imatrix,
        dense_recipe=m.dense,
        moe_recipe=m.moe,
        moe_2026_recipe=m.moe_2026,
    )


def _method(m: _MethodWire, source: Source) -> QuantScheme:
    return QuantScheme(
        id=m.id,
        kind=m.kind,
        source=source,
        aliases=tuple(m.aliases),
        engine=m.engine,
        note=m.note,
        weights=m.weights,
        storages={key: _storage(s) for key, s in m.storages.items()},
        keep_fused_experts=m.keep_fused_experts,
        as_gguf=m.as_gguf,
    )


def _storage(s: _StorageWire) -> Storage:
    return Storage(
        bits=s.bits,
        word_bits=s.word_bits,
        group=s.group,
        group_rows=s.group_rows,
        flat=s.flat,
        scale_bits=s.scale_bits,
        zero_bits=s.zero_bits,
        zero_packed=s.zero_packed,
        nested_group=s.nested_group,
        nested_bits=s.nested_bits,
        column_bits=s.column_bits,
        row_bits=s.row_bits,
        matrix_bytes=s.matrix_bytes,
    )


def _family(f: _FamilyWire, source: Source) -> QuantFamily:
    return QuantFamily(
        pattern=f.pattern,
        template=_method(f.template, source),
        bits_choice=tuple(f.bits),
        bits_range=f.bits_range,
        group_range=f.group_range,
    )


def _common(table: QuantTable, name: str, i: int) -> QuantScheme:
    try:
        return table.find(name)
    except (NotModelled, UnknownName):
        raise _WrongEntry(f"`{name}` does not fit the pattern", "families", i, "common") from None


def _names(schemes: dict[str, QuantScheme], aliases: dict[str, str]) -> dict[str, str]:
    """Folded name -> scheme id; an id beats an alias of the same spelling."""
    names = {fold(alias): target for alias, target in aliases.items()}
    names |= {fold(alias): s.id for s in schemes.values() for alias in s.aliases}
    return names | {fold(id_): id_ for id_ in schemes}


def _check(table: QuantTable, wire: QuantsFile) -> None:
    """Every type, storage and scheme that an entry names exists."""
    for i, t in enumerate(wire.types):
        _known(table, [t.fallback] if t.fallback else [], "types", i, "fallback")
    for i, m in enumerate(wire.gguf):
        _known(table, [m.base], "gguf", i, "base")
        _known(table, m.dense.values(), "gguf", i, "dense")
        _known(table, m.moe.values(), "gguf", i, "moe")
        _known(table, m.moe_2026.values(), "gguf", i, "moe_2026")
    for i, method in enumerate(wire.methods):
        _known(table, method.weights.values(), "methods", i, "weights", also=method.storages)
        if method.as_gguf and method.as_gguf not in table.schemes:
            raise _WrongEntry(f"no scheme `{method.as_gguf}`", "methods", i, "as_gguf")
        if not method.id or "default" not in method.weights:
            raise _WrongEntry("a method needs an `id` and `weights: {default: ...}`", "methods", i)
        _has_bits(method, False, "methods", i)
    for i, f in enumerate(wire.families):
        _known(table, f.template.weights.values(), "families", i, also=f.template.storages)
        _has_bits(f.template, "{bits}" in f.pattern, "families", i, "template")


def _has_bits(method: _MethodWire, from_name: bool, *place: str | int) -> None:
    for key, storage in method.storages.items():
        if not storage.bits and not from_name:
            raise _WrongEntry(f"storage `{key}` needs `bits`", *place, "storages", key)


def _known(table: QuantTable, used: Iterable[str], *place: str | int, also: Iterable[str] = ()) -> None:
    for name in used:
        if name not in table.types and name not in also:
            raise _WrongEntry(f"no tensor type or storage `{name}`", *place)
