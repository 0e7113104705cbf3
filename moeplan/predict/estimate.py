"""One model on one machine: choose a placement, then memory, time, range and what they rest on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from moeplan.cost.coverage import expected_experts
from moeplan.domain.graph import ModelGraph
from moeplan.domain.model import MoeFfn
from moeplan.domain.result import Confidence, DeviceMemory, Estimate, MemoryReport, PhaseTime, Range, Support
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.machines import lacks
from moeplan.engines.traits import ENGINES, EngineTraits
from moeplan.memory.capacity import gpu_capacity_bytes, host_process_bytes
from moeplan.memory.notes import counted_notes
from moeplan.memory.report import memory_report, weights_by_tier
from moeplan.predict.explain import (
    Spread,
    explain_load,
    explain_machine,
    explain_model,
    explain_request,
    explain_room,
    explain_speed,
)
from moeplan.predict.interval import FEW_SETUPS, closest, ideal, is_uncharted, stretch_of, time_range
from moeplan.predict.notes import left_out_notes, tight_notes
from moeplan.predict.phases import decode_time, prefill_time
from moeplan.predict.placement import candidates, mapped, on_cpu, requested, unfit, usable_ram_bytes
from moeplan.predict.problem import Problem
from moeplan.provenance import NULL_LEDGER, Ledger
from moeplan.units import fmt_bytes

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
    found = candidates(graph, hardware, engine, _fits(problem), room)
    allowed = [p for p in found if kind is None or p.kind == kind]
    whole = [p for p in allowed if p.kind in WHOLE]
    if whole or allowed:
        return min(whole or allowed, key=lambda p: _phase_seconds("decode", problem, p))
    return _nearest(problem, kind, room)


def _nearest(problem: Problem, kind: str | None, room: int) -> Placement:
    """Of the placements that do not fit the one that is least short, of ``kind`` where it is asked for.

    The GPUs of a split are filled as far as they go, so that RAM is what is missing; an engine that maps its
    file lacks no room for weights there. Of equals the first.
    """
    graph, hardware, workload, engine, _ = problem

    def short_bytes(placement: Placement) -> int:
        devices = memory_report(graph, hardware, workload, placement, engine).devices
        return sum(max(0, -device.headroom_bytes) for device in devices)

    tries = list(unfit(graph, hardware, engine, _fits(problem, but_for_ram=True)))
    if kind in (None, "disk") and engine.mmap and "disk" in engine.splits:
        tries = [mapped(graph, placement, room) for placement in tries]
    return min([p for p in tries if p.kind == kind] or tries, key=short_bytes)


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
            p for p in [asked if kind is not None else _spilled(problem, asked, room)] if _fits(problem)(p)
        )
        return
    found = candidates(graph, hardware, engine, _fits(problem), room)
    yield from (p for p in found if kind is None or p.kind == kind)


def _spilled(problem: Problem, asked: Placement, room: int) -> Placement:
    """``asked``, or with what RAM cannot hold left in a mapped file: what the engine would do."""
    graph, _, _, engine, _ = problem
    if not engine.mmap or "disk" not in engine.splits or _fits(problem)(asked):
        return asked
    spilled = mapped(graph, asked, room)
    return spilled if _fits(problem)(spilled) else asked


def estimate(
    problem: Problem,
    placement: Placement,
    *,
    level: float,
    assumptions: tuple[str, ...] = (),
    not_modelled: tuple[str, ...] = (),
    ledger: Ledger = NULL_LEDGER,
    advise: bool = True,
) -> Estimate:
    """Memory, time and confidence of ``placement``. Raises NotModelled where a rate is unknown.

    ``advise`` looks for a fix where it does not fit, which costs more than the rest.
    """
    graph, hardware, workload, engine, _ = problem
    explain_model(graph, ledger)
    explain_machine(problem, ledger)
    explain_request(problem, placement, ledger)
    memory = memory_report(graph, hardware, workload, placement, engine, ledger)
    explain_room(problem, memory, ledger)
    decode = _phase("decode", problem, placement, level, ledger)
    prefill = _phase("prefill", problem, placement, level, ledger)
    load_s = graph.file_bytes / hardware.host.storage.read_bytes_per_s
    for phase in (decode, prefill):
        explain_speed(problem, phase.name, phase.time, phase.span, phase.spread, ledger)
    explain_load(graph, hardware, load_s, ledger)
    return Estimate(
        model=graph.spec,
        quant=graph.quant,
        params=graph.params,
        weights_bytes=graph.weights_bytes,
        hardware=hardware,
        workload=workload,
        placement=placement,
        memory=memory,
        fits=memory.fits,
        fix="" if memory.fits or not advise else _fix(problem, memory),
        level=level,
        decode=decode.time,
        decode_step_s=decode.span,
        prefill=prefill.time,
        prefill_s=prefill.span,
        load_s=load_s,
        flop_prefill=prefill.time.flop,
        flop_decode_per_token=decode.time.flop / workload.n_sequences,
        experts_touched_per_layer=experts_touched(graph, workload.n_sequences),
        confidence=_confidence(decode, prefill, engine),
        not_modelled=(
            *not_modelled,
            *left_out_notes(problem, placement),
            *tight_notes(memory, hardware.reserve_vram_bytes),
        ),
        assumptions=assumptions + counted_notes(graph, workload, placement, engine),
        explain=ledger.terms,
    )


class _Phase(NamedTuple):
    """Decode or prefill: its time, and the range around it."""

    name: Literal["decode", "prefill"]
    regime: str
    time: PhaseTime
    span: Range
    spread: Spread


def _phase(
    name: Literal["decode", "prefill"], problem: Problem, placement: Placement, level: float, ledger: Ledger
) -> _Phase:
    """A phase by the law, with the range of its regime."""
    time = _phase_time(name, problem, placement, ledger)
    regime = residual_regime(name, problem, placement)
    return _Phase(name, regime, time, *_span(time, regime, problem, placement, level))


def _confidence(decode: _Phase, prefill: _Phase, engine: EngineTraits) -> Confidence:
    """How sure, by the setups behind the range of decode; of the prompt's range it says its own."""
    behind = _support(decode)
    return Confidence(
        badge="assumed" if behind.extrapolated else decode.time.badge,
        regime=behind.regime,
        n_reference_setups=behind.n_reference_setups,
        extrapolated=behind.extrapolated,
        engine_status=engine.status,
        prefill=_support(prefill),
    )


