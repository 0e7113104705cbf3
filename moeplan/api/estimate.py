"""Memory and speed of one model on one machine: names and options in, an Estimate out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moeplan.api.options import request_of
from moeplan.domain.request import EstimateRequest
from moeplan.domain.result import Estimate
from moeplan.provenance import NULL_LEDGER, Ledger

if TYPE_CHECKING:
    from moeplan.domain.workload import Placement
    from moeplan.predict.problem import Problem
    from moeplan.readers.catalog import Catalog


def estimate(model: str, hardware: str | None = None, **options: Any) -> Estimate:
    """Memory, FLOPs, bytes moved and speed of ``model`` on ``hardware``.

    ``model`` and ``hardware`` are what the command line accepts; ``options`` are its options with
    underscores (``quant="q4_k_m"``, ``context=8192``, ``ram_gib=64`` ...). With ``explain=True`` the
    result carries the terms every number is made of. Raises a MoeplanError; a model that does not
    fit is a result (``fits`` is False), not an error.

    >>> moeplan.estimate("mixtral-8x7b", hardware="rtx-4090", quant="q4_k_m")  # doctest: +SKIP
    """
    from moeplan.readers.catalog import Catalog

    ledger = Ledger() if options.pop("explain", False) else NULL_LEDGER
    catalog = Catalog(options.pop("configs", None))
    return run_estimate(request_of(model, hardware, options), catalog, ledger)


def run_estimate(request: EstimateRequest, catalog: Catalog, ledger: Ledger = NULL_LEDGER) -> Estimate:
    """The estimate that ``request`` asks for, with names resolved through ``catalog``."""
    from moeplan.api.resolve import Session

    assumptions: list[str] = []
    problem = Session(catalog, request.calibration).problem(request, assumptions)
    return solve(problem, request, assumptions, ledger)[1]


def solve(
    problem: Problem,
    request: EstimateRequest,
    assumptions: list[str],
    ledger: Ledger = NULL_LEDGER,
    *,
    advise: bool = True,
) -> tuple[Problem, Estimate]:
    """(problem, estimate) of a resolved ``request``; with ``context="max"`` the problem gets its context."""
    from msgspec.structs import replace

    from moeplan.api.parallel import sharing_experts
    from moeplan.predict.capacity import (
        MOST_SEQUENCES,
        context_curve,
        largest_batch,
        largest_context,
        with_batch,
        with_context,
    )
    from moeplan.predict.choice import choose_placement
    from moeplan.predict.estimate import estimate as predict
    from moeplan.predict.placement import experts_whole

    def place(trial: Problem) -> Placement:
        placement = choose_placement(
            trial, kind=request.placement, gpu_layers=request.gpu_layers, cpu_moe=request.cpu_moe
        )
        return experts_whole(placement) if (request.expert_parallel or 1) > 1 else placement

    problem = sharing_experts(problem, request, assumptions)
    if request.context == "max":
        limit = problem.graph.spec.context_tokens
        context = largest_context(problem, limit, place)
        assumptions.append(
            f"context {context or 256:,} tokens: the largest that fits (model limit {limit:,})"
        )
        assumptions += _in_vram(problem, request, context, place)
        problem = problem._replace(workload=with_context(problem.workload, context or 256))
    if request.batch == "max":
        batch = largest_batch(problem, place)
        assumptions.append(f"{batch or 1:,} sequences: as many as fit (at most {MOST_SEQUENCES:,})")
        problem = with_batch(problem, batch or 1)
    placement = place(problem)
    answer = predict(
        problem,
        placement,
        level=request.level,
        assumptions=tuple(assumptions),
        ledger=ledger,
        advise=advise,
    )
    if "max" in (request.context, request.batch):
        answer = replace(answer, context_curve=context_curve(problem, placement))
    return problem, answer


def _in_vram(
    problem: Problem, request: EstimateRequest, context: int, place: Callable[[Problem], Placement]
) -> list[str]:
    """What to say where the largest context takes layers or experts off the GPUs: how long it is without."""
    from moeplan.predict.capacity import largest_context, with_context
    from moeplan.predict.choice import WHOLE, choose_placement

    if request.placement or request.gpu_layers is not None or request.cpu_moe is not None:
        return []
    if not context or place(problem._replace(workload=with_context(problem.workload, context))).kind in WHOLE:
        return []
    kind = problem.engine.multi_gpu if len(problem.hardware.gpus) > 1 else "gpu"
    if not problem.hardware.gpus or kind not in problem.engine.splits:
        return []
    held = largest_context(
        problem, context, lambda trial: choose_placement(trial, kind=kind, gpu_layers=None, cpu_moe=None)
    )
    return [f"all in VRAM a context of {held:,} tokens is the largest: --placement {kind}"] if held else []
