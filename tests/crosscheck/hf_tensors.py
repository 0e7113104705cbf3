"""The weights of a transformers model under moeplan's names: what the inventory is held against.

A model built on the meta device has names and shapes, and no data. What transformers fuses is split here
(gate and up of the experts, kv_b of MLA, qkvz of Gated DeltaNet), what it splits is fused, and axes of
length one fall away. Norms of hidden width are all called ``norm``: which is which shows in neither shape.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

Shape = tuple[int, ...]
Key = tuple[int, str, Shape]
"""(layer or -1, name, shape)."""

_LAYER = re.compile(r"(?:\w+\.)*?(?:layers|h|blocks)\.(\d+)\.(.+)")

_Names = list[tuple[re.Pattern[str], str]]


def _names(*pairs: tuple[str, str]) -> _Names:
    return [(re.compile(pattern), name) for pattern, name in pairs]


# Tensors that keep their shape: (pattern of the whole path without .weight or .bias, our name).
_OUTSIDE = _names(
    (r"model\.embed_tokens|embed_tokens|model\.embeddings|transformer\.(word_embeddings|wte)", "token_embd"),
    (r"transformer\.word_embeddings_layernorm", "token_embd_norm"),
    (r"transformer\.wpe", "position_embd"),
    (r"(model\.)?(norm|norm_f|final_layernorm|embedding_norm)|transformer\.(ln_f|norm_f)", "output_norm"),
    (r"lm_head", "output"),
    (r"model\.hc_head\.hc_\w+", "extra.weight"),
)  # fmt: skip

_INSIDE = _names(
    # softmax attention
    (r"(self_attn|mixer)\.([qkv])_proj", r"attn_\2"),
    (r"(self_attn|mixer)\.o_proj|self_attn\.out_proj|self_attention\.dense", "attn_output"),
    (r"norm_attn_norm\.attn\.out_proj", "attn_output"),
    (r"self_attn\.qkv_proj|norm_attn_norm\.attn\.Wqkv|self_attention\.query_key_value", "attn_qkv"),
    (r"self_attn\.([qk])_(layer)?norm", r"attn_\1_norm"),
    (r"self_attn\.query_layernorm", "attn_q_norm"),
    (r"self_attn\.key_layernorm", "attn_k_norm"),
    (r"self_attn\.sinks", "attn_sinks.weight"),
    (r"self_attn\.g_proj", "attn_gate"),
    # MLA, its indexer, and MiniMax-M3's
    (r"self_attn\.(q_a|q_b)_proj", r"attn_\1"),
    (r"self_attn\.(q_a|kv_a)_(layer)?norm", r"attn_\1_norm"),
    (r"self_attn\.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    (r"self_attn\.indexer\.(wq_b|q_proj)", "indexer.attn_q_b"),
    (r"self_attn\.indexer\.(wk|k_proj)", "indexer.attn_k"),
    (r"self_attn\.indexer\.([qk])_norm", r"indexer.\1_norm"),
    (r"self_attn\.indexer\.weights_proj", "indexer.proj"),
    # DeepSeek-V4
    (r"self_attn\.kv_proj", "attn_kv"),
    (r"self_attn\.kv_norm", "attn_kv_a_norm"),
    (r"self_attn\.o_([ab])_proj", r"attn_output_\1"),
    (r"self_attn\.compressor\.(gate|kv)_proj", r"attn_compressor_\1"),
    (r"self_attn\.compressor\.kv_norm", "attn_compressor_norm"),
    (r"self_attn\.compressor\.position_bias", "attn_compressor_ape.weight"),
    (r"self_attn\.compressor\.indexer\.(gate|kv)_proj", r"indexer_compressor_\1"),
    (r"self_attn\.compressor\.indexer\.kv_norm", "indexer_compressor_norm"),
    (r"self_attn\.compressor\.indexer\.position_bias", "indexer_compressor_ape.weight"),
    (r"self_attn\.compressor\.indexer\.q_b_proj", "indexer.attn_q_b"),
    (r"self_attn\.compressor\.indexer\.scorer\.weights_proj", "indexer.proj"),
    # state space and linear attention
    (r"(mamba|mixer|linear_attn)\.A_log|self_attn\.forget_gate\.A_log", "ssm_a"),
    (r"(mamba|mixer)\.D", "ssm_d"),
    (r"(mamba|mixer|linear_attn|self_attn\.forget_gate)\.dt_bias", "ssm_dt.bias"),
    (r"(mamba|mixer|linear_attn)\.conv1d", "ssm_conv1d"),
    (r"(mamba|mixer)\.in_proj", "ssm_in"),
    (r"(mamba|mixer|linear_attn)\.out_proj", "ssm_out"),
    (r"mamba\.(dt|x)_proj", r"ssm_\1"),
    (r"mamba\.(dt|b|c)_layernorm", r"ssm_\1_norm"),
    (r"(mamba|mixer|linear_attn)\.norm|self_attn\.o_norm", "ssm_norm"),
    (r"linear_attn\.in_proj_qkv", "attn_qkv"),
    (r"linear_attn\.in_proj_z|self_attn\.output_gate", "attn_gate"),
    (r"linear_attn\.in_proj_(ba|a|b)", "ssm_ba"),
    (r"self_attn\.norm", "attn_sub_norm"),
    (r"self_attn\.b_proj", "ssm_beta"),
    (r"self_attn\.(?:forget_gate\.)?([fg]_[ab])_proj", r"ssm_\1"),
    (r"conv\.conv", "shortconv.conv"),
    (r"conv\.(in|out)_proj", r"shortconv.\1_proj"),
    # dense MLPs
    (r"(?:mlp|feed_forward|mixer)\.(gate|up|down)_proj", r"ffn_\1"),
    (r"feed_forward\.w1", "ffn_gate"),
    (r"feed_forward\.w3", "ffn_up"),
    (r"feed_forward\.w2|mlp\.dense_4h_to_h", "ffn_down"),
    (r"mlp\.dense_h_to_4h", "ffn_up"),
    # experts
    (r"(mlp|mixer|feed_forward)\.gate|mlp\.gate\.wg|mlp\.router\.classifier", "ffn_gate_inp"),
    (r"(mlp|feed_forward|block_sparse_moe)\.router|ffn\.router\.layer|router\.proj", "ffn_gate_inp"),
    (r"(\w+\.)+e_score_correction_bias", "exp_probs_b.bias"),
    (r"router\.scale", "ffn_gate_inp.scale"),
    (r"router\.per_expert_scale", "ffn_down_exps.scale"),
    (r"mixer\.experts\.up_proj", "ffn_up_exps.weight"),
    (r"(?:mlp|feed_forward|mixer)\.shared_(?:experts?|mlp)\.(gate|up|down)_proj", r"ffn_\1_shexp"),
    (r"shared_mlp\.output_linear", "ffn_down_shexp"),
    (r"mlp\.shared_expert_gate", "ffn_gate_inp_shexp"),
    (r"mixer\.fc1_latent_proj", "ffn_latent_down"),
    (r"mixer\.fc2_latent_proj", "ffn_latent_up"),
    # weights that the inventory counts without naming them
    (r"mlp\.act_fn\.alpha_[np]|(attn|ffn)_hc\.(base|fn|scale)", "extra.weight"),
    # norms of hidden width
    (r"(\w+\.)?(\w*layernorm\w*|operator_norm|ffn_norm|norm|ln_\w+|norm_[12])", "norm"),
)  # fmt: skip

# Families whose classes keep stacked experts as (experts, in, out); those whose MLP the inventory fuses too.
_EXPERTS_IN_OUT = frozenset({"gpt_oss", "llama4_text"})
_FUSED_MLP = frozenset({"phi3", "glm4"})
_SUFFIXES = (".weight", ".bias", ".scale")
_NORM = re.compile(r"attn_norm|ffn_norm|post_attention_norm|post_ffw_norm|p(re|ost)_ffw_norm_[12]|norm_\w+")
# What transformers keeps apart and the inventory as one tensor.
_JOINED = frozenset({"ssm_ba.weight", "extra.weight"})


def normalised(layer: int, name: str, shape: Shape) -> Key:
    """A tensor of the inventory as it is compared: no ``blk.N.``, one name for all norms."""
    if layer >= 0:
        name = name.split(".", 2)[2]
    stem, dot, suffix = name.rpartition(".")
    return layer, f"norm{dot}{suffix}" if _NORM.fullmatch(stem) else name, shape


def tensors_of(model: Any, config: Any, buffers: Mapping[str, str]) -> Counter[Key]:
    """Parameters and stored buffers of ``model``, but for those whose name ends as a key of ``buffers``."""
    parameters = {name for name, _ in model.named_parameters()}
    found: Counter[Key] = Counter()
    joined: Counter[tuple[int, str, Shape]] = Counter()
    for path, tensor in model.state_dict().items():
        if path not in parameters and (path == "lm_head.weight" or path.endswith(tuple(buffers))):
            continue  # the tied head is the embedding
        match = _LAYER.fullmatch(path)
        layer, rest = (int(match[1]), match[2]) if match else (-1, path)
        for name, shape in _translated(rest, tuple(tensor.shape), config, _INSIDE if match else _OUTSIDE):
            if name == "extra.weight":
                joined[layer, name, ()] += tensor.numel()
            elif name in _JOINED:
                joined[layer, name, shape[1:]] += shape[0]
            else:
                found[layer, name, shape] += 1
    for (layer, name, tail), length in joined.items():
        found[layer, name, (length, *tail)] += 1
    return found


def _translated(path: str, shape: Shape, config: Any, names: _Names) -> Iterator[tuple[str, Shape]]:
    stem, dot, suffix = path.rpartition(".")
    if suffix not in ("weight", "bias"):
        stem, dot, suffix = path, "", ""
    shape = tuple(size for size in shape if size != 1) or shape
    special = list(_special(stem, dot + suffix, shape, config))
    if special:
        yield from special
        return
    for pattern, name in names:
        match = pattern.fullmatch(stem)
        if match:
            name = match.expand(name)
            yield name if name.endswith(_SUFFIXES) else f"{name}{dot}{suffix}", shape
            return
    raise AssertionError(f"no name of ours for {path} {shape}")


def _special(stem: str, suffix: str, shape: Shape, config: Any) -> Iterator[tuple[str, Shape]]:
    """Tensors that are stored in another shape than ours; nothing for all others."""
    expert = _EXPERTS.fullmatch(stem)
    if expert:
        yield from _experts(expert[1], "bias" if expert[2] else "weight", shape, config)
    elif stem.startswith("ffn.experts.mlp."):  # DBRX: (experts x inner, hidden), down transposed
        n, (rows, hidden) = config.ffn_config.moe_num_experts, shape
        part = {"w1": "gate", "v1": "up", "w2": "down"}[stem.rpartition(".")[2]]
        yield f"ffn_{part}_exps.weight", (n, hidden, rows // n) if part == "down" else (n, rows // n, hidden)
    elif stem.endswith((".shared_experts.gate_up_proj", "shared_mlp.input_linear")):
        yield from ((f"ffn_{part}_shexp{suffix}", (shape[0] // 2, *shape[1:])) for part in ("gate", "up"))
    elif stem == "mlp.gate_up_proj" and config.model_type in _FUSED_MLP:
        yield f"ffn_up{suffix}", shape
    elif stem == "mlp.gate_up_proj":
        yield from ((f"ffn_{part}{suffix}", (shape[0] // 2, *shape[1:])) for part in ("gate", "up"))
    elif stem == "self_attn.kv_b_proj":
        n, nope, value = config.num_attention_heads, config.qk_nope_head_dim, config.v_head_dim
        assert shape[0] == n * (nope + value)
        yield "attn_k_b.weight", (n, shape[1], nope)
        yield "attn_v_b.weight", (n, value, shape[1])
    elif stem == "linear_attn.in_proj_qkvz":
        value = config.linear_num_value_heads * config.linear_value_head_dim
        yield "attn_qkv.weight", (shape[0] - value, shape[1])
        yield "attn_gate.weight", (value, shape[1])
    elif stem == "self_attn.conv1d":  # Kimi Linear: q, k and v
        yield from ((f"ssm_conv1d_{part}.weight", (shape[0] // 3, shape[1])) for part in "qkv")
    elif stem in _GPT2:
        yield f"{_GPT2[stem]}{suffix}", shape[::-1]


_EXPERTS = re.compile(r"(?:\w+\.)?experts\.(gate_up|down)_proj(_bias)?")
_GPT2 = {  # stored as (in, out)
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def _experts(part: str, kind: str, shape: Shape, config: Any) -> Iterator[tuple[str, Shape]]:
    """Stacked experts, gate and up fused."""
    if len(shape) == 3 and config.model_type in _EXPERTS_IN_OUT:
        shape = (shape[0], shape[2], shape[1])
    if part == "down":
        yield f"ffn_down_exps.{kind}", shape
        return
    for half in ("gate", "up"):
        yield f"ffn_{half}_exps.{kind}", (shape[0], shape[1] // 2, *shape[2:])
