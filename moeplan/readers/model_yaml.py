"""A model's YAML file: read with checks that name line and column, written by hand-made rules.

``read_model_yaml(dump_model_yaml(spec)) == spec`` for every spec whose blocks are all used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from moeplan.domain import model as domain
from moeplan.domain.model import Block, Ffn, Mixer, ModelSpec, MoeFfn
from moeplan.errors import SpecError, nearest
from moeplan.provenance import Source
from moeplan.readers import model_wire as wire
from moeplan.readers.layout import LayoutError, format_layout, is_block_name, parse_layout
from moeplan.readers.yaml_convert import convert
from moeplan.readers.yaml_doc import Document, KeyPath, load_document, parse_document

HELP = "moeplan schema model"

# Names that other files use for our keys: for hints, not accepted.
SYNONYMS = {
    "num_attention_heads": "n_heads",
    "num_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "num_kv_heads": "n_kv_heads",
    "num_local_experts": "n_experts",
    "num_experts": "n_experts",
    "n_routed_experts": "n_experts",
    "experts": "n_experts",
    "topk": "n_active",
    "top_k": "n_active",
    "num_experts_per_tok": "n_active",
    "experts_per_token": "n_active",
    "moe_intermediate_size": "expert_intermediate",
    "expert_hidden": "expert_intermediate",
    "intermediate_size": "intermediate",
    "n_shared_experts": "n_shared",
    "shared_expert_intermediate_size": "shared_intermediate",
    "max_position_embeddings": "context_tokens",
    "context_length": "context_tokens",
    "context": "context_tokens",
    "tie_word_embeddings": "tied_embeddings",
    "num_hidden_layers": "layout",
    "n_layers": "layout",
    "num_layers": "layout",
    "layers": "layout",
    "model_type": "architecture",
    "sliding_window": "window_tokens",
    "attention": "mixer",
    "mlp": "ffn",
    "moe": "ffn",
    "qk_nope_head_dim": "nope_head_dim",
    "qk_rope_head_dim": "rope_head_dim",
}

_MIXERS: dict[type, type] = {
    wire.GqaWire: domain.GqaAttention,
    wire.MlaWire: domain.MlaAttention,
    wire.Mamba1Wire: domain.Mamba1,
    wire.Mamba2Wire: domain.Mamba2,
    wire.GatedDeltaNetWire: domain.GatedDeltaNet,
    wire.KimiDeltaWire: domain.KimiDelta,
    wire.LightningWire: domain.Lightning,
    wire.ShortConvWire: domain.ShortConv,
    wire.CompressedWire: domain.CompressedAttention,
}


def read_model_yaml(path: Path) -> ModelSpec:
    """The model described by the YAML file ``path``; SpecError points at what is wrong with it."""
    return _read(load_document(path))


def parse_model_yaml(text: str, path: Path | str = "<model>") -> ModelSpec:
    """The model described by YAML ``text``; ``path`` names it in errors."""
    return _read(parse_document(text, path))


def _read(document: Document) -> ModelSpec:
    _fill_kinds(document)
    return _Reader(document, convert(document, wire.ModelWire, synonyms=SYNONYMS, help=HELP)).model()


# ── what people may leave out or write differently ──────────────────────────────────────────────


def _fill_kinds(document: Document) -> None:
    """Resolve an absent ``kind`` and the kinds ``mha`` and ``mqa`` in the raw data, before conversion."""
    blocks = document.data.get("blocks") if isinstance(document.data, dict) else None
    for name, block in blocks.items() if isinstance(blocks, dict) else ():
        if not isinstance(block, dict):
            continue
        for part in ("mixer", "cross_attention"):
            if isinstance(mixer := block.get(part), dict):
                _fill_attention(document, mixer, ("blocks", name, part))
        if isinstance(ffn := block.get("ffn"), dict):
            ffn.setdefault("kind", "moe" if "n_experts" in ffn else "dense")


def _fill_attention(document: Document, mixer: dict[str, Any], path: KeyPath) -> None:
    kind = mixer.setdefault("kind", "gqa")
    if kind not in ("mha", "mqa"):
        return
    implied = mixer.get("n_heads") if kind == "mha" else 1
    if mixer.setdefault("n_kv_heads", implied) != implied:
        raise document.error(
            f"{kind} means n_kv_heads = {implied}, not {mixer['n_kv_heads']}",
            (*path, "n_kv_heads"),
            value=True,
            hint="leave it out, or use kind: gqa",
        )
    mixer["kind"] = "gqa"


# ── wire to domain ──────────────────────────────────────────────────────────────────────────────


class _Reader:
    """Turns a converted file into domain values, checking what types alone cannot say."""

    def __init__(self, document: Document, model: wire.ModelWire) -> None:
        self.document = document
        self.wire = model

    def model(self) -> ModelSpec:
        """The checked ModelSpec."""
        raw = self.wire
        self.check_head()
        names = list(raw.blocks)
        blocks = tuple(self.block(name, block) for name, block in raw.blocks.items())
        plain = {name: getattr(raw, name) for name in _PLAIN_FIELDS}
        return ModelSpec(
            **plain,
            name=raw.name or raw.id,
            blocks=blocks,
            layout=self.layout(names),
            hf_ids=tuple(raw.hf_ids),
            aliases=tuple(raw.aliases),
            parts=tuple(domain.Part(**msgspec.structs.asdict(part)) for part in raw.parts),
            published=domain.Published(**msgspec.structs.asdict(raw.published)),
            stored=None if raw.stored is None else self.stored(raw.stored),
            notes=tuple(raw.notes),
            sources=tuple(Source(**msgspec.structs.asdict(source)) for source in raw.sources),
        )

    def fail(self, message: str, path: KeyPath, hint: str | None = None) -> SpecError:
        """A SpecError at the value of ``path``."""
        return self.document.error(message, path, value=True, hint=hint, help=HELP)

    def check_head(self) -> None:
        """The fields outside the blocks."""
        raw = self.wire
        if raw.id.startswith(".") or not all(char.isalnum() or char in "._-" for char in raw.id):
            raise self.fail("an id has only letters, digits, '.', '_' and '-'", ("id",))
        if raw.released and not _is_date(raw.released):
            raise self.fail("a date is YYYY, YYYY-MM or YYYY-MM-DD", ("released",))
        if raw.extra_params and not raw.extra_note:
            raise self.fail("extra_params needs an extra_note that says what they are", ("extra_params",))
        total, active = raw.published.params_total, raw.published.params_active
        if total is not None and active is not None and active > total:
            raise self.fail("more active than total parameters", ("published", "params_active"))

    def stored(self, raw: wire.StoredWire) -> domain.Stored:
        """The checked count of the repository."""
        if raw.extra_params and not raw.extra_note:
            raise self.fail(
                "extra_params needs an extra_note that says what they are", ("stored", "extra_params")
            )
        absent = sorted(set(raw.parts) - {part.kind for part in self.wire.parts})
        if absent:
            raise self.fail(f"the model has no part of kind {absent[0]}", ("stored", "parts"))
        return domain.Stored(**{**msgspec.structs.asdict(raw), "parts": tuple(raw.parts)})

    def layout(self, names: list[str]) -> tuple[int, ...]:
        """Block index of every layer."""
        try:
            layout = parse_layout(self.wire.layout, names)
        except LayoutError as error:
            close = nearest(error.name, names, n=1) if error.name else ()
            hint = f"did you mean `{close[0]}`?" if close else "e.g. `3x dense, 8x (5x local, global)`"
            raise self.fail(f"layout: {error}", ("layout",), hint) from None
        unused = [name for index, name in enumerate(names) if index not in layout]
        if unused:
            message = f"block `{unused[0]}` does not appear in the layout"
            raise self.document.error(message, ("blocks", unused[0]), help=HELP)
        return layout

    def block(self, name: str, raw: wire.BlockWire) -> Block:
        """One checked block."""
        path: KeyPath = ("blocks", name)
        if not is_block_name(name):
            message = f"block name {name[:40]!r} must be a letter followed by letters, digits, '_', '-', '.'"
            raise self.document.error(message, path, help=HELP)
        if raw.mixer is None and raw.ffn is None and raw.cross_attention is None and not raw.extra_params:
            raise self.document.error(f"block `{name}` has neither mixer nor ffn", path, help=HELP)
        if raw.extra_params and not raw.extra_note:
            raise self.fail(
                "extra_params needs an extra_note that says what they are", (*path, "extra_params")
            )
        cross = raw.cross_attention
        return Block(
            name=name,
            mixer=None if raw.mixer is None else self.mixer(raw.mixer, (*path, "mixer")),
            ffn=None if raw.ffn is None else self.ffn(raw.ffn, (*path, "ffn")),
            n_norms=raw.n_norms,
            cross_attention=None if cross is None else self.gqa(cross, (*path, "cross_attention")),
            encoder=raw.encoder,
            extra_params=raw.extra_params,
            extra_note=raw.extra_note,
        )

    def mixer(self, raw: wire.AnyMixerWire, path: KeyPath) -> Mixer:
        """One checked mixer."""
        if isinstance(raw, wire.GqaWire):
            return self.gqa(raw, path)
        if isinstance(raw, wire.Mamba2Wire):
            self.divides(raw, "n_groups", "n_heads", path)
        if isinstance(raw, wire.GatedDeltaNetWire):
            self.divides(raw, "n_k_heads", "n_v_heads", path)
        if isinstance(raw, wire.CompressedWire):
            self.divides(raw, "n_out_groups", "n_heads", path)
        made: Mixer = _MIXERS[type(raw)](**_fields(raw))
        return made

    def gqa(self, raw: wire.GqaWire, path: KeyPath) -> domain.GqaAttention:
        """One checked softmax attention."""
        self.divides(raw, "n_kv_heads", "n_heads", path)
        values = _fields(raw)
        if raw.v_head_dim is None:
            values["v_head_dim"] = raw.head_dim
        elif raw.value_is_key and raw.v_head_dim != raw.head_dim:
            raise self.fail("with value_is_key, v_head_dim must equal head_dim", (*path, "v_head_dim"))
        return domain.GqaAttention(**values)

    def ffn(self, raw: wire.DenseWire | wire.MoeWire, path: KeyPath) -> Ffn:
        """One checked feed-forward part."""
        if isinstance(raw, wire.DenseWire):
            return domain.DenseFfn(**_fields(raw))
        choices = raw.n_experts + raw.n_zero_experts
        if raw.n_active > choices:
            message = f"n_active is {raw.n_active}, but there are only {choices} experts to choose from"
            raise self.fail(message, (*path, "n_active"))
        if bool(raw.n_shared) != bool(raw.shared_intermediate):
            given, missing = ("n_shared", "shared_intermediate")[:: 1 if raw.n_shared else -1]
            raise self.fail(f"{given} without {missing}", (*path, given))
        if raw.shared_gate and not raw.n_shared:
            raise self.fail("shared_gate without shared experts", (*path, "shared_gate"))
        return MoeFfn(**_fields(raw))

    def divides(self, raw: msgspec.Struct, small: str, large: str, path: KeyPath) -> None:
        """Require that ``large`` is a multiple of ``small``."""
        divisor, number = getattr(raw, small), getattr(raw, large)
        if number % divisor:
            raise self.fail(f"{large} ({number}) must be a multiple of {small} ({divisor})", (*path, small))


_PLAIN_FIELDS = (
    "id", "family", "architecture", "released", "license", "hidden_size", "vocab_size", "context_tokens",
    "tied_embeddings", "norm_bias", "final_norm", "embedding_norms", "n_position_embeddings", "head_bias",
    "native_quant", "extra_params", "extra_note", "weak",
)  # fmt: skip


def _fields(raw: msgspec.Struct) -> dict[str, Any]:
    """Fields of a mixer or ffn as domain values (the indexer is the only nested one)."""
    values = msgspec.structs.asdict(raw)
    if isinstance(indexer := values.get("indexer"), wire.IndexerWire):
        values["indexer"] = domain.Indexer(**msgspec.structs.asdict(indexer))
    return values


def _is_date(text: str) -> bool:
    parts = text.split("-")
    widths = [len(part) for part in parts]
    if not text.isascii() or widths != [4, 2, 2][: len(parts)] or not all(part.isdigit() for part in parts):
        return False
    month, day = int(parts[1]) if len(parts) > 1 else 1, int(parts[2]) if len(parts) > 2 else 1
    return 1 <= month <= 12 and 1 <= day <= 31


# ── domain to text ──────────────────────────────────────────────────────────────────────────────


def dump_model_yaml(spec: ModelSpec) -> str:
    """``spec`` as YAML for people: stable key order, one line per part, absent values left out."""
    return "\n".join(_lines(with_unique_block_names(spec))) + "\n"


def with_unique_block_names(spec: ModelSpec) -> ModelSpec:
    """``spec`` with blocks that a layout can tell apart: ``mamba, mamba`` become ``mamba, mamba-2``."""
    taken: set[str] = set()
    blocks: list[Block] = []
    for block in spec.blocks:
        base = name = block.name if is_block_name(block.name) else f"block-{len(blocks) + 1}"
        number = 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        blocks.append(block if name == block.name else msgspec.structs.replace(block, name=name))
    return msgspec.structs.replace(spec, blocks=tuple(blocks))


def _lines(spec: ModelSpec) -> Iterator[str]:
    from moeplan.readers.yaml_write import key_value, listed, mapping, mapping_item

    for field in msgspec.structs.fields(wire.ModelWire):
        name = field.name
        value = getattr(spec, name)
        if name == "blocks":
            yield "blocks:"
            for block in spec.blocks:
                yield from _block_lines(block)
        elif name == "layout":
            yield from key_value("layout", format_layout(spec.layout, [block.name for block in spec.blocks]))
        elif name in ("published", "stored"):
            if items := _struct_items(value):
                yield from mapping(name, items)
        elif name in ("parts", "sources"):
            if value:
                yield f"{name}:"
            for item in value:
                yield from mapping_item(_struct_items(item))
        elif isinstance(value, tuple):
            yield from listed(name, value, one_line=name != "notes")
        elif value != field.default:
            yield from key_value(name, value)


def _block_lines(block: Block) -> Iterator[str]:
    from moeplan.readers.yaml_write import flow, key_value

    yield f"  {block.name}:"
    for field in msgspec.structs.fields(wire.BlockWire):
        value = getattr(block, field.name)
        if isinstance(value, msgspec.Struct):
            yield from flow(f"    {field.name}: ", _part_items(value))
        elif value != field.default:
            yield from key_value(field.name, value, indent=4)


def _part_items(part: msgspec.Struct) -> dict[str, Any]:
    """Key and value of a mixer, ffn or indexer, kind first; what equals the wire's default is left out."""
    config = type(part).__struct_config__
    items: dict[str, Any] = {"kind": config.tag} if config.tag else {}
    for field in msgspec.structs.fields(part):
        value = getattr(part, field.name)
        is_default = not field.required and value == field.default
        if field.name == "v_head_dim" and isinstance(part, domain.GqaAttention):
            is_default = value == part.head_dim
        if isinstance(value, msgspec.Struct):
            items[field.name] = _part_items(value)
        elif not is_default and value is not None:
            items[field.name] = value
    return items


def _struct_items(value: Any) -> dict[str, Any]:
    """Key and value of a Part, Source, Published or Stored, without empty values."""
    if value is None:
        return {}
    items = value._asdict() if isinstance(value, Source) else msgspec.structs.asdict(value)
    return {key: item for key, item in items.items() if item not in ("", (), 0, None) or key == "params"}
