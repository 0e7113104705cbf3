"""DeepSeek and the models built on its MLA and its experts. Source: their classes in transformers."""

from __future__ import annotations

from typing import Any

from moeplan.domain.model import Indexer, MlaAttention, MoeFfn
from moeplan.readers.hf.common import gqa, layer, model, moe, mtp_parts, sparse_layers, stacked_layers
from moeplan.readers.hf.shape import ModelShape
from moeplan.readers.hf.view import ConfigView


def deepseek(cfg: ConfigView) -> ModelShape:
    """DeepSeekMoE 16B: plain multi-head attention, fine-grained and shared experts."""
    bias = cfg.bool("attention_bias", default=False)
    mixers = [gqa(cfg, qkv_bias=bias, out_bias=bias)] * cfg.layers()
    return model(cfg, stacked_layers(cfg, mixers, moe(cfg), sparse_layers(cfg)))


def mla(cfg: ConfigView, **fields: Any) -> MlaAttention:
    """Latent attention; without q_lora_rank the query is projected directly."""
    return MlaAttention(
        n_heads=cfg.int("num_attention_heads"),
        q_lora_rank=cfg.int("q_lora_rank", default=None),
        kv_lora_rank=cfg.int("kv_lora_rank"),
        nope_head_dim=cfg.int("qk_nope_head_dim"),
        rope_head_dim=cfg.int("qk_rope_head_dim"),
        v_head_dim=cfg.int("v_head_dim"),
        qkv_bias=cfg.bool("attention_bias", default=False),
        **fields,
    )


def deepseek_v2(cfg: ConfigView) -> ModelShape:
    """DeepSeek-V2 and V2-Lite: MLA, softmax routing without a correction."""
    mixers = [mla(cfg)] * cfg.layers()
    return model(cfg, stacked_layers(cfg, mixers, moe(cfg), sparse_layers(cfg)))


def _corrected_moe(cfg: ConfigView) -> MoeFfn:
    """V3's experts: sigmoid scores and a learned correction of the choice (topk_method noaux_tc)."""
    corrected = cfg.str("topk_method", default="noaux_tc") == "noaux_tc"
    return moe(cfg, routing="sigmoid", router_correction=corrected)


def deepseek_v3(cfg: ConfigView) -> ModelShape:
    """DeepSeek-V3, V3.1, R1, Kimi K2 and Mistral Large 3; MTP layers apart."""
    mixer, experts = mla(cfg), _corrected_moe(cfg)
    layers = stacked_layers(cfg, [mixer] * cfg.layers(), experts, sparse_layers(cfg))
    return model(cfg, layers, parts=mtp_parts(cfg, layer(mixer, experts)))


def glm4_moe_lite(cfg: ConfigView) -> ModelShape:
    """GLM-4.7-Flash: DeepSeek-V3's layer in small."""
    return deepseek_v3(cfg)


def mistral4(cfg: ConfigView) -> ModelShape:
    """Mistral Small 4: MLA, softmax routing without a correction, no dense layers by default."""
    mixers = [mla(cfg)] * cfg.layers()
    return model(cfg, stacked_layers(cfg, mixers, moe(cfg, n_shared=1), sparse_layers(cfg, first_dense=0)))


def _indexer(cfg: ConfigView, *, shared: bool = False) -> Indexer:
    return Indexer(
        n_heads=cfg.int("index_n_heads"),
        head_dim=cfg.int("index_head_dim"),
        top_k_tokens=cfg.tokens("index_topk"),
        shared=shared,
    )


def deepseek_v32(cfg: ConfigView) -> ModelShape:
    """DeepSeek-V3.2: V3 with an indexer that picks the tokens each layer attends to."""
    mixer, experts = mla(cfg, indexer=_indexer(cfg)), _corrected_moe(cfg)
    layers = stacked_layers(cfg, [mixer] * cfg.layers(), experts, sparse_layers(cfg))
    return model(cfg, layers, parts=mtp_parts(cfg, layer(mixer, experts)))


def glm_moe_dsa(cfg: ConfigView) -> ModelShape:
    """GLM-5: as V3.2; from 5.2 on most layers reuse the selection of the one before (indexer_types)."""
    own = mla(cfg, indexer=_indexer(cfg))
    reused = mla(cfg, indexer=_indexer(cfg, shared=True))
    mixers = [own if full else reused for full in _full_indexers(cfg)]
    experts = _corrected_moe(cfg)
    layers = stacked_layers(cfg, mixers, experts, sparse_layers(cfg, first_dense=3))
    return model(cfg, layers, parts=mtp_parts(cfg, layer(own, experts)))


def _full_indexers(cfg: ConfigView) -> list[bool]:
    """For every layer whether it selects itself: indexer_types, index_topk_pattern or a period."""
    n_layers = cfg.layers()
    types = cfg.list("indexer_types", default=None, of=str, length=n_layers)
    if types is not None:
        return [kind == "full" for kind in types]
    pattern = cfg.get("index_topk_pattern")
    if isinstance(pattern, str) and len(pattern) == n_layers:
        return [letter == "F" for letter in pattern]
    period = cfg.int("index_topk_freq", default=1)
    offset = cfg.count("index_skip_topk_offset", default=2)
    return [max(i - offset + 1, 0) % period == 0 for i in range(n_layers)]
