"""Placements as a few runs of layers: what makes a hundred thousand of them cheap to name and to price."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from moeplan.domain.graph import ModelGraph
from moeplan.domain.workload import Placement, PlacementKind
from moeplan.engines.traits import EngineTraits
from moeplan.predict.placement import moe_layers

RAM = "ram"


class Run(NamedTuple):
    """Layers ``start`` to ``end`` (exclusive) with equal places for their dense part and their experts."""

    start: int
    end: int
    dense: str
    experts: str


Layout = tuple[Run, ...]
"""Runs of all layers in order, none empty. The output head is on the GPU of the last run, or on the first GPU
where all layers are in RAM (-ngl 1)."""


class Shape(NamedTuple):
    """What of a model the enumeration needs: its depth and which layers route to experts."""

    n_layers: int
    moe: tuple[int, ...]


def shape_of(graph: ModelGraph) -> Shape:
    """The shape of ``graph``."""
    return Shape(graph.spec.n_layers, moe_layers(graph.spec))


def joined(runs: Iterable[Run]) -> Layout:
    """``runs`` without empty ones, neighbours with equal places made one."""
    result: list[Run] = []
    for run in runs:
        if run.start >= run.end:
            continue
        if result and result[-1][2:] == run[2:]:
            run = Run(result.pop().start, run.end, run.dense, run.experts)
        result.append(run)
    return tuple(result)


def one_gpu(n_layers: int, in_ram: int, hosted_until: int, gpu: str = "gpu0") -> Layout:
    """First ``in_ram`` layers in RAM, the next ones up to ``hosted_until`` with their experts in RAM."""
    return joined(
        (
            Run(0, in_ram, RAM, RAM),
            Run(in_ram, max(in_ram, hosted_until), gpu, RAM),
            Run(max(in_ram, hosted_until), n_layers, gpu, gpu),
        )
    )


def hosted_last(n_layers: int, hosted_from: int, gpu: str = "gpu0") -> Layout:
    """Every layer on the GPU, the experts of layers from ``hosted_from`` on in RAM."""
    return joined((Run(0, hosted_from, gpu, gpu), Run(hosted_from, n_layers, gpu, RAM)))


def several_gpus(n_layers: int, in_ram: int, ends: Sequence[int], hosted: Sequence[int]) -> Layout:
    """Consecutive layers on each GPU up to ``ends``; of GPU g the first ``hosted[g]`` have experts in RAM."""
    runs, start = [Run(0, in_ram, RAM, RAM)], in_ram
    for g, (end, away) in enumerate(zip(ends, hosted, strict=True)):
        tier = f"gpu{g}"
        middle = min(end, start + away)
        runs += [Run(start, middle, tier, RAM), Run(middle, end, tier, tier)]
        start = end
    return joined(runs)


def to_placement(layout: Layout, graph: ModelGraph, engine: EngineTraits) -> Placement:
    """The placement that ``layout`` stands for, counted as llama.cpp counts."""
    shape = shape_of(graph)
    moe = set(shape.moe)
    dense: list[str] = []
    experts: list[str] = []
    for run in layout:
        for i in range(run.start, run.end):
            dense.append(run.dense)
            experts.append(run.experts if i in moe else run.dense)
    in_ram = dense.count(RAM)
    away = sum(d != e for d, e in zip(dense, experts, strict=True))
    mapped = engine.family == "local" and engine.mmap
    return Placement(
        kind=_kind(in_ram, away, len({tier for tier in dense if tier != RAM})),
        dense_tiers=tuple(dense),
        expert_tiers=tuple(experts),
        embedding_tier=RAM if mapped or in_ram or away else "gpu0",
        head_tier=layout[-1].dense if layout[-1].dense != RAM else "gpu0",
        gpu_layers=shape.n_layers - in_ram + 1,
        cpu_moe=away,
    )


def _kind(in_ram: int, away: int, n_gpus: int) -> PlacementKind:
    if in_ram and away:
        return "mixed"
    if in_ram:
        return "layers"
    if away:
        return "experts"
    return "gpu" if n_gpus == 1 else "layer-split"
