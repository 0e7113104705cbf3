"""JSON of `moeplan estimate`: an answer as the structs of estimate_wire.

What cannot be known is null with its reason in ``not_modelled``; NaN and Infinity never appear.
"""

from __future__ import annotations

import math

import msgspec

from moeplan.domain.result import DeviceMemory, Estimate, PhaseTime, Range
from moeplan.provenance import Term
from moeplan.report.estimate_wire import (
    BufferCheckJson,
    ConfidenceJson,
    CurvePointJson,
    DecodeJson,
    DeviceJson,
    EstimateJson,
    FlopsJson,
    HardwareJson,
    IntervalJson,
    MemoryJson,
    PartJson,
    PlacementJson,
    PrefillJson,
    RangeJson,
    ReservationJson,
    SourceJson,
    SupportJson,
    TermJson,
    TrafficJson,
    WorkloadJson,
)
from moeplan.report.model_json import model_json
from moeplan.report.words import prefill_rate

UNKNOWN = RangeJson(low=None, expected=None, high=None)


class _Gaps:
    """Turns what is not a finite number into null, and remembers why."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def number(self, value: float, what: str) -> float | None:
        if math.isfinite(value):
            return value
        reason = f"{what}: not a finite number"
        if reason not in self.reasons:
            self.reasons.append(reason)
        return None

    def range(self, r: Range, factor: float, what: str) -> RangeJson:
        return RangeJson(
            low=self.number(r.low * factor, what),
            expected=self.number(r.expected * factor, what),
            high=self.number(r.high * factor, what),
        )


def estimate_json(e: Estimate) -> EstimateJson:
    """The wire form of an estimate. Speeds of what does not fit are null: there are none."""
    gaps = _Gaps()
    w, h, c, p = e.workload, e.hardware, e.confidence, e.placement
    reasons = list(e.not_modelled)
    if not e.fits:
        reasons.append("decode, prefill, load_s: it does not fit, so it has no speed")
    result = EstimateJson(
        schema="moeplan/estimate@1",
        interval=IntervalJson(level=e.level),
        model=model_json(e.model, e.quant, e.params, e.weights_bytes),
        hardware=HardwareJson(
            id=h.id,
            name=h.name,
            gpus=[gpu.id for gpu in h.gpus],
            cpu=h.host.cpu.id,
            ram_bytes=h.host.ram_bytes,
            ram_bytes_per_s=h.host.ram_bytes_per_s,
        ),
        workload=WorkloadJson(**{name: getattr(w, name) for name in WorkloadJson.__struct_fields__}),
        engine=w.engine,
        placement=PlacementJson(**{name: getattr(p, name) for name in PlacementJson.__struct_fields__}),
        fits=e.fits,
        fix=e.fix,
        memory=_memory(e),
        flops=FlopsJson(
            prefill=gaps.number(e.flop_prefill, "flops.prefill"),
            decode_per_token=gaps.number(e.flop_decode_per_token, "flops.decode_per_token"),
        ),
        traffic=TrafficJson(
            decode_bytes_per_step=gaps.number(e.decode.bytes_read, "traffic.decode_bytes_per_step"),
            experts_touched_per_layer=(
                None
                if e.experts_touched_per_layer is None
                else gaps.number(e.experts_touched_per_layer, "traffic.experts_touched_per_layer")
            ),
        ),
        decode=_decode(e, gaps),
        prefill=_prefill(e, gaps),
        load_s=_load(e, gaps),
        confidence=ConfidenceJson(
            badge=c.badge,
            regime=c.regime,
            n_reference_setups=c.n_reference_setups,
            extrapolated=c.extrapolated,
            engine_status=c.engine_status,
            unseen=list(c.unseen),
            prefill=SupportJson(
                regime=c.prefill.regime,
                n_reference_setups=c.prefill.n_reference_setups,
                extrapolated=c.prefill.extrapolated,
                unseen=list(c.prefill.unseen),
            ),
        ),
        not_modelled=reasons,
        assumptions=list(e.assumptions),
        explain=[_term(term, gaps) for term in e.explain],
    )
    result.not_modelled += gaps.reasons
    return result


def render(e: Estimate) -> str:
    """The estimate as indented JSON text ending in a newline."""
    return pretty(estimate_json(e))


def pretty(value: object) -> str:
    """Any wire value as indented JSON text ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _memory(e: Estimate) -> MemoryJson:
    return MemoryJson(
        devices=[_device(device) for device in e.memory.devices],
        reservations=[
            ReservationJson(**{name: getattr(r, name) for name in ReservationJson.__struct_fields__})
            for r in e.memory.reservations
        ],
        context_curve=[
            CurvePointJson(context_tokens=p.context_tokens, device_bytes=dict(p.device_bytes), fits=p.fits)
            for p in e.context_curve
        ],
        engine_check=[BufferCheckJson(**check._asdict()) for check in e.engine_check],
    )


def _device(d: DeviceMemory) -> DeviceJson:
    return DeviceJson(**{name: getattr(d, name) for name in DeviceJson.__struct_fields__})


def _decode(e: Estimate, gaps: _Gaps) -> DecodeJson:
    if not e.fits:
        return DecodeJson(
            tokens_per_s=UNKNOWN, tokens_per_s_per_sequence=UNKNOWN, step_ms=UNKNOWN, bound=None, parts=[]
        )
    per_sequence = e.decode_step_s.inverse()
    return DecodeJson(
        tokens_per_s=gaps.range(per_sequence, e.workload.n_sequences, "decode.tokens_per_s"),
        tokens_per_s_per_sequence=gaps.range(per_sequence, 1, "decode.tokens_per_s_per_sequence"),
        step_ms=gaps.range(e.decode_step_s, 1e3, "decode.step_ms"),
        bound=e.decode.bound,
        parts=_parts(e.decode, gaps, "decode.parts"),
    )


def _prefill(e: Estimate, gaps: _Gaps) -> PrefillJson:
    if not e.fits:
        return PrefillJson(tokens_per_s=UNKNOWN, ttft_ms=UNKNOWN, bound=None, parts=[])
    rate = prefill_rate(e)
    return PrefillJson(
        tokens_per_s=gaps.range(rate, 1, "prefill.tokens_per_s"),
        ttft_ms=gaps.range(e.prefill_s, 1e3, "prefill.ttft_ms"),
        bound=e.prefill.bound,
        parts=_parts(e.prefill, gaps, "prefill.parts"),
    )


def _load(e: Estimate, gaps: _Gaps) -> RangeJson:
    if not e.fits:
        return UNKNOWN
    gaps.reasons.append("load_s.low, load_s.high: load time has no interval")
    return RangeJson(low=None, expected=gaps.number(e.load_s, "load_s"), high=None)


def _parts(phase: PhaseTime, gaps: _Gaps, what: str) -> list[PartJson]:
    return [PartJson(name=name, seconds=gaps.number(seconds, what)) for name, seconds in phase.terms]


def _term(term: Term, gaps: _Gaps) -> TermJson:
    where = f"explain: {term.name}"
    return TermJson(
        name=term.name,
        value=gaps.number(term.value, where),
        unit=term.unit,
        formula=term.formula,
        inputs={key: _input(value, gaps, where) for key, value in term.inputs.items()},
        source=SourceJson(**term.source._asdict()),
        children=[_term(child, gaps) for child in term.children],
    )


def _input(value: object, gaps: _Gaps, what: str) -> str | int | float | None:
    if isinstance(value, float):
        return gaps.number(value, what)
    return value if isinstance(value, str | int) else str(value)
