"""Rebuild the coefficients of the cost law from corpus files: same input, same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from moeplan.api.resolve import Session
from moeplan.api.validate import Predicted, phase_time, predict_rows
from moeplan.calibrate.fit import RESIDUAL_LEVELS, Sample, fit, residuals
from moeplan.calibrate.stages import GIVEN, STAGES, RowKind
from moeplan.cost.rates import device_class
from moeplan.domain.calibration import Calibration, Coefficient, Residuals
from moeplan.predict.estimate import residual_regime
from moeplan.provenance import Source
from moeplan.readers.corpus import SpeedRow, read_serving, read_speed

# Grade C rows are flagged by their collector (paging, speculative decoding suspected): never fitted.
GRADES = ("A", "B")
MAX_SERVING_CONCURRENCY = 16


def read_rows(speed: Path | None, serving: Path | None) -> list[SpeedRow]:
    """The rows of both kinds of corpus that may inform a fit."""
    rows = [row for row in read_speed(speed) if row.grade in GRADES] if speed else []
    if serving:
        rows += [
            row
            for row in read_serving(serving)
            if row.grade in GRADES and row.batch <= MAX_SERVING_CONCURRENCY
        ]
    return rows


def fit_calibration(rows: Sequence[SpeedRow], session: Session, *, id: str, date: str) -> Calibration:
    """Coefficients and residuals from ``rows``. Deterministic."""
    start = Calibration(id=id, date=date, coefficients=GIVEN, residuals={}, sources=())
    session.use(start)
    predicted, _ = predict_rows(rows, session)
    samples = _Samples(predicted, start)
    values = {name: coefficient.value for name, coefficient in GIVEN.items()}
    coefficients = dict(GIVEN)
    for stage in STAGES:
        picked = [s for s, kind in zip(samples.samples, samples.kinds, strict=True) if stage.uses(kind)]
        if not picked:
            continue
        values = fit(picked, values, stage.free)
        setups = {(s.regime, s.setup) for s in picked}
        note = f"{stage.name}: {len(setups)} setups, {len({s.source for s in picked})} sources"
        for name in stage.free:
            values[name] = float(f"{values[name]:.4g}")
            source = Source("fitted", "published speeds (docs/corpus.md), grade A and B", date, note)
            unit = GIVEN[name].unit
            coefficients[name] = Coefficient(
                value=values[name], unit=unit, source=source, n_setups=len(setups)
            )
    ref = "measured over predicted time of the fitted rows, one value per setup, in sample"
    spread = Source("fitted", ref, date)
    return Calibration(
        id=id,
        date=date,
        coefficients=coefficients,
        residuals={
            regime: Residuals(
                n_setups=n, n_sources=m, levels=RESIDUAL_LEVELS, log_ratios=quantiles, source=spread
            )
            for regime, (n, m, quantiles) in residuals(samples.samples, values).items()
        },
        sources=(spread,),
    )


class _Samples:
    """Rows as functions of the coefficients; one Calibration value is built per set of them."""

    def __init__(self, predicted: Sequence[Predicted], start: Calibration) -> None:
        self._start = start
        self._cached: tuple[Mapping[str, float], Calibration] | None = None
        self.samples = [self._sample(p) for p in predicted]
        self.kinds = [
            RowKind(
                p.row.phase,
                p.placement.kind,
                device_class(p.problem.hardware.gpus[0], p.problem.engine.family)
                if p.problem.hardware.gpus
                else "cpu",
                "moe" if p.problem.graph.spec.is_moe else "dense",
                p.problem.engine.family,
            )
            for p in predicted
        ]

    def _sample(self, p: Predicted) -> Sample:
        def seconds(values: Mapping[str, float]) -> float:
            problem = p.problem._replace(calibration=self._calibration(values))
            return phase_time(p.row.phase, problem, p.placement).seconds

        regime = residual_regime(p.row.phase, p.problem, p.placement)
        return Sample(p.row.setup, p.row.source_family, regime, p.n_tokens / p.row.tokens_per_s, seconds)

    def _calibration(self, values: Mapping[str, float]) -> Calibration:
        if self._cached is None or self._cached[0] is not values:
            coefficients = {
                name: replace(c, value=values[name]) for name, c in self._start.coefficients.items()
            }
            self._cached = (values, replace(self._start, coefficients=coefficients))
        return self._cached[1]
