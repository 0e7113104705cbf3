"""Tensors of the mixers that are not plain softmax attention: state space, linear and compressed.

Names are those of llama.cpp (gguf-py/gguf/constants.py) where it knows the layer; shapes are outermost
first, a matrix is (out_features, in_features). What a layer multiplies or adds element by element (the
decay A, the skip D, time-step and position biases) has the role "bias", so that only real products of
matrices and convolutions count as such. A convolution weight costs 2 FLOP a token like a matrix weight.
"""

from __future__ import annotations

from collections.abc import Callable

from moeplan.domain.graph import Role, Tensor
from moeplan.domain.model import (
    CompressedAttention,
    GatedDeltaNet,
    GqaAttention,
    Indexer,
    KimiDelta,
    Lightning,
    Mamba1,
    Mamba2,
    MlaAttention,
    ShortConv,
)

StateMixer = Mamba1 | Mamba2 | GatedDeltaNet | KimiDelta | Lightning | ShortConv | CompressedAttention

_Add = Callable[..., None]
"""add(name, role, *shape): one more tensor of the layer."""


def mixer_tensors(
    prefix: str, layer: int, mixer: StateMixer | GqaAttention | MlaAttention, hidden_size: int
) -> list[Tensor]:
    """Every weight tensor of ``mixer``, untyped, as layer ``layer``.

    ``prefix`` goes in front of each name (``blk.3.``). Norms of hidden width before and after the mixer
    belong to the block and are not included. Raises TypeError for softmax attention, whose tensors are
    built in moeplan.graph.attention.
    """
    tensors: list[Tensor] = []

    def add(name: str, role: Role, *shape: int) -> None:
        tensors.append(Tensor(name=prefix + name, role=role, layer=layer, shape=shape))

    if isinstance(mixer, Mamba1):
        _mamba1(add, mixer, hidden_size)
    elif isinstance(mixer, Mamba2):
        _mamba2(add, mixer, hidden_size)
    elif isinstance(mixer, GatedDeltaNet):
        _gated_delta_net(add, mixer, hidden_size)
    elif isinstance(mixer, KimiDelta):
        _kimi_delta(add, mixer, hidden_size)
    elif isinstance(mixer, Lightning):
        _lightning(add, mixer, hidden_size)
    elif isinstance(mixer, ShortConv):
        _short_conv(add, mixer, hidden_size)
    elif isinstance(mixer, CompressedAttention):
        _compressed(add, mixer, hidden_size)
    else:
        raise TypeError(f"no state mixer: {type(mixer).__name__}")
    return tensors


def _conv(add: _Add, name: str, channels: int, width: int, bias: bool) -> None:
    """A causal depth-wise convolution: ``width`` weights a channel."""
    add(f"{name}.weight", "conv", channels, width)
    if bias:
        add(f"{name}.bias", "bias", channels)


def _mamba1(add: _Add, m: Mamba1, hidden_size: int) -> None:
    """Mamba (arXiv:2312.00752), with Jamba's norms of dt, B and C (arXiv:2403.19887)."""
    add("ssm_in.weight", "ssm", 2 * m.inner_dim, hidden_size)  # x and the gate z
    if m.proj_bias:
        add("ssm_in.bias", "bias", 2 * m.inner_dim)
    _conv(add, "ssm_conv1d", m.inner_dim, m.conv_width, m.conv_bias)
    add("ssm_x.weight", "ssm", m.dt_rank + 2 * m.state_dim, m.inner_dim)  # dt, B and C
    add("ssm_dt.weight", "ssm", m.inner_dim, m.dt_rank)
    add("ssm_dt.bias", "bias", m.inner_dim)
    if m.inner_norms:
        add("ssm_dt_norm.weight", "norm", m.dt_rank)
        add("ssm_b_norm.weight", "norm", m.state_dim)
        add("ssm_c_norm.weight", "norm", m.state_dim)
    add("ssm_a", "bias", m.inner_dim, m.state_dim)
    add("ssm_d", "bias", m.inner_dim)
    add("ssm_out.weight", "ssm", hidden_size, m.inner_dim)
    if m.proj_bias:
        add("ssm_out.bias", "bias", hidden_size)


def _mamba2(add: _Add, m: Mamba2, hidden_size: int) -> None:
    """Mamba-2 (arXiv:2405.21060) as in transformers' Mamba2Mixer: one input projection for the gate z,
    the convolved x, B and C, and dt; a gated norm before the output projection."""
    inner = m.n_heads * m.head_dim
    convolved = inner + 2 * m.n_groups * m.state_dim
    add("ssm_in.weight", "ssm", inner + convolved + m.n_heads, hidden_size)
    if m.proj_bias:
        add("ssm_in.bias", "bias", inner + convolved + m.n_heads)
    _conv(add, "ssm_conv1d", convolved, m.conv_width, m.conv_bias)
    add("ssm_dt.bias", "bias", m.n_heads)
    add("ssm_a", "bias", m.n_heads)
    add("ssm_d", "bias", m.n_heads)
    add("ssm_norm.weight", "norm", inner)
    add("ssm_out.weight", "ssm", hidden_size, inner)
    if m.proj_bias:
        add("ssm_out.bias", "bias", hidden_size)


