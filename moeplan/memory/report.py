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
from moeplan.memory.devices import device_compute_bytes, streamed_bytes
from moeplan.memory.explain import explain_device
from moeplan.memory.repack import repacked_bytes
from moeplan.memory.reserve import reservations, with_margin
from moeplan.provenance import NULL_LEDGER, Ledger


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
    put(placement.embedding_tier, graph.embedding_bytes)
    put(placement.head_tier, graph.outside_bytes - graph.embedding_bytes)
    return {tier: n_bytes for tier, n_bytes in tiers.items() if n_bytes}


def twice_held_bytes(graph: ModelGraph, placement: Placement, tier: str) -> int:
    """Bytes of a tied embedding that llama.cpp copies to ``tier`` because the output layer alone is there."""
    apart = placement.head_tier != placement.embedding_tier
    return (
        graph.embedding_bytes if graph.spec.tied_embeddings and apart and tier == placement.head_tier else 0
    )


def memory_report(
    graph: ModelGraph,
    hardware: HardwareSpec,
    workload: Workload,
    placement: Placement,
    engine: EngineTraits,
    ledger: Ledger = NULL_LEDGER,
) -> MemoryReport:
    """Bytes of every device that holds something, part by part.

    Where CPU and GPU share one memory, what the host holds beside the GPU is part of ``gpu0``.
    """
    devices = memory_by_tier(graph, hardware, workload, placement, engine)
    if hardware.unified and devices[0].device == "gpu0":
        devices = _in_one(devices)
    for device in devices:
        explain_device(device, graph, workload, placement, engine, ledger)
    return MemoryReport(
        devices=devices, reservations=reservations(graph, devices, workload, placement, engine)
    )


def memory_by_tier(
    graph: ModelGraph,
    hardware: HardwareSpec,
    workload: Workload,
    placement: Placement,
    engine: EngineTraits,
) -> tuple[DeviceMemory, ...]:
    """Bytes of every tier as engines log them: host and GPU apart, whether or not they share a memory."""
    weights = weights_by_tier(graph, placement)
    kv, state = cache_by_tier(graph.spec, workload, placement, engine)
    used = {*weights, *kv, "ram"} | ({"gpu0"} if placement.streamed else set())
    return tuple(
        _device(graph, hardware, workload, placement, engine, tier, copy, weights, kv, state)
        for tier in sorted(used, key=_tier_order)
        for copy in range(placement.tensor_parallel if tier == "gpu0" else 1)
    )


def _in_one(devices: tuple[DeviceMemory, ...]) -> tuple[DeviceMemory, ...]:
    """``devices`` with the row of the host added to the first GPU's, whose memory it shares."""
    from msgspec.structs import replace

    first = devices[0]
    ram = next(device for device in devices if device.device == "ram")
    both = {part: getattr(first, part) + getattr(ram, part) for part in _SUMMED}
    return replace(first, **both), *(d for d in devices[1:] if d is not ram)


_SUMMED = (
    "weights_bytes", "kv_bytes", "state_bytes", "compute_bytes", "output_bytes", "overhead_bytes",
    "margin_bytes", "droppable_bytes",
)  # fmt: skip


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
    overhead = output = droppable = 0
    if tier == "ram":
        capacity, name = ram_capacity_bytes(hardware), "RAM"
        # Once copied, the pages of the file that a matrix came from are not read again.
        droppable = repacked_bytes(graph, hardware, workload, placement, engine)
        overhead = host_process_bytes(graph.spec.vocab_size) + droppable
        output = output_bytes(graph, workload)
    elif tier == "disk":
        capacity, name = shard, "disk (mapped)"
    else:
        gpu = hardware.gpus[(int(tier[3:]) + copy) % len(hardware.gpus)]
        capacity, name = gpu_capacity_bytes(gpu, hardware, engine), gpu.name
        overhead = gpu_overhead_bytes(gpu, engine)
        if tier == "gpu0" and placement.streamed:
            overhead += streamed_bytes(graph)
    overhead += twice_held_bytes(graph, placement, tier)
    device = DeviceMemory(
        device=f"gpu{int(tier[3:]) + copy}" if tier.startswith("gpu") else tier,
        name=name,
        weights_bytes=shard,
        kv_bytes=kv.get(tier, 0),
        state_bytes=state.get(tier, 0),
        compute_bytes=0
        if tier == "disk"
        else device_compute_bytes(graph, hardware, workload, placement, engine, tier),
        output_bytes=output,
        overhead_bytes=overhead,
        capacity_bytes=capacity,
        droppable_bytes=droppable,
    )
    return device if tier == "disk" else with_margin(device, engine)


def _tier_order(tier: str) -> tuple[int, int]:
    if tier.startswith("gpu"):
        return (0, int(tier[3:]))
    return (1, 0) if tier == "ram" else (2, 0)
