"""One model on one machine in one placement: memory, time, range and what they rest on."""

from __future__ import annotations

from typing import Literal, NamedTuple

from moeplan.cost.coverage import expected_experts
from moeplan.domain.graph import ModelGraph
from moeplan.domain.model import MoeFfn
from moeplan.domain.result import Confidence, Estimate, PhaseTime, Range, Support
from moeplan.domain.workload import Placement
from moeplan.engines.traits import EngineTraits
from moeplan.memory.notes import counted_notes
from moeplan.memory.report import memory_report
from moeplan.predict.explain import (
    Spread,
    explain_load,
    explain_machine,
    explain_model,
    explain_request,
    explain_room,
    explain_speed,
)
from moeplan.predict.fixes import smallest_fix
from moeplan.predict.interval import FEW_SETUPS, closest, ideal, is_uncharted, stretch_of, time_range
from moeplan.predict.notes import left_out_notes, tight_notes
from moeplan.predict.phases import decode_time, prefill_time
from moeplan.predict.problem import Problem
from moeplan.provenance import NULL_LEDGER, Ledger


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
        fix="" if memory.fits or not advise else smallest_fix(problem, memory),
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
        unseen=behind.unseen,
    )


# "local.stream.bandwidth" is of all machines, "local.apple.m5.compute" of one kind.
_GENERAL_DOTS = 2


def _support(phase: _Phase) -> Support:
    stand_in, n_setups = phase.spread.stand_in, phase.spread.residuals.n_setups
    return Support(
        regime=phase.regime,
        n_reference_setups=0 if stand_in else n_setups,
        extrapolated=stand_in or n_setups < FEW_SETUPS,
        unseen=tuple(
            dict.fromkeys(
                _unseen_kind(name)
                for name in (*phase.time.unseen, *phase.time.guessed)
                if name.count(".") > _GENERAL_DOTS
            )
        ),
    )


def _unseen_kind(name: str) -> str:
    """What the coefficient ``name`` is of: an engine, a type, the architecture of a GPU, or a kind of core.

    >>> _unseen_kind("local.engine.lm-studio.bandwidth"), _unseen_kind("server.gpu.ada.compute")
    ('engine lm-studio', 'ada')
    >>> _unseen_kind("local.cpu.flop_per_s_per_core.neon")
    'neon'
    """
    for mark, what in ((".engine.", "engine"), (".quant.", "type")):
        if mark in name:
            return f"{what} {name.partition(mark)[2].rpartition('.')[0].removesuffix('.moe')}"
    return name.replace(".flop_per_s_per_core", "").split(".")[2]


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
        stretch=stretch_of(time, n_setups=0 if stand_in else residuals.n_setups),
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


def _phase_seconds(phase: str, problem: Problem, placement: Placement) -> float:
    return _phase_time(phase, problem, placement, NULL_LEDGER).seconds


def _phase_time(phase: str, problem: Problem, placement: Placement, ledger: Ledger) -> PhaseTime:
    graph, hardware, workload, engine, calibration = problem
    timer = decode_time if phase == "decode" else prefill_time
    return timer(graph, hardware, workload, placement, engine, calibration, ledger)
