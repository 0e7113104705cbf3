"""Memory of a device as terms of an explanation, with the counts that each part is made of."""

from __future__ import annotations

from moeplan.domain.graph import ModelGraph
from moeplan.domain.result import DeviceMemory
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.kv import (
    cache_layout,
    cross_token_bytes,
    group_padding,
    kv_shard,
    kv_token_bytes,
    window_of,
)
from moeplan.engines.latent import transposed_latent_bytes
from moeplan.engines.traits import EngineTraits
from moeplan.memory.buffers import batch_of
from moeplan.memory.cache import STATE_BYTES_PER_ELEMENT, cache_home, layer_state_bytes
from moeplan.memory.devices import streamed_bytes
from moeplan.provenance import Ledger, NullLedger, Source

_ENGINE_LOGS = Source(
    "derived",
    "llama.cpp's graph played through its allocator; 246 logged settings (ggml 0.25.3) agree to a median of "
    "0.002%",
    "2026-11",
)
_REASONED = Source("assumed", "reasoned from the engine's documentation")
_ASSUMED = Source("assumed", "typical process overhead; see docs/limits.md")
_INVENTORY = Source("derived", "sum of the tensors placed there")

Inputs = dict[str, object]


def explain_device(
    device: DeviceMemory,
    graph: ModelGraph,
    workload: Workload,
    placement: Placement,
    engine: EngineTraits,
    ledger: Ledger,
) -> None:
    """One term for ``device`` with a child for each of its parts; nothing where nobody listens."""
    if isinstance(ledger, NullLedger):
        return
    kv, state = _cache_inputs(device, graph, workload, placement, engine)
    buffers = _ENGINE_LOGS if engine.status == "measured" else _REASONED
    compute = _compute_inputs(graph, workload, engine) if device.compute_bytes else {}
    output: Inputs = {}
    if device.output_bytes:
        output = {"vocabulary": graph.spec.vocab_size, "sequences": workload.n_reserved}
    ledger.open()
    ledger.note(
        "weights", device.weights_bytes, "B", "sum of bytes of the tensors placed here", {}, _INVENTORY
    )
    formula = "layers x cells x sequences x (K + V bytes per token) / shards, by sort of layer"
    ledger.note("KV cache", device.kv_bytes, "B", formula, kv)
    formula = "layers x elements x sequences x 4 B (f32), by sort of layer"
    ledger.note("state", device.state_bytes, "B", formula, state)
    formula = "peak of the allocator over the nodes of a micro-batch"
    ledger.note("compute", device.compute_bytes, "B", formula, compute, buffers)
    ledger.note("output", device.output_bytes, "B", "vocabulary x sequences x 4 B", output)
    formula = "process, driver context, copies (of a tied embedding too), and what loading makes larger"
    overhead = _overhead_inputs(device, graph, placement)
    ledger.note("overhead", device.overhead_bytes, "B", formula, overhead, _ASSUMED)
    capacity: Inputs = {"capacity": device.capacity_bytes}
    ledger.close(f"memory of {device.device}", device.total_bytes, "B", inputs=capacity)


def _cache_inputs(
    device: DeviceMemory, graph: ModelGraph, workload: Workload, placement: Placement, engine: EngineTraits
) -> tuple[Inputs, Inputs]:
    """(inputs of the KV cache, inputs of the state) of the layers whose cache ``device`` holds."""
    here = _layers_by_block(device, graph, workload, placement, engine)
    padding = group_padding(graph.spec, workload, engine)
    cached: list[tuple[str, Inputs]] = []
    kept: list[tuple[str, Inputs]] = []
    for index, layers in here.items():
        block = graph.spec.blocks[index]
        token_bytes = kv_token_bytes(block, workload.kv_type_k, workload.kv_type_v)
        token_bytes += transposed_latent_bytes(block, workload, engine)
        if token_bytes and device.kv_bytes:
            cells, streams = cache_layout(block, workload, engine)
            counts: Inputs = {"layers": layers, "cells": cells, "sequences": streams}
            counts |= {"B per token": token_bytes, "shards": kv_shard(block, placement.tensor_parallel)}
            if (factor := padding.get(window_of(block) is not None, 1)) != 1:
                counts["padding of groups"] = factor
            cached.append((block.name, counts))
        crossed = cross_token_bytes(block, workload.kv_type_k, workload.kv_type_v)
        if crossed and device.kv_bytes:
            counts = {"layers": layers, "cells": workload.context_tokens, "sequences": workload.n_reserved}
            counts |= {"B per token": crossed, "shards": kv_shard(block, placement.tensor_parallel)}
            cached.append((f"{block.name}, cross-attention", counts))
        elements = layer_state_bytes(block, 1) // STATE_BYTES_PER_ELEMENT
        if elements and device.state_bytes:
            counts = {"layers": layers, "elements": elements, "sequences": workload.n_reserved}
            kept.append((block.name, counts))
    return _named(cached), _named(kept)


def _layers_by_block(
    device: DeviceMemory, graph: ModelGraph, workload: Workload, placement: Placement, engine: EngineTraits
) -> dict[int, int]:
    """How many layers of each block have their cache on ``device``."""
    tiers = {"gpu0"} if placement.tensor_parallel > 1 and device.device != "ram" else {device.device}
    if device.output_bytes:
        tiers.add("ram")  # the host's part is here, in a row of its own or in that of a shared memory
    found: dict[int, int] = {}
    for layer, tier in enumerate(placement.dense_tiers):
        if cache_home(tier, workload, placement, engine) in tiers:
            block = graph.spec.layout[layer]
            found[block] = found.get(block, 0) + 1
    return found


def _compute_inputs(graph: ModelGraph, workload: Workload, engine: EngineTraits) -> Inputs:
    rows = batch_of(workload, engine).rows if engine.gguf else workload.batch_tokens
    inputs: Inputs = {"micro-batch": rows, "hidden": graph.spec.hidden_size}
    return inputs | {"vocabulary": graph.spec.vocab_size, "flash attention": str(workload.flash_attention)}


def _overhead_inputs(device: DeviceMemory, graph: ModelGraph, placement: Placement) -> Inputs:
    """The parts of the overhead that are the model's own, and the rest; nothing where that is all of it."""
    parts = {
        "repacked matrices": device.droppable_bytes,
        "room for streamed layers": streamed_bytes(graph)
        if placement.streamed and device.device == "gpu0"
        else 0,
    }
    known: Inputs = {name: n_bytes for name, n_bytes in parts.items() if n_bytes}
    return known | {"all else": device.overhead_bytes - sum(parts.values())} if known else {}


def _named(groups: list[tuple[str, Inputs]]) -> Inputs:
    """The counts of each sort of layer; its name behind them where there are several."""
    if len(groups) == 1:
        return groups[0][1]
    return {f"{name} ({block})": value for block, counts in groups for name, value in counts.items()}
