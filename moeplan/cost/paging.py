"""Weights larger than the memory they live in: pages of a mapped file, and CUDA's unified memory."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.cost.ops import Names, Op
from moeplan.cost.work import LayerGroup, LayerWork
from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.workload import Placement
from moeplan.units import MIB

_HOST_TIERS = frozenset({"ram", "disk"})
Layers = Sequence[tuple[LayerGroup, LayerWork]]

# CUDA's unified memory moves pages as kernels fault on them, and those that make room go back first: a
# 23.7 GiB model on an RTX 4090 of 24 GB takes 6.7 s a token and 11.5 s for 512 tokens, 3.8 and 2.2 GB/s
# (llama.cpp PR 8035, comment of 2024-06-22, retrieved 2026-11-30; in no fit). The link carries 26.
_UNIFIED_MEMORY_BYTES_PER_S = 2.9e9

# A prompt needs buffers, a widened matrix and what a library allocates beside weights and cache: on the 3090
# of that pull request the first number of layers that paged in prompts alone left a tenth of its 24 GB.
_PROMPT_FRAC = 0.9

# The driver's context on each GPU, as memory/capacity.py has it.
_CONTEXT_BYTES = 512 * MIB

_READ, _PAGED = "disk reads", "pages over PCIe"
PAGING = frozenset({_READ, _PAGED})
"""Terms of weights that come back in pages."""


def disk_ops(
    graph: ModelGraph, hardware: HardwareSpec, placement: Placement, layers: Layers
) -> tuple[Op, ...]:
    """Pages of a mapped file that RAM cannot keep are read again, step after step.

    Measured under a memory limit: a dense file is re-read whole as soon as a tenth of it does not
    fit (pages leave in the order they will be needed). Of a MoE the missed experts are read, fewer than an
    even router would miss, and slower than the drive can (calibrate/cpu_priors.py).
    """
    tiers = (*placement.dense_tiers, *placement.expert_tiers)
    if placement.kind != "disk" or "disk" not in tiers:
        return ()
    storage = hardware.host.storage
    names: Names = ()
    if graph.spec.is_moe:
        names = ("local.disk.moe_read_time",)
        n_bytes = sum(group.n_layers * _on_disk(group, work) for group, work in layers)
    else:
        n_bytes = float(_mapped_bytes(graph, placement))
    inputs = {"storage_bytes_per_s": storage.read_bytes_per_s, "storage": storage.id}
    seconds, formula = n_bytes / storage.read_bytes_per_s, "bytes re-read / storage bandwidth"
    return (Op(_READ, seconds, names, n_bytes=n_bytes, formula=formula, inputs=inputs),)


def _on_disk(group: LayerGroup, work: LayerWork) -> float:
    """Bytes that a step needs of one layer's weights that RAM has no room for."""
    missed = work.expert_bytes if group.expert_tier == "disk" else 0.0
    return missed + (work.dense_bytes if group.dense_tier == "disk" else 0.0)


def _mapped_bytes(graph: ModelGraph, placement: Placement) -> int:
    """Weights that are mapped: those of every layer in RAM or on disk, and the head if it is there."""
    homes = zip(graph.layers, placement.dense_tiers, placement.expert_tiers, strict=True)
    held = sum(
        (w.dense_bytes if d in _HOST_TIERS else 0) + (w.expert_bytes if e in _HOST_TIERS else 0)
        for w, d, e in homes
    )
    return held + (graph.head_bytes if placement.head_tier in _HOST_TIERS else 0)


def unified_memory_ops(
    graph: ModelGraph, hardware: HardwareSpec, placement: Placement, layers: Layers, *, prompt: bool
) -> tuple[Op, ...]:
    """llama.cpp with more on the GPU than it has memory for (GGML_CUDA_ENABLE_UNIFIED_MEMORY).

    Pages leave in the order they will be needed, so all that a step reads is moved in every step. A
    ``prompt`` uses every buffer; a token uses the weights and little else. Nothing moves where it fits.
    """
    if placement.kind != "stream" or placement.streamed or not hardware.gpus:
        return ()
    head = _on_gpu(placement.head_tier, graph.head_bytes)
    held = head + sum(
        group.n_layers
        * (
            _on_gpu(group.dense_tier, group.weights.dense_bytes + work.kv_bytes)
            + _on_gpu(group.expert_tier, group.weights.expert_bytes)
        )
        for group, work in layers
    )
    room = sum((_PROMPT_FRAC if prompt else 1.0) * gpu.usable_bytes - _CONTEXT_BYTES for gpu in hardware.gpus)
    if held <= room:
        return ()
    n_bytes = head + sum(
        group.n_layers
        * (_on_gpu(group.dense_tier, work.dense_bytes) + _on_gpu(group.expert_tier, work.expert_bytes))
        for group, work in layers
    )
    inputs = {"paging_bytes_per_s": _UNIFIED_MEMORY_BYTES_PER_S}
    seconds, formula = n_bytes / _UNIFIED_MEMORY_BYTES_PER_S, "bytes paged in / rate of page faults"
    return (Op(_PAGED, seconds, (), n_bytes=n_bytes, formula=formula, inputs=inputs),)


def _on_gpu(tier: str, n_bytes: float) -> float:
    """``n_bytes`` where ``tier`` is a GPU, else nothing."""
    return 0.0 if tier in _HOST_TIERS else n_bytes
