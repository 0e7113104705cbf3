"""KV cache and recurrent state, per tier."""

from __future__ import annotations

from collections.abc import Mapping

from moeplan.domain.model import Block, ModelSpec
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
from moeplan.graph.state import state_elements

# llama.cpp keeps recurrent state in f32 (llama_memory_recurrent: type_r, type_s = F32).
STATE_BYTES_PER_ELEMENT = 4


def layer_kv_bytes(block: Block, workload: Workload, engine: EngineTraits, tensor_parallel: int = 1) -> float:
    """Bytes of KV cache one layer needs on one device for all sequences of the workload.

    Cross-attention keeps keys and values of the encoder's output too, which may be as long as the context.
    """
    cells, streams = cache_layout(block, workload, engine)
    token_bytes = kv_token_bytes(block, workload.kv_type_k, workload.kv_type_v)
    token_bytes += transposed_latent_bytes(block, workload, engine)
    crossed = cross_token_bytes(block, workload.kv_type_k, workload.kv_type_v)
    crossed *= workload.context_tokens * workload.n_reserved
    return (cells * streams * token_bytes + crossed) / kv_shard(block, tensor_parallel)


def layer_state_bytes(block: Block, n_sequences: int) -> int:
    """Bytes of recurrent and convolution state one layer keeps; independent of the context."""
    if block.mixer is None:
        return 0
    return state_elements(block.mixer) * STATE_BYTES_PER_ELEMENT * n_sequences


def cache_home(tier: str, workload: Workload, placement: Placement, engine: EngineTraits) -> str:
    """The tier that caches a layer whose other parts are on ``tier``."""
    if placement.streamed and not engine.gguf:
        return "gpu0"  # transformers makes the cache where the layer is computed
    # A mapped file holds weights only: the cache of such layers is in RAM.
    return tier if workload.kv_offload and tier != "disk" else "ram"


def cache_by_tier(
    spec: ModelSpec, workload: Workload, placement: Placement, engine: EngineTraits
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """(KV bytes, state bytes) of every tier; a layer's cache is where its attention runs."""
    padding = group_padding(spec, workload, engine)
    per_block = [
        (
            layer_kv_bytes(block, workload, engine, placement.tensor_parallel)
            * padding.get(window_of(block) is not None, 1),
            layer_state_bytes(block, workload.n_reserved),
        )
        for block in spec.blocks
    ]
    kv: dict[str, float] = {}
    state: dict[str, int] = {}
    for layer, tier in enumerate(placement.dense_tiers):
        home = cache_home(tier, workload, placement, engine)
        kv_bytes, state_bytes = per_block[spec.layout[layer]]
        kv[home] = kv.get(home, 0.0) + kv_bytes
        state[home] = state.get(home, 0) + state_bytes
    return {tier: round(value) for tier, value in kv.items()}, state
