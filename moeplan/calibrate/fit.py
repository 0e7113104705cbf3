"""Fit the few coefficients of the cost law: least absolute log error, one value per setup.

Plain coordinate descent over multiplicative steps: the law is not linear in its coefficients, there are about
twenty of them, and the same input always gives the same file. Few terms with a physical meaning, so that a
fit in seconds on a laptop is enough and over-fitting has little room.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

# Steps tried around the current value, coarse to fine.
_STEPS = (1.6, 1.25, 1.1, 1.04, 1.015)
# One wildly wrong setup (paging, a mislabelled row) must not steer a coefficient.
_MAX_LOG_ERROR = math.log(4.0)
RESIDUAL_LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
MIN_SETUPS_PER_REGIME = 8


class Sample(NamedTuple):
    """One measured row: ``seconds`` predicts its time under given coefficients."""

    setup: str
    source: str
    regime: str
    measured_s: float
    seconds: Callable[[Mapping[str, float]], float]


class Bounds(NamedTuple):
    """Where a coefficient may lie: an efficiency never above what its physics allows."""

    low: float
    high: float


def fit(
    samples: Sequence[Sample], start: Mapping[str, float], free: Mapping[str, Bounds], rounds: int = 3
) -> dict[str, float]:
    """The coefficients among ``free`` that minimise the mean absolute log error over setups."""
    values = dict(start)
    best = loss(samples, values)
    for _ in range(rounds):
        before = best
        for step in _STEPS:
            for name, bounds in free.items():
                for factor in (step, 1 / step):
                    while bounds.low <= values[name] * factor <= bounds.high:
                        trial = values | {name: values[name] * factor}
                        error = loss(samples, trial)
                        if error >= best - 1e-9:
                            break
                        values, best = trial, error
        if before - best < 1e-4:
            break
    return values


def loss(samples: Sequence[Sample], values: Mapping[str, float]) -> float:
    """Mean over setups of the absolute log error of their median row."""
    return sum(min(_MAX_LOG_ERROR, abs(v)) for v in _setup_errors(samples, values).values()) / max(
        1, len({(s.regime, s.setup) for s in samples})
    )


def residuals(
    samples: Sequence[Sample], values: Mapping[str, float]
) -> dict[str, tuple[int, int, tuple[float, ...]]]:
    """(setups, sources, quantiles of log(measured/predicted)) of every regime with enough setups.

    ``phase/*/arch`` and ``phase/*/*`` pool the rest. Quantiles are those of n + 1 exchangeable values
    (the conformal correction), so that few setups give a wider range.
    """
    errors = _setup_errors(samples, values)
    pools: dict[str, list[float]] = defaultdict(list)
    sources: dict[str, set[str]] = defaultdict(set)
    by_setup = {(s.regime, s.setup): s.source for s in samples}
    for (regime, setup), error in errors.items():
        phase, _, arch = regime.split("/")
        for key in (regime, f"{phase}/*/{arch}", f"{phase}/*/*"):
            pools[key].append(error)
            sources[key].add(by_setup[regime, setup])
    return {
        key: (len(pool), len(sources[key]), tuple(conformal_quantile(pool, q) for q in RESIDUAL_LEVELS))
        for key, pool in sorted(pools.items())
        if len(pool) >= MIN_SETUPS_PER_REGIME or "*" in key
    }


def conformal_quantile(values: Sequence[float], level: float) -> float:
    """The quantile of n values whose coverage holds for one more: index level x (n + 1), clipped."""
    ordered = sorted(values)
    position = min(max(level * (len(ordered) + 1) - 1, 0.0), len(ordered) - 1.0)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _setup_errors(samples: Sequence[Sample], values: Mapping[str, float]) -> dict[tuple[str, str], float]:
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for sample in samples:
        groups[sample.regime, sample.setup].append(math.log(sample.measured_s / sample.seconds(values)))
    return {key: _median(errors) for key, errors in groups.items()}


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
