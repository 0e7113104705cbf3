"""How many GPUs a serving engine shares a model among, and in what way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from moeplan.domain.model import ModelSpec, MoeFfn
from moeplan.engines.shards import (
    shares_experts,
    takes_whole_experts,
    undivided,
    undivided_experts,
    undivided_heads,
)
from moeplan.errors import NotModelled, SpecError

if TYPE_CHECKING:
    from moeplan.domain.graph import ModelGraph
    from moeplan.domain.hardware import HardwareSpec
    from moeplan.domain.request import EstimateRequest
    from moeplan.engines.traits import EngineTraits
    from moeplan.predict.problem import Problem


def sharing_heads(
    hardware: HardwareSpec,
    graph: ModelGraph,
    engine: EngineTraits,
    request: EstimateRequest,
    assumptions: list[str],
) -> HardwareSpec:
    """``hardware`` with the GPUs of ``--tp``; left open, as many as can share the attention heads evenly.

    Raises SpecError where ``--tp`` GPUs cannot share the model.
    """
    asked, spec = request.tensor_parallel, graph.spec
    if asked is not None:
        _check_shards(asked, graph, engine, request)
        return first_gpus(hardware, asked)
    found = len(hardware.gpus)
    what = undivided_heads(spec, found) if found else None
    if what is None:
        return hardware
    most = next(n for n in range(found, 0, -1) if undivided_heads(spec, n) is None)
    assumptions.append(f"{most} of {found} GPUs used: {found} cannot share {what} evenly")
    return first_gpus(hardware, most)


def sharing_experts(problem: Problem, request: EstimateRequest, assumptions: list[str]) -> Problem:
    """``problem`` with as many of its GPUs as can share the experts, where ``request`` left that open.

    Where slices do not divide and ``--ep`` was not asked for, experts are whole if the engine has that
    (``on_gpus`` places them so); else fewer GPUs are used.
    """
    graph, hardware, _, engine, _ = problem
    spec, found = graph.spec, len(hardware.gpus)
    if engine.multi_gpu != "tensor-parallel" or found < 2 or (request.expert_parallel or 1) > 1:
        return problem
    what = undivided_experts(spec, found, graph.expert_group)
    if what is None:
        return problem
    if request.expert_parallel is None and takes_whole_experts(spec, engine, found, graph.expert_group):
        assumptions.append(f"experts whole (--ep {found}): {found} GPUs cannot share {what} evenly")
        return problem
    most = next(n for n in range(found, 0, -1) if undivided(spec, n, graph.expert_group) is None)
    assumptions.append(f"{most} of {found} GPUs used: {found} cannot share {what} evenly")
    return problem._replace(hardware=first_gpus(hardware, most))


def check_whole_experts(asked: int, spec: ModelSpec, n_gpus: int) -> None:
    """Raise where ``n_gpus`` GPUs cannot share the experts as whole ones, as ``--ep`` asks."""
    if asked == 1:
        return
    counts = sorted({block.ffn.n_experts for block in spec.blocks if isinstance(block.ffn, MoeFfn)})
    if not counts:
        raise SpecError(f"--ep {asked}: {spec.id} has no experts to share")
    if asked != n_gpus:
        raise NotModelled(
            f"--ep {asked} over {n_gpus} GPU{'s' * (n_gpus > 1)}", "experts are shared by all GPUs of --tp"
        )
    if not shares_experts(spec, asked):
        raise SpecError(f"--ep {asked}: {counts[0]} experts cannot be shared evenly by {asked} GPUs")


def first_gpus(hardware: HardwareSpec, n: int) -> HardwareSpec:
    """``hardware`` with its first ``n`` GPUs alone. Raises SpecError where it has fewer."""
    if n > len(hardware.gpus):
        raise SpecError(f"--tp {n}: the machine has {len(hardware.gpus)} GPUs")
    return replace(hardware, gpus=hardware.gpus[:n])


def _check_shards(asked: int, graph: ModelGraph, engine: EngineTraits, request: EstimateRequest) -> None:
    """Raise where ``asked`` GPUs cannot share heads, or experts that are not asked for as whole ones."""
    spec, whole = graph.spec, (request.expert_parallel or 1) > 1

    def obstacle(n: int) -> str | None:
        return undivided_heads(spec, n) if whole else undivided(spec, n, graph.expert_group)

    what = obstacle(asked)
    if what is None:
        return
    hint = f"--tp {next(n for n in range(asked, 0, -1) if obstacle(n) is None)}"
    if undivided_heads(spec, asked) is None and engine.expert_parallel and shares_experts(spec, asked):
        hint = f"--tp {asked} --ep {asked} keeps experts whole; or {hint}"
    raise SpecError(f"--tp {asked}: {engine.id} cannot share {what} evenly among {asked} GPUs", hint=hint)