def _support(phase: _Phase) -> Support:
    stand_in, n_setups = phase.spread.stand_in, phase.spread.residuals.n_setups
    return Support(
        regime=phase.regime,
        n_reference_setups=0 if stand_in else n_setups,
        extrapolated=stand_in or n_setups < FEW_SETUPS,
    )


def _span(
    time: PhaseTime, regime: str, problem: Problem, placement: Placement, level: float
) -> tuple[Range, Spread]:
    """The range around the time of a phase, and what it was made from."""
    key, residuals, stand_in = closest(problem.calibration, regime)
    stand_in = stand_in or is_uncharted(problem.hardware)
    floor = problem._replace(calibration=ideal(problem.calibration))
    spread = Spread(
        regime=key,
        residuals=residuals,
        stand_in=stand_in,
        level=level,
        stretch=stretch_of(time, stand_in=stand_in),
        floor_s=_phase_seconds(regime.partition("/")[0], floor, placement),
        guess_log=time.guess_log,
    )
    span = time_range(
        time.seconds,
        residuals,
        level,
        stretch=spread.stretch,
        floor_s=spread.floor_s,
        guess_log=time.guess_log,
    )
    return span, spread


def residual_regime(phase: str, problem: Problem, placement: Placement) -> str:
    """``phase/placement/arch_class``; servers are one placement, whatever their parallelism."""
    arch = "moe" if problem.graph.spec.is_moe else "dense"
    kind: str = placement.kind
    if problem.engine.family == "server":
        kind = "server"
    elif problem.engine.id == "transformers":
        kind = "eager"  # launches from Python bound it, wherever the weights are
    return f"{phase}/{kind}/{arch}"


