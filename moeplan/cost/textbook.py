"""The simple formulas of articles, from bare numbers: no experts, no cache, no overheads, no losses.

Latency is the roofline of one step that reads every parameter (Williams et al., 2009, with the whole model
as the traffic); training is 6 FLOPs a parameter and token, decoding 2 (Kaplan et al., arXiv:2001.08361,
section 2.1), of the parameters that are active.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from moeplan.domain.textbook import TextbookInputs, TextbookModel, TextbookStep

SECONDS_PER_DAY = 86_400
ADAM_BYTES_PER_PARAM = 16
"""Mixed-precision Adam: 2 weights + 2 gradients + 12 of FP32 copy, momentum and variance (ZeRO,
arXiv:1910.02054, section 3.1)."""
MAX_BATCH = 10**9
"""Batches beyond this are no batches."""


def train_flop_per_token(params_active: float) -> float:
    """Forward and backward pass: 6 N_active."""
    return 6.0 * params_active


def decode_flop_per_token(params_active: float) -> float:
    """Forward pass: 2 N_active."""
    return 2.0 * params_active


def tokens_per_day(params_active: float, peak_flop_per_s: float, n_gpus: int, mfu_frac: float) -> float:
    """GPUs x peak x MFU x a day / 6 N_active.

    >>> f"{tokens_per_day(70e9, 312e12, 64, 0.45):.4g}"
    '1.848e+09'
    """
    return n_gpus * peak_flop_per_s * mfu_frac * SECONDS_PER_DAY / train_flop_per_token(params_active)


def latency_step(
    params_total: float,
    params_active: float,
    batch: int,
    bandwidth_bytes_per_s: float,
    peak_flop_per_s: float,
    bytes_per_param: float,
) -> TextbookStep:
    """max(N_total x bytes / bandwidth, 2 N_active x batch / peak), both parts kept.

    >>> latency_step(47e9, 13e9, 8, 2e12, 312e12, 2).total_s
    0.047
    """
    return TextbookStep(
        batch=batch,
        memory_s=params_total * bytes_per_param / bandwidth_bytes_per_s,
        compute_s=decode_flop_per_token(params_active) * batch / peak_flop_per_s,
    )


def crossover_batch(
    params_total: float,
    params_active: float,
    bandwidth_bytes_per_s: float,
    peak_flop_per_s: float,
    bytes_per_param: float,
) -> int | None:
    """Smallest batch whose arithmetic takes at least as long as reading all parameters; None: none below
    a billion.

    N_total x bytes / bandwidth x peak / 2 N_active, rounded up.

    >>> crossover_batch(47e9, 13e9, 2e12, 312e12, 2)
    564
    """
    reading_s = params_total * bytes_per_param / bandwidth_bytes_per_s
    exact = reading_s * peak_flop_per_s / decode_flop_per_token(params_active)
    # A billionth above a whole number is rounding, not one more sequence.
    return max(1, math.ceil(exact * (1 - 1e-9))) if exact < MAX_BATCH else None


def textbook_model(
    params_total: float,
    params_active: float,
    *,
    bandwidth_bytes_per_s: float,
    peak_flop_per_s: float,
    n_gpus: int,
    mfu_frac: float,
    bytes_per_param: float,
    batches: Sequence[int],
) -> TextbookModel:
    """All rules for one model. Latency is that of one device of the given rates, training of ``n_gpus``."""
    rates = (bandwidth_bytes_per_s, peak_flop_per_s, bytes_per_param)
    return TextbookModel(
        params_total=params_total,
        params_active=params_active,
        train_flop_per_token=train_flop_per_token(params_active),
        decode_flop_per_token=decode_flop_per_token(params_active),
        train_tokens_per_day=tokens_per_day(params_active, peak_flop_per_s, n_gpus, mfu_frac),
        weights_bytes=params_total * bytes_per_param,
        active_read_s=params_active * bytes_per_param / bandwidth_bytes_per_s,
        crossover_batch=crossover_batch(params_total, params_active, *rates),
        steps=tuple(latency_step(params_total, params_active, batch, *rates) for batch in batches),
    )


def textbook_pair(inputs: TextbookInputs) -> tuple[TextbookModel, TextbookModel]:
    """(dense, MoE) of the bare numbers."""

    def model(params_total: float, params_active: float) -> TextbookModel:
        return textbook_model(
            params_total,
            params_active,
            bandwidth_bytes_per_s=inputs.bandwidth_bytes_per_s,
            peak_flop_per_s=inputs.peak_flop_per_s,
            n_gpus=inputs.n_gpus,
            mfu_frac=inputs.mfu_frac,
            bytes_per_param=inputs.bytes_per_param,
            batches=inputs.batches,
        )

    dense = model(inputs.dense_params, inputs.dense_params)
    return dense, model(inputs.moe_params_total, inputs.moe_params_active)
