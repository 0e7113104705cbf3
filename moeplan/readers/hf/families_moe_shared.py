"""Mixtures of experts with leading dense layers and shared experts beside plain attention.

Source: their classes in transformers, for Bailing the code in its repository.
"""

from __future__ import annotations

from moeplan.readers.hf.common import (
    SHARED,
    dense,
    gqa,
    late_windows,
    layer,
    model,
    moe,
    mtp_parts,
    sparse_layers,
    stacked_layers,
)
from moeplan.readers.hf.shape import ModelShape
from moeplan.readers.hf.view import ConfigView


def glm4_moe(cfg: ConfigView) -> ModelShape:
    """GLM-4.5 to 4.7: biases on q, k and v, norms of q and k by use_qk_norm; MTP layers apart."""
    norm = "head" if cfg.bool("use_qk_norm", default=False) else "none"
    bias = cfg.bool("attention_bias", default=False)
    mixer = gqa(cfg, head_dim=128, qkv_bias=bias, qk_norm=norm)
    experts = moe(cfg, routing="sigmoid", router_correction=True)
    layers = stacked_layers(cfg, [mixer] * cfg.layers(), experts, sparse_layers(cfg))
    return model(cfg, layers, parts=mtp_parts(cfg, layer(mixer, experts)))


def dots1(cfg: ConfigView) -> ModelShape:
    """dots.llm1: norms of each head of q and k, sigmoid routing with a correction."""
    bias = cfg.bool("attention_bias", default=False)
    mixer = gqa(cfg, qkv_bias=bias, out_bias=bias, qk_norm="head")
    mixers = late_windows(cfg, mixer, first_layer=62)
    experts = moe(cfg, routing="sigmoid", router_correction=True)
    return model(cfg, stacked_layers(cfg, mixers, experts, sparse_layers(cfg)))


def ernie4_5_moe(cfg: ConfigView) -> ModelShape:
    """ERNIE 4.5: sparse from moe_layer_start_index to moe_layer_end_index, softmax with a correction."""
    n_layers = cfg.layers()
    bias = cfg.bool("use_bias", default=False)
    mixer = gqa(cfg, qkv_bias=bias, out_bias=bias)
    experts = moe(cfg, router_correction=True, bias=bias)
    first = cfg.count("moe_layer_start_index")
    last = cfg.int("moe_layer_end_index", default=-1, low=-1)
    last = n_layers - 1 if last < 0 else last
    period = cfg.int("moe_layer_interval", default=1)
    sparse = [first <= i <= last and (i + 1) % period == 0 for i in range(n_layers)]
    plain = dense(cfg, bias=bias)
    return model(cfg, [layer(mixer, experts if flag else plain) for flag in sparse], tied=True)


def bailing_moe_v2(cfg: ConfigView) -> ModelShape:
    """Ling and Ring 2.0: q, k, v in one matrix, norms of each head of q and k, sigmoid routing with a
    correction."""
    mixer = gqa(
        cfg,
        fused_qkv=True,
        qkv_bias=cfg.bool("use_qkv_bias", default=False),
        out_bias=cfg.bool("use_bias", default=False),
        qk_norm="head" if cfg.bool("use_qk_norm", default=True) else "none",
    )
    n_shared = cfg.count(*SHARED, default=0)
    one = cfg.int("moe_shared_expert_intermediate_size", "moe_intermediate_size")
    experts = moe(
        cfg,
        n_shared=n_shared,
        shared_width=n_shared * one,
        routing="sigmoid",
        router_correction=cfg.bool("moe_router_enable_expert_bias", default=True),
    )
    layers = stacked_layers(cfg, [mixer] * cfg.layers(), experts, sparse_layers(cfg))
    return model(cfg, layers, parts=mtp_parts(cfg, layer(mixer, experts)))


def hy_v3(cfg: ConfigView) -> ModelShape:
    """Hunyuan 3: norms of each head of q and k; the first layer is dense; MTP layers apart."""
    bias = cfg.bool("attention_bias", default=False)
    mixer = gqa(cfg, head_dim=128, qkv_bias=bias, out_bias=bias, qk_norm="head")
    experts = moe(cfg, n_shared=1, routing="sigmoid", router_correction=True)
    layers = stacked_layers(cfg, [mixer] * cfg.layers(), experts, sparse_layers(cfg, first_dense=1))
    return model(cfg, layers, parts=mtp_parts(cfg, layer(mixer, experts)))


def solar_open(cfg: ConfigView) -> ModelShape:
    """Solar Open: every layer sparse, no correction among the weights."""
    bias = cfg.bool("attention_bias", default=False)
    mixer = gqa(cfg, head_dim=128, qkv_bias=bias)
    experts = moe(cfg, n_shared=1, routing="sigmoid")
    return model(cfg, [layer(mixer, experts)] * cfg.layers())
