"""Tencent's Hunyuan mixtures of experts before version 3.

Source: modeling_hunyuan.py in the tencent/Tencent-Hunyuan-Large and tencent/Hunyuan-A13B-Instruct
repositories. Sizes may be lists with one entry a layer.
"""

from __future__ import annotations

from moeplan.domain.model import MoeFfn
from moeplan.errors import NotModelled
from moeplan.readers.hf.common import SHARED, gqa, layer, model
from moeplan.readers.hf.shape import ModelShape
from moeplan.readers.hf.view import ConfigView


def hunyuan_v1_moe(cfg: ConfigView) -> ModelShape:
    """Hunyuan-A13B: every layer sparse, one shared expert, norms of each head of q and k."""
    return _hunyuan(cfg, share=1)


def hunyuan(cfg: ConfigView) -> ModelShape:
    """Hunyuan-Large: as A13B, with K and V computed by one layer for cla_share_factor layers."""
    share = cfg.int("cla_share_factor") if cfg.bool("use_cla", default=False) else 1
    return _hunyuan(cfg, share)


def _hunyuan(cfg: ConfigView, share: int) -> ModelShape:
    bias = cfg.bool("attention_bias", default=False)
    norm = "head" if cfg.bool("use_qk_norm", default=False) else "none"
    own = gqa(cfg, qkv_bias=bias, out_bias=bias, qk_norm=norm)
    reused = gqa(cfg, qkv_bias=bias, out_bias=bias, qk_norm=norm, shares_kv=True)
    experts = _experts(cfg)
    layers = [layer(reused if i % share else own, ffn) for i, ffn in enumerate(experts)]
    return model(cfg, layers)


def _experts(cfg: ConfigView) -> list[MoeFfn]:
    """The experts of every layer; a shared expert is as wide as a routed one."""
    width = "moe_intermediate_size" if cfg.has("moe_intermediate_size") else "intermediate_size"
    n_experts = _per_layer(cfg, "num_experts")
    if not cfg.missing and min(n_experts) < 2:
        raise NotModelled(f"{cfg.model_type} with dense layers ({cfg.where})")
    rows = zip(
        n_experts,
        _per_layer(cfg, "moe_topk", "num_experts_per_tok"),
        _per_layer(cfg, width),
        _per_layer(cfg, *SHARED, low=0),
        strict=True,
    )
    return [
        MoeFfn(
            n_experts=experts,
            n_active=chosen,
            expert_intermediate=inner,
            n_shared=shared,
            shared_intermediate=shared * inner,
        )
        for experts, chosen, inner, shared in rows
    ]


def _per_layer(cfg: ConfigView, *keys: str, low: int = 1) -> list[int]:
    """A number for every layer, from one number or from a list."""
    n_layers = cfg.layers()
    if not isinstance(cfg.get(*keys), list):
        return [cfg.int(*keys, low=low)] * n_layers
    values = cfg.list(*keys, of=int, length=n_layers)
    if min(values) < low:
        raise cfg.error(keys[0], f"must be at least {low} in every layer, got {min(values)}")
    return values
