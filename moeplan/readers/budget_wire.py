"""moeplan.check.yaml as it is written. Its JSON Schema: ``moeplan schema budget``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Confidence = Annotated[float, Meta(gt=0, lt=1)] | Literal["expected"]
Size = str | Annotated[float, Meta(ge=0)]


class MemoryBudget(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Memory of every device that holds something."""

    headroom: Size | None = None
    """To leave free on each device: ``2GiB``, a number of GiB, or a share of it: ``10%``."""
    max_per_gpu: Size | None = None
    """Most that one GPU may hold: ``72GiB``, or a number of GiB."""
    confidence: Confidence | None = None


class DecodeBudget(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Decode speed of all sequences together."""

    min_tokens_per_s: Annotated[float, Meta(gt=0)]
    confidence: Confidence | None = None


class PrefillBudget(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Prefill speed."""

    min_tokens_per_s: Annotated[float, Meta(gt=0)]
    confidence: Confidence | None = None


class TtftBudget(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Time to the first token of one request on an idle server."""

    max_ms: Annotated[float, Meta(gt=0)]
    confidence: Confidence | None = None


class ContextBudget(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Longest context that must fit."""

    min_tokens: Count
    confidence: Confidence | None = None


class ConcurrencyBudget(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Sequences at full context whose cache must fit together."""

    min_sequences: Count
    confidence: Confidence | None = None


class BudgetsWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Budgets by kind. That everything fits is always asked."""

    memory: MemoryBudget | None = None
    decode: DecodeBudget | None = None
    prefill: PrefillBudget | None = None
    ttft: TtftBudget | None = None
    context: ContextBudget | None = None
    concurrency: ConcurrencyBudget | None = None


class ModelChoice(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A model and how it is run; the keys are the options of `moeplan estimate`."""

    model: str
    quant: str | None = None
    engine: str | None = None
    kv_type: str | None = None
    tp: Count | None = None
    gpu_layers: Annotated[int, Meta(ge=0)] | Literal["all"] | None = None
    cpu_moe: Annotated[int, Meta(ge=0)] | Literal["all"] | None = None
    placement: str | None = None
    ubatch: Count | None = None
    flash_attn: bool | None = None
    memory_utilization: Annotated[float, Meta(gt=0, le=1)] | None = None
    mmap: bool | None = None


class Machine(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A machine: an id under ``machine``, parts, or both; the keys are the options of `moeplan estimate`."""

    machine: str | None = None
    gpu: str | None = None
    n_gpus: Count | None = None
    cpu: str | None = None
    ram_gib: Size | None = None
    ram_gbs: Size | None = None
    pcie: str | None = None
    link: str | None = None
    storage_gbs: Size | None = None
    reserve_vram_gib: Size | None = None


class WorkloadWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Sizes of the work, with budgets of its own if need be."""

    context: Count | None = None
    prompt: Count | None = None
    output: Count | None = None
    depth: Annotated[int, Meta(ge=0)] | None = None
    batch: Count | None = None
    budgets: BudgetsWire | None = None


class Selection(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Cases of the matrix by the names of their parts; what is not named matches all."""

    model: str | None = None
    hardware: str | None = None
    workload: str | None = None


class Inclusion(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A case beside the matrix: names of its parts, or ids of the catalog."""

    model: str
    hardware: str
    workload: str | None = None
    budgets: BudgetsWire | None = None


class DeploymentWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A deployment file beside this one, checked as it stands."""

    file: str
    hardware: str
    only: str | None = None
    """Name of one service or container; without it, all are checked."""
    quant: str | None = None
    """Where the file does not tell the quantisation."""
    prompt: Count | None = None
    output: Count | None = None
    batch: Count | None = None
    ignore_flags: list[str] = []
    """Options of the engine to be passed over that moeplan does not know or not model."""
    budgets: BudgetsWire | None = None


class BudgetWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """moeplan.check.yaml."""

    schema: Literal["moeplan/budget@1"] = "moeplan/budget@1"
    extends: str | None = None
    """A budget file whose entries are taken over, one level deep."""
    models: dict[str, ModelChoice | str] | list[str] = {}
    hardware: dict[str, Machine | str] | list[str] = {}
    workloads: dict[str, WorkloadWire] = {}
    budgets: BudgetsWire | None = None
    exclude: list[Selection] = []
    include: list[Inclusion] = []
    deployments: list[DeploymentWire] = []
