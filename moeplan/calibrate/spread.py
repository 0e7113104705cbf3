"""Intervals from held-out residuals: quantiles by regime that hold for one more setup (split conformal).

A regime with few sources cannot show its own tails, so each regime has a scale, pulled towards the scale of
its class (dense, MoE) and that towards its phase's, and all regimes of a phase share one shape: quantiles of
the residuals over their regime's scale (docs/design/004-intervals.md).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moeplan.calibrate.fit import CROWDING
from moeplan.calibrate.system import Sample

RESIDUAL_LEVELS = (0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 0.85, 0.9, 0.95, 0.975)
# A regime's class counts as this many setups, each of a source of its own. From 2 to 10 the score of the
# ranges moves by less than a twentieth (docs/design/004-intervals.md).
_CLASS_SETUPS = 5.0
# What stands for a phase without any row: 80% within a factor of three.
UNMEASURED = tuple(math.log(3.0) * (2.0 * level - 1.0) / 0.8 for level in RESIDUAL_LEVELS)
# From this many independent setups on a phase's own errors make its ranges; below, less the fewer they are.
# Quantiles of a handful are the handful: fits of 2 and of 12 setups held 15% and 60% of other published rows.
_ENOUGH_SETUPS = 8.0


class SetupErrors(NamedTuple):
    """One setup: log(measured / predicted) over its stretch, once per way of leaving out."""

    regime: str
    source: str
    errors: tuple[float, ...]


class Spread(NamedTuple):
    """Quantiles of log(measured / predicted) in a regime at ``RESIDUAL_LEVELS``, and what they stand on."""

    n_setups: int
    n_sources: int
    log_ratios: tuple[float, ...]


# (weight, setup) of everything in a regime.
_Pool = list[tuple[float, SetupErrors]]


def setup_errors(samples: Sequence[Sample], held_out: Sequence[Sequence[float]]) -> list[SetupErrors]:
    """Every setup that widens an interval, with the median of its rows in each of ``held_out``."""
    rows: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for i, sample in enumerate(samples):
        if sample.spread:
            rows[sample.spread, sample.source, sample.setup].append(i)
    return [
        SetupErrors(regime, source, tuple(_median([errors[i] for i in mine]) for errors in held_out))
        for (regime, source, _), mine in rows.items()
    ]


def spreads(setups: Sequence[SetupErrors]) -> dict[str, Spread]:
    """The spread of every regime, of every class of a phase (``phase/*/arch``) and phase (``phase/*/*``)."""
    pools = _pools(setups)
    scales = {key: _scale(key, pools) for key in sorted(pools)}
    shapes = {key: _shape(pool, scales) for key, pool in pools.items() if key == _phase(key)}
    return {
        key: Spread(
            n_setups=len(pools[key]),
            n_sources=len({s.source for _, s in pools[key]}),
            log_ratios=tuple(scale * q for q in shapes[_phase(key)]),
        )
        for key, scale in scales.items()
    }


def widened(found: Mapping[str, Spread]) -> dict[str, Spread]:
    """``found`` with the ranges of phases of few setups drawn towards those of a phase without any."""
    return {key: _drawn(spread, found[_phase(key)]) for key, spread in found.items()}


def _drawn(spread: Spread, phase: Spread) -> Spread:
    own = min(1.0, independent(phase.n_setups, phase.n_sources) / _ENOUGH_SETUPS)
    pairs = zip(spread.log_ratios, UNMEASURED, strict=True)
    return spread._replace(log_ratios=tuple(own * mine + (1.0 - own) * wide for mine, wide in pairs))


def _pools(setups: Sequence[SetupErrors]) -> dict[str, _Pool]:
    """Setups by all they belong to; those of one source are not independent: n count as n^0.75 (see fit)."""
    counts = Counter((key, s.source) for s in setups for key in _keys(s.regime))
    pools: dict[str, _Pool] = defaultdict(list)
    for s in setups:
        for key in _keys(s.regime):
            pools[key].append((counts[key, s.source] ** -CROWDING, s))
    return pools


def _keys(regime: str) -> tuple[str, str, str]:
    phase, _, arch = regime.split("/")
    return regime, f"{phase}/*/{arch}", _phase(regime)


def _phase(regime: str) -> str:
    return f"{regime.partition('/')[0]}/*/*"


def _scale(key: str, pools: Mapping[str, _Pool]) -> float:
    """Mean absolute error of a regime, with ``_CLASS_SETUPS`` setups' worth of what it belongs to."""
    pool = pools[key]
    weight = sum(w for w, _ in pool)
    total = sum(w * sum(abs(e) for e in s.errors) / len(s.errors) for w, s in pool)
    above = next((k for k in _keys(key)[1:] if k != key), None)
    if above is None:
        return total / weight
    return (total + _CLASS_SETUPS * _scale(above, pools)) / (weight + _CLASS_SETUPS)


def _shape(pool: _Pool, scales: Mapping[str, float]) -> tuple[float, ...]:
    """Quantiles of residuals over the scale of their regime, with the correction for how many there are."""
    values = [
        (e / scales[s.regime] if scales[s.regime] else 0.0, w / len(s.errors))
        for w, s in pool
        for e in s.errors
    ]
    count = sum(w for w, _ in pool)
    return tuple(weighted_quantile(values, conformal_level(level, count)) for level in RESIDUAL_LEVELS)


def conformal_level(level: float, n: float) -> float:
    """The quantile of ``n`` independent values that covers one more with probability ``level``.

    Below the median level x (n + 1) / n - 1 / n, above it mirrored: few values give a wider range.
    """
    tail = min(level, 1.0 - level)
    shrunk = max(0.0, tail * (n + 1.0) / n - 1.0 / n)
    return shrunk if level < 0.5 else 1.0 - shrunk if level > 0.5 else 0.5


def weighted_quantile(values: Sequence[tuple[float, float]], level: float) -> float:
    """The ``level`` quantile of (value, weight): each stands in the middle of its share, linear between."""
    ordered = sorted(values)
    total = sum(w for _, w in ordered)
    before, position, value = 0.0, 0.0, ordered[0][0]
    for v, w in ordered:
        here = (before + w / 2.0) / total
        if here >= level:
            share = (level - position) / (here - position) if here > position and before else 1.0
            return value + share * (v - value)
        before, position, value = before + w, here, v
    return value


def independent(n_setups: int, n_sources: int) -> float:
    """Setups that would say as much if each had a source of its own: the geometric mean of both counts."""
    return math.sqrt(n_setups * n_sources)


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
