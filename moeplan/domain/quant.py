"""Quantisation: block types, the schemes that people name, and finding them by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from moeplan.domain.value import Value
from moeplan.errors import NotModelled, UnknownName, nearest
from moeplan.provenance import Source

SchemeKind = Literal["gguf-type", "gguf-mix", "method"]

MAX_NAME_CHARS = 80
"""Longer names are unknown without a search for similar ones."""


class TypeLayout(Value):
    """A tensor type of ggml: every ``block_elements`` of a row take ``block_bytes``.

    ``row_bytes`` is what a row has in addition (the row scales of ik_llama.cpp). ``fallback`` is the type
    a quantiser takes instead for rows that are no whole number of blocks; empty: it refuses.
    """

    id: str
    block_elements: int
    block_bytes: int
    source: Source
    ggml_type: int | None = None
    row_bytes: int = 0
    fallback: str = ""

    @property
    def bits_per_weight(self) -> float:
        """Bits per element of a long row."""
        return self.block_bytes * 8 / self.block_elements


class Storage(Value):
    """How a method stores one matrix (rows = out, columns = in): packed values, scales, zero points.

    Values of a row are packed into words of ``word_bits``. One scale (and zero point) serves
    ``group`` columns of ``group_rows`` rows; ``group`` -1 is the whole row, 0 the whole matrix. With
    ``flat`` the groups run over the flattened matrix. ``zero_packed``: zero points have the width of a
    value. ``nested_bits`` per ``nested_group`` scales: scales that are themselves quantised.
    ``column_bits``, ``row_bits`` and ``matrix_bytes`` come once per column, row and matrix.
    """

    bits: float
    word_bits: int = 8
    group: int = 0
    group_rows: int = 1
    flat: bool = False
    scale_bits: int = 0
    zero_bits: int = 0
    zero_packed: bool = False
    nested_group: int = 0
    nested_bits: int = 0
    column_bits: int = 0
    row_bits: int = 0
    matrix_bytes: int = 0

    @property
    def bits_per_weight(self) -> float:
        """Bits per element of a large matrix: values, scales and zero points."""
        if self.group <= 0:
            return self.bits
        zero = self.bits if self.zero_packed else self.zero_bits
        nested = self.nested_bits / self.nested_group if self.nested_group else 0.0
        return self.bits + (self.scale_bits + zero + nested) / (self.group * self.group_rows)


class QuantScheme(Value):
    """What a name like ``q4_k_m`` or ``gptq-int4-g128`` means for every tensor of a model.

    GGUF schemes: ``base_type`` under the type rules of the llama.cpp file type ``rules`` (empty: none);
    ``dense_recipe`` and ``moe_recipe`` set tensors by name (``ffn_down_exps``, ``*`` for the rest) in
    models without and with experts, ``moe_2026_recipe`` over the latter in models released since 2026.
    Methods: ``weights`` maps parts of a model (default, embedding, head, router, experts, shared,
    attention, indexer, recurrent, ffn, latent, small) to a key of ``storages`` or to a 16- or 32-bit type;
    "small" is all that is no matrix.
    """

    id: str
    kind: SchemeKind
    source: Source
    aliases: tuple[str, ...] = ()
    engine: str = "vllm"
    """The engine taken when none is named."""
    note: str = ""
    base_type: str = ""
    rules: str = ""
    imatrix: bool = False
    """llama.cpp quantises this file type with an importance matrix only, which changes some types."""
    dense_recipe: Mapping[str, str] = {}
    moe_recipe: Mapping[str, str] = {}
    moe_2026_recipe: Mapping[str, str] = {}
    weights: Mapping[str, str] = {}
    storages: Mapping[str, Storage] = {}
    keep_fused_experts: bool = False
    """Experts that the checkpoint stores as one fused parameter stay in 16 bits (bitsandbytes)."""
    as_gguf: str = ""
    """The scheme that a GGUF engine means by the same name."""


class QuantFamily(Value):
    """Schemes with numbers in their names, e.g. ``gptq-int{bits}-g{group}``.

    ``template`` is the scheme of all; the numbers replace ``bits`` and ``group`` of its storages.
    ``bits_choice`` lists the widths there are; empty: any number in ``bits_range``.
    """

    pattern: str
    template: QuantScheme
    bits_choice: tuple[int, ...] = ()
    bits_range: tuple[float, float] = (1.0, 16.0)
    group_range: tuple[int, int] = (16, 4096)


class QuantTable(Value):
    """All types and schemes. ``names`` maps every folded id and alias to the id of its scheme."""

    types: Mapping[str, TypeLayout]
    schemes: Mapping[str, QuantScheme]
    names: Mapping[str, str]
    families: tuple[QuantFamily, ...] = ()
    not_modelled: Mapping[str, str] = {}
    """Folded names (a trailing ``*`` stands for any end) of known schemes without data, and why."""

    def type(self, name: str) -> TypeLayout:
        """The tensor type ``name`` (case ignored). Raises UnknownName."""
        found = self.types.get(name) or self.types.get(name.casefold())
        if found is None:
            near = nearest(name, self.types) if len(name) <= MAX_NAME_CHARS else ()
            raise UnknownName("tensor type", name[:MAX_NAME_CHARS], near)
        return found

    def type_of(self, ggml_type: int) -> TypeLayout:
        """The tensor type with ggml's number ``ggml_type``. Raises NotModelled."""
        for layout in self.types.values():
            if layout.ggml_type == ggml_type:
                return layout
        raise NotModelled(f"ggml tensor type {ggml_type}", "its block layout is not in the table")

    def find(self, name: str, *, gguf: bool = False) -> QuantScheme:
        """The scheme ``name``; case, ``_``, ``-`` and spaces do not matter.

        With ``gguf`` a name that means something else to a GGUF engine (``bf16``, ``mxfp4``) gives that.
        Raises UnknownName with the nearest names, or NotModelled with the reason.
        """
        folded = fold(name) if len(name) <= MAX_NAME_CHARS else ""
        if folded in self.names:
            scheme = self.schemes.get(self.names[folded]) or self._member(self.names[folded])
        else:
            scheme = self._member(name.strip().casefold().replace("_", "-")) if folded else None
        if scheme is None:
            raise self._missing(name, folded)
        return self.schemes[scheme.as_gguf] if gguf and scheme.as_gguf else scheme

    def _member(self, name: str) -> QuantScheme | None:
        for family in self.families:
            numbers = _read_pattern(family.pattern, name)
            if numbers is not None and (scheme := _instance(family, name, numbers)):
                return scheme
        return None

    def _missing(self, name: str, folded: str) -> UnknownName | NotModelled:
        for known, why in self.not_modelled.items():
            if folded == known or (known.endswith("*") and folded.startswith(known[:-1])):
                return NotModelled(f"quantisation {name}", why)
        if not folded:
            return UnknownName("quantisation", name[:MAX_NAME_CHARS])
        known_names = [*self.schemes, *(alias for s in self.schemes.values() for alias in s.aliases)]
        patterns = ", ".join(family.pattern for family in self.families)
        # Who says q4 mostly has the medium mix of that width.
        medium = [m for m in (f"{folded}_k_m",) if m in self.schemes]
        near = dict.fromkeys([*medium, *nearest(name, known_names)])
        return UnknownName("quantisation", name, tuple(near), help=f"moeplan quants list; also: {patterns}")


