"""Legal layouts of one problem, produced lazily: what the engine can be told, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import comb

from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.model import GqaAttention, MlaAttention, MoeFfn
from moeplan.domain.workload import Placement
from moeplan.engines.traits import EngineTraits
from moeplan.predict.placement import on_cpu, on_gpus, streamed
from moeplan.predict.problem import Problem
from moeplan.search.layout import Layout, Shape, hosted_last, one_gpu, several_gpus, shape_of

EVERY = 2000
"""Layouts over two GPUs that are all priced: 0.06 s, models of up to 12 layers."""


def explore(problem: Problem, visit: Callable[[Layout], object], several: Callable[[Shape], object]) -> None:
    """Show ``visit`` every layout worth trying; leave several GPUs with too many of them to ``several``."""
    if not problem.hardware.gpus or problem.hardware.unified or problem.engine.family != "local":
        return
    shape, n_gpus = shape_of(problem.graph), len(problem.hardware.gpus)
    if n_gpus > 1 and (
        problem.engine.multi_gpu != "layer-split" or "layer-split" not in problem.engine.splits
    ):
        return
    if n_gpus > 2 or (n_gpus == 2 and comb(shape.n_layers + 4, 4) > EVERY):
        several(shape)
        return
    for layout in (on_one_gpu if n_gpus == 1 else on_two_gpus)(shape, problem.engine):
        visit(layout)


def on_one_gpu(shape: Shape, engine: EngineTraits) -> Iterator[Layout]:
    """Every split between one GPU and RAM: whole layers, experts of the first or last layers, both."""
    n, splits = shape.n_layers, engine.splits
    experts = bool(shape.moe) and "experts" in splits
    if "gpu" in splits:
        yield one_gpu(n, 0, 0)
    if experts:
        yield from (one_gpu(n, 0, i + 1) for i in shape.moe)
        yield from (hosted_last(n, i) for i in shape.moe[1:])
    for in_ram in range(1, n + 1 if "layers" in splits else 1):
        yield one_gpu(n, in_ram, in_ram)
        if experts and "mixed" in splits:
            yield from (one_gpu(n, in_ram, i + 1) for i in shape.moe if i >= in_ram)


def on_two_gpus(shape: Shape, engine: EngineTraits) -> Iterator[Layout]:
    """Every split over two GPUs and RAM: first layers in RAM, first experts of either GPU in RAM."""
    n, experts = shape.n_layers, bool(shape.moe) and "experts" in engine.splits
    for in_ram in range(n if "layers" in engine.splits else 1):
        for end in range(in_ram, n + 1):
            for first in range(end - in_ram + 1 if experts else 1):
                for second in range(n - end + 1 if experts else 1):
                    yield several_gpus(n, in_ram, (end, n), (first, second))


def whole_placements(problem: Problem) -> Iterator[tuple[Problem, Placement]]:
    """Placements without a depth to choose: unified memory, CPU only, streaming, tensor parallelism."""
    graph, hardware, _, engine, _ = problem
    if hardware.unified and "unified" in engine.splits:
        yield problem, on_gpus(graph, hardware, engine)
    elif hardware.gpus and engine.multi_gpu == "tensor-parallel":
        for n in tensor_parallel_degrees(graph, len(hardware.gpus)):
            trial = problem._replace(hardware=_first_gpus(problem, n))
            yield trial, on_gpus(graph, trial.hardware, engine)
    if hardware.unified:
        return
    if "stream" in engine.splits and engine.id == "transformers" and hardware.gpus:
        yield problem, streamed(graph)
    if "cpu" in engine.splits:
        yield problem, on_cpu(graph)


def tensor_parallel_degrees(graph: ModelGraph, n_gpus: int) -> list[int]:
    """GPUs that can share every layer: they divide the heads and the width of every expert."""
    return [n for n in range(1, n_gpus + 1) if undivided(graph, n) is None]


def undivided(graph: ModelGraph, n: int) -> str | None:
    """What ``n`` GPUs cannot share evenly, in words; None when all divides."""
    for block in graph.spec.blocks:
        mixer, ffn = block.mixer, block.ffn
        if isinstance(mixer, GqaAttention | MlaAttention) and mixer.n_heads % n:
            return f"{mixer.n_heads} attention heads"
        if isinstance(mixer, GqaAttention) and max(mixer.n_kv_heads, n) % min(mixer.n_kv_heads, n):
            return f"{mixer.n_kv_heads} key-value heads"
        if isinstance(ffn, MoeFfn) and ffn.expert_intermediate % n:
            return f"experts of width {ffn.expert_intermediate}"
    return None


def _first_gpus(problem: Problem, n: int) -> HardwareSpec:
    from msgspec.structs import replace

    return replace(problem.hardware, gpus=problem.hardware.gpus[:n])
