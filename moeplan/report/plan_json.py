"""JSON of `moeplan plan`: the wire structs, from which configs/schema/plan.json is generated."""

from __future__ import annotations

from typing import Literal

import msgspec

from moeplan.domain.plan import (
    Change,
    Choice,
    Command,
    Curve,
    CurvePoint,
    MachineOffer,
    Objective,
    Plan,
    Rejected,
)
from moeplan.domain.workload import PlacementKind
from moeplan.report.estimate_json import estimate_json, pretty
from moeplan.report.estimate_wire import (
    Amount,
    ConfidenceJson,
    Count,
    DecodeJson,
    HardwareJson,
    IntervalJson,
    MemoryJson,
    PrefillJson,
)
from moeplan.report.model_json import ModelJson
from moeplan.report.plan_words import lost_by


class PlacementChoiceJson(msgspec.Struct, kw_only=True):
    """Where the weights go; ``gpu_layers`` counts as llama.cpp does, ``cpu_moe`` MoE layers with experts
    in RAM, ``tensor_overrides`` are the patterns of -ot that move them."""

    kind: PlacementKind
    gpu_layers: Count
    cpu_moe: Count
    tensor_overrides: list[str]
    tp: Count
    pp: Count
    ep: Count
    dp: Count
    layers_by_device: dict[str, int]
    """Layers of each device, by where their attention runs."""


class CommandJson(msgspec.Struct, kw_only=True):
    """Text to paste: a command line, or the content of ``file``."""

    engine: str
    purpose: Literal["serve", "measure", "file"]
    command: str
    version: str
    file: str
    note: str


class ChoiceJson(msgspec.Struct, kw_only=True):
    """One way to run it."""

    quant: str
    bits_per_weight: Amount
    engine: str
    placement: PlacementChoiceJson
    ubatch: Count
    kv_type: str
    """One type, or ``K,V``."""
    context: Count
    batch: Count
    decode: DecodeJson
    prefill: PrefillJson
    memory: MemoryJson
    confidence: ConfidenceJson
    full_context_tokens_per_s: Amount
    """Expected decode speed of all sequences with the cache nearly full."""
    lost_by: str
    """Why it is not the best; empty for the best."""
    commands: list[CommandJson]
    not_modelled: list[str]
    assumptions: list[str]
    """On what parts of its memory rest."""


class RejectedJson(msgspec.Struct, kw_only=True):
    """The nearest miss of a kind; bytes and device are null where they do not decide."""

    quant: str
    engine: str
    kind: PlacementKind
    placement: str
    reason: str
    need_bytes: Count | None
    have_bytes: Count | None
    device: str | None


class PointJson(msgspec.Struct, kw_only=True):
    """One setting on a curve; speeds are null where it does not fit."""

    x: Count
    fits: bool
    decode_tokens_per_s: Amount | None
    prefill_tokens_per_s: Amount | None
    ttft_ms: Amount | None
    vram_bytes: Count
    """Of the fullest GPU."""


