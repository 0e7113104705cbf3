"""What transformers does with a cache when its operations are launched one by one."""

from __future__ import annotations

from typing import NamedTuple

from moeplan.domain.model import Block, GqaAttention
from moeplan.engines.builds import before

# Fused attention of torch takes keys and values of a group of heads as they are since PR 39412 (enable_gqa);
# before, and in Qwen2's own calls of flash-attn up to 4.47, repeat_kv made a copy for each head.
_SHARES_SINCE = "2025-08"
_SKIPS_SINCE, _GROUPS_SINCE = "2025-07", "2025-12"
HALF_LAYER_KERNELS = 20.0
"""Of the mixer, or of a dense FFN."""
SCORE_BYTES = 32.0
"""Moved for a score of a head where attention is not fused (attn_implementation "eager"): written by the
product, scaled, masked, brought to 32 bits, normalised, brought back and multiplied. Counted on transformers
5.24, the same in 16 and in 32 bits."""
# A turn of the loop over experts, in kernels of a dense layer (40 of them take its host time): 36 to 41 us
# for an expert that no token chose (its tokens are searched for, its products have no rows), 14 to 19 us
# more for one that a token did, beside 273 us for a dense layer (transformers 4.51.3, torch 2.13, one CPU
# thread, widths of 64 so that nothing is computed).
_IDLE_TURN, _BUSY_TURN = 5.5, 8.0
# What wrappers of matrices add to each, in the same unit: two Triton kernels and a wait for FP8, a dozen
# kernels of HQQ. They are what a dense layer of seven matrices takes longer (calibrate/fixed_priors.py).
_MATRICES = 7.0
_TIMES_PLAIN = {"fp8": 2.5, "hqq": 4.0}
_TIMES_PLAIN_USUALLY = 1.3
# FP8 products waited for the device one by one until about then (torch.cuda.synchronize in FP8Linear,
# finegrained_fp8.py of 4.51.3; PR 43349 of January 2026 takes it out, 5.24 has none).
_FP8_OVERLAPS_SINCE = "2026-02"


class CachePasses(NamedTuple):
    """Times that a cached byte is moved in one decode step."""

    copies: float
    """By kernels that copy: the old cache read and the longer one written, then repeated for all heads."""
    copied: float
    """Of them, written."""
    reads: float
    """By attention."""


def cache_passes(
    block: Block, date: str, *, host: bool, in_place: bool = False, shares: bool = True
) -> CachePasses:
    """Counted by the operands of every kernel (transformers 5.24, torch 2.13), on a GPU or on the ``host``.

    Attention is fused: by torch, which falls back to separate kernels only where a mask is given, or by
    flash-attn. ``in_place``: modules whose cache is one buffer that a fused kernel reads where it is.
    ``shares``: whether the GPU has fused kernels for heads that share keys; none before compute capability
    8.0 has (issue 48633).
    """
    if in_place:
        return CachePasses(0.0, 0.0, 1.0)
    mixer = block.mixer
    groups = mixer.n_heads / mixer.n_kv_heads if isinstance(mixer, GqaAttention) else 1.0
    shares = shares and not host and block.cross_attention is None and not before(date, _SHARES_SINCE)
    if groups > 1 and not shares:
        return CachePasses(3.0 + groups, 1.0 + groups, groups)
    return CachePasses(2.0, 1.0, 1.0)


def ffn_kernels(n_experts: int, n_hit: float, date: str, quant: str = "bf16") -> float:
    """Kernels that the FFN half of a MoE layer starts in one step, where half a dense layer starts 20.

    Counted on transformers 5.24, which groups experts since version 5 (December 2025). Before, a loop over
    all experts or, since July 2025 (PR 38133), over those that a token chose, took as long as so many kernels
    of a dense layer of ``quant``, whose matrices are less of it than of a turn.
    """
    if not before(date, _GROUPS_SINCE):
        return 52.0
    times = _times_plain(quant)
    matrices = 3.0 * (times - 1.0) * 2.0 * HALF_LAYER_KERNELS / _MATRICES
    idle = n_experts - n_hit if before(date, _SKIPS_SINCE) else 0.0
    turns = n_hit * (_BUSY_TURN + matrices) + idle * (_IDLE_TURN + matrices)
    return 46.0 + turns / times


def _times_plain(quant: str) -> float:
    """How much longer than of 16-bit matrices the host takes for a dense layer, as its coefficient starts."""
    if quant in ("bf16", "f16", "f32"):
        return 1.0
    return next((n for kind, n in _TIMES_PLAIN.items() if quant.startswith(kind)), _TIMES_PLAIN_USUALLY)


def waits_for_products(quant: str, date: str) -> bool:
    """Whether the host waits for each product, so that launches and work come one after the other."""
    return quant.startswith("fp8") and before(date, _FP8_OVERLAPS_SINCE)
