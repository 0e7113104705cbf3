"""What would make a model fit that does not: the smallest changes, in words."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.domain.result import DeviceMemory, MemoryReport
from moeplan.engines.machines import lacks
from moeplan.engines.traits import ENGINES
from moeplan.predict.choice import choose_placement, fits
from moeplan.predict.placement import on_cpu, usable_ram_bytes
from moeplan.predict.problem import Problem
from moeplan.units import fmt_bytes

# llama.cpp's Q4_K_M takes 4.8 to 4.9 bits a weight; from 7 on a type counts as wide.
_NARROW_BITS, _WIDE_BITS = 4.9, 7.0
_ROOM_FRAC = 0.9
"""Of all memory, what weights may take when they are suggested: the rest is for caches and buffers."""


def smallest_fix(problem: Problem, memory: MemoryReport) -> str:
    """The smallest change that would make it fit, in words."""
    lacking = [d for d in memory.devices if d.headroom_bytes < 0]
    short = min(lacking, key=lambda d: d.headroom_bytes)
    missing = -short.headroom_bytes
    changes = [_more_memory(lacking)]
    work, with_margin = problem.workload, 1 + short.margin_bytes / max(1, short.resident_bytes)
    if (short.kv_bytes + short.compute_bytes) * with_margin > missing and work.context_tokens > 512:
        changes.append("a shorter context (--context max finds the longest that fits)")
    one_sequence = (short.kv_bytes + short.state_bytes) / work.n_sequences
    if one_sequence * (work.n_sequences - 1) * with_margin > missing:
        changes.append("a smaller batch (--batch max finds the largest that fits)")
    if narrower := _narrower(problem):
        changes.append(narrower)
    if problem.hardware.unified and "cpu" in problem.engine.splits and fits(problem)(on_cpu(problem.graph)):
        changes.append("--placement cpu, which RAM has room for")
    llama = ENGINES["llama.cpp"]
    if problem.engine.id != llama.id and "experts" not in problem.engine.splits and _fits_in_llama(problem):
        changes.append(f"--engine {llama.id}, which can keep part of the weights in RAM")
    return ", or ".join(changes)


def _narrower(problem: Problem) -> str:
    """Weights of 4 bits under llama.cpp, where wide ones were asked for and those have room; else ""."""
    graph, hardware = problem.graph, problem.hardware
    narrow_bytes = graph.params.total * _NARROW_BITS / 8
    wide = 8 * graph.weights_bytes > graph.params.total * _WIDE_BITS
    room = sum(gpu.usable_bytes for gpu in hardware.gpus)
    room += 0 if hardware.unified else usable_ram_bytes(hardware)
    if graph.origin != "rules" or not wide or narrow_bytes > _ROOM_FRAC * room:
        return ""
    if lacks(ENGINES["llama.cpp"], hardware):
        return ""
    return f"--quant q4_k_m with llama.cpp: weights of about {fmt_bytes(narrow_bytes)}"


def _more_memory(lacking: Sequence[DeviceMemory]) -> str:
    """What each device lacks; several GPUs in one breath, by the one that lacks most."""
    gpus = [d for d in lacking if d.device.startswith("gpu")]
    groups = [(f"each of {len(gpus)} GPUs", gpus)] if len(gpus) > 1 else [(d.device, [d]) for d in gpus]
    groups += [(d.device, [d]) for d in lacking if d not in gpus]
    return " and ".join(
        f"{fmt_bytes(max(-d.headroom_bytes for d in devices))} more on {where}" for where, devices in groups
    )


def _fits_in_llama(problem: Problem) -> bool:
    llama = ENGINES["llama.cpp"]
    if problem.hardware.unified or lacks(llama, problem.hardware):
        return False
    trial = problem._replace(engine=llama)
    placement = choose_placement(trial, kind=None, gpu_layers=None, cpu_moe=None)
    return placement.kind != "disk" and fits(trial)(placement)
