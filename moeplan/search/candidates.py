"""Legal layouts of one problem, produced lazily: what the engine can be told, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement, pairwise, product
from math import comb

from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.workload import Placement
from moeplan.engines.shards import shares_experts, undivided_experts, undivided_heads
from moeplan.engines.traits import EngineTraits
from moeplan.predict.placement import experts_whole, on_cpu, on_gpus, streamed
from moeplan.predict.problem import Problem
from moeplan.search.layout import Layout, Shape, hosted_last, one_gpu, several_gpus, shape_of

EVERY = 2000
"""Layouts over several GPUs that are all priced: 0.06 s, models of up to 12 layers on two, 7 on three."""


def explore(problem: Problem, visit: Callable[[Layout], object], several: Callable[[Shape], object]) -> None:
    """Show ``visit`` every layout worth trying; leave several GPUs with too many of them to ``several``."""
    if not problem.hardware.gpus or problem.hardware.unified or problem.engine.family != "local":
        return
    shape, n_gpus = shape_of(problem.graph), len(problem.hardware.gpus)
    if n_gpus > 1 and (
        problem.engine.multi_gpu != "layer-split" or "layer-split" not in problem.engine.splits
    ):
        return
    if n_gpus > 1 and comb(shape.n_layers + 2 * n_gpus, 2 * n_gpus) > EVERY:
        several(shape)
        return
    every = on_one_gpu(shape, problem.engine) if n_gpus == 1 else on_several(shape, problem.engine, n_gpus)
    for layout in every:
        visit(layout)


def on_one_gpu(shape: Shape, engine: EngineTraits) -> Iterator[Layout]:
    """Every split between one GPU and RAM: whole layers, experts of the first or last layers, both."""
    n, splits = shape.n_layers, engine.splits
    experts = bool(shape.moe) and "experts" in splits
    if "gpu" in splits:
        yield one_gpu(n, 0, 0)
    if experts and not engine.hosts_any_layer:
        yield one_gpu(n, 0, n)
        return
    if experts:
        yield from (one_gpu(n, 0, i + 1) for i in shape.moe)
        yield from (hosted_last(n, i) for i in shape.moe[1:])
    for in_ram in range(1, n + 1 if "layers" in splits else 1):
        yield one_gpu(n, in_ram, in_ram)
        if experts and "mixed" in splits:
            yield from (one_gpu(n, in_ram, i + 1) for i in shape.moe if i >= in_ram)


def on_several(shape: Shape, engine: EngineTraits, n_gpus: int) -> Iterator[Layout]:
    """Every split over several GPUs and RAM: first layers in RAM, the first experts of any GPU in RAM.

    Of equal GPUs the first one is filled first: among equals the layout shown first wins.
    """
    n, experts = shape.n_layers, bool(shape.moe) and "experts" in engine.splits
    for in_ram in range(n if "layers" in engine.splits else 1):
        for ends in combinations_with_replacement(range(n, in_ram - 1, -1), n_gpus - 1):
            cuts = (in_ram, *reversed(ends), n)
            for hosted in product(*(range(b - a + 1 if experts else 1) for a, b in pairwise(cuts))):
                yield several_gpus(n, in_ram, cuts[1:], hosted)


def whole_placements(problem: Problem) -> Iterator[tuple[Problem, Placement]]:
    """Placements without a depth to choose: unified memory, CPU only, streaming, tensor parallelism."""
    graph, hardware, _, engine, _ = problem
    if hardware.unified and "unified" in engine.splits:
        yield problem, on_gpus(graph, hardware, engine)
    elif hardware.gpus and engine.multi_gpu == "tensor-parallel":
        for n in range(1, len(hardware.gpus) + 1):
            if undivided_heads(graph.spec, n) is not None:
                continue
            trial = problem._replace(hardware=_first_gpus(problem, n))
            placement = on_gpus(graph, trial.hardware, engine)
            if undivided_experts(graph.spec, n, graph.expert_group) is None:
                yield trial, placement
            if n > 1 and engine.expert_parallel and shares_experts(graph.spec, n):
                yield trial, experts_whole(placement)
    if hardware.unified:
        return
    if "stream" in engine.splits and engine.id == "transformers" and hardware.gpus:
        yield problem, streamed(graph)
    if "cpu" in engine.splits:
        yield problem, on_cpu(graph)


def _first_gpus(problem: Problem, n: int) -> HardwareSpec:
    from msgspec.structs import replace

    return replace(problem.hardware, gpus=problem.hardware.gpus[:n])
