"""The offloaded form of each model of a comparison: experts in RAM, dense models within the same VRAM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from moeplan.errors import MoeplanError, NotModelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moeplan.api.resolve import Session
    from moeplan.domain.request import EstimateRequest
    from moeplan.domain.result import Estimate
    from moeplan.predict.problem import Problem

OFFLOAD_ENGINE = "llama.cpp"
_NEEDED = frozenset({"experts", "layers"})


def offloaded_estimates(
    session: Session, models: Sequence[tuple[EstimateRequest, Problem]]
) -> list[Estimate | NotModelled]:
    """One sequence of each model with weights in RAM; NotModelled says why there is none.

    A MoE keeps all routed experts in RAM and the rest in VRAM. A dense model gets as many whole layers in
    VRAM as the largest of the MoEs takes there; without a MoE all its layers are in RAM.
    """
    from moeplan.predict.compare import experts_in_ram, layers_within, vram_needed_bytes
    from moeplan.predict.estimate import estimate as predict

    problems = [_offloadable(session, request, problem) for request, problem in models]
    vram_bytes = max(
        (
            vram_needed_bytes(problem, experts_in_ram(problem))
            for problem in problems
            if not isinstance(problem, NotModelled) and problem.graph.spec.is_moe
        ),
        default=0,
    )
    results: list[Estimate | NotModelled] = []
    for (request, _), problem in zip(models, problems, strict=True):
        if isinstance(problem, NotModelled):
            results.append(problem)
            continue
        is_moe = problem.graph.spec.is_moe
        placement = experts_in_ram(problem) if is_moe else layers_within(problem, vram_bytes)
        results.append(predict(problem, placement, level=request.level))
    return results


def _offloadable(session: Session, request: EstimateRequest, problem: Problem) -> Problem | NotModelled:
    """``problem`` under an engine that keeps weights in RAM: its own, else llama.cpp where it reads them."""
    what = "offloaded form"
    hardware = problem.hardware
    if not hardware.gpus:
        return NotModelled(what, "the machine has no GPU")
    if hardware.unified:
        return NotModelled(what, "CPU and GPU share one memory")
    if problem.engine.splits >= _NEEDED:
        return problem
    quant = problem.graph.quant
    scheme = session.quants.find(quant)
    if not (scheme.kind.startswith("gguf") or scheme.as_gguf):
        return NotModelled(
            what, f"{OFFLOAD_ENGINE} does not read {quant}; compare with --quant q8_0, q4_k_m ..."
        )
    try:
        return session.problem(replace(request, engine=OFFLOAD_ENGINE, quant=quant), [])
    except MoeplanError as error:
        return NotModelled(what, str(error))
