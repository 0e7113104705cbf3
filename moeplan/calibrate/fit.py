"""Fit the coefficients of the cost law: least absolute log error per setup, held near their priors.

Gauss-Newton on logarithms with weights 1 / |residual| (least absolute deviation), a quadratic pull of each
coefficient towards its prior, and damping. A few hundred coefficients and two thousand rows take a second,
so that every group of rows can be left out in turn.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from moeplan.calibrate.priors import prior
from moeplan.calibrate.system import Sample, System
from moeplan.cost.ops import multiplies

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Typical absolute log error of a setup: weighs rows against priors. Chosen by held-out error.
_ERROR = 0.08
# Below this a residual counts as quadratic, so that the weights stay finite.
_SMOOTH = 0.03
# One wildly wrong setup (paging, a mislabelled row) must not steer a coefficient.
_OUTLIER, _OUTLIER_WEIGHT = math.log(4.0), 0.1
# How much less the many setups of one source count. Chosen by held-out error (docs/design/003-speed-law.md):
# local rows come from many sources, serving rows from a handful with hundreds of setups each.
CROWDING, _CROWDING_SWEEPS = 0.25, 1.0
_MAX_STEP = 0.7
_ROUNDS = 25
_PAST = re.compile(r"\.20\d\d\.")


def fit(
    samples: Sequence[Sample],
    system: System,
    names: Sequence[str],
    *,
    keep: Callable[[Sample], bool] = lambda _: True,
    start: Floats | None = None,
    rounds: int = _ROUNDS,
) -> Floats:
    """Logarithms of the coefficients that fit the rows that ``keep`` picks."""
    import numpy as np

    centre = np.log([prior(name).value for name in names])
    pull = 1.0 / np.square([prior(name).spread for name in names])
    lowest, highest = _bounds(names)
    weights = setup_weights(samples, keep)
    values = centre.copy() if start is None else start.copy()
    damping = 1e-3
    predicted, slopes = system.with_slopes(values)
    best = _loss(system.measured - predicted, weights, values - centre, pull)
    for _ in range(rounds):
        residual = system.measured - predicted
        size = np.sqrt(residual**2 + _SMOOTH**2)
        factor = weights / _ERROR / size * np.where(size > _OUTLIER, _OUTLIER_WEIGHT, 1.0)
        curvature = (slopes * factor[:, None]).T @ slopes + np.diag(pull)
        slope = slopes.T @ (factor * residual) - (values - centre) * pull
        stuck = ((values >= highest) & (slope > 0)) | ((values <= lowest) & (slope < 0))
        curvature[stuck, :], curvature[:, stuck], slope[stuck] = 0.0, 0.0, 0.0
        curvature[stuck, stuck] = 1.0
        for _ in range(6):
            step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), slope)
            trial = np.clip(values + np.clip(step, -_MAX_STEP, _MAX_STEP), lowest, highest)
            loss = _loss(system.measured - system.log_times(trial), weights, trial - centre, pull)
            if loss < best:
                break
            damping = max(damping, 1e-4) * 5
        else:
            break
        gain, values, best, damping = best - loss, trial, loss, damping / 4
        predicted, slopes = system.with_slopes(values)
        if gain < 1e-4 * abs(best) + 1e-3:
            break
    return values


def _bounds(names: Sequence[str]) -> tuple[Floats, Floats]:
    """Logarithms that each coefficient stays between.

    A build of a past year is never faster than those since: what its rows seem to say to that effect is of
    their machines, and would slow down every newer build there.
    """
    import numpy as np

    past = np.array([_PAST.search(name) is not None for name in names], dtype=bool)
    longer = np.array([multiplies(name) for name in names], dtype=bool)
    return np.where(past & longer, 0.0, -np.inf), np.where(past & ~longer, 0.0, np.inf)


def setup_weights(samples: Sequence[Sample], keep: Callable[[Sample], bool]) -> Floats:
    """One for every setup that is kept, shared by its rows; less where a source has many in one regime.

    A source's twentieth setup says little that its first ten did not: a source counts as its number of
    setups to the power 1 - crowding.
    """
    import numpy as np

    rows = Counter((s.regime, s.setup) for s in samples)
    setups: dict[tuple[str, str], set[str]] = {}
    for s in samples:
        if keep(s):
            setups.setdefault((s.regime, s.source), set()).add(s.setup)
    return np.array(
        [
            len(setups[s.regime, s.source]) ** -(_CROWDING_SWEEPS if s.sweep else CROWDING)
            / rows[s.regime, s.setup]
            if keep(s)
            else 0.0
            for s in samples
        ]
    )


def held_out(
    samples: Sequence[Sample],
    system: System,
    names: Sequence[str],
    fitted: Floats,
    group: Callable[[Sample], str],
) -> list[float]:
    """log(measured / predicted) of every row by a fit that has seen no row of its group.

    Rows of the group "" are never left out and get 0.
    """
    residuals = [0.0] * len(samples)
    groups = [group(s) for s in samples]
    for left_out in sorted(set(groups) - {""}):
        others = partial(_is_outside, group, left_out)
        values = fit(samples, system, names, keep=others, start=fitted, rounds=8)
        errors = system.measured - system.log_times(values)
        for i, name in enumerate(groups):
            if name == left_out:
                residuals[i] = float(errors[i])
    return residuals


def _is_outside(group: Callable[[Sample], str], left_out: str, sample: Sample) -> bool:
    return group(sample) != left_out


def _loss(residual: Floats, weights: Floats, offset: Floats, pull: Floats) -> float:
    import numpy as np

    size = np.sqrt(residual**2 + _SMOOTH**2)
    capped = np.minimum(size, _OUTLIER + _OUTLIER_WEIGHT * (size - _OUTLIER))
    return float((weights * capped).sum() / _ERROR + 0.5 * (offset**2 * pull).sum())
