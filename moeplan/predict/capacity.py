"""How far a machine goes: the largest context and batch that fit, and memory against context."""

from __future__ import annotations

from collections.abc import Callable

from moeplan.domain.result import CurvePoint
from moeplan.domain.workload import Placement, Workload
from moeplan.memory.report import memory_report
from moeplan.predict.choice import fits
from moeplan.predict.problem import Problem

# No engine decodes more sequences together by default (vLLM's --max-num-seqs: 256 to 1024, v0.11 to v0.24).
MOST_SEQUENCES = 1024
_CURVE_STEP = 2
_BLOCK_TOKENS = 256


def largest_context(problem: Problem, limit: int, place: Callable[[Problem], Placement]) -> int:
    """The largest context up to ``limit`` tokens at which the chosen placement fits, in steps of 256.

    0 when not even 256 tokens fit. Placements that page from disk do not count as fitting.
    """

    def trial(blocks: int) -> Problem:
        tokens = min(limit, blocks * _BLOCK_TOKENS)
        return problem._replace(workload=with_context(problem.workload, tokens))

    return min(limit, _BLOCK_TOKENS * _largest(-(-limit // _BLOCK_TOKENS), trial, place))


def largest_batch(
    problem: Problem, place: Callable[[Problem], Placement], limit: int = MOST_SEQUENCES
) -> int:
    """The most sequences of the asked context, up to ``limit``, at which the placement fits; 0: not one.

    Placements that page from disk do not count as fitting.
    """
    return _largest(limit, lambda n: with_batch(problem, n), place)


def _largest(limit: int, trial: Callable[[int], Problem], place: Callable[[Problem], Placement]) -> int:
    """The largest number up to ``limit`` whose ``trial`` fits where ``place`` puts it."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        problem = trial(middle)
        placement = place(problem)
        if placement.kind != "disk" and fits(problem)(placement):
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


def with_context(workload: Workload, context_tokens: int) -> Workload:
    """``workload`` at another context; prompt and answer are shortened to what fits in it."""
    from msgspec.structs import replace

    prompt = min(workload.prompt_tokens, max(1, context_tokens - 1))
    return replace(
        workload,
        context_tokens=context_tokens,
        prompt_tokens=prompt,
        output_tokens=max(1, min(workload.output_tokens, context_tokens - prompt)),
    )
