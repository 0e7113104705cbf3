"""JSON of `moeplan compare`: the wire structs, from which configs/schema/compare.json is generated."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from moeplan.domain.comparison import (
    Axis,
    BatchPoint,
    ComparedModel,
    Comparison,
    LoraCount,
    Score,
    TwinKind,
)
from moeplan.domain.result import Range
from moeplan.domain.textbook import TextbookModel
from moeplan.domain.workload import PlacementKind
from moeplan.report.estimate_json import UNKNOWN, estimate_json, pretty
from moeplan.report.estimate_wire import EstimateJson, HardwareJson, IntervalJson, RangeJson, SourceJson
from moeplan.report.model_json import ModelJson
from moeplan.report.textbook_json import LatencyJson, latency_json
from moeplan.units import GIB

Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]


class SizeJson(msgspec.Struct, kw_only=True):
    """Weights in one quantisation."""

    quant: str
    weights_bytes: Count


class BatchJson(msgspec.Struct, kw_only=True):
    """One decode step of ``batch`` sequences. ``coverage_frac`` is the expected share of a layer's experts
    that it reads (null: dense); speeds are null where it does not fit."""

    batch: Count
    coverage_frac: Annotated[float, Meta(ge=0, le=1)] | None
    flops_per_token: Amount
    bytes_per_token: Amount
    bytes_per_step: Amount
    fits: bool
    placement: PlacementKind
    step_ms: RangeJson
    tokens_per_s: RangeJson


class CoverageJson(msgspec.Struct, kw_only=True):
    """Smallest batch whose step is expected to read this share of the experts."""

    batch_50: Count
    batch_90: Count
    batch_99: Count


class TextbookTrainingJson(msgspec.Struct, kw_only=True):
    """Training by the textbook on all GPUs of the machine: 6 N_active FLOPs a token; the memory is that of
    the weights at 2 bytes a parameter."""

    flops_per_token: Amount
    tokens_per_day: Amount
    mfu_frac: Amount
    memory_GiB: Amount  # noqa: N815


class TextbookRowJson(msgspec.Struct, kw_only=True):
    """The textbook rules with this model's numbers and the machine's data-sheet rates."""

    training: TextbookTrainingJson
    latency: list[LatencyJson]
    crossover_batch: Count | None


class LoraCountJson(msgspec.Struct, kw_only=True):
    """Adapters and their parameters."""

    n_adapters: Count
    trainable_params: Count


class LoraJson(msgspec.Struct, kw_only=True):
    """LoRA on every FFN; ``fused``: gate and up of a routed expert are one matrix."""

    rank: Count
    n_expert_ffns: Count
    n_ffns: Count
    unfused: LoraCountJson
    fused: LoraCountJson


class ScoreJson(msgspec.Struct, kw_only=True):
    """A published score; ``checked``: re-read in its source, quoted elsewhere, or recalled."""

    metric: str
    score: Amount
    variant: str
    source: SourceJson
    checked: Literal["re-read", "quoted", "recalled"]
    note: str


class CompareRowJson(msgspec.Struct, kw_only=True):
    """One model. ``id`` is unique among the rows; a made-up dense model has ``twin`` in common with the
    MoE ``twin_of``. ``offloaded`` is null where the reason stands in ``not_modelled``."""

    id: str
    label: str
    twin: TwinKind | None
    twin_of: str | None
    model: ModelJson
    hardware: HardwareJson
    estimate: EstimateJson
    sizes: list[SizeJson]
    coverage: CoverageJson | None
    by_batch: list[BatchJson]
    offloaded: EstimateJson | None
    largest_context_tokens: Count
    textbook: TextbookRowJson | None
    lora: LoraJson
    quality: list[ScoreJson]
    not_modelled: list[str]


class VerdictJson(msgspec.Struct, kw_only=True):
    """``better`` is the id of a row (null: nobody), ``by`` how many times (null: no ratio)."""

    axis: Axis
    better: str | None
    by: Annotated[float, Meta(ge=1)] | None
    why: str
    within_uncertainty: bool


class CompareJson(msgspec.Struct, kw_only=True):
    """The answer of `moeplan compare`. The cache of a sequence holds ``batch_context_tokens`` in
    ``by_batch``."""

    schema: Literal["moeplan/compare@1"]
    interval: IntervalJson
    batch_context_tokens: Count
    rows: list[CompareRowJson]
    verdicts: list[VerdictJson]
    assumptions: list[str]
    not_modelled: list[str]


def compare_json(c: Comparison) -> CompareJson:
    """The wire form."""
    return CompareJson(
        schema="moeplan/compare@1",
        interval=IntervalJson(level=c.level),
        batch_context_tokens=c.batch_context_tokens,
        rows=[_row(model, c.mfu_frac) for model in c.models],
        verdicts=[
            VerdictJson(**{name: getattr(v, name) for name in VerdictJson.__struct_fields__})
            for v in c.verdicts
        ],
        assumptions=list(c.assumptions),
        not_modelled=list(c.not_modelled),
    )


def render(c: Comparison) -> str:
    """The answer as indented JSON text ending in a newline."""
    return pretty(compare_json(c))


def _row(m: ComparedModel, mfu_frac: float) -> CompareRowJson:
    estimate = estimate_json(m.estimate)
    lora = m.lora
    return CompareRowJson(
        id=m.key,
        label=m.label,
        twin=m.twin,
        twin_of=m.twin_of or None,
        model=estimate.model,
        hardware=estimate.hardware,
        estimate=estimate,
        sizes=[SizeJson(quant=size.quant, weights_bytes=size.weights_bytes) for size in m.sizes],
        coverage=(
            CoverageJson(**{name: getattr(m.coverage, name) for name in CoverageJson.__struct_fields__})
            if m.coverage
            else None
        ),
        by_batch=[_batch(point) for point in m.by_batch],
        offloaded=estimate_json(m.offloaded) if m.offloaded else None,
        largest_context_tokens=m.largest_context_tokens,
        textbook=_textbook(m, m.textbook, mfu_frac) if m.textbook else None,
        lora=LoraJson(
            rank=lora.rank,
            n_expert_ffns=lora.n_expert_ffns,
            n_ffns=lora.n_ffns,
            unfused=_count(lora.unfused),
            fused=_count(lora.fused),
        ),
        quality=[_score(score) for score in m.scores],
        not_modelled=list(m.not_modelled),
    )


def _batch(p: BatchPoint) -> BatchJson:
    return BatchJson(
        batch=p.batch,
        coverage_frac=p.coverage_frac,
        flops_per_token=p.flop_per_token,
        bytes_per_token=p.bytes_per_step / p.batch,
        bytes_per_step=p.bytes_per_step,
        fits=p.fits,
        placement=p.placement,
        step_ms=_range(p.step_s, 1e3) if p.step_s else UNKNOWN,
        tokens_per_s=_range(p.step_s.inverse(), p.batch) if p.step_s else UNKNOWN,
    )


def _range(r: Range, factor: float) -> RangeJson:
    return RangeJson(low=r.low * factor, expected=r.expected * factor, high=r.high * factor)


def _textbook(m: ComparedModel, t: TextbookModel, mfu_frac: float) -> TextbookRowJson:
    return TextbookRowJson(
        training=TextbookTrainingJson(
            flops_per_token=t.train_flop_per_token,
            tokens_per_day=t.train_tokens_per_day,
            mfu_frac=mfu_frac,
            memory_GiB=t.params_total * 2 / GIB,
        ),
        latency=latency_json("moe" if m.estimate.model.is_moe else "dense", t),
        crossover_batch=t.crossover_batch,
    )


def _count(count: LoraCount) -> LoraCountJson:
    return LoraCountJson(n_adapters=count.n_adapters, trainable_params=count.trainable_params)


def _score(s: Score) -> ScoreJson:
    source = SourceJson(
        kind=s.source.kind, ref=s.source.ref, retrieved=s.source.retrieved, note=s.source.note
    )
    return ScoreJson(
        metric=s.metric,
        score=s.value,
        variant=s.variant,
        source=source,
        checked=s.checked,
        note=s.note,
    )
