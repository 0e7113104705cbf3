"""Families whose layers no other family has: DeepSeek-V4, LongCat, MiMo-V2, MiniMax-M3, Step-3.x.

Layer definitions and defaults are those of transformers' classes of each model_type.
"""

from __future__ import annotations

from msgspec.structs import replace

from moeplan.domain.model import Block, CompressedAttention, DenseFfn, Ffn, GqaAttention, Indexer, MoeFfn
from moeplan.errors import NotModelled
from moeplan.readers.hf.closed_form import block_params
from moeplan.readers.hf.common import CHOSEN, EXPERTS, dense, gqa, model, moe, sparse_layers
from moeplan.readers.hf.families_deepseek import mla
from moeplan.readers.hf.pattern import at_least, flags, layer_types, mtp_part
from moeplan.readers.hf.shape import ModelShape
from moeplan.readers.hf.view import ConfigView

_SLIDING = {"full_attention": "full", "sliding_attention": "sliding"}


# ── DeepSeek-V4 ─────────────────────────────────────────────────────────────────────────────────

# window only, compressed with an indexer (CSA), heavily compressed (HCA), each named by its ratio
_V4_RATIOS = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
_V4_NAMES = {0: "window", 4: "csa", 128: "hca"}


def deepseek_v4(cfg: ConfigView) -> ModelShape:
    """DeepSeek-V4: window layers, 4:1 compressed layers with an indexer and 128:1 ones, all MoE.

    The residual runs in ``hc_mult`` streams: each part of a layer mixes them with a matrix of
    (2 + n) n x n hidden, as many base values and three scales; the head with n x n hidden, n and one.
    """
    n, hidden = cfg.layers(), cfg.int("hidden_size")
    experts = moe(cfg, n_shared=1, routing="sigmoid")
    streams = cfg.int("hc_mult", default=4)
    outputs = (2 + streams) * streams
    mixing = 2 * (outputs * streams * hidden + outputs + 3)
    note = "hyper-connections of both parts (hc_attn, hc_ffn)"
    mixers = {kind: _v4_attention(cfg, kind) for kind in (0, 4, 128)}
    layers = [
        Block(name=_V4_NAMES[kind], mixer=mixers[kind], ffn=experts, extra_params=mixing, extra_note=note)
        for kind in _v4_kinds(cfg, n)
    ]
    head = streams * streams * hidden + streams + 1
    n_mtp = cfg.count("num_nextn_predict_layers", default=0)
    return model(
        cfg,
        layers,
        extra_params=head,
        extra_note="hyper-connection of the head (hc_head)",
        parts=mtp_part(n_mtp, _v4_mtp(mixers[0], experts, hidden) + mixing + head),
        notes=("not counted: selection biases of the routers and token tables of the hash-routed layers",),
    )


def _v4_attention(cfg: ConfigView, kind: int) -> CompressedAttention:
    head_dim = cfg.int("head_dim")
    # transformers keeps the RoPE width as a share of the head: 64 of 512 unless the file says otherwise
    rope = int(cfg.float("partial_rotary_factor", default=0.125) * head_dim)
    rope = cfg.int("qk_rope_head_dim", default=rope)
    if rope > head_dim and not cfg.missing:
        raise cfg.error("qk_rope_head_dim", f"must be at most head_dim ({head_dim}), got {rope}")
    indexer = None
    if kind == 4:
        indexer = Indexer(
            n_heads=cfg.int("index_n_heads"),
            head_dim=cfg.int("index_head_dim"),
            top_k_tokens=cfg.tokens("index_topk"),
        )
    n_heads, n_groups = cfg.int("num_attention_heads"), cfg.int("o_groups")
    if n_heads % n_groups and not cfg.missing:
        raise cfg.error("o_groups", f"must divide num_attention_heads ({n_heads}), got {n_groups}")
    return CompressedAttention(
        n_heads=n_heads,
        head_dim=head_dim,
        q_lora_rank=cfg.int("q_lora_rank"),
        rope_head_dim=rope,
        n_out_groups=n_groups,
        out_lora_rank=cfg.int("o_lora_rank"),
        window_tokens=cfg.tokens("sliding_window"),
        ratio=_v4_ratio(cfg, kind),
        indexer=indexer,
    )


