"""Families that mix softmax attention with state space, linear attention or convolution layers.

Layer definitions and defaults are those of transformers' classes of each model_type.
"""

from __future__ import annotations

from moeplan.domain.model import (
    Block,
    DenseFfn,
    Ffn,
    GatedDeltaNet,
    KimiDelta,
    Lightning,
    Mamba1,
    Mamba2,
    Mixer,
    MoeFfn,
    ShortConv,
)
from moeplan.readers.hf.closed_form import block_params
from moeplan.readers.hf.common import dense, gqa, model, moe, sparse_layers
from moeplan.readers.hf.families_deepseek import mla
from moeplan.readers.hf.pattern import layer_types, mtp_part, one_based
from moeplan.readers.hf.shape import ModelShape
from moeplan.readers.hf.view import ConfigView

_LINEAR = {
    "full_attention": "full", "attention": "full", "linear_attention": "linear", "mamba": "linear",
    "conv": "linear",
}  # fmt: skip


# ── Qwen3-Next and Qwen3.5: Gated DeltaNet, every fourth layer gated softmax attention ──────────


def qwen3_next(cfg: ConfigView) -> ModelShape:
    """Qwen3-Next: all layers MoE with a gated shared expert, unless mlp_only_layers says otherwise."""
    return _qwen(cfg, _qwen_experts(cfg, fused=False))


def qwen3_5(cfg: ConfigView) -> ModelShape:
    """Qwen3.5 dense."""
    return _qwen(cfg, None)


def qwen3_5_moe(cfg: ConfigView) -> ModelShape:
    """Qwen3.5 MoE; the checkpoint stores gate and up of the experts as one matrix."""
    return _qwen(cfg, _qwen_experts(cfg, fused=True))


def _qwen(cfg: ConfigView, experts: MoeFfn | None) -> ModelShape:
    n = cfg.layers()
    types = layer_types(cfg, n, _LINEAR)
    if types is None:
        every = cfg.int("full_attention_interval", default=4)
        types = ["linear" if (i + 1) % every else "full" for i in range(n)]
    gated = cfg.bool("attn_output_gate", default=True)
    bias = cfg.bool("attention_bias", default=False)
    mixers: dict[str, Mixer] = {
        "full": gqa(
            cfg, qk_norm="head", output_gate="full" if gated else "none", qkv_bias=bias, out_bias=bias
        ),
        "linear": GatedDeltaNet(
            n_k_heads=cfg.int("linear_num_key_heads"),
            n_v_heads=cfg.int("linear_num_value_heads"),
            k_head_dim=cfg.int("linear_key_head_dim"),
            v_head_dim=cfg.int("linear_value_head_dim"),
            conv_width=cfg.int("linear_conv_kernel_dim"),
        ),
    }
    dense_layers = cfg.list("mlp_only_layers", default=[], of=int)
    step = cfg.int("decoder_sparse_step", default=1)
    sparse = [experts is not None and i not in dense_layers and (i + 1) % step == 0 for i in range(n)]
    plain = experts if experts is not None and all(sparse) else dense(cfg)
    ffns = [experts if is_sparse else plain for is_sparse in sparse]
    layers = [Block(name=kind, mixer=mixers[kind], ffn=ffn) for kind, ffn in zip(types, ffns, strict=True)]
    # a softmax layer, the projection of two hidden states to one, three norms (vLLM qwen3_next_mtp.py)
    hidden = cfg.int("hidden_size")
    mtp = block_params(Block(name="mtp", mixer=mixers["full"], ffn=experts or plain), hidden)
    n_mtp = cfg.count("mtp_num_hidden_layers", "num_nextn_predict_layers", default=0)
    return model(cfg, layers, parts=mtp_part(n_mtp, mtp + 2 * hidden * hidden + 3 * hidden))


def _qwen_experts(cfg: ConfigView, fused: bool) -> MoeFfn:
    shared = cfg.count("shared_expert_intermediate_size", default=0)
    return moe(
        cfg, n_shared=int(shared > 0), shared_width=shared, shared_gate=shared > 0, fused_gate_up=fused
    )


# ── Mamba hybrids ───────────────────────────────────────────────────────────────────────────────


