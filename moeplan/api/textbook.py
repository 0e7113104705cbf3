"""`moeplan.textbook`: the rules that articles use, beside what they leave out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moeplan.domain.textbook import Textbook, TextbookInputs
from moeplan.errors import SpecError

DEFAULT_BATCHES = (1, 8, 32, 128)
DEFAULT_BYTES_PER_PARAM = 2.0
DEFAULT_MFU_FRAC = 0.4
MFU_NOTE = "Llama 3 405B was trained at 0.38 to 0.43 (arXiv:2407.21783, Table 4)"
LARGEST = 1e9
"""No input is larger in its own unit; beyond lie typing errors, and far beyond numbers that overflow."""
MAX_BATCHES = 64


def textbook(
    dense_b: float,
    moe_total_b: float,
    moe_active_b: float,
    hbm_gbs: float,
    tflops: float,
    *,
    gpus: int = 1,
    mfu: float | None = None,
    bytes_per_param: float = DEFAULT_BYTES_PER_PARAM,
    batches: Sequence[int] = DEFAULT_BATCHES,
) -> Textbook:
    """A dense model beside a MoE by the simple formulas, with caveats computed from the same numbers.

    Parameters in 10^9, ``hbm_gbs`` in GB/s and ``tflops`` in TFLOP/s of one GPU; ``gpus`` and ``mfu`` (0..1,
    default 0.4) are for training. Raises SpecError naming the option that makes no sense.

    >>> moeplan.textbook(70, 47, 13, hbm_gbs=2000, tflops=312, gpus=64, mfu=0.45)  # doctest: +SKIP
    """
    from moeplan.advise.textbook import caveats
    from moeplan.cost.textbook import textbook_pair

    assumptions = [] if mfu is not None else [f"MFU {DEFAULT_MFU_FRAC}: {MFU_NOTE}"]
    mfu_frac = DEFAULT_MFU_FRAC if mfu is None else mfu
    for option, value in (
        ("--dense-b", dense_b),
        ("--moe-total-b", moe_total_b),
        ("--moe-active-b", moe_active_b),
        ("--hbm-gbs", hbm_gbs),
        ("--tflops", tflops),
        ("--gpus", gpus),
        ("--bytes-per-param", bytes_per_param),
    ):
        _check(option, value, LARGEST)
    _check("--mfu", mfu_frac, 1)
    if moe_active_b > moe_total_b:
        raise SpecError(f"--moe-active-b: {moe_active_b:g} is more than --moe-total-b {moe_total_b:g}")
    if not 1 <= len(batches) <= MAX_BATCHES:
        raise SpecError(f"--batches: expected 1 to {MAX_BATCHES} batch sizes, got {len(batches)}")
    for batch in batches:
        _check("--batches", batch, LARGEST)
    inputs = TextbookInputs(
        dense_params=dense_b * 1e9,
        moe_params_total=moe_total_b * 1e9,
        moe_params_active=moe_active_b * 1e9,
        bandwidth_bytes_per_s=hbm_gbs * 1e9,
        peak_flop_per_s=tflops * 1e12,
        n_gpus=gpus,
        mfu_frac=mfu_frac,
        bytes_per_param=bytes_per_param,
        batches=tuple(batches),
    )
    dense, moe = textbook_pair(inputs)
    return Textbook(
        inputs=inputs,
        dense=dense,
        moe=moe,
        compute_speedup=dense.train_flop_per_token / moe.train_flop_per_token,
        memory_ratio=moe.weights_bytes / dense.weights_bytes,
        caveats=tuple(caveats(inputs, dense, moe)),
        assumptions=tuple(assumptions),
    )


def _check(option: str, value: float, largest: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"{option}: expected a number, got {value!r}")
    if not (math.isfinite(value) and 1e-9 <= value <= largest):
        raise SpecError(f"{option}: expected a number above zero and at most {largest:g}; got {value:g}")