def _v4_ratio(cfg: ConfigView, kind: int) -> int:
    """``kind`` itself, unless transformers' compress_rates gives another ratio for it."""
    rates = cfg.sub("compress_rates")
    if rates is None or kind == 0:
        return kind
    return rates.int(next(name for name, ratio in _V4_RATIOS.items() if ratio == kind), default=kind)


def _v4_kinds(cfg: ConfigView, n_layers: int) -> list[int]:
    """0, 4 or 128 per layer; ``compress_ratios`` may go on with the MTP layers."""
    named = layer_types(cfg, n_layers, {name: name for name in _V4_RATIOS})
    if named is not None:
        return [_V4_RATIOS[name] for name in named]
    if not cfg.has("compress_ratios"):
        cfg.missing.append("compress_ratios or layer_types")
        return [0] * n_layers
    ratios = at_least(cfg, "compress_ratios", cfg.list("compress_ratios", of=int), n_layers)
    for ratio in ratios:
        if ratio not in _V4_NAMES:
            raise cfg.error("compress_ratios", f"must hold 0, 4 and 128 only, got {ratio}")
    return ratios


def _v4_mtp(a: CompressedAttention, experts: MoeFfn, hidden: int) -> int:
    """An MTP layer without its hyper-connections: a window layer with the selection bias, one matrix
    each for embedding and hidden state, three norms (llama.cpp src/models/deepseek4.cpp)."""
    q_width = a.n_heads * a.head_dim
    latent = a.n_out_groups * a.out_lora_rank
    attention = a.q_lora_rank * (hidden + 1 + q_width) + a.head_dim * (hidden + 1) + a.n_heads
    attention += q_width // a.n_out_groups * latent + latent * hidden
    ffn = block_params(Block(name="mtp", mixer=None, ffn=replace(experts, router_correction=True)), hidden)
    return attention + ffn + 2 * hidden * hidden + 3 * hidden


# ── LongCat ─────────────────────────────────────────────────────────────────────────────────────


def longcat_flash(cfg: ConfigView) -> ModelShape:
    """LongCat-Flash: each of ``num_layers`` holds two MLA layers with a dense MLP each, and experts that
    run beside the first MLP (shortcut-connected MoE).

    Modelled as two layers: MLA with experts and a parallel MLP, then MLA with an MLP. Of the ``moe_topk``
    chosen router outputs the zero experts compute nothing: 12 of 768, 512 of them real, leave 8 on
    average (arXiv:2509.01322, section 2.1).
    """
    attention = mla(cfg)
    width = cfg.int("ffn_hidden_size", "intermediate_size")
    n_experts, n_zero = cfg.int(*EXPERTS), cfg.count("zero_expert_num", default=0)
    n_chosen = cfg.int(*CHOSEN)
    if n_chosen > n_experts + n_zero and not cfg.missing:
        raise cfg.error("moe_topk", f"must be at most {n_experts + n_zero}, got {n_chosen}")
    experts = MoeFfn(
        n_experts=n_experts,
        n_active=max(1, round(n_chosen * n_experts / (n_experts + n_zero))),
        expert_intermediate=cfg.int("expert_ffn_hidden_size", "moe_intermediate_size"),
        router_bias=cfg.bool("router_bias", default=False),
        router_correction=True,
        n_zero_experts=n_zero,
        parallel_dense=width,
    )
    pair = [
        Block(name="moe", mixer=attention, ffn=experts),
        Block(name="dense", mixer=attention, ffn=DenseFfn(intermediate=width)),
    ]
    notes = ["each layer of the config counts as two: it has two attentions and two caches"]
    if n_zero:
        notes.append(f"the router picks {n_chosen} outputs a token; experts that compute: the average")
    return model(cfg, pair * cfg.layers("num_layers"), notes=tuple(notes))


