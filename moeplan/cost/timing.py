"""From the operations of a phase to its time, what binds it, and an explanation that adds up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from moeplan.cost.law import step_ops
from moeplan.cost.ops import Names, Op, Scales, scales_of
from moeplan.cost.work import Step
from moeplan.domain.calibration import Calibration
from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.result import PhaseTime
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.traits import EngineTraits
from moeplan.provenance import KINDS, NULL_LEDGER, Ledger, NullLedger, Source, SourceKind

# A term below this share of the time neither sets the badge nor makes a prediction an extrapolation.
_MATTERS = 0.1
# Log of the factor within which eight of ten rates lie that no row speaks of: their priors have a spread of
# 0.4 and more (calibrate/priors.py).
_GUESS_LOG = 0.5


def time_of(
    ops: Sequence[Op],
    flop: float,
    bytes_read: float,
    hardware: HardwareSpec,
    calibration: Calibration,
    ledger: Ledger = NULL_LEDGER,
    *,
    name: str = "step",
    n_steps: float = 1.0,
    n_passes: float | None = None,
) -> PhaseTime:
    """Expected time of ``n_steps`` equal steps made of ``ops``.

    ``n_passes`` is how many of them follow each other in time where some overlap; the work stays the same.
    """
    scales = scales_of(calibration)
    seconds: dict[str, float] = {}
    for op in ops:
        seconds[op.term] = seconds.get(op.term, 0.0) + op.seconds(scales)
    total, assumed_s = sum(seconds.values()), _assumed(seconds, hardware)
    in_time = n_steps if n_passes is None else n_passes
    if not isinstance(ledger, NullLedger):
        _explain(ops, seconds, hardware, calibration, (n_steps, in_time), name, ledger)
    return PhaseTime(
        seconds=total * in_time,
        bound=max(seconds, key=lambda term: seconds[term]),
        terms=tuple((term, value * in_time) for term, value in seconds.items()),
        badge=_badge(ops, seconds, total, hardware, scales),
        flop=flop * n_steps,
        bytes_read=bytes_read * n_steps,
        unseen=_unseen(ops, seconds, total, scales),
        guessed=_guessed(ops, seconds, total, scales),
        assumed_s=assumed_s * in_time,
        guess_log=_guess_log(ops, total, assumed_s, hardware, scales),
    )


def step_time(
    graph: ModelGraph,
    hardware: HardwareSpec,
    workload: Workload,
    placement: Placement,
    engine: EngineTraits,
    calibration: Calibration,
    step: Step,
    ledger: Ledger = NULL_LEDGER,
    *,
    name: str = "step",
    n_steps: float = 1.0,
    n_passes: float | None = None,
) -> PhaseTime:
    """Expected time of ``n_steps`` equal steps, ``n_passes`` in time. Raises NotModelled without a rate."""
    ops, flop, bytes_read = step_ops(graph, hardware, workload, placement, engine, step)
    return time_of(
        ops, flop, bytes_read, hardware, calibration, ledger, name=name, n_steps=n_steps, n_passes=n_passes
    )


def joined(times: Sequence[PhaseTime]) -> PhaseTime:
    """One after the other; what is said of the longest of ``times`` is said of all."""
    terms: dict[str, float] = {}
    for time in times:
        for term, seconds in time.terms:
            terms[term] = terms.get(term, 0.0) + seconds
    longest = max(times, key=lambda time: time.seconds)
    return PhaseTime(
        seconds=sum(time.seconds for time in times),
        bound=max(terms, key=lambda term: terms[term]),
        terms=tuple(terms.items()),
        badge=longest.badge,
        flop=sum(time.flop for time in times),
        bytes_read=sum(time.bytes_read for time in times),
        unseen=longest.unseen,
        guessed=longest.guessed,
        assumed_s=sum(time.assumed_s for time in times),
        guess_log=max(time.guess_log for time in times),
    )


def _unseen(ops: Sequence[Op], seconds: Mapping[str, float], total: float, scales: Scales) -> tuple[str, ...]:
    """Particular coefficients of terms above a tenth of the time that the calibration does not have."""
    missing: dict[str, None] = {}
    for op in ops:
        if seconds[op.term] >= _MATTERS * total:
            missing.update(dict.fromkeys(scales.missing(op.moving)))
            if op.computing_s:
                missing.update(dict.fromkeys(scales.missing(op.computing)))
            missing.update(dict.fromkeys(scales.missing(op.waiting)))
            missing.update(dict.fromkeys(scales.missing(op.unpacking)))
    return tuple(missing)


def _guessed(
    ops: Sequence[Op], seconds: Mapping[str, float], total: float, scales: Scales
) -> tuple[str, ...]:
    """Coefficients of terms above a tenth of the time that no row speaks of: tables or guesses alone do."""
    weighty = (op for op in ops if seconds[op.term] >= _MATTERS * total)
    return tuple(sorted({name for op in weighty for name in scales.guessed(*op.names)}))


def _assumed(seconds: Mapping[str, float], hardware: HardwareSpec) -> float:
    if hardware.host.ram_basis != "assumed":
        return 0.0
    return sum(value for term, value in seconds.items() if term.startswith("CPU "))


def _guess_log(
    ops: Sequence[Op], total: float, assumed_s: float, hardware: HardwareSpec, scales: Scales
) -> float:
    """What guesses leave open of ``total``, each taken as independent of the others."""
    if not total:
        return 0.0
    errors = [math.log(hardware.host.guess_factor) * assumed_s / total]
    for name in {n for op in ops for n in scales.guessed(*op.names)}:
        other = scales.moved(name, math.exp(_GUESS_LOG))
        errors.append(math.log(sum(op.seconds(other) for op in ops) / total))
    return math.hypot(*errors)


def _badge(
    ops: Sequence[Op],
    seconds: dict[str, float],
    total: float,
    hardware: HardwareSpec,
    scales: Scales,
) -> SourceKind:
    """The least trustworthy source among the terms that carry at least a tenth of the time."""
    # Over many GPUs no term carries a tenth: then the largest ones speak for the sum.
    least = min(_MATTERS * total, max(seconds.values()))
    worst = 0
    for op in ops:
        if seconds[op.term] >= least:
            worst = max(worst, _kind(op, hardware, scales))
    return KINDS[worst]


def _kind(op: Op, hardware: HardwareSpec, scales: Scales) -> int:
    """Index in ``KINDS`` of where a term comes from; the same as that of ``_source``."""
    if _reads_assumed_ram(op, hardware):
        return _ASSUMED
    kind = max(scales.worst_kind(names) for names in (op.moving, op.computing, op.waiting, op.unpacking))
    return kind if kind >= 0 else _DATASHEET


def _reads_assumed_ram(op: Op, hardware: HardwareSpec) -> bool:
    """Whether the time of ``op`` rests on a RAM bandwidth that nobody stated; a wait for cores does not."""
    return hardware.host.ram_basis == "assumed" and op.term.startswith("CPU ") and op.n_bytes > 0


_ASSUMED, _DATASHEET = KINDS.index("assumed"), KINDS.index("datasheet")


def _source(op: Op, hardware: HardwareSpec, calibration: Calibration) -> Source:
    """Where a term comes from: its least trustworthy coefficient, or the bandwidth it assumes."""
    if _reads_assumed_ram(op, hardware):
        return Source("assumed", "RAM bandwidth as is usual for this processor; --ram-gbs says it")
    coefficients = calibration.coefficients
    names = (*op.moving, *op.computing, *op.waiting, *op.unpacking)
    sources = [coefficients[n].source for n in names if n in coefficients]
    if not sources:
        return Source("datasheet", "rates of the hardware catalog")
    return max(sources, key=lambda source: KINDS.index(source.kind))


def _explain(
    ops: Sequence[Op],
    seconds: dict[str, float],
    hardware: HardwareSpec,
    calibration: Calibration,
    steps: tuple[float, float],
    name: str,
    ledger: Ledger,
) -> None:
    n_steps, in_time = steps
    ledger.open()
    for term, value in seconds.items():
        mine = [op for op in ops if op.term == term]
        inputs: dict[str, object] = {
            "bytes": sum(op.n_bytes for op in mine) * n_steps,
            "FLOP": sum(op.flop for op in mine) * n_steps,
        }
        for op in mine:
            inputs.update(op.inputs)
            inputs.update(_used(op.moving, calibration))
            inputs.update(_used(op.computing, calibration) if op.computing_s else {})
            inputs.update(_used(op.drawing, calibration) if op.drawing_s else {})
            inputs.update(_used(op.waiting, calibration))
            inputs.update(_used(op.unpacking, calibration))
        for count in _COUNTS & inputs.keys():
            values = [op.inputs.get(count) for op in mine]
            inputs[count] = sum(v for v in values if isinstance(v, int | float)) * n_steps
        source = max((_source(op, hardware, calibration) for op in mine), key=lambda s: KINDS.index(s.kind))
        shown = {key: value for key, value in inputs.items() if value != 0.0}
        ledger.note(term, value * in_time, "s", mine[0].formula, shown, source)
    formula = "sum of the parts" if n_steps == 1 else f"sum of the parts over {n_steps:g} equal steps"
    if in_time != n_steps:
        formula += f", overlapped like {in_time:g}"
    ledger.close(name, sum(seconds.values()) * in_time, "s", formula)


_COUNTS = frozenset({"layers", "elements", "products", "FLOP of whole tiles"})
"""Inputs that add up over the operations of a term, and over its steps."""


def _used(names: Names, calibration: Calibration) -> dict[str, float]:
    """Coefficients by name; one that counts twice is shown as a power."""
    used = {}
    for name in names:
        if name in calibration.coefficients:
            n = names.count(name)
            used[f"{name}^{n}" if n > 1 else name] = calibration.coefficients[name].value ** n
    return used
