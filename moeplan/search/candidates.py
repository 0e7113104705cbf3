"""Legal layouts of one problem, produced lazily: what the engine can be told, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.model import GqaAttention, MlaAttention, MoeFfn
from moeplan.domain.workload import Placement
from moeplan.engines.traits import EngineTraits
from moeplan.predict.placement import on_cpu, on_gpus, streamed
from moeplan.predict.problem import Problem
from moeplan.search.layout import Layout, Shape, hosted_last, one_gpu, shape_of
from moeplan.search.several import Climber, Rank


def explore(
    problem: Problem,
    visit: Callable[[Layout], Rank],
    room: Callable[[], Sequence[tuple[float, float, float]]],
) -> None:
    """Show ``visit`` every layout worth trying.

    One GPU: all of them. Several: a climb from several starts (see search/several.py), which needs ``room``.
    """
    if not problem.hardware.gpus or problem.hardware.unified or problem.engine.family != "local":
        return
    shape = shape_of(problem.graph)
    if len(problem.hardware.gpus) == 1:
        for layout in on_one_gpu(shape, problem.engine):
            visit(layout)
    elif problem.engine.multi_gpu == "layer-split" and "layer-split" in problem.engine.splits:
        Climber(shape, problem.engine, visit, room()).run()


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
