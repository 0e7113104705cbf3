"""How far a machine goes: the largest batch that fits, and memory against context."""

from __future__ import annotations

from collections.abc import Callable

from moeplan.domain.result import CurvePoint
from moeplan.domain.workload import Placement
from moeplan.memory.report import memory_report
from moeplan.predict.estimate import with_context
from moeplan.predict.problem import Problem

# No engine decodes more sequences together by default (vLLM's --max-num-seqs: 256 to 1024, v0.11 to v0.24).
MOST_SEQUENCES = 1024
_CURVE_STEP = 2


def largest_batch(
    problem: Problem, place: Callable[[Problem], Placement], limit: int = MOST_SEQUENCES
) -> int:
    """The most sequences of the asked context, up to ``limit``, at which the placement fits; 0: not one.

    Placements that page from disk do not count as fitting.
    """
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        trial = with_batch(problem, middle)
        placement = place(trial)
        if placement.kind != "disk" and _fits(trial, placement):
            low = middle
        else:
            high = middle - 1
    return low


def with_batch(problem: Problem, n_sequences: int) -> Problem:
    """``problem`` with another number of sequences decoded together."""
    from msgspec.structs import replace

    return problem._replace(workload=replace(problem.workload, n_sequences=n_sequences))


def context_curve(problem: Problem, placement: Placement) -> tuple[CurvePoint, ...]:
    """Memory of every device at powers of two of context up to the model's limit, the asked one included.

    The placement stays as it is, so that each device's bytes never shrink along the curve.
    """
    limit = max(problem.graph.spec.context_tokens, problem.workload.context_tokens)
    contexts, tokens = {problem.workload.context_tokens, limit}, 1024
    while tokens < limit:
        contexts.add(tokens)
        tokens *= _CURVE_STEP
    points = []
    for context in sorted(contexts):
        trial = problem._replace(workload=with_context(problem.workload, context))
        report = memory_report(trial.graph, trial.hardware, trial.workload, placement, trial.engine)
        points.append(
            CurvePoint(
                context_tokens=context,
                device_bytes=tuple((d.device, d.total_bytes) for d in report.devices),
                fits=report.fits,
            )
        )
    return tuple(points)


def _fits(problem: Problem, placement: Placement) -> bool:
    graph, hardware, workload, engine, _ = problem
    return memory_report(graph, hardware, workload, placement, engine).fits