def fold(name: str) -> str:
    """``name`` as it is compared: ``Q4_K_M``, ``q4-k-m`` and ``q4km`` are one."""
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")


def _read_pattern(pattern: str, name: str) -> dict[str, float] | None:
    """The numbers in ``name`` when it has the form of ``pattern``, else None."""
    numbers: dict[str, float] = {}
    rest = name
    head, *parts = pattern.split("{")
    if not rest.startswith(head):
        return None
    rest = rest[len(head) :]
    for part in parts:
        key, literal = part.split("}")
        digits = len(rest) - len(rest.lstrip("0123456789."))
        try:
            numbers[key] = float(rest[:digits])
        except ValueError:
            return None
        rest = rest[digits:]
        if not rest.startswith(literal):
            return None
        rest = rest[len(literal) :]
    return None if rest else numbers


def _instance(family: QuantFamily, name: str, numbers: Mapping[str, float]) -> QuantScheme | None:
    from msgspec.structs import replace

    changes: dict[str, float | int] = {}
    if "bits" in numbers:
        bits = numbers["bits"]
        low, high = family.bits_range
        if bits not in family.bits_choice if family.bits_choice else not low <= bits <= high:
            return None
        changes["bits"] = bits
    if "group" in numbers:
        group = int(numbers["group"])
        if group != numbers["group"] or not family.group_range[0] <= group <= family.group_range[1]:
            return None
        changes["group"] = group
    template = family.template
    # what a storage of the template states itself (an output head of 6 bits) stays: only 0 is filled in
    storages = {
        key: replace(storage, **{field: n for field, n in changes.items() if getattr(storage, field) == 0})
        for key, storage in template.storages.items()
    }
    return replace(template, id=name, storages=storages)
