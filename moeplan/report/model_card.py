"""A model on its own: the list of the catalog, and one model in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from moeplan.domain import model as m
from moeplan.domain.description import ModelDescription, ModelSummary
from moeplan.domain.graph import ParamCounts
from moeplan.graph.deviation import deviation
from moeplan.readers.layout import format_layout
from moeplan.report.catalog_cards import source_words
from moeplan.report.listing import Card, Column, Listing
from moeplan.report.model_json import ModelJson, model_json
from moeplan.report.words import first_moe
from moeplan.units import fmt_bytes, fmt_params

_ROLES = (
    ("embeddings and head", ("embedding", "position", "head")),
    ("attention", ("attn_", "mla_", "indexer", "cross_attn", "sink")),
    ("state and convolution", ("ssm", "linear_attn", "conv")),
    ("dense FFN", ("ffn_",)),
    ("routed experts", ("expert_",)),
    ("shared experts", ("shared_",)),
    ("routers and latents", ("router", "latent")),
    ("norms, biases, other", ("norm", "bias", "extra")),
)
"""Groups of tensor roles (by the start of their names) in the breakdown of parameters."""


# ── list ────────────────────────────────────────────────────────────────────────────────────────


def model_listing(models: Sequence[ModelSummary]) -> Listing:
    """One row a model."""
    columns = [
        Column("id"),
        Column("total", "r"),
        Column("active", "r"),
        Column("experts", "r", 1),
        Column("layers", "r", 3),
        Column("context", "r", 2),
        Column("family", "l", 4),
    ]
    rows = []
    for model in models:
        moe = first_moe(model.spec)
        rows.append(
            (
                model.spec.id,
                fmt_params(model.params.total),
                fmt_params(model.params.active),
                f"{moe.n_active}/{moe.n_experts}" if moe else "dense",
                str(model.spec.n_layers),
                f"{model.spec.context_tokens:,}",
                model.spec.family,
            )
        )
    return Listing(columns, rows, "no model matches")


class ModelRowJson(msgspec.Struct, kw_only=True):
    """A model of the list; counts are parameters."""

    id: str
    name: str
    family: str
    architecture: str
    moe: bool
    params_total: int
    params_active: int
    n_layers: int
    n_experts: int | None
    n_experts_active: int | None
    context_tokens: int
    native_quant: str
    hf_ids: list[str]


def models_json(models: Sequence[ModelSummary]) -> dict[str, Any]:
    """The wire form of the list."""
    return {"schema": "moeplan/models@1", "models": [_row_json(model) for model in models]}


def _row_json(model: ModelSummary) -> ModelRowJson:
    spec, moe = model.spec, first_moe(model.spec)
    return ModelRowJson(
        id=spec.id,
        name=spec.name,
        family=spec.family,
        architecture=spec.architecture,
        moe=spec.is_moe,
        params_total=model.params.total,
        params_active=model.params.active,
        n_layers=spec.n_layers,
        n_experts=moe.n_experts if moe else None,
        n_experts_active=moe.n_active if moe else None,
        context_tokens=spec.context_tokens,
        native_quant=spec.native_quant,
        hf_ids=list(spec.hf_ids),
    )


# ── one model ───────────────────────────────────────────────────────────────────────────────────


def model_card(d: ModelDescription) -> Card:
    """One model: parameters, layers, sizes, cache."""
    spec, params = d.graph.spec, d.graph.params
    facts = [
        ("id", spec.id),
        ("family", spec.family),
        ("released", spec.released + (f", license {spec.license}" if spec.license else "")),
        ("total", f"{fmt_params(params.total)} parameters ({params.total:,})"),
        ("active", f"{fmt_params(params.active)} per token ({params.active:,})"),
        ("", f"{params.active_no_input_embedding:,} without the input embedding"),
        ("", f"{params.active_no_embeddings:,} without both embeddings"),
        ("published", _published(spec, params)),
        ("stored", _stored(spec)),
        ("not counted", ", ".join(f"{part.kind} {fmt_params(part.params)}" for part in spec.parts)),
        ("context", f"{spec.context_tokens:,} tokens"),
        ("vocabulary", f"{spec.vocab_size:,} tokens" + (", tied" if spec.tied_embeddings else "")),
        ("hidden size", f"{spec.hidden_size:,}"),
        ("native type", spec.native_quant),
        ("cache growth", f"{fmt_bytes(d.kv_bytes_per_token)} per token in f16"),
        ("read from", d.origin),
    ]
    lists = {
        "less certain": [spec.weak] if spec.weak else [],
        "notes": spec.notes,
        "not modelled": d.not_modelled,
        "sources": [source_words(source) for source in spec.sources],
    }
    tables = [_layers(spec), _roles(d), _sizes(d), _caches(d)]
    return Card(spec.name, facts, lists, tables)


class ModelShowJson(msgspec.Struct, kw_only=True):
    """One model in full."""

    schema: str
    model: ModelJson
    architecture: dict[str, Any]
    params_by_role: dict[str, int]
    sizes: list[dict[str, Any]]
    caches: list[dict[str, Any]]
    kv_bytes_per_token: float
    origin: str
    not_modelled: list[str]
    sources: list[dict[str, Any]]


def model_show_json(d: ModelDescription) -> ModelShowJson:
    """The wire form of a card."""
    graph, spec = d.graph, d.graph.spec
    architecture = msgspec.to_builtins(spec)
    sources = [source._asdict() for source in spec.sources]
    del architecture["sources"]
    architecture["layout"] = format_layout(spec.layout, [block.name for block in spec.blocks])
    architecture["n_layers"] = spec.n_layers
    return ModelShowJson(
        schema="moeplan/model@1",
        model=model_json(spec, graph.quant, graph.params, graph.weights_bytes),
        architecture=architecture,
        params_by_role=dict(graph.params.by_role),
        sizes=msgspec.to_builtins(d.sizes),
        caches=msgspec.to_builtins(d.caches),
        kv_bytes_per_token=d.kv_bytes_per_token,
        origin=d.origin,
        not_modelled=list(d.not_modelled),
        sources=sources,
    )


def _published(spec: m.ModelSpec, params: ParamCounts) -> str:
    published, found = spec.published, deviation(spec, params)
    parts = []
    if published.params_total is not None:
        difference = "" if found.total_is_rounding else f" (computed {found.total_frac:+.1%})"
        parts.append(f"{fmt_params(published.params_total)} total{difference}")
    if published.params_active is not None:
        difference = "" if found.active_is_rounding else f" (computed {found.active_frac:+.1%})"
        parts.append(f"{fmt_params(published.params_active)} active{difference}")
    return ", ".join(parts) + (f"; {published.note}" if published.note else "")


def _stored(spec: m.ModelSpec) -> str:
    """What the repository's weight files hold, and of what."""
    stored = spec.stored
    if stored is None:
        return ""
    held = ["text model", *stored.parts]
    if stored.extra_params > 0:
        held.append(stored.extra_note)
    left_out = f", without {stored.extra_note}" if stored.extra_params < 0 else ""
    where = f" in {stored.repository}" if stored.repository else ""
    return f"{stored.params:,} parameters{where}: {', '.join(held)}{left_out}"


