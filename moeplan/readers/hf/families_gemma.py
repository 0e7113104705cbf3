"""Gemma 2, 3 and 4. Rules and defaults: Gemma2Config, Gemma3TextConfig, Gemma4TextConfig and their
models in transformers; nested text configs leave out what equals the class's default."""

from __future__ import annotations

from msgspec.structs import replace

from moeplan.domain.model import DenseFfn, GqaAttention, MoeFfn, Part
from moeplan.errors import NotModelled
from moeplan.readers.hf.common import dense, gqa, layer, model, moe, windowed
from moeplan.readers.hf.shape import ModelShape
from moeplan.readers.hf.view import ConfigView


def gemma2(cfg: ConfigView) -> ModelShape:
    """Every other layer has a window, beginning with the first; four norms a layer."""
    bias = cfg.bool("attention_bias", default=False)
    mixer = gqa(cfg, head_dim=256, qkv_bias=bias, out_bias=bias)
    mixers = windowed(cfg, mixer, lambda i: i % 2 == 0, window=4096)
    return model(cfg, [layer(m, dense(cfg), n_norms=4) for m in mixers], tied=True)


def gemma3(cfg: ConfigView) -> ModelShape:
    """Five layers with a window, then one without; norms of q and k; four norms a layer."""
    bias = cfg.bool("attention_bias", default=False)
    period = cfg.int("sliding_window_pattern", "_sliding_window_pattern", default=6)
    mixer = gqa(cfg, heads=8, kv_heads=4, head_dim=256, qkv_bias=bias, out_bias=bias, qk_norm="head")
    mixers = windowed(cfg, mixer, lambda i: (i + 1) % period != 0, window=4096, context=131_072)
    layers = [layer(m, dense(cfg), n_norms=4) for m in mixers]
    return model(cfg, layers, tied=True, vocab=262_208, context=131_072, parts=_siglip(cfg))


def _siglip(cfg: ConfigView) -> tuple[Part, ...]:
    """The SigLIP tower and the projector of a multimodal Gemma 3, from its vision_config."""
    vision = cfg.sub("vision_config")
    if vision is None or vision.str("model_type", default="") != "siglip_vision_model":
        return ()
    width = vision.int("hidden_size")
    inner = vision.int("intermediate_size")
    patch = vision.int("patch_size")
    positions = (vision.int("image_size") // patch) ** 2
    # two layer norms, q k v and output, two matrices of the MLP: all with biases
    encoder_layer = 4 * width + 4 * (width * width + width) + 2 * width * inner + inner + width
    tower = 3 * patch * patch * width + width + positions * width
    tower += vision.layers() * encoder_layer + 2 * width
    vision.finish()
    projector = width * cfg.int("hidden_size") + width
    return (Part(kind="vision", params=tower + projector, note="SigLIP tower and projector"),)


def gemma4(cfg: ConfigView) -> ModelShape:
    """Windowed and global layers with heads of different size; in global layers V may reuse K.

    The MoE variant runs its experts beside the dense MLP, with three more norms a layer.
    """
    # The class's default of hidden_size_per_layer_input is 256: absent means present.
    if cfg.count("hidden_size_per_layer_input", default=256):
        raise NotModelled("Gemma 4 with per-layer embeddings (E2B, E4B)", "their tables have no model here")
    if cfg.count("num_kv_shared_layers", default=0):
        raise NotModelled("Gemma 4 with layers that share K and V")
    local, full = _gemma4_attention(cfg)
    n_layers = cfg.layers()
    default = ["sliding_attention" if (i + 1) % 6 else "full_attention" for i in range(n_layers)]
    kinds = cfg.list("layer_types", default=default, of=str, length=n_layers)
    unknown = set(kinds) - {"sliding_attention", "full_attention"}
    if unknown:
        raise cfg.error("layer_types", f"has a kind of layer that Gemma 4 lacks: {min(unknown)!r}")
    kinds = [*kinds[:-1], "full_attention"]  # the class forces the last layer
    ffn, n_norms = _gemma4_ffn(cfg)
    mixers = [local if kind == "sliding_attention" else full for kind in kinds]
    layers = [layer(m, ffn, n_norms=n_norms) for m in mixers]
    return model(cfg, layers, tied=True, vocab=262_144, context=131_072)


def _gemma4_attention(cfg: ConfigView) -> tuple[GqaAttention, GqaAttention]:
    """(windowed, global): global layers have wider and, where K serves as V, fewer K/V heads."""
    bias = cfg.bool("attention_bias", default=False)
    plain = gqa(cfg, heads=8, kv_heads=4, head_dim=256, qkv_bias=bias, out_bias=bias, qk_norm="head")
    reuse = cfg.bool("attention_k_eq_v", default=False)
    n_kv = cfg.int("num_global_key_value_heads", default=plain.n_kv_heads) if reuse else plain.n_kv_heads
    dim = cfg.int("global_head_dim", default=512)
    local = replace(plain, window_tokens=cfg.tokens("sliding_window", default=512))
    full = replace(plain, n_kv_heads=n_kv, head_dim=dim, v_head_dim=dim, value_is_key=reuse)
    return local, full


def _gemma4_ffn(cfg: ConfigView) -> tuple[DenseFfn | MoeFfn, int]:
    """(FFN, norms of hidden width a layer)."""
    width = cfg.int("intermediate_size")
    if not cfg.bool("enable_moe_block", default=False):
        return DenseFfn(intermediate=width), 4
    experts = moe(
        cfg, n_shared=0, shared_width=0, fused_gate_up=True, router_scale=True, parallel_dense=width
    )
    return experts, 7