def jamba(cfg: ConfigView) -> ModelShape:
    """Jamba: Mamba with one softmax layer per period, MoE in every other layer."""
    hidden = cfg.int("hidden_size")
    rank = cfg.get("mamba_dt_rank")
    mamba = Mamba1(
        inner_dim=cfg.int("mamba_expand", default=2) * hidden,
        state_dim=cfg.int("mamba_d_state", default=16),
        conv_width=cfg.int("mamba_d_conv", default=4),
        dt_rank=-(-hidden // 16) if rank in (None, "auto") else cfg.int("mamba_dt_rank"),
        conv_bias=cfg.bool("mamba_conv_bias", default=True),
        proj_bias=cfg.bool("mamba_proj_bias", default=False),
        inner_norms=True,
    )
    attention = gqa(cfg)
    plain: Ffn = dense(cfg)
    experts: Ffn = plain
    if cfg.int("num_experts") > 1:
        experts = moe(cfg, width=cfg.int("intermediate_size"))
    attention_period = cfg.int("attn_layer_period", default=8)
    attention_offset = cfg.count("attn_layer_offset", default=4)
    expert_period = cfg.int("expert_layer_period", default=2)
    expert_offset = cfg.count("expert_layer_offset", default=1)
    layers = []
    for i in range(cfg.layers()):
        ffn = experts if i % expert_period == expert_offset else plain
        if i % attention_period == attention_offset:
            layers.append(Block(name="attention", mixer=attention, ffn=ffn))
        else:
            layers.append(Block(name="mamba", mixer=mamba, ffn=ffn))
    return model(cfg, layers)


def granitemoehybrid(cfg: ConfigView) -> ModelShape:
    """Granite 4.0 H: Mamba-2 with few softmax layers; a shared MLP beside the experts, or alone."""
    n = cfg.layers()
    inner = cfg.int("mamba_expand", default=2) * cfg.int("hidden_size")
    n_heads = cfg.int("mamba_n_heads", default=128)
    given = cfg.get("mamba_d_head")
    mamba = Mamba2(
        n_heads=n_heads,
        head_dim=inner // n_heads if given in (None, "auto") else cfg.int("mamba_d_head"),
        n_groups=cfg.int("mamba_n_groups", default=1),
        state_dim=cfg.int("mamba_d_state", default=256),
        conv_width=cfg.int("mamba_d_conv", default=4),
        conv_bias=cfg.bool("mamba_conv_bias", default=True),
        proj_bias=cfg.bool("mamba_proj_bias", default=False),
    )
    if mamba.n_heads * mamba.head_dim != inner:
        raise cfg.error("mamba_n_heads", f"x mamba_d_head must be mamba_expand x hidden_size = {inner}")
    bias = cfg.bool("attention_bias", default=False)
    mixers: dict[str, Mixer] = {"linear": mamba, "full": gqa(cfg, qkv_bias=bias, out_bias=bias)}
    shared = cfg.int("shared_intermediate_size")
    ffn: Ffn = DenseFfn(intermediate=shared, fused_gate_up=True)
    if cfg.count("num_local_experts", default=0):
        width = cfg.int("intermediate_size")
        ffn = moe(cfg, width=width, n_shared=1, shared_width=shared, fused_gate_up=True)
    types = layer_types(cfg, n, _LINEAR) or ["linear"] * n
    return model(cfg, [Block(name=kind, mixer=mixers[kind], ffn=ffn) for kind in types])


_NEMOTRON = {
    "M": "mamba", "E": "moe", "*": "attention", "-": "mlp", "mamba": "mamba", "linear_attention": "mamba",
    "moe": "moe", "attention": "attention", "full_attention": "attention", "mlp": "mlp",
}  # fmt: skip


def nemotron_h(cfg: ConfigView) -> ModelShape:
    """Nemotron-H and Nemotron 3: layers of one part each (Mamba-2, attention, MLP or MoE) with one norm.

    MLPs and experts are not gated (squared ReLU). With moe_latent_size the experts work at that width.
    """
    kinds = _nemotron_kinds(cfg, "hybrid_override_pattern", "layers_block_type", "layer_types")
    if cfg.has("num_hidden_layers") and cfg.layers() != len(kinds) and not cfg.missing:
        raise cfg.error("num_hidden_layers", f"is {cfg.layers()}, but the pattern has {len(kinds)} layers")
    built = {kind: _nemotron_block(cfg, kind) for kind in dict.fromkeys(kinds)}
    n_mtp = cfg.count("num_nextn_predict_layers", default=0)
    mtp = 0
    if n_mtp:
        hidden = cfg.int("hidden_size")
        parts = _nemotron_kinds(cfg, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
        mtp = sum(block_params(_nemotron_block(cfg, kind), hidden) for kind in parts)
        mtp += 2 * hidden * hidden + 3 * hidden  # projection of two hidden states, three norms
    return model(cfg, [built[kind] for kind in kinds], parts=mtp_part(n_mtp, mtp))


def _nemotron_kinds(cfg: ConfigView, pattern_key: str, *list_keys: str) -> list[str]:
    """Kinds of layer from a pattern of letters or a list of names. Raises SpecError for unknown ones."""
    pattern = cfg.str(pattern_key, default=None)
    names = cfg.list(*list_keys, of=str) if pattern is None else list(pattern)
    for name in names:
        if name not in _NEMOTRON:
            key = list_keys[0] if pattern is None else pattern_key
            raise cfg.error(key, f"has an unknown layer {name!r}, known are {', '.join(_NEMOTRON)}")
    return [_NEMOTRON[name] for name in names]


def _nemotron_block(cfg: ConfigView, kind: str) -> Block:
    mixer: Mixer | None = None
    ffn: Ffn | None = None
    if kind == "mamba":
        mixer = Mamba2(
            n_heads=cfg.int("mamba_num_heads"),
            head_dim=cfg.int("mamba_head_dim"),
            n_groups=cfg.int("n_groups", "mamba_n_groups"),
            state_dim=cfg.int("ssm_state_size"),
            conv_width=cfg.int("conv_kernel", "mamba_d_conv"),
            conv_bias=cfg.bool("use_conv_bias", "mamba_conv_bias", default=True),
            proj_bias=cfg.bool("use_bias", default=False),
        )
    elif kind == "attention":
        mixer = gqa(cfg)
    elif kind == "mlp":
        ffn = dense(cfg, gated=False, bias=cfg.bool("mlp_bias", default=False))
    else:
        # the shared MLP has this width whatever n_shared_experts says (transformers NemotronHMoE)
        n_shared = cfg.count("n_shared_experts", default=1)
        ffn = moe(
            cfg,
            n_shared=n_shared,
            shared_width=cfg.int("moe_shared_expert_intermediate_size") if n_shared else 0,
            gated=False,
            latent_dim=cfg.count("moe_latent_size", default=0),
            router_correction=True,
            routing="sigmoid",
        )
    return Block(name=kind, mixer=mixer, ffn=ffn, n_norms=1)


# ── Linear attention hybrids ────────────────────────────────────────────────────────────────────


def minimax(cfg: ConfigView) -> ModelShape:
    """MiniMax-Text-01 and M1: seven lightning attention layers to one softmax layer, all MoE.

    The original repositories give ``attn_type_list`` (1 is softmax), transformers ``layer_types``.
    """
    n = cfg.layers()
    types = layer_types(cfg, n, _LINEAR)
    if types is None:
        types = ["full" if t == 1 else "linear" for t in cfg.list("attn_type_list", of=int)]
    softmax = gqa(cfg)
    mixers: dict[str, Mixer] = {
        "full": softmax,
        "linear": Lightning(n_heads=softmax.n_heads, head_dim=softmax.head_dim),
    }
    shared = cfg.count("shared_intermediate_size", default=0)
    experts = moe(cfg, width=cfg.int("intermediate_size"), n_shared=int(shared > 0), shared_width=shared)
    if len(types) != n and not cfg.missing:
        raise cfg.error("attn_type_list", f"must have {n} items, got {len(types)}")
    return model(cfg, [Block(name=kind, mixer=mixers[kind], ffn=experts) for kind in types])


def kimi_linear(cfg: ConfigView) -> ModelShape:
    """Kimi Linear and Kimi K3: three KDA layers to one MLA layer.

    ``linear_attn_config`` lists the layers counting from one. K3 adds a full-rank KDA gate, an MLA
    output gate, experts at a latent width and attention residuals: in front of both parts of a layer,
    and before the final norm, a norm and a projection to one score (llama.cpp pull request 26185).
    """
    n, hidden = cfg.layers(), cfg.int("hidden_size")
    gate = "full" if cfg.bool("mla_use_output_gate", default=False) else "none"
    mixers: dict[str, Mixer] = {"full": mla(cfg, output_gate=gate), "linear": _kimi_delta(cfg)}
    experts = moe(
        cfg,
        router_correction=True,
        latent_dim=cfg.count("routed_expert_hidden_size", default=0),
        routing="sigmoid",
    )
    plain = dense(cfg)
    latent_norm = experts.latent_dim if cfg.bool("latent_moe_use_norm", default=False) else 0
    residual = 2 * hidden if cfg.has("attn_res_block_size") else 0
    layers = []
    for kind, is_sparse in zip(_kimi_kinds(cfg, n), sparse_layers(cfg, first_dense=1), strict=True):
        extra, note = 2 * residual, "attention residuals: norm and score, of both parts" if residual else ""
        if is_sparse and latent_norm:
            extra, note = extra + latent_norm, f"{note}; norm of the experts' latent".removeprefix("; ")
        ffn: Ffn = experts if is_sparse else plain
        layers.append(Block(name=kind, mixer=mixers[kind], ffn=ffn, extra_params=extra, extra_note=note))
    return model(
        cfg,
        layers,
        context=cfg.tokens("model_max_length", default=None),
        extra_params=residual,
        extra_note="attention residual of the output: norm and score" if residual else "",
    )


def _kimi_kinds(cfg: ConfigView, n_layers: int) -> list[str]:
    types = layer_types(cfg, n_layers, _LINEAR)
    if types is not None:
        return types
    linear = cfg.sub("linear_attn_config")
    if linear is None:  # transformers KimiLinearConfig
        return ["full" if i and i % 4 == 0 else "linear" for i in range(n_layers)]
    full = one_based(linear, "full_attn_layers", n_layers)
    cfg.missing += [f"linear_attn_config.{key}" for key in linear.missing]
    return ["full" if i in full else "linear" for i in range(n_layers)]


def _kimi_delta(cfg: ConfigView) -> KimiDelta:
    """The checkpoint's nested keys, or the flat ones of transformers."""
    linear = cfg.sub("linear_attn_config")
    view = cfg if linear is None else linear
    head_dim = view.int("linear_head_dim" if linear is None else "head_dim")
    delta = KimiDelta(
        n_heads=view.int("linear_num_heads" if linear is None else "num_heads"),
        head_dim=head_dim,
        conv_width=view.int("linear_conv_kernel_dim" if linear is None else "short_conv_kernel_size"),
        gate_rank=head_dim,  # transformers KimiLinearForgetGate: the rank is the head dimension
        full_rank_gate=view.bool("use_full_rank_gate", default=False),
    )
    if linear is not None:
        cfg.missing += [f"linear_attn_config.{key}" for key in linear.missing]
    return delta


def lfm2_moe(cfg: ConfigView) -> ModelShape:
    """LFM2 MoE: gated short convolutions with some softmax layers, the first layers dense."""
    n = cfg.layers()
    types = layer_types(cfg, n, _LINEAR)
    if types is None:
        cfg.missing.append("layer_types")
        types = ["linear"] * n
    conv = ShortConv(
        channels=cfg.int("hidden_size"),
        conv_width=cfg.int("conv_L_cache", default=3),
        bias=cfg.bool("conv_bias", default=False),
    )
    mixers: dict[str, Mixer] = {"linear": conv, "full": gqa(cfg, qk_norm="head")}
    experts = moe(cfg, routing="sigmoid")
    n_dense = cfg.count("num_dense_layers", default=2)
    plain = dense(cfg) if n_dense else experts
    layers = [
        Block(name=kind, mixer=mixers[kind], ffn=plain if i < n_dense else experts)
        for i, kind in enumerate(types)
    ]
    notes = ("not counted: selection biases of the routers (use_expert_bias), a buffer in the checkpoint",)
    return model(cfg, layers, tied=cfg.bool("tie_embedding", default=True), notes=notes)
