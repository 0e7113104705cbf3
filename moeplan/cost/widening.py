"""Weights that a library multiplies in 16 bits: what it costs to write them out first."""

from __future__ import annotations

from moeplan.cost.ops import Names, Op, Times
from moeplan.cost.rates import Rates
from moeplan.domain.hardware import GpuSpec
from moeplan.engines.blas import library_marks

_WIDE_BYTES = 2


def widening_op(
    rates: Rates, tier: str, family: str, n_bytes: float, n_elements: float, times: Times
) -> tuple[Op, float]:
    """The kernel that writes ``n_elements`` stored in ``n_bytes`` out in 16 bits, and the bytes of these."""
    wide = _WIDE_BYTES * n_elements
    op = Op(
        f"{tier} widening",
        (n_bytes + wide) * times.moving / rates.bytes_per_s,
        (*rates.weights[0], f"{family}.widening.bandwidth"),
        n_bytes=n_bytes + wide,
        formula="(bytes + 2 x elements) / bandwidth",
        inputs={**rates.inputs, "elements": n_elements},
    )
    return op, wide


def library_names(gpu: GpuSpec, family: str, date: str) -> Names:
    """Names of the rate of a library's product on ``gpu`` beside those of all 16-bit products."""
    return tuple(f"{family}.{mark}.compute" for mark in library_marks(gpu, date))
