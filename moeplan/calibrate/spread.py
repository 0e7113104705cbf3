"""Intervals from held-out residuals: quantiles by regime that hold for one more setup (split conformal)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from moeplan.calibrate.system import Sample

RESIDUAL_LEVELS = (0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 0.85, 0.9, 0.95, 0.975)
MIN_SETUPS_PER_REGIME = 8
Spread = tuple[int, int, tuple[float, ...]]


def spreads(samples: Sequence[Sample], held_out: Sequence[Sequence[float]]) -> dict[str, Spread]:
    """(setups, sources, quantiles of log(measured / predicted)) of every regime with enough setups.

    ``held_out`` has the residuals of one or more ways of leaving groups out; a setup counts once, with the
    median of its rows, in each. ``phase/*/arch`` and ``phase/*/*`` pool the rest.
    """
    pools: dict[str, list[list[float]]] = defaultdict(list)
    sources: dict[str, set[str]] = defaultdict(set)
    for (regime, source), values in setup_errors(samples, held_out).items():
        phase, _, arch = regime.split("/")
        for key in (regime, f"{phase}/*/{arch}", f"{phase}/*/*"):
            pools[key] += values
            sources[key].add(source)
    return {
        key: (
            len(pool),
            len(sources[key]),
            tuple(_pooled(pool, len(sources[key]), level) for level in RESIDUAL_LEVELS),
        )
        for key, pool in sorted(pools.items())
        if len(pool) >= MIN_SETUPS_PER_REGIME or "*" in key
    }


def setup_errors(
    samples: Sequence[Sample], held_out: Sequence[Sequence[float]]
) -> dict[tuple[str, str], list[list[float]]]:
    """For each regime and source: the errors of every setup, one per way of leaving out."""
    rows: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for i, sample in enumerate(samples):
        if sample.spread:
            rows[sample.spread, sample.source, sample.setup].append(i)
    result: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for (regime, source, _), mine in rows.items():
        result[regime, source].append([_median([errors[i] for i in mine]) for errors in held_out])
    return result


def _pooled(pool: Sequence[Sequence[float]], n_sources: int, level: float) -> float:
    """The quantile over all ways of leaving out, with the correction for how much was independent."""
    return conformal_quantile(
        [v for values in pool for v in values], level, independent(len(pool), n_sources)
    )


def independent(n_setups: int, n_sources: int) -> float:
    """Setups that would say as much if each had a source of its own: the geometric mean of both counts."""
    return math.sqrt(n_setups * n_sources)


def conformal_quantile(values: Sequence[float], level: float, n: float | None = None) -> float:
    """The quantile of ``values`` that covers one more with probability ``level``; ``n`` are independent.

    Below the median the index is level x (n + 1) / n, above it mirrored: few values give a wider range.
    """
    count = n or len(values)
    tail = min(level, 1.0 - level)
    shrunk = max(0.0, tail * (count + 1) / count - 1.0 / count)
    share = shrunk if level < 0.5 else 1.0 - shrunk if level > 0.5 else 0.5
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
