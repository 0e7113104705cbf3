"""Predict every row of a corpus from its setup columns alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from moeplan.api.resolve import Session
from moeplan.cost.law import step_ops
from moeplan.cost.ops import Op
from moeplan.cost.timing import time_of
from moeplan.domain.calibration import Calibration
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.request import EstimateRequest
from moeplan.domain.workload import Placement
from moeplan.engines.fused import fused_by_default
from moeplan.errors import MoeplanError
from moeplan.predict.capacity import largest_batch, with_batch
from moeplan.predict.choice import choose_placement
from moeplan.predict.estimate import residual_regime
from moeplan.predict.interval import closest, is_uncharted, stretch_of, time_range
from moeplan.predict.phases import decode_step, overlap_frac, prefill_steps
from moeplan.predict.placement import experts_whole, on_cpu, requested, usable_ram_bytes
from moeplan.predict.problem import Problem
from moeplan.predict.serving import stall_ops
from moeplan.readers.corpus import SpeedRow
from moeplan.readers.engine_runs import EngineRun
from moeplan.units import GIB
from moeplan.validate.rows import about, regime_of, request_of
from moeplan.validate.score import Scored


class Skipped(NamedTuple):
    """A row that was not predicted, and why."""

    id: str
    reason: str


class Traced(NamedTuple):
    """One corpus row with the operations its time is made of."""

    row: SpeedRow
    problem: Problem
    placement: Placement
    ops: tuple[Op, ...]
    n_tokens: int

    @property
    def measured_s(self) -> float:
        """The time the row's speed stands for."""
        return self.n_tokens / self.row.tokens_per_s


def trace_rows(rows: Iterable[SpeedRow], session: Session) -> tuple[list[Traced], list[Skipped]]:
    """All rows that can be predicted; the others with their reason."""
    traced, skipped = [], []
    for row in rows:
        try:
            traced.append(trace_row(row, session))
        except MoeplanError as error:
            skipped.append(Skipped(row.id, str(error)))
    return traced, skipped


def trace_row(row: SpeedRow, session: Session) -> Traced:
    """The operations of what ``row`` measured. Raises a MoeplanError."""
    request = request_of(row, _cpu_of(row, session))
    problem = session.problem(request, [], measured=True)
    fused = _fused(row, problem)
    work = replace(problem.workload, engine_date=row.date, flash_attention=fused)
    problem = problem._replace(workload=work)
    if row.power_limit_w is not None:
        problem = problem._replace(hardware=_held_to(row.power_limit_w, problem.hardware))
    if row.file_gib:
        problem = problem._replace(graph=session.resized(problem.graph, row.file_gib * GIB))
    placement = _placed(problem, request)
    if not row.arch_class:
        row = replace(row, arch_class="moe" if problem.graph.spec.is_moe else "dense")
    if row.metric == "tpot_ms":
        problem = _admitted(problem, placement)
    if row.ep > 1 and row.ep == placement.tensor_parallel and problem.graph.spec.is_moe:
        placement = experts_whole(placement)
    ops, n_tokens = phase_ops("request" if row.whole_request else row.phase, problem, placement)
    if row.metric == "tpot_ms":
        ops = [*ops, *stall_ops(problem, placement, row.prompt_tokens or 0, equal_lengths=row.equal_lengths)]
        n_tokens = row.batch  # what the row's speed was worked out from, however many ran at once
    return Traced(row, problem, placement, tuple(ops), n_tokens)


def _held_to(watts: float, hardware: HardwareSpec) -> HardwareSpec:
    """``hardware`` whose GPUs draw at most ``watts`` each."""
    gpus = tuple(replace(g, tdp_w=min(watts, g.tdp_w)) if g.tdp_w else g for g in hardware.gpus)
    return replace(hardware, gpus=gpus)


def _fused(row: SpeedRow, problem: Problem) -> bool:
    """Whether attention was fused; a quantised cache of values needs it."""
    if row.flash_attn is not None:
        return row.flash_attn
    quantised = problem.workload.kv_type_v not in ("f32", "f16", "bf16")
    architecture = problem.graph.spec.architecture
    return quantised or fused_by_default(problem.engine, row.date, architecture, bench=_has_bench_sizes(row))


# What llama-bench measures unless it is told otherwise: pp512 and tg128.
_BENCH_PROMPT, _BENCH_ANSWER = 512, 128


def _has_bench_sizes(row: SpeedRow) -> bool:
    return row.gen_tokens == _BENCH_ANSWER or (row.phase == "prefill" and row.prompt_tokens == _BENCH_PROMPT)