def _gated_delta_net(add: _Add, m: GatedDeltaNet, hidden_size: int) -> None:
    """Gated DeltaNet (arXiv:2412.06464) as in transformers' Qwen3NextGatedDeltaNet: q, k, v (convolved
    together), the output gate z, and per value head a write strength beta and a decay alpha."""
    key, value = m.n_k_heads * m.k_head_dim, m.n_v_heads * m.v_head_dim
    add("attn_qkv.weight", "linear_attn", 2 * key + value, hidden_size)
    add("attn_gate.weight", "linear_attn", value, hidden_size)
    add("ssm_ba.weight", "linear_attn", 2 * m.n_v_heads, hidden_size)
    _conv(add, "ssm_conv1d", 2 * key + value, m.conv_width, False)
    add("ssm_dt.bias", "bias", m.n_v_heads)
    add("ssm_a", "bias", m.n_v_heads)
    add("ssm_norm.weight", "norm", m.v_head_dim)
    add("ssm_out.weight", "linear_attn", hidden_size, value)


def _kimi_delta(add: _Add, m: KimiDelta, hidden_size: int) -> None:
    """Kimi Delta Attention (arXiv:2510.26692): q, k, v with a convolution each, a forget gate f per
    channel and an output gate g through a low rank (g of full rank in Kimi K3), beta per head."""
    width = m.n_heads * m.head_dim
    for part in "qkv":
        add(f"attn_{part}.weight", "linear_attn", width, hidden_size)
        _conv(add, f"ssm_conv1d_{part}", width, m.conv_width, False)
    add("ssm_f_a.weight", "linear_attn", m.gate_rank, hidden_size)
    add("ssm_f_b.weight", "linear_attn", width, m.gate_rank)
    add("ssm_dt.bias", "bias", width)
    add("ssm_a", "bias", m.n_heads)
    add("ssm_beta.weight", "linear_attn", m.n_heads, hidden_size)
    if m.full_rank_gate:
        add("ssm_g.weight", "linear_attn", width, hidden_size)
    else:
        add("ssm_g_a.weight", "linear_attn", m.gate_rank, hidden_size)
        add("ssm_g_b.weight", "linear_attn", width, m.gate_rank)
    add("ssm_norm.weight", "norm", m.head_dim)
    add("attn_output.weight", "linear_attn", hidden_size, width)


def _lightning(add: _Add, m: Lightning, hidden_size: int) -> None:
    """Lightning attention of MiniMax-01 (arXiv:2501.08313), transformers' MiniMaxLightningAttention:
    fused q, k, v, a sigmoid output gate and a norm over all heads; the decay is fixed, not learned."""
    width = m.n_heads * m.head_dim
    add("attn_qkv.weight", "linear_attn", 3 * width, hidden_size)
    add("attn_gate.weight", "linear_attn", width, hidden_size)
    add("attn_sub_norm.weight", "norm", width)
    add("attn_output.weight", "linear_attn", hidden_size, width)


def _short_conv(add: _Add, m: ShortConv, hidden_size: int) -> None:
    """LFM2's double-gated short convolution (transformers' Lfm2ShortConv): gates B and C beside x."""
    add("shortconv.in_proj.weight", "linear_attn", 3 * m.channels, hidden_size)
    _conv(add, "shortconv.conv", m.channels, m.conv_width, m.bias)
    add("shortconv.out_proj.weight", "linear_attn", hidden_size, m.channels)
    if m.bias:
        add("shortconv.in_proj.bias", "bias", 3 * m.channels)
        add("shortconv.out_proj.bias", "bias", hidden_size)


def _compressed(add: _Add, m: CompressedAttention, hidden_size: int) -> None:
    """DeepSeek-V4 attention (transformers' DeepseekV4Attention): queries through a latent, one key that
    is also the value, an output projection in groups through a latent, a sink per head."""
    q_width = m.n_heads * m.head_dim
    add("attn_q_a.weight", "mla_q_down", m.q_lora_rank, hidden_size)
    add("attn_q_a_norm.weight", "norm", m.q_lora_rank)
    add("attn_q_b.weight", "mla_q_up", q_width, m.q_lora_rank)
    add("attn_kv.weight", "mla_kv_down", m.head_dim, hidden_size)
    add("attn_kv_a_norm.weight", "norm", m.head_dim)
    # block-diagonal: each group of heads has its own (out_lora_rank, q_width / n_out_groups) matrix
    add("attn_output_a.weight", "attn_out", m.n_out_groups * m.out_lora_rank, q_width // m.n_out_groups)
    add("attn_output_b.weight", "attn_out", hidden_size, m.n_out_groups * m.out_lora_rank)
    add("attn_sinks.weight", "sink", m.n_heads)
    if m.ratio:
        _compressor(add, "attn_compressor", "linear_attn", m.head_dim, m, hidden_size)
    if m.indexer is not None:
        _compressed_indexer(add, m.indexer, m, hidden_size)


def _compressor(
    add: _Add, name: str, role: Role, head_dim: int, m: CompressedAttention, hidden_size: int
) -> None:
    """The pooling of ``ratio`` tokens into one entry: a value, a score and a position bias per channel,
    twice as wide where windows overlap."""
    width = overlap_factor(m) * head_dim
    add(f"{name}_kv.weight", role, width, hidden_size)
    add(f"{name}_gate.weight", role, width, hidden_size)
    add(f"{name}_ape.weight", "bias", m.ratio, width)
    add(f"{name}_norm.weight", "norm", head_dim)


def _compressed_indexer(add: _Add, indexer: Indexer, m: CompressedAttention, hidden_size: int) -> None:
    """DeepSeek-V4's indexer: queries from the query latent, a compressed key, a weight per head."""
    add("indexer.attn_q_b.weight", "indexer", indexer.n_heads * indexer.head_dim, m.q_lora_rank)
    add("indexer.proj.weight", "indexer", indexer.n_heads, hidden_size)
    _compressor(add, "indexer_compressor", "indexer", indexer.head_dim, m, hidden_size)


def overlap_factor(m: CompressedAttention) -> int:
    """2 where adjacent compression windows overlap (layers with an indexer), else 1."""
    return 2 if m.indexer is not None else 1
