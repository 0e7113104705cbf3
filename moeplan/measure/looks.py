"""What a canary saw of a machine at one moment, and how that compares with its better moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moeplan.measure.timing import quantile

SLOW_FRAC = 0.75
"""Of its usual speed: below this the same work is slow. In quiet moments looks lie within 0.85 of it."""
WAITING_FRAC = 0.25
"""Of a look in which some program waits for a core: more than that is somebody else."""
FAST_FRAC = 1.15
"""Of the median look: above this memory is quicker than it mostly is. On two cores of an EPYC 9004 (a
virtual machine, 2026-11-30) both read 31 GB/s in most looks and 44 in one of four, seconds on end; others
lay within 1.1."""
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


def reading_pace(looks: Sequence[Look], beside: Sequence[Look], threads: int) -> float:
    """Of reading memory on ``threads`` (or the next fewer that were looked at): the slowest look ``beside``
    over the median of those in which nothing else wanted the cores; 1 where it was not much quicker."""
    counts = [n for what, n in looks[0].rates if what == "read"] if looks else []
    if not counts or not beside:
        return 1.0
    kind = ("read", max((n for n in counts if n <= threads), default=min(counts)))
    mostly = quantile([look.rates[kind] for look in _undisturbed(looks) or looks], 0.5)
    pace = min(look.rates[kind] for look in beside) / mostly
    return pace if pace > FAST_FRAC else 1.0


def _undisturbed(looks: Sequence[Look]) -> list[Look]:
    """Looks in which a product was as fast as usual, so that the cores were free."""
    good = {kind: rate for kind, rate in usual(looks).items() if kind[0] == "product"}
    free = [look for look in looks if look.waiting_frac <= WAITING_FRAC]
    return [look for look in free if all(look.rates[kind] >= SLOW_FRAC * rate for kind, rate in good.items())]
