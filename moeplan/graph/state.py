"""The recurrent state of linear mixers: its size, and the work that updating it costs a token.

Both are constant with context. What grows with it (keys and values, compressed entries) is the KV cache
and is sized elsewhere; projections and convolutions cost 2 FLOP a weight and are counted from the tensors.
"""

from __future__ import annotations

from moeplan.domain.model import (
    CompressedAttention,
    GatedDeltaNet,
    KimiDelta,
    Lightning,
    Mamba1,
    Mamba2,
    Mixer,
    ShortConv,
)
from moeplan.graph.mixers import overlap_factor


def state_elements(mixer: Mixer | None) -> int:
    """Elements of recurrent and convolution state per sequence and layer; 0 for softmax attention.

    A convolution of width w keeps the last w - 1 inputs of each channel. Recurrent part:
    Mamba inner x state; Mamba-2 heads x head_dim x state; Gated DeltaNet value heads x key dim x value
    dim; KDA and Lightning heads x head_dim^2. Sources: llama.cpp llama-hparams.cpp (n_embd_r, n_embd_s)
    for all but Lightning (transformers MiniMaxLightningAttention). DeepSeek-V4's compressor holds the
    values and scores of unfinished windows, two windows of both series where they overlap (kv_state and
    score_state in the inference code of its model repository).
    """
    if isinstance(mixer, Mamba1):
        return mixer.inner_dim * (mixer.state_dim + mixer.conv_width - 1)
    if isinstance(mixer, Mamba2):
        inner = mixer.n_heads * mixer.head_dim
        convolved = inner + 2 * mixer.n_groups * mixer.state_dim
        return inner * mixer.state_dim + convolved * (mixer.conv_width - 1)
    if isinstance(mixer, GatedDeltaNet):
        value = mixer.n_v_heads * mixer.v_head_dim
        convolved = 2 * mixer.n_k_heads * mixer.k_head_dim + value
        return mixer.k_head_dim * value + convolved * (mixer.conv_width - 1)
    if isinstance(mixer, KimiDelta):
        width = mixer.n_heads * mixer.head_dim
        return width * mixer.head_dim + 3 * width * (mixer.conv_width - 1)
    if isinstance(mixer, Lightning):
        return mixer.n_heads * mixer.head_dim * mixer.head_dim
    if isinstance(mixer, ShortConv):
        return mixer.channels * (mixer.conv_width - 1)
    if isinstance(mixer, CompressedAttention):
        return 2 * overlap_factor(mixer) ** 2 * mixer.ratio * _pooled_dim(mixer)
    return 0


def state_flop_per_token(mixer: Mixer | None) -> int:
    """FLOP of the state update and read-out per token, beyond projections and convolutions.

    One multiplication, addition or exponential is 1 FLOP, in the recurrent form that decoding runs; the
    chunked forms that prefill kernels use trade more of them for matrix products. Per state element:

    - Mamba (arXiv:2312.00752, eq. 2 and 4): decay exp(dt A) 2, input (dt B) x 2, update 2, output C h 2;
      and the skip D x, 2 a channel.
    - Mamba-2 (arXiv:2405.21060, eq. 1 with scalar A): update a h + (dt x) B 3, output 2; dt x and the
      skip, 3 a channel.
    - Gated DeltaNet (arXiv:2412.06464, eq. 10) and KDA (arXiv:2510.26692, eq. 1): decay 1, read k^T S 2,
      rank-one write 2, output q^T S 2; the correction beta (v - k^T S), 2 a value channel.
    - Lightning (arXiv:2501.08313): decay 1, write k v^T 2, output 2.
    - LFM2's convolution: the gates before and after it, 2 a channel.
    - DeepSeek-V4's compressor: per pooled channel position bias 1, softmax 2, weighted sum 2.
    """
    if isinstance(mixer, Mamba1):
        return mixer.inner_dim * (8 * mixer.state_dim + 2)
    if isinstance(mixer, Mamba2):
        return mixer.n_heads * mixer.head_dim * (5 * mixer.state_dim + 3)
    if isinstance(mixer, GatedDeltaNet):
        return mixer.n_v_heads * mixer.v_head_dim * (7 * mixer.k_head_dim + 2)
    if isinstance(mixer, KimiDelta):
        return mixer.n_heads * mixer.head_dim * (7 * mixer.head_dim + 2)
    if isinstance(mixer, Lightning):
        return 5 * mixer.n_heads * mixer.head_dim * mixer.head_dim
    if isinstance(mixer, ShortConv):
        return 2 * mixer.channels
    if isinstance(mixer, CompressedAttention) and mixer.ratio:
        return 5 * overlap_factor(mixer) * _pooled_dim(mixer)
    return 0


def _pooled_dim(mixer: CompressedAttention) -> int:
    """Channels of one compressed entry, the indexer's included."""
    return mixer.head_dim + (mixer.indexer.head_dim if mixer.indexer is not None else 0)