# ── Window hybrids ──────────────────────────────────────────────────────────────────────────────


def mimo_v2_flash(cfg: ConfigView) -> ModelShape:
    """MiMo-V2-Flash: five window layers with sinks to one full layer, of different K/V head counts."""
    n = cfg.layers()
    sliding = flags(cfg, "hybrid_layer_pattern", n)
    if sliding is None:
        types = layer_types(cfg, n, _SLIDING)
        if types is None:
            types = ["full" if i == 0 or (i + 1) % 6 == 0 else "sliding" for i in range(n)]
        sliding = [kind == "sliding" for kind in types]
    full = gqa(
        cfg,
        qkv_bias=cfg.bool("attention_bias", default=False),
        sinks=cfg.bool("add_full_attention_sink_bias", default=False),
    )
    full = replace(full, v_head_dim=cfg.int("v_head_dim", default=full.head_dim))
    window = replace(
        full,
        n_heads=cfg.int("swa_num_attention_heads", default=full.n_heads),
        n_kv_heads=cfg.int("swa_num_key_value_heads", default=2 * full.n_kv_heads),
        head_dim=cfg.int("swa_head_dim", default=full.head_dim),
        v_head_dim=cfg.int("swa_v_head_dim", default=full.v_head_dim),
        window_tokens=cfg.tokens("sliding_window"),
        sinks=cfg.bool("add_swa_attention_sink_bias", default=True),
    )
    experts, plain = moe(cfg, router_correction=True, routing="sigmoid"), dense(cfg)
    layers = []
    for is_sliding, is_sparse in zip(sliding, sparse_layers(cfg, first_dense=1), strict=True):
        ffn: Ffn = experts if is_sparse else plain
        if is_sliding:
            layers.append(Block(name="sliding", mixer=window, ffn=ffn))
        else:
            layers.append(Block(name="full", mixer=full, ffn=ffn))
    return model(cfg, layers)


def step3p7(cfg: ConfigView) -> ModelShape:
    """Step-3.5 and 3.7 Flash: window layers with more query heads, a gate per head, first layers dense.

    Lists may go on with the MTP layers: window layers with a dense MLP and a head each.
    """
    n, hidden = cfg.layers(), cfg.int("hidden_size")
    bias = cfg.bool("attention_bias", default=False)
    full = GqaAttention(
        n_heads=cfg.int("num_attention_heads"),
        n_kv_heads=cfg.int("num_attention_groups", "num_key_value_heads"),
        head_dim=cfg.int("head_dim", default=128),
        v_head_dim=cfg.int("head_dim", default=128),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm="head" if cfg.bool("use_qk_norm", default=True) else "none",
        output_gate="head" if cfg.bool("use_head_wise_attn_gate", default=True) else "none",
    )
    other = cfg.sub("attention_other_setting") or cfg
    window = replace(
        full,
        n_heads=cfg.int("num_sliding_attention_heads", default=None)
        or other.int("num_attention_heads", default=full.n_heads),
        window_tokens=cfg.tokens("sliding_window", default=None),
    )
    shared = cfg.count("share_expert_dim", "share_expert_dims", default=0)
    experts = MoeFfn(
        n_experts=cfg.int("moe_num_experts", *EXPERTS),
        n_active=cfg.int("moe_top_k", *CHOSEN),
        expert_intermediate=cfg.int("moe_intermediate_size"),
        router_correction=cfg.bool("use_moe_router_bias", default=True),
        n_shared=int(shared > 0),
        shared_intermediate=shared,
        routing="sigmoid",
    )
    plain = dense(cfg, bias=cfg.bool("mlp_bias", default=False))
    types = layer_types(cfg, n, _SLIDING) or ["full"] * n
    layers = []
    for kind, is_sparse in zip(types, _step_sparse(cfg, n), strict=True):
        ffn: Ffn = experts if is_sparse else plain
        layers.append(Block(name=kind, mixer=window if kind == "sliding" else full, ffn=ffn))
    mtp = block_params(Block(name="mtp", mixer=window, ffn=plain), hidden)
    mtp += 2 * hidden * hidden + 3 * hidden + cfg.int("vocab_size") * hidden
    n_mtp = cfg.count("num_nextn_predict_layers", default=0)
    return model(cfg, layers, parts=mtp_part(n_mtp, mtp))


