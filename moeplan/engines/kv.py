"""The KV cache as engines lay it out: bytes a token and layer, and how many cells are allocated.

References: llama.cpp's allocation logs (exact to 0.01 MiB on 246 settings) for the padded window cache and
the latent MLA cache; DeepSeek-V2 (arXiv:2405.04434) for the latent width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from moeplan.domain.model import Block, CompressedAttention, GqaAttention, MlaAttention, ModelSpec
from moeplan.domain.workload import Workload
from moeplan.engines.traits import EngineTraits
from moeplan.errors import UnknownName, nearest

# Bits an element, block scales included (ggml block layouts; fp8 as vLLM stores it, scale per tensor).
KV_BITS = {
    "f32": 32.0, "f16": 16.0, "bf16": 16.0, "fp8": 8.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5,
    "q4_1": 5.0, "q4_0": 4.5, "iq4_nl": 4.5,
}  # fmt: skip
# The most tokens vLLM's server schedules at once by default (max_num_batched_tokens on an H100; 2,048 on
# smaller GPUs; EngineArgs, v0.11 to v0.24).
SCHEDULED_TOKENS = 8192
_ALIASES = {"fp16": "f16", "fp32": "f32", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "auto": "f16"}


def kv_type(name: str) -> str:
    """The canonical name of a KV cache type. Raises UnknownName."""
    key = _ALIASES.get(name.strip().lower(), name.strip().lower())
    if key not in KV_BITS:
        raise UnknownName("KV cache type", name, nearest(name, KV_BITS) or tuple(KV_BITS))
    return key


def kv_elements(block: Block) -> tuple[int, int]:
    """(K, V) elements one token adds to the cache in one layer of this block; the MLA latent is K."""
    mixer = block.mixer
    if block.encoder:
        return 0, 0  # an encoder sees its input at once and caches nothing
    if isinstance(mixer, GqaAttention):
        if mixer.shares_kv:
            return 0, 0
        index = _index_elements(mixer)
        return mixer.n_kv_heads * mixer.head_dim + index, mixer.n_kv_heads * mixer.v_head_dim
    if isinstance(mixer, MlaAttention):
        if mixer.expanded_cache:
            key_dim = mixer.nope_head_dim + mixer.rope_head_dim
            return mixer.n_heads * key_dim, mixer.n_heads * mixer.v_head_dim
        index = _index_elements(mixer)
        return mixer.kv_lora_rank + mixer.rope_head_dim + index, 0
    if isinstance(mixer, CompressedAttention):
        # One shared latent of head_dim serves as key and value of all heads (MQA form).
        return mixer.head_dim, 0
    return 0, 0


def _index_elements(mixer: GqaAttention | MlaAttention) -> int:
    """Keys the sparse-attention scorer caches; a layer that reuses a selection keeps none."""
    return mixer.indexer.head_dim if mixer.indexer and not mixer.indexer.shared else 0


def kv_token_bytes(block: Block, type_k: str, type_v: str) -> float:
    """Bytes of cache per token of context in one layer of this block."""
    k_elements, v_elements = kv_elements(block)
    return (k_elements * KV_BITS[type_k] + v_elements * KV_BITS[type_v]) / 8


def cross_token_bytes(block: Block, type_k: str, type_v: str) -> float:
    """Bytes of cache that a token of the encoder's output takes in this block's cross-attention."""
    cross = block.cross_attention
    if cross is None:
        return 0.0
    k_elements, v_elements = cross.n_kv_heads * cross.head_dim, cross.n_kv_heads * cross.v_head_dim
    return (k_elements * KV_BITS[type_k] + v_elements * KV_BITS[type_v]) / 8


def window_of(block: Block) -> int | None:
    """The sliding window of this block's attention in tokens, None when it sees the whole context."""
    mixer = block.mixer
    if isinstance(mixer, GqaAttention | MlaAttention):
        return mixer.window_tokens
    return None


def visible_tokens(block: Block, context_tokens: float) -> float:
    """Cached tokens a new token reads in this block at ``context_tokens``."""
    mixer = block.mixer
    if isinstance(mixer, CompressedAttention):
        compressed = context_tokens / mixer.ratio if mixer.ratio else 0.0
        if mixer.indexer:
            compressed = min(compressed, mixer.indexer.top_k_tokens)
        return min(context_tokens, mixer.window_tokens) + compressed
    window = window_of(block)
    visible = context_tokens if window is None else min(context_tokens, window)
    indexer = getattr(mixer, "indexer", None)
    return min(visible, indexer.top_k_tokens) if indexer else visible


def cache_layout(block: Block, workload: Workload, engine: EngineTraits) -> tuple[int, int]:
    """(cells of a stream, streams) of this block's cache.

    Each sequence has a stream of its own; a unified cache (llama.cpp's ``kv_unified``) is one stream of all
    their cells, in which windows are reserved for every sequence.
    """
    context, ubatch = workload.context_tokens, workload.ubatch_tokens
    step, window = engine.kv_block_tokens, window_of(block)
    if isinstance(block.mixer, CompressedAttention):
        ratio = block.mixer.ratio
        kept = _round_up(context, ratio) // ratio if ratio else 0
        return min(_round_up(context, step), block.mixer.window_tokens) + kept, workload.n_reserved
    cells = _round_up(context * (workload.n_sequences if workload.kv_unified else 1), step)
    if window is not None and engine.window_cache == "padded" and not workload.swa_full:
        windows = workload.n_reserved if workload.kv_unified else 1
        cells = _round_up(min(cells, window * windows + ubatch), step)
    elif window is not None and engine.window_cache == "hybrid" and not workload.swa_full:
        # One page more, since a window may begin inside of one (SlidingWindowSpec, vLLM, November 2026).
        pages = _round_up(window - 1 + max(ubatch, SCHEDULED_TOKENS), step) + step
        cells = min(cells, pages)
    return cells, workload.n_streams


def group_padding(spec: ModelSpec, workload: Workload, engine: EngineTraits) -> Mapping[bool, float]:
    """What the layers with (True) and without a window take beyond their own, as a factor; empty: nothing.

    vLLM's hybrid allocator shares pages among groups of equally many layers, of which some are padding
    (_get_kv_cache_groups_uniform_page_size, kv_cache_utils.py, v0.11 to v0.24).
    """
    if engine.window_cache != "hybrid" or workload.swa_full:
        return {}
    counts = Counter(window_of(b) is not None for b in spec.layer_blocks() if any(kv_elements(b)))
    if len(counts) < 2:
        return {}
    size, most = min(counts.values()), max(counts.values())
    if most < size * 1.25:
        size = most
    return {kind: _round_up(n, size) / n for kind, n in counts.items()}


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def kv_shard(block: Block, tensor_parallel: int) -> int:
    """Ways the cache of this block splits under tensor parallelism; MLA replicates its latent."""
    mixer = block.mixer
    if isinstance(mixer, GqaAttention):
        return min(tensor_parallel, mixer.n_kv_heads)
    return 1
