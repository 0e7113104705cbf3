"""Predict every row of a corpus from its setup columns alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from moeplan.api.resolve import Session
from moeplan.domain.result import PhaseTime
from moeplan.domain.workload import Placement
from moeplan.errors import MoeplanError
from moeplan.predict.estimate import choose_placement, residual_regime
from moeplan.predict.interval import EXTRAPOLATION_STRETCH, closest, time_range
from moeplan.predict.phases import decode_time, prefill_time
from moeplan.predict.problem import Problem
from moeplan.readers.corpus import SpeedRow
from moeplan.validate.rows import regime_of, request_of
from moeplan.validate.score import Scored


class Skipped(NamedTuple):
    """A row that was not predicted, and why."""

    id: str
    reason: str


class Predicted(NamedTuple):
    """The pieces of one prediction of a corpus row, for scoring and for fitting."""

    row: SpeedRow
    problem: Problem
    placement: Placement
    time: PhaseTime
    n_tokens: int


def predict_rows(rows: Iterable[SpeedRow], session: Session) -> tuple[list[Predicted], list[Skipped]]:
    """Predictions of all rows that can be predicted; the others with their reason."""
    predicted, skipped = [], []
    for row in rows:
        try:
            predicted.append(predict_row(row, session))
        except MoeplanError as error:
            skipped.append(Skipped(row.id, str(error)))
    return predicted, skipped


def predict_row(row: SpeedRow, session: Session) -> Predicted:
    """The expected time of the phase that ``row`` measured. Raises a MoeplanError."""
    request = request_of(row)
    problem = session.problem(request, [])
    placement = choose_placement(
        problem, kind=request.placement, gpu_layers=request.gpu_layers, cpu_moe=request.cpu_moe
    )
    time = phase_time(row.phase, problem, placement)
    tokens = problem.workload.n_sequences * (1 if row.phase == "decode" else problem.workload.prompt_tokens)
    return Predicted(row, problem, placement, time, tokens)


def phase_time(phase: str, problem: Problem, placement: Placement) -> PhaseTime:
    """Expected time of a decode step or of a whole prefill."""
    timer = decode_time if phase == "decode" else prefill_time
    return timer(
        problem.graph, problem.hardware, problem.workload, placement, problem.engine, problem.calibration
    )


def score(predicted: Iterable[Predicted], session: Session, level: float) -> list[Scored]:
    """Speeds beside the measured ones, with the range moeplan would have printed."""
    scored = []
    for row, problem, placement, time, tokens in predicted:
        regime = residual_regime(row.phase, problem, placement)
        _, residuals, stand_in = closest(session.calibration, regime)
        stretch = EXTRAPOLATION_STRETCH if stand_in else 1.0
        span = time_range(time.seconds, residuals, level, stretch=stretch).inverse(tokens)
        scored.append(
            Scored(
                id=row.id,
                setup=row.setup,
                source_family=row.source_family,
                regime=regime_of(row),
                measured=row.tokens_per_s,
                predicted=span.expected,
                low=span.low,
                high=span.high,
            )
        )
    return scored
