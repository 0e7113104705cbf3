"""Memory of every tier: each byte of the model lies in exactly one place (or one shard of it)."""

from __future__ import annotations

from collections.abc import Mapping

from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.result import DeviceMemory, MemoryReport
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.traits import EngineTraits
from moeplan.memory.buffers import output_bytes
from moeplan.memory.cache import cache_by_tier
from moeplan.memory.capacity import (
    gpu_capacity_bytes,
    gpu_overhead_bytes,
    host_process_bytes,
    ram_capacity_bytes,
)
from moeplan.memory.devices import device_compute_bytes
from moeplan.memory.repack import repacked_bytes
from moeplan.memory.reserve import reservations, with_margin
from moeplan.provenance import NULL_LEDGER, Ledger, Source

_ENGINE_LOGS = Source(
    "derived",
    "llama.cpp's graph played through its allocator; 246 logged settings (ggml 0.25.3) agree to a median of "
    "0.002%",
    "2026-11",
)
_REASONED = Source("assumed", "reasoned from the engine's documentation")
_ASSUMED = Source("assumed", "typical process overhead; see docs/limits.md")
_INVENTORY = Source("derived", "sum of the tensors placed there")


def weights_by_tier(graph: ModelGraph, placement: Placement) -> Mapping[str, int]:
    """Bytes of weights each tier holds; they sum to the model's weights."""
    tiers: dict[str, int] = {}

    def put(tier: str, n_bytes: int) -> None:
        tiers[tier] = tiers.get(tier, 0) + n_bytes

    for weights, dense, expert in zip(
        graph.layers, placement.dense_tiers, placement.expert_tiers, strict=True
    ):
        put(dense, weights.dense_bytes)
        put(expert, weights.expert_bytes)
    tied = graph.spec.tied_embeddings
    put(placement.embedding_tier, graph.embedding_bytes)
    put(placement.head_tier, graph.outside_bytes - graph.embedding_bytes)
    if tied and placement.head_tier != placement.embedding_tier:
        # llama.cpp duplicates a tied embedding when the output layer is on another device.
        put(placement.head_tier, graph.embedding_bytes)
    return {tier: n_bytes for tier, n_bytes in tiers.items() if n_bytes}


def memory_report(
    graph: ModelGraph,
    hardware: HardwareSpec,
    workload: Workload,
    placement: Placement,
    engine: EngineTraits,
    ledger: Ledger = NULL_LEDGER,
) -> MemoryReport:
    """Bytes of every tier that holds something, part by part."""
    weights = weights_by_tier(graph, placement)
    kv, state = cache_by_tier(graph.spec, workload, placement, engine)
    tiers = sorted({*weights, *kv, "ram"}, key=_tier_order)
    devices = []
    for tier in tiers:
        for copy in range(placement.tensor_parallel if tier == "gpu0" else 1):
            device = _device(graph, hardware, workload, placement, engine, tier, copy, weights, kv, state)
            devices.append(device)
            _explain(device, engine, ledger)
    return MemoryReport(
        devices=tuple(devices), reservations=reservations(graph, devices, workload, placement, engine)
    )


def _device(
    graph: ModelGraph,
    hardware: HardwareSpec,
    workload: Workload,
    placement: Placement,
    engine: EngineTraits,
    tier: str,
    copy: int,
    weights: Mapping[str, int],
    kv: Mapping[str, int],
    state: Mapping[str, int],
) -> DeviceMemory:
    shards = placement.tensor_parallel if tier == "gpu0" else 1
    held = weights.get(tier, 0)
    # The first ranks carry the remainder, so that the shards sum to the whole.
    shard = held // shards + (1 if copy < held % shards else 0)
    overhead = output = 0
    if tier == "ram":
        capacity, name = ram_capacity_bytes(hardware), "RAM"
        overhead = host_process_bytes(graph.spec.vocab_size) + repacked_bytes(
            graph, hardware, workload, placement, engine
        )
        output = output_bytes(graph, workload)
    elif tier == "disk":
        capacity, name = shard, "disk (mapped)"
    else:
        gpu = hardware.gpus[(int(tier[3:]) + copy) % len(hardware.gpus)]
        capacity, name = gpu_capacity_bytes(gpu, hardware, engine), gpu.name
        overhead = gpu_overhead_bytes(gpu, engine)
    device = DeviceMemory(
        device=f"gpu{int(tier[3:]) + copy}" if tier.startswith("gpu") else tier,
        name=name,
        weights_bytes=shard,
        kv_bytes=kv.get(tier, 0),
        state_bytes=state.get(tier, 0),
        compute_bytes=0 if tier == "disk" else device_compute_bytes(graph, workload, placement, engine, tier),
        output_bytes=output,
        overhead_bytes=overhead,
        capacity_bytes=capacity,
    )
    return device if tier == "disk" else with_margin(device, engine)


def _explain(device: DeviceMemory, engine: EngineTraits, ledger: Ledger) -> None:
    buffers = _ENGINE_LOGS if engine.status == "measured" else _REASONED
    ledger.open()
    ledger.note(
        "weights", device.weights_bytes, "B", "sum of bytes of the tensors placed here", {}, _INVENTORY
    )
    ledger.note("KV cache", device.kv_bytes, "B", "cells x sequences x (K + V bytes per token), by layer")
    ledger.note("state", device.state_bytes, "B", "recurrent and convolution state, f32, by layer")
    ledger.note(
        "compute",
        device.compute_bytes,
        "B",
        "peak of the allocator over the nodes of a micro-batch",
        {},
        buffers,
    )
    ledger.note("output", device.output_bytes, "B", "vocabulary x sequences x 4 B")
    ledger.note(
        "overhead", device.overhead_bytes, "B", "process, driver context, repacked copies", {}, _ASSUMED
    )
    ledger.close(
        f"memory of {device.device}", device.total_bytes, "B", inputs={"capacity": device.capacity_bytes}
    )


def _tier_order(tier: str) -> tuple[int, int]:
    if tier.startswith("gpu"):
        return (0, int(tier[3:]))
    return (1, 0) if tier == "ram" else (2, 0)
