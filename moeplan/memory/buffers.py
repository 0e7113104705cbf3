"""Compute and output buffers: the activations of the largest graph node an engine allocates for.

The llama.cpp formulas were read off its allocator on 246 settings of seven architectures (CPU backend, ggml
0.25.3, November 2026): median residual 0.03%, p90 4.1%. Other engines are reasoned, not measured.
"""

from __future__ import annotations

from moeplan.domain.graph import ModelGraph
from moeplan.domain.model import Block, DenseFfn, GqaAttention, MlaAttention, MoeFfn
from moeplan.domain.workload import Workload
from moeplan.engines.kv import cache_cells
from moeplan.engines.traits import EngineTraits
from moeplan.units import MIB

_F32 = 4


def ffn_row_elements(block: Block, hidden: int) -> int:
    """f32 elements alive at once per token in the feed-forward part of a layer."""
    ffn = block.ffn
    if isinstance(ffn, MoeFfn):
        k = ffn.n_active
        return max(3 * ffn.expert_intermediate * k + 4 * hidden, 2 * hidden * k + 6 * hidden)
    if isinstance(ffn, DenseFfn):
        return 3 * ffn.intermediate + 4 * hidden
    return 4 * hidden


def attention_row_elements(block: Block, hidden: int) -> int:
    """f32 elements alive at once per token in the attention of a layer, scores not included."""
    mixer = block.mixer
    if isinstance(mixer, MlaAttention):
        width = mixer.nope_head_dim + mixer.rope_head_dim + mixer.kv_lora_rank
        return 2 * mixer.n_heads * width + 4 * hidden
    if isinstance(mixer, GqaAttention):
        return 3 * hidden + 2 * mixer.n_heads * mixer.head_dim + 2 * mixer.n_kv_heads * mixer.head_dim
    return 6 * hidden


def n_heads(block: Block) -> int:
    """Query heads of a layer, 0 where there is no softmax attention."""
    return getattr(block.mixer, "n_heads", 0) if isinstance(block.mixer, GqaAttention | MlaAttention) else 0


def compute_bytes(
    graph: ModelGraph,
    blocks: tuple[Block, ...],
    workload: Workload,
    engine: EngineTraits,
    *,
    with_head: bool,
) -> int:
    """Compute buffer in bytes of a device that runs ``blocks`` (and the output head, if it does)."""
    if engine.family == "server":
        return _server_compute_bytes(graph, blocks, workload, with_head=with_head)
    spec = graph.spec
    rows = min(workload.ubatch_tokens, workload.context_tokens * workload.n_sequences)
    row_bytes = rows * _F32
    mask_bytes = 2 if workload.flash_attention else 4
    masks = {cache_cells(b, workload.context_tokens, workload.ubatch_tokens, engine) for b in blocks}
    mask = sum(masks) * workload.n_sequences * rows * mask_bytes if _any_attention(blocks) else 0
    best = 0
    for block in blocks:
        attention = attention_row_elements(block, spec.hidden_size)
        if not workload.flash_attention:
            cells = cache_cells(block, workload.context_tokens, workload.ubatch_tokens, engine)
            attention += cells * workload.n_sequences * n_heads(block)
        best = max(best, attention, ffn_row_elements(block, spec.hidden_size))
    layers = best * row_bytes + mask if blocks else 0
    head = (spec.vocab_size + 2 * spec.hidden_size) * row_bytes if with_head else 0
    return max(layers, head)


def output_bytes(graph: ModelGraph, workload: Workload) -> int:
    """Host buffer of the logits handed to the sampler: one f32 row of the vocabulary per sequence."""
    return graph.spec.vocab_size * workload.n_sequences * _F32


def _any_attention(blocks: tuple[Block, ...]) -> bool:
    return any(n_heads(block) for block in blocks)


def _server_compute_bytes(
    graph: ModelGraph, blocks: tuple[Block, ...], workload: Workload, *, with_head: bool
) -> int:
    # bf16 activations of one scheduled batch, f32 logits of the sequences that sample (vLLM's profile run).
    hidden = graph.spec.hidden_size
    rows = workload.batch_tokens
    widest = max(
        (max(ffn_row_elements(b, hidden), attention_row_elements(b, hidden)) for b in blocks), default=0
    )
    logits = graph.spec.vocab_size * max(workload.n_sequences, 256) * _F32 if with_head else 0
    return max(rows * widest * 2, logits) + 64 * MIB