def experts_touched(graph: ModelGraph, n_tokens: int) -> float | None:
    """Expected distinct experts a MoE layer reads for ``n_tokens`` tokens; the mean over MoE layers."""
    layers = [b.ffn for b in graph.spec.layer_blocks() if isinstance(b.ffn, MoeFfn)]
    if not layers:
        return None
    return sum(expected_experts(f.n_experts, f.n_active, n_tokens) for f in layers) / len(layers)


def largest_context(problem: Problem, limit: int, place: Callable[[Problem], Placement]) -> int:
    """The largest context up to ``limit`` tokens at which the chosen placement fits, in steps of 256.

    0 when not even 256 tokens fit. Placements that page from disk do not count as fitting.
    """

    def ok(blocks: int) -> bool:
        tokens = min(limit, blocks * 256)
        trial = problem._replace(workload=with_context(problem.workload, tokens))
        placement = place(trial)
        return placement.kind != "disk" and _fits(trial)(placement)

    low, high = 0, -(-limit // 256)
    while low < high:
        middle = (low + high + 1) // 2
        if ok(middle):
            low = middle
        else:
            high = middle - 1
    return min(limit, low * 256)


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


def _fits(problem: Problem, *, but_for_ram: bool = False) -> Callable[[Placement], bool]:
    """Whether a placement fits, or only its GPUs' part of it ``but_for_ram``."""
    graph, hardware, workload, engine, _ = problem
    room = {} if but_for_ram else {"ram": usable_ram_bytes(hardware)}
    room |= {f"gpu{i}": gpu_capacity_bytes(gpu, hardware, engine) for i, gpu in enumerate(hardware.gpus)}

    def fits(placement: Placement) -> bool:
        # Where the weights alone are too many, no buffer need be computed: half of a search's trials.
        held = weights_by_tier(graph, placement)
        if any(n // placement.tensor_parallel > room[tier] for tier, n in held.items() if tier in room):
            return False
        report = memory_report(graph, hardware, workload, placement, engine)
        if but_for_ram:
            return all(d.headroom_bytes >= 0 for d in report.devices if d.device != "ram")
        return report.fits

    return fits


def _phase_seconds(phase: str, problem: Problem, placement: Placement) -> float:
    return _phase_time(phase, problem, placement, NULL_LEDGER).seconds


def _phase_time(phase: str, problem: Problem, placement: Placement, ledger: Ledger) -> PhaseTime:
    graph, hardware, workload, engine, calibration = problem
    timer = decode_time if phase == "decode" else prefill_time
    return timer(graph, hardware, workload, placement, engine, calibration, ledger)


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


def _fix(problem: Problem, memory: MemoryReport) -> str:
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
    if problem.hardware.unified and "cpu" in problem.engine.splits and _fits(problem)(on_cpu(problem.graph)):
        changes.append("--placement cpu, which RAM has room for")
    llama = ENGINES["llama.cpp"]
    if problem.engine.id != llama.id and "experts" not in problem.engine.splits and _fits_in_llama(problem):
        changes.append(f"--engine {llama.id}, which can keep part of the weights in RAM")
    return ", or ".join(changes)


# llama.cpp's Q4_K_M takes 4.8 to 4.9 bits a weight; from 7 on a type counts as wide.
_NARROW_BITS, _WIDE_BITS = 4.9, 7.0
_ROOM_FRAC = 0.9
"""Of all memory, what weights may take when they are suggested: the rest is for caches and buffers."""


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
    return placement.kind != "disk" and _fits(trial)(placement)
