"""Traps of memory said aloud: what is counted on an assumption, and what no formula here covers."""

from __future__ import annotations

from msgspec.structs import replace

from moeplan.domain.graph import EXPERT_ROLES, ModelGraph
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.kv import window_of
from moeplan.engines.traits import EngineTraits
from moeplan.memory.cache import layer_kv_bytes
from moeplan.memory.repack import repackable_bytes
from moeplan.units import fmt_bytes

_BF16_BYTES = 2


def counted_notes(
    graph: ModelGraph, workload: Workload, placement: Placement, engine: EngineTraits
) -> tuple[str, ...]:
    """One line for each part of the figures that rests on how the engine is taken to behave."""
    notes = []
    if engine.fuses_experts and graph.quant.startswith("bnb-") and (held := _expert_bytes(graph)):
        notes.append(
            "bitsandbytes leaves experts that are stored as one fused tensor in 16 bit (transformers 5): "
            f"{fmt_bytes(held)}; transformers 4 quantises them"
        )
    if graph.quant.startswith("fp8") and engine.family == "server":
        notes.append("fp8 scales are those per block of the checkpoint; other recipes differ by under 1%")
    if graph.padding_bytes:
        notes.append(
            f"{engine.id} pads MXFP4 experts at loading: {fmt_bytes(graph.padding_bytes)} above the files "
            "(Hopper; gpt-oss-120b was reported at 64-66 GiB); on Blackwell both sides are padded"
        )
    if engine.window_cache == "hybrid" and (saved := _window_pages_bytes(graph, workload, placement, engine)):
        notes.append(
            f"{engine.id} gives cache pages behind the windows back (its hybrid allocator, on by default): "
            f"without it {fmt_bytes(saved)} more a GPU"
        )
    if graph.spec.tied_embeddings and placement.head_tier != placement.embedding_tier:
        notes.append(f"the tied embedding is held twice ({fmt_bytes(graph.embedding_bytes)} more)")
    copies = placement.kind == "cpu" and engine.repacks_on_cpu and engine.mmap and workload.repack
    if copies and (repacked := repackable_bytes(graph)):
        notes.append(
            f"without a GPU {fmt_bytes(repacked)} of RAM is a rearranged copy of 4-bit matrices, which "
            "cannot be dropped; the mapped file behind it can (--no-repack or --no-mmap keep one copy)"
        )
    if engine.gguf and workload.output_rows is None:
        notes.append(
            "logits of a whole micro-batch are reserved; llama-server reserves one row a slot (--slots)"
        )
    return tuple(notes)


def uncounted_notes(graph: ModelGraph, engine: EngineTraits) -> tuple[str, ...]:
    """One line for each thing that may take memory and is in no figure."""
    notes = []
    if graph.quant.startswith("bnb-") and not engine.fuses_experts:
        experts = [t for t in graph.tensors if t.role in EXPERT_ROLES and t.owner == "base"]
        if more := sum(t.n_elements * _BF16_BYTES - t.n_bytes for t in experts):
            notes.append(
                "bitsandbytes leaves experts that are stored as one fused tensor in 16 bit (transformers 5): "
                f"{fmt_bytes(more)} more if {engine.id} does so too"
            )
    if vision := sum(part.params for part in graph.spec.parts if part.kind in ("vision", "projector")):
        notes.append(
            f"a vision tower, if loaded: {fmt_bytes(vision * _BF16_BYTES)} in 16 bit and its activations"
        )
    return tuple(notes)


def _expert_bytes(graph: ModelGraph) -> int:
    return sum(weights.expert_bytes for weights in graph.layers)


def _window_pages_bytes(
    graph: ModelGraph, workload: Workload, placement: Placement, engine: EngineTraits
) -> int:
    """Cache of one GPU that window layers would take beyond their windows."""
    full, shards = replace(engine, window_cache="full"), placement.tensor_parallel
    saved = [
        layer_kv_bytes(block, workload, full, shards) - layer_kv_bytes(block, workload, engine, shards)
        for block in graph.spec.layer_blocks()
        if window_of(block)
    ]
    return round(sum(saved))