def _layers(spec: m.ModelSpec) -> Listing:
    """One row per kind of layer, in the order in which they first appear."""
    rows = [
        (f"{spec.layout.count(index)} x {spec.blocks[index].name}", *block_words(spec.blocks[index]))
        for index in dict.fromkeys(spec.layout)
    ]
    return Listing([Column("layers"), Column("mixer"), Column("feed-forward")], rows)


def block_words(block: m.Block) -> tuple[str, str]:
    """(what it does along the sequence, its feed-forward part), in words."""
    return mixer_words(block.mixer), ffn_words(block.ffn)


def mixer_words(mixer: m.Mixer | None) -> str:
    """``GQA 32/8 heads of 128``, ``MLA 128 heads, latent 512+64`` ..."""
    match mixer:
        case None:
            return "none"
        case m.GqaAttention():
            kind = "MHA" if mixer.n_heads == mixer.n_kv_heads else "MQA" if mixer.n_kv_heads == 1 else "GQA"
            window = f", window {mixer.window_tokens:,}" if mixer.window_tokens else ""
            heads = f"{mixer.n_heads}/{mixer.n_kv_heads}" if kind == "GQA" else f"{mixer.n_heads}"
            return f"{kind} {heads} heads of {mixer.head_dim}{window}"
        case m.MlaAttention():
            window = f", window {mixer.window_tokens:,}" if mixer.window_tokens else ""
            sparse = f", top {mixer.indexer.top_k_tokens:,} tokens" if mixer.indexer else ""
            latent = f"{mixer.kv_lora_rank}+{mixer.rope_head_dim}"
            return f"MLA {mixer.n_heads} heads, latent {latent}{window}{sparse}"
        case m.CompressedAttention():
            ratio = f"1 in {mixer.ratio}" if mixer.ratio else "window only"
            heads = f"{mixer.n_heads} heads of {mixer.head_dim}"
            return f"compressed {heads}, {ratio}, window {mixer.window_tokens:,}"
        case m.ShortConv():
            return f"short convolution of width {mixer.conv_width}"
        case m.Mamba1():
            return f"Mamba, inner {mixer.inner_dim:,}, state {mixer.state_dim}"
        case m.Mamba2():
            return f"Mamba-2 {mixer.n_heads} heads of {mixer.head_dim}, state {mixer.state_dim}"
        case m.GatedDeltaNet():
            return f"gated DeltaNet {mixer.n_k_heads}/{mixer.n_v_heads} heads of {mixer.v_head_dim}"
        case m.KimiDelta():
            return f"Kimi delta attention {mixer.n_heads} heads of {mixer.head_dim}"
        case m.Lightning():
            return f"lightning attention {mixer.n_heads} heads of {mixer.head_dim}"


