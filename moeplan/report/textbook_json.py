"""JSON of `moeplan textbook`: the wire structs, from which configs/schema/textbook.json is generated."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from moeplan.domain.textbook import Textbook, TextbookModel
from moeplan.report.estimate_json import pretty
from moeplan.units import GIB

Amount = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]


class PairJson(msgspec.Struct, kw_only=True):
    """One number of each model."""

    dense: Amount
    moe: Amount


class BatchPairJson(msgspec.Struct, kw_only=True):
    """A batch size for each model; null: none below a billion."""

    dense: Count | None
    moe: Count | None


class TextbookInputsJson(msgspec.Struct, kw_only=True):
    """The bare numbers, in SI units; rates are those of one GPU."""

    dense_params: Amount
    moe_params_total: Amount
    moe_params_active: Amount
    bandwidth_bytes_per_s: Amount
    peak_flop_per_s: Amount
    n_gpus: Count
    mfu_frac: Amount
    bytes_per_param: Amount


class TrainingJson(msgspec.Struct, kw_only=True):
    """FLOPs are 6 N_active a token. ``memory_GiB`` is that of the weights alone; ``compute_speedup`` is
    dense FLOPs over MoE FLOPs, ``memory_ratio`` MoE bytes over dense bytes."""

    flops_per_token: PairJson
    tokens_per_day: PairJson
    memory_GiB: PairJson  # noqa: N815
    compute_speedup: Amount
    memory_ratio: Amount


class InferenceJson(msgspec.Struct, kw_only=True):
    """FLOPs are 2 N_active a token. ``active_read_ms``: reading the active parameters alone.
    ``crossover_batch``: the batch from which the rule itself is compute-bound."""

    flops_per_token: PairJson
    active_read_ms: PairJson
    crossover_batch: BatchPairJson


class LatencyJson(msgspec.Struct, kw_only=True):
    """One step under the rule; ``total_ms`` is the larger of the two."""

    model: Literal["dense", "moe"]
    batch: Count
    memory_ms: Amount
    compute_ms: Amount
    total_ms: Amount
    bound: Literal["memory", "compute"]
    tokens_per_s: Amount


class TextbookJson(msgspec.Struct, kw_only=True):
    """The answer of `moeplan textbook`."""

    schema: Literal["moeplan/textbook@1"]
    inputs: TextbookInputsJson
    training: TrainingJson
    inference: InferenceJson
    latency: list[LatencyJson]
    caveats: list[str]
    assumptions: list[str]


def textbook_json(t: Textbook) -> TextbookJson:
    """The wire form."""
    dense, moe = t.dense, t.moe
    return TextbookJson(
        schema="moeplan/textbook@1",
        inputs=TextbookInputsJson(
            **{name: getattr(t.inputs, name) for name in TextbookInputsJson.__struct_fields__}
        ),
        training=TrainingJson(
            flops_per_token=PairJson(dense=dense.train_flop_per_token, moe=moe.train_flop_per_token),
            tokens_per_day=PairJson(dense=dense.train_tokens_per_day, moe=moe.train_tokens_per_day),
            memory_GiB=PairJson(dense=dense.weights_bytes / GIB, moe=moe.weights_bytes / GIB),
            compute_speedup=t.compute_speedup,
            memory_ratio=t.memory_ratio,
        ),
        inference=InferenceJson(
            flops_per_token=PairJson(dense=dense.decode_flop_per_token, moe=moe.decode_flop_per_token),
            active_read_ms=PairJson(dense=dense.active_read_s * 1e3, moe=moe.active_read_s * 1e3),
            crossover_batch=BatchPairJson(dense=dense.crossover_batch, moe=moe.crossover_batch),
        ),
        latency=[*latency_json("dense", dense), *latency_json("moe", moe)],
        caveats=list(t.caveats),
        assumptions=list(t.assumptions),
    )


def latency_json(name: Literal["dense", "moe"], model: TextbookModel) -> list[LatencyJson]:
    """The steps of one model."""
    return [
        LatencyJson(
            model=name,
            batch=step.batch,
            memory_ms=step.memory_s * 1e3,
            compute_ms=step.compute_s * 1e3,
            total_ms=step.total_s * 1e3,
            bound=step.bound,
            tokens_per_s=step.tokens_per_s,
        )
        for step in model.steps
    ]


def render(t: Textbook) -> str:
    """The answer as indented JSON text ending in a newline."""
    return pretty(textbook_json(t))
