"""What transformers does with a cache when its operations are launched one by one."""

from __future__ import annotations

from moeplan.domain.model import Block, GqaAttention
from moeplan.engines.builds import before

# torch 2.5 (October 2024) keeps what its unfused attention computes from 16-bit numbers in 32 bits.
_WIDENS_SINCE = "2024-11"
_SKIPS_SINCE, _GROUPS_SINCE = "2025-07", "2025-12"
HALF_LAYER_KERNELS = 20.0
"""Of the mixer, or of a dense FFN."""
SCORE_BYTES = 32.0
"""Moved for a score of a head where attention is not fused (attn_implementation "eager"): written by the
product, scaled, masked, brought to 32 bits, normalised, brought back and multiplied. Counted on transformers
5.24, the same in 16 and in 32 bits."""
_IN_BFLOAT16 = ("bf16", "f16", "f32", "fp8")
# A turn of the loop over experts, in kernels of a dense layer (40 of them take its host time): 36 to 41 us
# for an expert that no token chose (its tokens are searched for, its products have no rows), 14 to 19 us
# more for one that a token did, beside 273 us for a dense layer (transformers 4.51.3, torch 2.13, one CPU
# thread, widths of 64 so that nothing is computed).
_IDLE_TURN, _BUSY_TURN = 5.5, 8.0
# What wrappers of matrices add to each, in the same unit: two Triton kernels and a wait for FP8, a dozen
# kernels of HQQ. They are what a dense layer of seven matrices takes longer (calibrate/priors.py).
_MATRICES = 7.0
_TIMES_PLAIN = {"fp8": 2.5, "hqq": 4.0}
_TIMES_PLAIN_USUALLY = 1.3
# FP8 products waited for the device one by one until about then (torch.cuda.synchronize in FP8Linear,
# finegrained_fp8.py of 4.51.3; PR 43349 of January 2026 takes it out, 5.24 has none).
_FP8_OVERLAPS_SINCE = "2026-02"


def cache_passes(block: Block, quant: str, date: str, *, host: bool, in_place: bool = False) -> float:
    """Times that a cached byte is moved in one decode step, on a GPU or on the ``host``.

    Counted by the operands of every kernel (transformers 5.24, torch 2.13): the old cache read and the longer
    one written; keys and values repeated for all heads of a group; then either read by a fused kernel, or
    scaled, multiplied and, in 16 bits, widened to 32. Which one runs was told from published rows, where the
    cost of a longer context agrees to 2% over five models each: unfused on GPUs, but for packed weights since
    2025, which compute in float16. Encoder-decoder models add position biases to the scores, which leaves
    the unfused attention out (Switch has no other than transformers' own, which moves what a fused one does).
    ``in_place``: modules whose cache is one buffer, which a fused kernel reads where it is, heads shared.
    """
    if in_place:
        return 1.0
    mixer = block.mixer
    groups = mixer.n_heads / mixer.n_kv_heads if isinstance(mixer, GqaAttention) else 1.0
    widens = not before(date, _WIDENS_SINCE)
    if host or block.cross_attention is not None or (widens and quant not in _IN_BFLOAT16):
        return fused(groups)
    return unfused(groups, widened=widens)


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


def fused(groups: float) -> float:
    """Passes of ``groups`` query heads per cached head where scores stay inside the kernel."""
    return 3.0 + 2.0 * groups if groups > 1 else 3.0


def unfused(groups: float, *, widened: bool) -> float:
    """Passes where keys are scaled and multiplied by kernels of their own, ``widened`` to 32 bits or not."""
    if widened:
        return 7.0 + 6.0 * groups if groups > 1 else 9.0
    return 3.0 + 3.0 * groups if groups > 1 else 4.0