def ffn_words(ffn: m.Ffn | None) -> str:
    """``dense 14336`` or ``2 of 8 experts of 14336``."""
    if ffn is None:
        return "none"
    if isinstance(ffn, m.DenseFfn):
        return f"dense {ffn.intermediate:,}"
    text = f"{ffn.n_active} of {ffn.n_experts} experts of {ffn.expert_intermediate:,}"
    if ffn.shared_intermediate:
        usual = ffn.shared_intermediate == ffn.n_shared * ffn.expert_intermediate
        text += f", {ffn.n_shared} shared" + ("" if usual else f" of {ffn.shared_intermediate:,}")
    if ffn.parallel_dense:
        text += f", dense {ffn.parallel_dense:,} beside"
    return text


def _roles(d: ModelDescription) -> Listing:
    by_role, total = d.graph.params.by_role, d.graph.params.total
    rows = []
    for name, starts in _ROLES:
        n = sum(count for role, count in by_role.items() if role.startswith(starts))
        if n:
            rows.append((name, fmt_params(n), f"{n / total:.1%}"))
    return Listing([Column("part"), Column("parameters", "r"), Column("share", "r")], rows)


def _sizes(d: ModelDescription) -> Listing:
    total = d.graph.params.total
    rows = [
        (size.quant, fmt_bytes(size.weights_bytes), f"{size.weights_bytes * 8 / total:.2f}")
        for size in d.sizes
    ]
    return Listing([Column("weights in"), Column("size", "r"), Column("bits per weight", "r")], rows)


def _caches(d: ModelDescription) -> Listing:
    rows = [
        (f"{c.context_tokens:,}", fmt_bytes(c.kv_bytes), fmt_bytes(c.state_bytes) if c.state_bytes else "-")
        for c in d.caches
    ]
    kv_type = d.caches[0].kv_type if d.caches else ""
    return Listing([Column("context", "r"), Column(f"KV cache ({kv_type})", "r"), Column("state", "r")], rows)
