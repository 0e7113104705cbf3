"""Compute and output buffers.

llama.cpp's are played through its allocator, node by node (moeplan.memory.passes); other engines' are
reasoned from their documentation.
"""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.domain.graph import ModelGraph
from moeplan.domain.model import Block, DenseFfn, GqaAttention, MlaAttention, MoeFfn
from moeplan.domain.workload import Workload
from moeplan.engines.kv import KV_BITS, cache_layout, window_of
from moeplan.engines.traits import EngineTraits
from moeplan.memory.activations import F32, Batch, Homes
from moeplan.memory.passes import Layer, Pass, alike, buffer_bytes
from moeplan.units import MIB

# f32 work areas, sampling tensors and the like of a serving engine's profile run; assumed.
_SERVER_SLACK_BYTES = 64 * MIB


def batch_of(workload: Workload, engine: EngineTraits) -> Batch:
    """The pass an engine reserves for: a full micro-batch, logits of every row unless told otherwise.

    Every sequence gets as many rows as the others (llama_context::graph_reserve, October 2026).
    """
    filled = min(workload.ubatch_tokens, workload.context_tokens * workload.n_reserved)
    rows = -(-filled // workload.n_reserved) * workload.n_reserved
    asked = workload.output_rows
    rotates = engine.rotates_quantised_cache
    return Batch(
        rows=rows,
        outputs=filled if asked is None else min(rows, asked),
        streams=workload.n_streams,
        flash=workload.flash_attention,
        rotate_k=rotates and KV_BITS[workload.kv_type_k] < 16,
        rotate_v=rotates and KV_BITS[workload.kv_type_v] < 16,
        fused_up_gate=engine.fuses_up_gate,
        cast_mask=engine.casts_mask and workload.flash_attention,
        spare_embeddings=engine.reserves_embeddings,
        mixed_inputs=engine.mixes_inputs,
        expand_latent=engine.expands_latent and workload.flash_attention,
    )


_AT_HOME = Homes()


def layer_of(block: Block, workload: Workload, engine: EngineTraits, homes: Homes = _AT_HOME) -> Layer:
    """``block`` with the cells its scores and its mask span."""
    cells, _ = cache_layout(block, workload, engine)
    return Layer(block=block, kind="window" if window_of(block) else "full", cells=cells, homes=homes)


def compute_bytes(
    graph: ModelGraph,
    blocks: Sequence[Block],
    workload: Workload,
    engine: EngineTraits,
    *,
    with_head: bool,
    on_host: bool = True,
    input_copies: int = 1,
    homes: Sequence[Homes] = (),
    inputs_only: bool = False,
) -> int:
    """Compute buffer in bytes of a device that runs the layers ``blocks`` (and the head, if it does).

    ``homes`` tells for each layer whether its matrices are copied over for the pass; empty: they are there.
    ``inputs_only``: the host beside GPUs that compute all of it, with its pinned inputs.
    """
    if not engine.gguf:
        return _reasoned_bytes(graph, blocks, workload, engine, with_head=with_head)
    places = homes or (_AT_HOME,) * len(blocks)
    layers = tuple(layer_of(b, workload, engine, h) for b, h in zip(blocks, places, strict=True))
    return buffer_bytes(
        Pass(
            batch=batch_of(workload, engine)._replace(score_latent=engine.scores_latent and not on_host),
            hidden=graph.spec.hidden_size,
            vocab=graph.spec.vocab_size,
            layers=alike(layers),
            input_copies=0 if on_host else input_copies,
            host_inputs_only=inputs_only,
            host_copies=input_copies if inputs_only else 1,
            holds_embedding=on_host,
            has_head=with_head,
            ends_model=with_head,
            crops_late=graph.spec.architecture in engine.crops_late,
        )
    )


def output_bytes(graph: ModelGraph, workload: Workload) -> int:
    """Host buffer of the logits handed to the sampler: one f32 row of the vocabulary per sequence."""
    return graph.spec.vocab_size * workload.n_reserved * F32


# ── engines whose buffers are reasoned ───────────────────────────────────────────────────────────


def ffn_row_elements(block: Block, hidden: int) -> int:
    """Elements alive at once per token in the feed-forward part of a layer."""
    ffn = block.ffn
    if isinstance(ffn, MoeFfn):
        k = ffn.n_active
        return max(3 * ffn.expert_intermediate * k + 4 * hidden, 2 * hidden * k + 6 * hidden)
    if isinstance(ffn, DenseFfn):
        return 3 * ffn.intermediate + 4 * hidden
    return 4 * hidden


def attention_row_elements(block: Block, hidden: int) -> int:
    """Elements alive at once per token in the attention of a layer, scores not included."""
    mixer = block.mixer
    if isinstance(mixer, MlaAttention):
        width = mixer.nope_head_dim + mixer.rope_head_dim + mixer.kv_lora_rank
        return 2 * mixer.n_heads * width + 4 * hidden
    if isinstance(mixer, GqaAttention):
        return 3 * hidden + 2 * mixer.n_heads * mixer.head_dim + 2 * mixer.n_kv_heads * mixer.head_dim
    return 6 * hidden


def _reasoned_bytes(
    graph: ModelGraph,
    blocks: Sequence[Block],
    workload: Workload,
    engine: EngineTraits,
    *,
    with_head: bool,
) -> int:
    # 16-bit activations of one scheduled batch, f32 logits of the sequences that sample (vLLM's profile
    # run); without a fused kernel the scores of one layer too.
    hidden = graph.spec.hidden_size
    rows = workload.batch_tokens
    if not engine.chunks_prefill:
        rows = max(rows, workload.prompt_tokens * workload.n_sequences)
    elif graph.spec.has_encoder:  # which sees a prompt whole
        rows = max(rows, workload.prompt_tokens)
    widest = max(
        (max(ffn_row_elements(b, hidden), attention_row_elements(b, hidden)) for b in blocks), default=0
    )
    logits = graph.spec.vocab_size * max(workload.n_sequences, 256) * F32 if with_head else 0
    if not workload.flash_attention:
        heads = max((getattr(b.mixer, "n_heads", 0) for b in blocks), default=0)
        widest += heads * workload.context_tokens
    return max(rows * widest * 2, logits) + _SERVER_SLACK_BYTES
