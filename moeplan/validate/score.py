"""Errors of predictions: per row, per setup, per regime. Guessing low is no cheaper than guessing high."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from moeplan.domain.value import Value


class Scored(Value):
    """One predicted row, in the unit of what was measured."""

    id: str
    setup: str
    source_family: str
    regime: str
    measured: float
    predicted: float
    low: float
    high: float
    about: str = ""
    """The setup in a few words, for people who look at the worst rows."""

    @property
    def log_ratio(self) -> float:
        """log(predicted / measured)."""
        return math.log(self.predicted / self.measured)

    @property
    def signed_error_frac(self) -> float:
        """predicted / measured - 1."""
        return self.predicted / self.measured - 1.0

    @property
    def factor_error_frac(self) -> float:
        """max(p/m, m/p) - 1."""
        return max(self.predicted / self.measured, self.measured / self.predicted) - 1.0


class Summary(Value):
    """Errors of one regime, one value per setup."""

    regime: str
    n: int
    n_setups: int
    n_sources: int
    median_factor_error_frac: float
    p90_factor_error_frac: float
    bias_frac: float
    """Median of predicted / measured - 1: positive when predictions are high."""
    coverage_frac: float
    """Share of setups of which at least half of the rows lie in their range."""


def by_setup(rows: Iterable[Scored]) -> dict[str, list[float]]:
    """log(predicted/measured) of each setup (median of its rows), by regime."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        groups[row.regime, row.setup].append(row.log_ratio)
    result: dict[str, list[float]] = defaultdict(list)
    for (regime, _), values in groups.items():
        result[regime].append(quantile(values, 0.5))
    return dict(result)


def summarise(rows: Sequence[Scored]) -> tuple[Summary, ...]:
    """One summary per regime, largest median error first."""
    ratios = by_setup(rows)
    summaries = []
    for regime, values in ratios.items():
        mine = [row for row in rows if row.regime == regime]
        factors = [math.exp(abs(value)) - 1.0 for value in values]
        summaries.append(
            Summary(
                regime=regime,
                n=len(mine),
                n_setups=len(values),
                n_sources=len({row.source_family for row in mine}),
                median_factor_error_frac=quantile(factors, 0.5),
                p90_factor_error_frac=quantile(factors, 0.9),
                bias_frac=math.expm1(quantile(values, 0.5)),
                coverage_frac=_coverage(mine),
            )
        )
    return tuple(sorted(summaries, key=lambda s: -s.median_factor_error_frac))


def _coverage(rows: Sequence[Scored]) -> float:
    setups: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        setups[row.setup].append(row.low <= row.measured <= row.high)
    return sum(2 * sum(inside) >= len(inside) for inside in setups.values()) / len(setups)


def regroup(rows: Iterable[Scored], keys: Mapping[str, str]) -> list[Scored]:
    """``rows`` with their regime extended by ``keys`` (row id -> text), for summaries by other columns."""
    return [replace(row, regime=f"{row.regime}/{keys[row.id]}") if row.id in keys else row for row in rows]


def quantile(values: Sequence[float], level: float) -> float:
    """The ``level`` quantile, linear between order statistics (Hyndman-Fan type 7)."""
    ordered = sorted(values)
    position = level * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def binomial_band(n: int, share: float, mass: float = 0.95) -> tuple[float, float]:
    """Between which shares of ``n`` trials, each met with probability ``share``, ``mass`` of outcomes lie."""
    tail, total, low, high = (1.0 - mass) / 2.0, 0.0, None, n
    for k in range(n + 1):
        ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))
        if low is None and total > tail:
            low = k
        if total >= 1.0 - tail:
            high = k
            break
    return (low or 0) / n, high / n
