"""Mixtures of experts without leading dense layers by rule. Source: their classes in transformers."""

from __future__ import annotations

from typing import Any

from moeplan.domain.model import Block, DenseFfn, MoeFfn
from moeplan.readers.hf.common import dense, gqa, late_windows, layer, model, moe, windowed
from moeplan.readers.hf.shape import ModelShape
from moeplan.readers.hf.view import ConfigView


def mixtral(cfg: ConfigView) -> ModelShape:
    """Mixtral: Mistral's attention, experts of the full width."""
    experts = moe(cfg, width=cfg.int("intermediate_size"))
    mixers = windowed(cfg, gqa(cfg), lambda i: True)
    return model(cfg, [layer(m, experts) for m in mixers])


def phimoe(cfg: ConfigView) -> ModelShape:
    """Phi-3.5-MoE: LayerNorms with bias, biases on attention and head."""
    bias = cfg.bool("attention_bias", default=False)
    mixers = windowed(cfg, gqa(cfg, qkv_bias=bias, out_bias=bias), lambda i: True)
    experts = moe(cfg, width=cfg.int("intermediate_size"))
    layers = [layer(m, experts) for m in mixers]
    head_bias = cfg.bool("lm_head_bias", default=False)
    return model(cfg, layers, norm_bias=True, head_bias=head_bias)


def _qwen_layers(cfg: ConfigView, experts: MoeFfn, **attention: Any) -> list[Block]:
    """Every decoder_sparse_step-th layer is sparse, except those listed in mlp_only_layers."""
    n_layers = cfg.layers()
    dense_only = set(cfg.list("mlp_only_layers", default=[], of=int))
    step = cfg.int("decoder_sparse_step", default=1)
    sparse = [i not in dense_only and (i + 1) % step == 0 for i in range(n_layers)]
    mixers = late_windows(cfg, gqa(cfg, **attention), first_layer=28)
    plain = experts if all(sparse) else dense(cfg)
    return [layer(m, experts if s else plain) for m, s in zip(mixers, sparse, strict=True)]


def qwen2_moe(cfg: ConfigView) -> ModelShape:
    """Qwen1.5-MoE and Qwen2-MoE: one shared expert with a gate of its own, biases on q, k and v."""
    width = cfg.count("shared_expert_intermediate_size")
    shared = int(width > 0)
    experts = moe(cfg, n_shared=shared, shared_width=width, shared_gate=shared > 0)
    return model(cfg, _qwen_layers(cfg, experts, qkv_bias=cfg.bool("qkv_bias", default=True)))


def qwen3_moe(cfg: ConfigView) -> ModelShape:
    """Qwen3-MoE: norms of each head of q and k, no shared expert."""
    bias = cfg.bool("attention_bias", default=False)
    experts = moe(cfg, n_shared=0, shared_width=0)
    return model(cfg, _qwen_layers(cfg, experts, qkv_bias=bias, out_bias=bias, qk_norm="head"))


def olmoe(cfg: ConfigView) -> ModelShape:
    """OLMoE: one norm over all of q and one over all of k."""
    bias = cfg.bool("attention_bias", default=False)
    mixer = gqa(cfg, qkv_bias=bias, out_bias=bias, qk_norm="full")
    experts = moe(cfg, width=cfg.int("intermediate_size"))
    return model(cfg, [layer(mixer, experts)] * cfg.layers())


def granitemoe(cfg: ConfigView) -> ModelShape:
    """Granite 3 MoE: gate and up of an expert in one matrix; embeddings usually tied."""
    bias = cfg.bool("attention_bias", default=False)
    mixer = gqa(cfg, qkv_bias=bias, out_bias=bias)
    experts = moe(cfg, width=cfg.int("intermediate_size"), fused_gate_up=True)
    return model(cfg, [layer(mixer, experts)] * cfg.layers())


def gpt_oss(cfg: ConfigView) -> ModelShape:
    """gpt-oss: biases everywhere, a sink per head, a window on every other layer from the first."""
    bias = cfg.bool("attention_bias", default=True)
    mixer = gqa(cfg, head_dim=64, kv_heads=8, qkv_bias=bias, out_bias=bias, sinks=True)
    mixers = windowed(cfg, mixer, lambda i: i % 2 == 0, window=128)
    width = cfg.int("intermediate_size")
    experts = moe(cfg, width=width, bias=True, router_bias=True, fused_gate_up=True)
    return model(cfg, [layer(m, experts) for m in mixers])


def minimax_m2(cfg: ConfigView) -> ModelShape:
    """MiniMax-M2: one norm over all of q and one over all of k; sigmoid routing with a correction."""
    norm = "full" if cfg.bool("use_qk_norm", default=True) else "none"
    width = cfg.count("shared_intermediate_size", default=0)
    experts = moe(
        cfg,
        width=cfg.int("intermediate_size"),
        n_shared=int(width > 0),
        shared_width=width,
        routing="sigmoid",
        router_correction=cfg.bool("use_routing_bias", default=True),
    )
    return model(cfg, [layer(gqa(cfg, qk_norm=norm), experts)] * cfg.layers())


def llama4(cfg: ConfigView) -> ModelShape:
    """Llama 4: chunked attention on the layers with positions, one shared expert, sigmoid routing.

    Its norm of q and k has no weights. Maverick alternates dense and sparse layers.
    """
    n_layers = cfg.layers()
    bias = cfg.bool("attention_bias", default=False)
    mixer = gqa(cfg, head_dim=128, kv_heads=8, qkv_bias=bias, out_bias=bias)
    period = cfg.int("no_rope_layer_interval", default=4)
    local = [(i + 1) % period != 0 for i in range(n_layers)]
    listed = cfg.list("no_rope_layers", default=[], of=int)
    if listed:
        local = [bool(flag) for flag in cfg.list("no_rope_layers", of=int, length=n_layers)]
    mixers = windowed(
        cfg, mixer, lambda i: local[i], window=8192, key="attention_chunk_size", context=131_072
    )
    step = cfg.int("interleave_moe_layer_step", default=1)
    sparse = set(cfg.list("moe_layers", default=list(range(step - 1, n_layers, step)), of=int))
    width = cfg.int("intermediate_size", default=8192)
    experts = moe(cfg, width=width, n_shared=1, shared_width=width, routing="sigmoid", fused_gate_up=True)
    plain = DenseFfn(intermediate=cfg.int("intermediate_size_mlp", default=16384))
    layers = [layer(m, experts if i in sparse else plain) for i, m in enumerate(mixers)]
    return model(cfg, layers, context=131_072)
