"""Dense decoders of the Llama kind. Source of every rule: the model's class in transformers."""

from __future__ import annotations

from moeplan.domain.model import DenseFfn, GqaAttention
from moeplan.readers.hf.common import dense, gqa, late_windows, layer, model, windowed
from moeplan.readers.hf.shape import ModelShape
from moeplan.readers.hf.view import ConfigView


def _full(cfg: ConfigView, mixer: GqaAttention) -> list[GqaAttention]:
    return [mixer] * cfg.layers()


def llama(cfg: ConfigView) -> ModelShape:
    """Llama 1 to 3.3, Yi, SmolLM2 and everything else published as ``llama``."""
    bias = cfg.bool("attention_bias", default=False)
    ffn = dense(cfg, bias=cfg.bool("mlp_bias", default=False))
    mixer = gqa(cfg, qkv_bias=bias, out_bias=bias)
    return model(cfg, [layer(m, ffn) for m in _full(cfg, mixer)])


def mistral(cfg: ConfigView) -> ModelShape:
    """Mistral and Ministral: where there is a sliding window, every layer has it (layer_types decides
    in the files that have one)."""
    mixers = windowed(cfg, gqa(cfg), lambda i: True)
    return model(cfg, [layer(m, dense(cfg)) for m in mixers])


def qwen2(cfg: ConfigView) -> ModelShape:
    """Qwen1.5, 2 and 2.5: biases on q, k and v; a window only where use_sliding_window says so, from
    layer max_window_layers on."""
    mixers = late_windows(cfg, gqa(cfg, qkv_bias=True), first_layer=28)
    return model(cfg, [layer(m, dense(cfg)) for m in mixers])


def qwen3(cfg: ConfigView) -> ModelShape:
    """Qwen3: a norm of each head of q and k, no biases."""
    bias = cfg.bool("attention_bias", default=False)
    mixer = gqa(cfg, head_dim=128, qkv_bias=bias, out_bias=bias, qk_norm="head")
    return model(cfg, [layer(m, dense(cfg)) for m in late_windows(cfg, mixer, first_layer=28)])


def phi3(cfg: ConfigView) -> ModelShape:
    """Phi-3, 3.5 and 4: q, k, v in one matrix, gate and up in another; the window is on all layers."""
    ffn = dense(cfg, fused_gate_up=True)
    mixers = windowed(cfg, gqa(cfg, fused_qkv=True), lambda i: True)
    return model(cfg, [layer(m, ffn) for m in mixers])


def glm4(cfg: ConfigView) -> ModelShape:
    """GLM-4-0414: four norms a layer, biases on q, k and v only, gate and up in one matrix."""
    mixer = gqa(cfg, head_dim=128, qkv_bias=cfg.bool("attention_bias", default=False))
    ffn = dense(cfg, fused_gate_up=True)
    return model(cfg, [layer(m, ffn, n_norms=4) for m in _full(cfg, mixer)])


def cohere(cfg: ConfigView) -> ModelShape:
    """Command-R: attention and MLP side by side behind one norm; optional norms of every head."""
    bias = cfg.bool("attention_bias", default=False)
    norm = "heads" if cfg.bool("use_qk_norm", default=False) else "none"
    mixer = gqa(cfg, qkv_bias=bias, out_bias=bias, qk_norm=norm)
    return model(cfg, [layer(m, dense(cfg), n_norms=1) for m in _full(cfg, mixer)], tied=True)


def cohere2(cfg: ConfigView) -> ModelShape:
    """Command-A and R7B: three of four layers have a window."""
    bias = cfg.bool("attention_bias", default=False)
    period = cfg.int("sliding_window_pattern", "_sliding_window_pattern", default=4)
    mixer = gqa(cfg, qkv_bias=bias, out_bias=bias)
    mixers = windowed(cfg, mixer, lambda i: (i + 1) % period != 0, window=4096)
    return model(cfg, [layer(m, dense(cfg), n_norms=1) for m in mixers], tied=True)


def _olmo_attention(cfg: ConfigView) -> GqaAttention:
    bias = cfg.bool("attention_bias", default=False)
    return gqa(cfg, qkv_bias=bias, out_bias=bias, qk_norm="full")


def olmo2(cfg: ConfigView) -> ModelShape:
    """OLMo 2: one norm over all of q and one over all of k, norms behind the parts."""
    mixer = _olmo_attention(cfg)
    return model(cfg, [layer(m, dense(cfg)) for m in _full(cfg, mixer)])


def olmo3(cfg: ConfigView) -> ModelShape:
    """OLMo 3: as OLMo 2, with a window on three of four layers."""
    mixers = windowed(cfg, _olmo_attention(cfg), lambda i: (i + 1) % 4 != 0, window=4096)
    return model(cfg, [layer(m, dense(cfg)) for m in mixers])


def granite(cfg: ConfigView) -> ModelShape:
    """Granite 3: a Llama with scaling factors that have no weights."""
    return llama(cfg)


def smollm3(cfg: ConfigView) -> ModelShape:
    """SmolLM3: positions only on some layers, which costs no weights; the window is off as published."""
    bias = cfg.bool("attention_bias", default=False)
    mixer = gqa(cfg, qkv_bias=bias, out_bias=bias)
    mixers = _full(cfg, mixer)
    if cfg.bool("use_sliding_window", default=False):
        period = cfg.int("no_rope_layer_interval", default=4)
        mixers = windowed(cfg, mixer, lambda i: (i + 1) % period == 0)
    ffn = dense(cfg, bias=cfg.bool("mlp_bias", default=False))
    return model(cfg, [layer(m, ffn) for m in mixers], tied=True)


def seed_oss(cfg: ConfigView) -> ModelShape:
    """Seed-OSS: biases on q, k and v (the class's default), the output's apart."""
    mixer = gqa(
        cfg,
        head_dim=128,
        qkv_bias=cfg.bool("attention_bias", default=True),
        out_bias=cfg.bool("attention_out_bias", default=False),
    )
    ffn = dense(cfg, bias=cfg.bool("mlp_bias", default=False))
    return model(cfg, [layer(m, ffn) for m in _full(cfg, mixer)])


def apertus(cfg: ConfigView) -> ModelShape:
    """Apertus: an MLP without gate, whose xIELU activation has two learned scalars."""
    bias = cfg.bool("attention_bias", default=False)
    mixer = gqa(cfg, qkv_bias=bias, out_bias=bias, qk_norm="head")
    ffn = DenseFfn(intermediate=cfg.int("intermediate_size"), gated=False)
    scalars = 2 if cfg.str("hidden_act", default="xielu") == "xielu" else 0
    note = "alpha_p and alpha_n of xIELU" if scalars else ""
    block = layer(mixer, ffn, extra_params=scalars, extra_note=note)
    return model(cfg, [block] * cfg.layers())
