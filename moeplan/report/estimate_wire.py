"""The JSON of `moeplan estimate` as wire structs; configs/schema/estimate.json is made from them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from moeplan.domain.workload import PlacementKind
from moeplan.provenance import SourceKind
from moeplan.report.model_json import ModelJson

Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]


class RangeJson(msgspec.Struct, kw_only=True):
    """low <= expected <= high; null where it cannot be known."""

    low: Amount | None
    expected: Amount | None
    high: Amount | None


class IntervalJson(msgspec.Struct, kw_only=True):
    """Share of measurements expected between low and high."""

    level: Annotated[float, Meta(gt=0, lt=1)]


class HardwareJson(msgspec.Struct, kw_only=True):
    """The machine; rates in bytes per second."""

    id: str
    name: str
    gpus: list[str]
    """Id of every GPU."""
    cpu: str
    ram_bytes: Count
    ram_bytes_per_s: Amount


class WorkloadJson(msgspec.Struct, kw_only=True):
    """What was asked; tokens unless the name says otherwise."""

    context_tokens: Count
    prompt_tokens: Count
    output_tokens: Count
    depth_tokens: Count
    n_sequences: Count
    kv_type_k: str
    kv_type_v: str
    ubatch_tokens: Count
    batch_tokens: Count
    flash_attention: bool
    n_slots: Count
    kv_unified: bool
    swa_full: bool
    kv_offload: bool
    threads: int | None


class PlacementJson(msgspec.Struct, kw_only=True):
    """Where the weights are; ``gpu_layers`` and ``cpu_moe`` count as llama.cpp does."""

    kind: PlacementKind
    gpu_layers: Count
    cpu_moe: Count
    tensor_parallel: Count
    expert_parallel: Count
    streamed: bool
    reason: str


class DeviceJson(msgspec.Struct, kw_only=True):
    """Memory of one tier in bytes; the parts sum to ``total_bytes``."""

    device: str
    name: str
    weights_bytes: Count
    kv_bytes: Count
    state_bytes: Count
    compute_bytes: Count
    output_bytes: Count
    overhead_bytes: Count
    total_bytes: Count
    capacity_bytes: Count
    margin_bytes: Count
    """Kept free before it counts as fitting: the engine's memory is reasoned, not measured."""
    droppable_bytes: Count
    """Of the total: mapped pages that the system may take back; they do not count against the capacity."""
    headroom_bytes: int


class ReservationJson(msgspec.Struct, kw_only=True):
    """What a serving engine takes at its start, and how much context its cache pool holds."""

    device: str
    reserved_bytes: Count
    kv_pool_bytes: Count
    kv_block_tokens: Count
    n_kv_blocks: Count
    kv_tokens: Count
    concurrency: Count
    """Sequences of the asked context held at once."""


class CurvePointJson(msgspec.Struct, kw_only=True):
    """Memory at one context, bytes by device."""

    context_tokens: Count
    device_bytes: dict[str, Count]
    fits: bool


class BufferCheckJson(msgspec.Struct, kw_only=True):
    """One buffer as predicted and as a real llama.cpp allocated it."""

    name: str
    predicted_bytes: Count
    allocated_bytes: Count


class MemoryJson(msgspec.Struct, kw_only=True):
    """Every tier that holds something."""

    devices: list[DeviceJson]
    reservations: list[ReservationJson]
    context_curve: list[CurvePointJson]
    """Filled with ``--context max`` or ``--batch max``."""
    engine_check: list[BufferCheckJson]
    """Filled with ``--verify-with-engine``."""


class FlopsJson(msgspec.Struct, kw_only=True):
    """Floating point operations of the whole prefill and of one decoded token."""

    prefill: Amount | None
    decode_per_token: Amount | None


class TrafficJson(msgspec.Struct, kw_only=True):
    """Bytes a decode step reads; distinct routed experts it touches in a MoE layer (null: dense)."""

    decode_bytes_per_step: Amount | None
    experts_touched_per_layer: Amount | None


class PartJson(msgspec.Struct, kw_only=True):
    """One part of a phase's expected time."""

    name: str
    seconds: Amount | None


class DecodeJson(msgspec.Struct, kw_only=True):
    """Decode: all sequences together, one sequence, and the step they share."""

    tokens_per_s: RangeJson
    tokens_per_s_per_sequence: RangeJson
    step_ms: RangeJson
    bound: str | None
    parts: list[PartJson]


class PrefillJson(msgspec.Struct, kw_only=True):
    """Prefill of the prompt."""

    tokens_per_s: RangeJson
    ttft_ms: RangeJson
    bound: str | None
    parts: list[PartJson]


class SupportJson(msgspec.Struct, kw_only=True):
    """What measurements stand behind the range of a phase."""

    regime: str
    n_reference_setups: Count
    extrapolated: bool
    unseen: list[str]
    """Architectures, engines and types that none of them has."""


class ConfidenceJson(msgspec.Struct, kw_only=True):
    """How sure, and why: of decode, with what stands behind the prompt beside it."""

    badge: SourceKind
    regime: str
    n_reference_setups: Count
    extrapolated: bool
    engine_status: str
    unseen: list[str]
    prefill: SupportJson


class SourceJson(msgspec.Struct, kw_only=True):
    """Provenance of a value."""

    kind: SourceKind
    ref: str
    retrieved: str
    note: str


class TermJson(msgspec.Struct, kw_only=True):
    """One step of the explanation; children, where present, sum to ``value``."""

    name: str
    value: float | None
    unit: str
    formula: str
    inputs: dict[str, str | int | float | None]
    source: SourceJson
    children: list[TermJson]


class EstimateJson(msgspec.Struct, kw_only=True):
    """The answer of `moeplan estimate`."""

    schema: Literal["moeplan/estimate@1"]
    interval: IntervalJson
    model: ModelJson
    hardware: HardwareJson
    workload: WorkloadJson
    engine: str
    placement: PlacementJson
    fits: bool
    fix: str
    memory: MemoryJson
    flops: FlopsJson
    traffic: TrafficJson
    decode: DecodeJson
    prefill: PrefillJson
    load_s: RangeJson
    confidence: ConfidenceJson
    not_modelled: list[str]
    assumptions: list[str]
    explain: list[TermJson]