def _admitted(problem: Problem, placement: Placement) -> Problem:
    """``problem`` with as many of its sequences as have room for their caches: the others wait in a queue."""
    asked = problem.workload.n_sequences
    running = largest_batch(problem, lambda _: placement, asked)
    return with_batch(problem, running) if 0 < running < asked else problem


def _placed(problem: Problem, request: EstimateRequest) -> Placement:
    """Where the row says its weights were; what does not fit on paper ran all the same."""
    graph, hardware, _, engine, _ = problem
    asked = requested(
        graph,
        hardware,
        engine,
        kind=request.placement,
        gpu_layers=request.gpu_layers,
        cpu_moe=request.cpu_moe,
        ram_for_weights_bytes=usable_ram_bytes(hardware),
    )
    if asked is not None:
        return asked
    return choose_placement(
        problem, kind=request.placement, gpu_layers=request.gpu_layers, cpu_moe=request.cpu_moe
    )


def trace_runs(runs: Iterable[EngineRun], session: Session) -> list[Traced]:
    """Rows of a machine's own engine runs, whose models are in no catalog."""
    traced = []
    for run in runs:
        row = run.row
        problem = session.run_problem(request_of(row, row.cpu), run.spec)
        placement = on_cpu(problem.graph)
        ops, n_tokens = phase_ops(row.phase, problem, placement)
        traced.append(Traced(row, problem, placement, tuple(ops), n_tokens))
    return traced


def phase_ops(phase: str, problem: Problem, placement: Placement) -> tuple[list[Op], int]:
    """(operations, tokens produced) of a decode step, a whole prefill, or a request with both."""
    graph, hardware, work, engine, _ = problem
    if phase == "decode":
        return _decode_ops(problem, placement), work.n_sequences
    share = overlap_frac(graph.spec, work, placement, engine)
    prefill = [
        op.times(n * share)
        for step, n in prefill_steps(graph.spec, work, engine)
        for op in step_ops(graph, hardware, work, placement, engine, step)[0]
    ]
    if phase == "prefill":
        return prefill, work.n_sequences * work.prompt_tokens
    decode = _decode_ops(problem, placement)
    return [*prefill, *(op.times(work.output_tokens) for op in decode)], work.n_sequences * work.output_tokens


def _decode_ops(problem: Problem, placement: Placement) -> list[Op]:
    graph, hardware, work, engine, _ = problem
    return step_ops(graph, hardware, work, placement, engine, decode_step(work, graph.spec))[0]


def _cpu_of(row: SpeedRow, session: Session) -> str:
    """The catalog's name of the processor, from its id or from what the source calls it."""
    if row.cpu or not row.cpu_raw:
        return row.cpu
    from moeplan.readers.hardware_parts import cpu_names

    names = cpu_names(row.cpu_raw)
    return next((n for n in names if session.catalog.resolve("hardware/cpu", n) is not None), "")


def score_speed(
    rows: Iterable[SpeedRow], session: Session, level: float
) -> tuple[list[Scored], list[Skipped]]:
    """Every row beside its prediction, with the range moeplan prints; what cannot be predicted, with why."""
    scored = []
    traced, skipped = trace_rows(rows, session)
    for item in traced:
        try:
            scored.append(score_row(item, session.calibration, level))
        except MoeplanError as error:
            skipped.append(Skipped(item.row.id, str(error)))
    return scored, skipped


def asked_regime(item: Traced) -> str:
    """The regime whose residuals make the range of a row; the answer is nearly all of a whole request."""
    phase = "decode" if item.row.phase == "request" else item.row.phase
    return residual_regime(phase, item.problem, item.placement)


def score_row(item: Traced, calibration: Calibration, level: float) -> Scored:
    """One row in the unit of its metric."""
    row, problem = item.row, item.problem
    time = time_of(item.ops, 0.0, 0.0, problem.hardware, calibration)
    _, residuals, stand_in = closest(calibration, asked_regime(item))
    alike = 0 if stand_in or is_uncharted(problem.hardware) else residuals.n_setups
    stretch = stretch_of(time, n_setups=alike)
    span = time_range(time.seconds, residuals, level, stretch=stretch, guess_log=time.guess_log)
    if row.metric == "tpot_ms":
        low, predicted, high = (1000.0 * s for s in (span.low, span.expected, span.high))
    else:
        low, predicted, high = (item.n_tokens / s for s in (span.high, span.expected, span.low))
    return Scored(
        id=row.id,
        setup=row.setup,
        source_family=row.source_family,
        about=about(row),
        regime=regime_of(row),
        measured=row.value,
        predicted=predicted,
        low=low,
        high=high,
    )
