"""Where the weights go: the placement asked for, or the fastest of those that fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from moeplan.domain.workload import Placement
from moeplan.memory.capacity import gpu_capacity_bytes, host_process_bytes
from moeplan.memory.report import memory_report, weights_by_tier
from moeplan.predict.phases import decode_time
from moeplan.predict.placement import candidates, mapped, on_cpu, requested, unfit, usable_ram_bytes
from moeplan.predict.problem import Problem

WHOLE = frozenset({"gpu", "unified", "layer-split", "tensor-parallel"})
"""Placements with all weights in the memory of GPUs."""


def choose_placement(
    problem: Problem, *, kind: str | None, gpu_layers: int | str | None, cpu_moe: int | str | None
) -> Placement:
    """The placement the options ask for, else all in VRAM, else the fastest to decode among those that fit.

    A model that fits in VRAM is put there, as engines do: where launches bound a step a processor may decode
    as fast, and take ten times as long for a prompt.

    When nothing fits, the one that is least short of memory; the memory report then says what is missing.
    """
    graph, hardware, _, engine, _ = problem
    room = _room_for_weights(problem)
    asked = requested(
        graph, hardware, engine, kind=kind, gpu_layers=gpu_layers, cpu_moe=cpu_moe, ram_for_weights_bytes=room
    )
    if asked is not None:
        return asked if kind is not None else _spilled(problem, asked, room)
    found = candidates(graph, hardware, engine, fits(problem), room)
    allowed = [p for p in found if kind is None or p.kind == kind]
    whole = [p for p in allowed if p.kind in WHOLE]
    if whole or allowed:
        return min(whole or allowed, key=lambda p: _step_s(problem, p))
    return _nearest(problem, kind, room)


def feasible(
    problem: Problem, *, kind: str | None, gpu_layers: int | str | None, cpu_moe: int | str | None
) -> Iterator[Placement]:
    """The placements that fit, of which ``choose_placement`` takes the fastest; none when nothing fits."""
    graph, hardware, _, engine, _ = problem
    room = _room_for_weights(problem)
    asked = requested(
        graph, hardware, engine, kind=kind, gpu_layers=gpu_layers, cpu_moe=cpu_moe, ram_for_weights_bytes=room
    )
    if asked is not None:
        yield from (
            p for p in [asked if kind is not None else _spilled(problem, asked, room)] if fits(problem)(p)
        )
        return
    found = candidates(graph, hardware, engine, fits(problem), room)
    yield from (p for p in found if kind is None or p.kind == kind)


def fits(problem: Problem, *, but_for_ram: bool = False) -> Callable[[Placement], bool]:
    """Whether a placement fits, or only its GPUs' part of it ``but_for_ram``."""
    graph, hardware, workload, engine, _ = problem
    room = {} if but_for_ram else {"ram": usable_ram_bytes(hardware)}
    room |= {f"gpu{i}": gpu_capacity_bytes(gpu, hardware, engine) for i, gpu in enumerate(hardware.gpus)}

    def holds(placement: Placement) -> bool:
        # Where the weights alone are too many, no buffer need be computed: half of a search's trials.
        held = weights_by_tier(graph, placement)
        if any(n // placement.tensor_parallel > room[tier] for tier, n in held.items() if tier in room):
            return False
        report = memory_report(graph, hardware, workload, placement, engine)
        if but_for_ram:
            return all(d.headroom_bytes >= 0 for d in report.devices if d.device != "ram")
        return report.fits

    return holds


def _nearest(problem: Problem, kind: str | None, room: int) -> Placement:
    """Of the placements that do not fit the one that is least short, of ``kind`` where it is asked for.

    The GPUs of a split are filled as far as they go, so that RAM is what is missing; an engine that maps its
    file lacks no room for weights there. Of equals the first.
    """
    graph, hardware, workload, engine, _ = problem

    def short_bytes(placement: Placement) -> int:
        devices = memory_report(graph, hardware, workload, placement, engine).devices
        return sum(max(0, -device.headroom_bytes) for device in devices)

    tries = list(unfit(graph, hardware, engine, fits(problem, but_for_ram=True)))
    if kind in (None, "disk") and engine.mmap and "disk" in engine.splits:
        tries = [mapped(graph, placement, room) for placement in tries]
    return min([p for p in tries if p.kind == kind] or tries, key=short_bytes)


def _spilled(problem: Problem, asked: Placement, room: int) -> Placement:
    """``asked``, or with what RAM cannot hold left in a mapped file: what the engine would do."""
    graph, _, _, engine, _ = problem
    if not engine.mmap or "disk" not in engine.splits or fits(problem)(asked):
        return asked
    spilled = mapped(graph, asked, room)
    return spilled if fits(problem)(spilled) else asked


def _room_for_weights(problem: Problem) -> int:
    """RAM left for mapped weights by what a CPU run needs beside them: cache, buffers, process, margin."""
    graph, hardware, workload, engine, _ = problem
    report = memory_report(graph, hardware, workload, on_cpu(graph), engine)
    ram = next(d for d in report.devices if d.device == "ram")
    # A mapped file that does not fit is not repacked: of the overhead only the process itself remains.
    beside = ram.total_bytes - ram.weights_bytes - ram.overhead_bytes
    beside += host_process_bytes(graph.spec.vocab_size)
    margin = ram.margin_bytes / max(1, ram.resident_bytes)
    return int(usable_ram_bytes(hardware) / (1 + margin)) - beside


def _step_s(problem: Problem, placement: Placement) -> float:
    graph, hardware, workload, engine, calibration = problem
    return decode_time(graph, hardware, workload, placement, engine, calibration).seconds
