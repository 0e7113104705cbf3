"""What a canary saw of a machine at one moment, and how that compares with its better moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moeplan.measure.timing import quantile

SLOW_FRAC = 0.75
"""Of its usual speed: below this the same work is slow. In quiet moments looks lie within 0.85 of it."""
WAITING_FRAC = 0.25
"""Of a look in which some program waits for a core: more than that is somebody else."""
_USUAL = 0.75
"""Quantile of the looks: now and then one is faster than any other by half."""

Kind = tuple[str, int]
"""What is done (``read`` or ``product``) and on how many threads."""


class Look(NamedTuple):
    """One reading of the canary."""

    at_s: float
    until_s: float
    rates: Mapping[Kind, float]
    """Bytes or FLOP per second."""
    waiting_frac: float = 0.0
    """Of the time in which some program waited for a core."""
    stolen_cores: float = 0.0
    """That the host took since the look before."""


def usual(looks: Sequence[Look]) -> dict[Kind, float]:
    """How fast each kind of work usually is: a quarter of the looks were faster, some of them by half."""
    kinds = looks[0].rates if looks else {}
    return {kind: quantile([look.rates[kind] for look in looks], _USUAL) for kind in kinds}


def speed(look: Look, good: Mapping[Kind, float], threads: int = 0) -> float:
    """Of ``look`` beside a good moment: the slowest kind of work, or of work on as many ``threads`` or more
    (0: any)."""
    most = max((n for _, n in look.rates), default=0)
    shares = [rate / good[kind] for kind, rate in look.rates.items() if kind[1] >= min(threads, most)]
    return min(shares, default=1.0)
