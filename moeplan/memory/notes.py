"""Traps of memory said aloud: what loads larger than its name says, and what no formula here covers."""

from __future__ import annotations

from msgspec.structs import replace

from moeplan.domain.graph import ModelGraph
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.kv import window_of
from moeplan.engines.traits import EngineTraits
from moeplan.memory.cache import layer_kv_bytes
from moeplan.memory.grown import fused_experts_bytes, padded_mxfp4_bytes
from moeplan.memory.repack import repackable_bytes
from moeplan.units import fmt_bytes

_BF16_BYTES = 2


def memory_notes(
    graph: ModelGraph, workload: Workload, placement: Placement, engine: EngineTraits
) -> tuple[str, ...]:
    """One line for each trap that this model, quantisation and engine run into."""
    notes = []
    if extra := fused_experts_bytes(graph):
        counted = "are counted" if engine.id == "transformers" else "more if this engine does so too"
        notes.append(
            "bitsandbytes leaves experts that are stored as one fused tensor in 16 bit (transformers 5): "
            f"{fmt_bytes(extra)} {counted}; transformers 4 quantises them"
        )
    if graph.quant.startswith("fp8") and engine.family == "server":
        notes.append("fp8 scales are counted per block of the checkpoint; other recipes differ by under 1%")
    if engine.id == "vllm" and (extra := padded_mxfp4_bytes(graph)):
        notes.append(
            f"vLLM pads MXFP4 experts at loading: {fmt_bytes(extra)} above the files are counted (Hopper; "
            "gpt-oss-120b was reported at 64-66 GiB); on Blackwell both sides are padded"
        )
    if engine.window_cache == "hybrid" and (saved := _window_pages_bytes(graph, workload, placement, engine)):
        notes.append(
            f"{engine.id} gives cache pages behind the windows back (its hybrid allocator, on by default): "
            f"without it {fmt_bytes(saved)} more a GPU"
        )
    if graph.spec.tied_embeddings and placement.head_tier != placement.embedding_tier:
        notes.append(f"the tied embedding is held twice ({fmt_bytes(graph.embedding_bytes)} more)")
    if vision := sum(part.params for part in graph.spec.parts if part.kind in ("vision", "projector")):
        notes.append(
            f"a vision tower, if loaded: {fmt_bytes(vision * _BF16_BYTES)} in 16 bit and its activations"
        )
    copies = placement.kind == "cpu" and engine.repacks_on_cpu and engine.mmap and workload.repack
    if copies and (repacked := repackable_bytes(graph)):
        notes.append(
            f"without a GPU {fmt_bytes(repacked)} of RAM is a rearranged copy of 4-bit matrices, which "
            "cannot be dropped; the mapped file behind it can (--no-repack or --no-mmap keep one copy)"
        )
    if engine.gguf and workload.output_rows is None:
        notes.append("llama-server reserves fewer logits than the other programs, whose buffer is given")
    return tuple(notes)


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
