"""Whether ranges hold: every setup against the range that moeplan would give without its source."""

from __future__ import annotations

import math

from msgspec.structs import replace

from moeplan.api.calibrate import Fit, residuals_of
from moeplan.api.validate import asked_regime
from moeplan.calibrate.spread import setup_errors
from moeplan.predict.interval import closest, extrapolation_stretch, time_range


class Ranges:
    """Ranges of log(measured / predicted) of a fit's rows, each from the residuals of all other sources."""

    def __init__(self, fit: Fit, level: float = 0.8) -> None:
        self._fit, self._level = fit, level
        setups = setup_errors(fit.samples, fit.normalised())
        self._without = {
            source: replace(
                fit.calibration,
                residuals=residuals_of([s for s in setups if s.source != source], fit.calibration.date),
            )
            for source in sorted({s.source for s in fit.samples})
        }

    def of(self, row: int, way: str) -> tuple[float, float]:
        """(low, high) of the range of ``row`` with the rows that ``way`` leaves out unknown to the fit."""
        calibration = self._without[self._fit.samples[row].source]
        _, residuals, stand_in = closest(calibration, asked_regime(self._fit.traced[row]))
        stretch = self._fit.stretches[way][row] * extrapolation_stretch(0 if stand_in else residuals.n_setups)
        span = time_range(1.0, residuals, self._level, stretch=stretch)
        return math.log(span.low), math.log(span.high)
