"""ik_llama.cpp's four ways with multi-head latent attention (its option ``-mla``).

0 caches K and V of every head, 1 to 3 the latent. 2 and 3 rebuild keys and values of all heads for a pass
over many tokens; 1 works in the latent space, and without flash attention caches the latent a second time,
transposed (llama_kv_cache_init: needs_v_cache; April 2025). Caches of nine logged loads agree to 0.01 MiB.
"""

from __future__ import annotations

from msgspec.structs import replace

from moeplan.domain.graph import ModelGraph
from moeplan.domain.model import Block, MlaAttention
from moeplan.domain.workload import Workload
from moeplan.engines.kv import KV_BITS
from moeplan.engines.traits import EngineTraits
from moeplan.errors import SpecError

MODES = range(4)
_EXPANDED, _ABSORBED = 0, 1


def with_latent_mode(graph: ModelGraph, engine: EngineTraits, mode: int) -> tuple[ModelGraph, EngineTraits]:
    """``graph`` and ``engine`` under ``-mla mode``. Raises SpecError where there is no such option."""
    if mode not in MODES:
        raise SpecError(f"--mla: expected 0, 1, 2 or 3; got {mode}")
    spec = graph.spec
    if not any(isinstance(block.mixer, MlaAttention) for block in spec.blocks):
        raise SpecError(f"--mla: {spec.id} has no multi-head latent attention")
    engine = replace(engine, expands_latent=mode > _ABSORBED, scores_latent=mode == _ABSORBED)
    blocks = tuple(_cached(block, mode) for block in spec.blocks)
    return replace(graph, spec=replace(spec, blocks=blocks)), engine


def transposed_latent_bytes(block: Block, workload: Workload, engine: EngineTraits) -> float:
    """Bytes a token of the second, transposed copy of the latent in one layer; none by default."""
    if not engine.scores_latent or workload.flash_attention or not isinstance(block.mixer, MlaAttention):
        return 0
    return block.mixer.kv_lora_rank * KV_BITS[workload.kv_type_v] / 8


def _cached(block: Block, mode: int) -> Block:
    if not isinstance(block.mixer, MlaAttention):
        return block
    return replace(block, mixer=replace(block.mixer, expanded_cache=mode == _EXPANDED))