class CurvesJson(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Points by the setting varied; a curve without meaning here is left out."""

    cpu_moe: list[PointJson] = []
    gpu_layers: list[PointJson] = []
    context: list[PointJson] = []
    batch: list[PointJson] = []
    ubatch: list[PointJson] = []


class KneeJson(msgspec.Struct, kw_only=True):
    """Where a curve turns; ``x`` is null where it does not."""

    x: Count | None
    chosen: Count | None
    why: str


class ChangeJson(msgspec.Struct, kw_only=True):
    """A change of request or machine, and the best plan with it; speeds are null where there is none."""

    what: str
    quant: str
    placement: str
    decode_tokens_per_s: Amount | None
    ttft_ms: Amount | None
    gain_frac: float | None


class MachineJson(msgspec.Struct, kw_only=True):
    """One of several machines; ``best`` is null where it has no plan."""

    hardware: str
    usd_per_hour: Amount | None
    price_source: str
    why_not: str
    best: ChoiceJson | None


class PlanJson(msgspec.Struct, kw_only=True):
    """The answer of `moeplan plan`. ``best`` is null when nothing fits; ``changes`` then say what would."""

    schema: Literal["moeplan/plan@1"]
    objective: Objective
    interval: IntervalJson
    model: ModelJson | None
    hardware: HardwareJson | None
    best: ChoiceJson | None
    alternatives: list[ChoiceJson]
    rejected: list[RejectedJson]
    curves: CurvesJson
    knees: dict[str, KneeJson]
    changes: list[ChangeJson]
    what_if: list[ChangeJson]
    machines: list[MachineJson]
    n_candidates: Count
    search_s: Amount
    assumptions: list[str]
    not_modelled: list[str]


def plan_json(plan: Plan) -> PlanJson:
    """The wire form of a plan."""
    answer = estimate_json(plan.best.estimate) if plan.best else None
    return PlanJson(
        schema="moeplan/plan@1",
        objective=plan.request.objective,
        interval=IntervalJson(level=plan.request.base.level),
        model=answer.model if answer else None,
        hardware=answer.hardware if answer else None,
        best=_choice(plan.best) if plan.best else None,
        alternatives=[_choice(choice) for choice in plan.alternatives],
        rejected=[_rejected(rejected) for rejected in plan.rejected],
        curves=CurvesJson(**{curve.name: [_point(p) for p in curve.points] for curve in plan.curves}),
        knees={curve.name: _knee(curve) for curve in plan.curves},
        changes=[_change(change) for change in plan.changes],
        what_if=[_change(change) for change in plan.what_if],
        machines=[_machine(machine) for machine in plan.machines],
        n_candidates=plan.n_candidates,
        search_s=plan.search_s,
        assumptions=list(plan.assumptions),
        not_modelled=list(plan.not_modelled),
    )


def render(plan: Plan) -> str:
    """The plan as indented JSON text ending in a newline."""
    return pretty(plan_json(plan))


def kv_name(choice: Choice) -> str:
    """The cache type, or ``K,V`` where they differ."""
    work = choice.estimate.workload
    return work.kv_type_k if work.kv_type_k == work.kv_type_v else f"{work.kv_type_k},{work.kv_type_v}"


def _choice(choice: Choice) -> ChoiceJson:
    e, answer = choice.estimate, estimate_json(choice.estimate)
    tiers = e.placement.dense_tiers
    return ChoiceJson(
        quant=e.quant,
        bits_per_weight=choice.bits_per_weight,
        engine=answer.engine,
        placement=PlacementChoiceJson(
            kind=e.placement.kind,
            gpu_layers=e.placement.gpu_layers,
            cpu_moe=e.placement.cpu_moe,
            tensor_overrides=list(choice.tensor_overrides),
            tp=e.placement.tensor_parallel,
            pp=1,
            ep=e.placement.expert_parallel,
            dp=1,
            layers_by_device={tier: tiers.count(tier) for tier in dict.fromkeys(tiers)},
        ),
        ubatch=e.workload.ubatch_tokens,
        kv_type=kv_name(choice),
        context=e.workload.context_tokens,
        batch=e.workload.n_sequences,
        decode=answer.decode,
        prefill=answer.prefill,
        memory=answer.memory,
        confidence=answer.confidence,
        full_context_tokens_per_s=choice.full_decode_tokens_per_s,
        lost_by=lost_by(choice),
        commands=[_command(command) for command in choice.commands],
        not_modelled=answer.not_modelled,
        assumptions=answer.assumptions,
    )


def _command(c: Command) -> CommandJson:
    return CommandJson(
        engine=c.engine, purpose=c.purpose, command=c.text, version=c.version, file=c.file, note=c.note
    )


def _rejected(r: Rejected) -> RejectedJson:
    known = bool(r.device)
    return RejectedJson(
        quant=r.quant,
        engine=r.engine,
        kind=r.kind,
        placement=r.placement,
        reason=r.reason,
        need_bytes=r.need_bytes if known else None,
        have_bytes=r.have_bytes if known else None,
        device=r.device if known else None,
    )


def _point(p: CurvePoint) -> PointJson:
    return PointJson(
        x=p.x,
        fits=p.fits,
        decode_tokens_per_s=p.decode_tokens_per_s,
        prefill_tokens_per_s=p.prefill_tokens_per_s,
        ttft_ms=None if p.ttft_s is None else p.ttft_s * 1e3,
        vram_bytes=p.vram_bytes,
    )


def _knee(curve: Curve) -> KneeJson:
    return KneeJson(x=curve.knee, chosen=curve.chosen, why=curve.why)


def _change(c: Change) -> ChangeJson:
    return ChangeJson(
        what=c.what,
        quant=c.quant,
        placement=c.placement,
        decode_tokens_per_s=c.decode_tokens_per_s,
        ttft_ms=None if c.ttft_s is None else c.ttft_s * 1e3,
        gain_frac=c.gain_frac,
    )


def _machine(m: MachineOffer) -> MachineJson:
    return MachineJson(
        hardware=m.hardware,
        usd_per_hour=m.usd_per_hour,
        price_source=m.price_source,
        why_not=m.why_not,
        best=_choice(m.choice) if m.choice else None,
    )