def _step_sparse(cfg: ConfigView, n_layers: int) -> list[bool]:
    """``moe_layers_enum``: the layers with experts, as a list or as text; else all but the first three."""
    named = cfg.get("moe_layers_enum")
    if named is None:
        return sparse_layers(cfg, first_dense=3)
    items = named.split(",") if isinstance(named, str) else cfg.list("moe_layers_enum", of=int)
    try:
        indices = {int(item) for item in items}
    except ValueError:
        raise cfg.error("moe_layers_enum", "must be layer numbers separated by commas") from None
    return [i in indices for i in range(n_layers)]


# ── MiniMax-M3 ──────────────────────────────────────────────────────────────────────────────────


def minimax_m3(cfg: ConfigView) -> ModelShape:
    """MiniMax-M3: GQA whose sparse layers attend to blocks picked by an indexer; first layers dense."""
    n = cfg.layers()
    norm = cfg.bool("use_qk_norm", default=True)
    if norm and cfg.str("qk_norm_type", default="per_head") != "per_head":
        raise NotModelled(f"qk_norm_type {cfg.str('qk_norm_type')!r} ({cfg.where})")
    full = gqa(cfg, qk_norm="head" if norm else "none")
    sparse = replace(full, indexer=_m3_indexer(cfg.sub("sparse_attention_config") or cfg))
    shared = cfg.count("shared_intermediate_size", default=0)
    n_shared = cfg.count("n_shared_experts", default=int(shared > 0))
    experts = moe(
        cfg,
        width=cfg.int("moe_intermediate_size", "intermediate_size"),
        n_shared=n_shared,
        shared_width=n_shared * shared,
        router_correction=cfg.bool("use_routing_bias", default=True),
        routing="sigmoid",
    )
    mlp = DenseFfn(intermediate=cfg.int("dense_intermediate_size"))
    layers = []
    for kind, is_moe in zip(_m3_kinds(cfg, n), sparse_layers(cfg, first_dense=0), strict=True):
        ffn: Ffn = experts if is_moe else mlp
        layers.append(Block(name=kind, mixer=full if kind == "full" else sparse, ffn=ffn))
    return model(cfg, layers)


def _m3_kinds(cfg: ConfigView, n_layers: int) -> list[str]:
    kinds = layer_types(cfg, n_layers, {"full_attention": "full", "minimax_m3_sparse": "sparse"})
    if kinds is not None:
        return kinds
    nested = cfg.sub("sparse_attention_config")
    listed = None if nested is None else flags(nested, "sparse_attention_freq", n_layers)
    return ["sparse" if item else "full" for item in listed or [False] * n_layers]


def _m3_indexer(cfg: ConfigView) -> Indexer:
    """transformers MiniMaxM3VLIndexer: whole blocks of the context are picked."""
    blocks = cfg.int("sparse_topk_blocks", "index_topk_blocks", default=16)
    return Indexer(
        n_heads=cfg.int("sparse_num_index_heads", "index_n_heads", default=4),
        head_dim=cfg.int("sparse_index_dim", "index_head_dim", default=128),
        top_k_tokens=blocks * cfg.int("sparse_block_size", "index_block_size", default=128),
    )
