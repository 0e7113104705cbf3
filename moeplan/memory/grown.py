"""What an engine makes of experts at loading, where that is larger than the checkpoint says."""

from __future__ import annotations

from moeplan.domain.graph import EXPERT_ROLES, ModelGraph
from moeplan.domain.workload import Placement
from moeplan.engines.traits import EngineTraits

_BF16_BYTES = 2
# vLLM's Triton kernel pads one side of the 4-bit values (not of their scales) to whole tiles. From 53.39 GiB
# of values and 60.77 of weights follow 64.33 GiB for gpt-oss-120b on an H100; logged: 64.38 (vllm
# issue 33155, v0.14.1, January 2026). FlashInfer on Blackwell pads both sides.
_MXFP4_TILE = 256


def grown_bytes(graph: ModelGraph, engine: EngineTraits) -> int:
    """Bytes the routed experts take beyond their size in the checkpoint, on all devices together."""
    if engine.id == "transformers":
        return fused_experts_bytes(graph)
    return padded_mxfp4_bytes(graph) if engine.id == "vllm" else 0


def grown_by_tier(graph: ModelGraph, placement: Placement, engine: EngineTraits) -> dict[str, int]:
    """`grown_bytes` of every tier that holds experts; they sum to the whole."""
    total = grown_bytes(graph, engine)
    held: dict[str, int] = {}
    for weights, tier in zip(graph.layers, placement.expert_tiers, strict=True):
        if total and weights.expert_bytes:
            held[tier] = held.get(tier, 0) + weights.expert_bytes
    whole, found, given = sum(held.values()), {}, 0
    for tier in held:
        found[tier] = total * held[tier] // whole
        given += found[tier]
    if held:
        found[next(iter(held))] += total - given
    return found


def fused_experts_bytes(graph: ModelGraph) -> int:
    """What experts in 16 bit take beyond their quantised size under bitsandbytes.

    It replaces linear modules (transformers.integrations.bitsandbytes, 5.24), and transformers 5 keeps all
    experts of a layer in one parameter that belongs to none.
    """
    if not graph.quant.startswith("bnb-"):
        return 0
    experts = [t for t in graph.tensors if t.role in EXPERT_ROLES and t.owner == "base"]
    return sum(t.n_elements * _BF16_BYTES - t.n_bytes for t in experts)


def padded_mxfp4_bytes(graph: ModelGraph) -> int:
    """Bytes of padding of MXFP4 experts whose rows are no whole tiles."""
    if not graph.quant.startswith("mxfp4"):
        return 0
    extra = 0
    for t in graph.tensors:
        if t.role in EXPERT_ROLES and t.owner == "base" and t.qtype == "mxfp4":
            width = t.shape[-1]
            padded = -(-width // _MXFP4_TILE) * _MXFP4_TILE
            extra += t.n_elements // width * (padded - width) // 2
    return extra
