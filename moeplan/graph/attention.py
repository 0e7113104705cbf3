"""Tensors of softmax attention: grouped-query (GQA, MHA, MQA), latent (MLA) and sparse indexers.

Names are those of llama.cpp (gguf-py/gguf/constants.py), without the ``blk.N.`` in front; shapes are
outermost first, a matrix is (out_features, in_features).
"""

from __future__ import annotations

from moeplan.domain.graph import Role, Tensor
from moeplan.domain.model import GqaAttention, Indexer, MlaAttention


def weight(name: str, role: Role, *shape: int) -> Tensor:
    """An untyped tensor of layer 0, to be copied to the layers that have it."""
    return Tensor(name=name, role=role, layer=0, shape=shape)


def gqa_tensors(attention: GqaAttention, hidden_size: int) -> list[Tensor]:
    """Every weight of a GQA layer. A layer with ``shares_kv`` has neither k, v nor their norms.

    The ``full`` output gate is stored inside q, which is then twice as wide (Qwen3-Next's layout);
    the ``head`` gate is a matrix of its own.
    """
    a = attention
    q_width = a.n_heads * a.head_dim
    q_stored = q_width * (2 if a.output_gate == "full" else 1)
    k_width = 0 if a.shares_kv else a.n_kv_heads * a.head_dim
    v_width = 0 if a.shares_kv or a.value_is_key else a.n_kv_heads * a.v_head_dim
    if a.fused_qkv:
        inputs: list[tuple[str, Role, int]] = [("attn_qkv", "attn_qkv", q_stored + k_width + v_width)]
    else:
        inputs = [
            ("attn_q", "attn_q", q_stored),
            ("attn_k", "attn_k", k_width),
            ("attn_v", "attn_v", v_width),
        ]
    tensors = [weight(f"{name}.weight", role, n, hidden_size) for name, role, n in inputs if n]
    if a.qkv_bias:
        tensors += [weight(f"{name}.bias", "bias", n) for name, _, n in inputs if n]
    tensors.append(weight("attn_output.weight", "attn_out", hidden_size, a.n_heads * a.v_head_dim))
    if a.out_bias:
        tensors.append(weight("attn_output.bias", "bias", hidden_size))
    if a.output_gate == "head":
        tensors.append(weight("attn_gate.weight", "attn_gate", a.n_heads, hidden_size))
    if a.qk_norm != "none":
        tensors.append(weight("attn_q_norm.weight", "norm", *_norm_shape(a, a.n_heads)))
        if not a.shares_kv:
            tensors.append(weight("attn_k_norm.weight", "norm", *_norm_shape(a, a.n_kv_heads)))
    if a.sinks:
        tensors.append(weight("attn_sinks.weight", "sink", a.n_heads))
    if a.indexer is not None:
        tensors += indexer_tensors(a.indexer, hidden_size, None)
    return tensors


def _norm_shape(attention: GqaAttention, n_heads: int) -> tuple[int, ...]:
    if attention.qk_norm == "head":
        return (attention.head_dim,)
    if attention.qk_norm == "heads":
        return (n_heads, attention.head_dim)
    return (n_heads * attention.head_dim,)


def mla_tensors(attention: MlaAttention, hidden_size: int) -> list[Tensor]:
    """Every weight of an MLA layer, with the K/V expansion split per head as engines absorb it.

    ``qkv_bias`` puts a bias on the two down projections and on the output, as
    transformers' DeepseekV3Attention does with attention_bias.
    """
    a = attention
    q_width = a.n_heads * (a.nope_head_dim + a.rope_head_dim)
    v_width = a.n_heads * a.v_head_dim
    kv_down = a.kv_lora_rank + a.rope_head_dim
    if a.q_lora_rank is None:
        tensors = [weight("attn_q.weight", "attn_q", q_width, hidden_size)]
    else:
        tensors = [
            weight("attn_q_a.weight", "mla_q_down", a.q_lora_rank, hidden_size),
            weight("attn_q_a_norm.weight", "norm", a.q_lora_rank),
            weight("attn_q_b.weight", "mla_q_up", q_width, a.q_lora_rank),
        ]
    tensors += [
        weight("attn_kv_a_mqa.weight", "mla_kv_down", kv_down, hidden_size),
        weight("attn_kv_a_norm.weight", "norm", a.kv_lora_rank),
        weight("attn_k_b.weight", "mla_k_up", a.n_heads, a.kv_lora_rank, a.nope_head_dim),
        weight("attn_v_b.weight", "mla_v_up", a.n_heads, a.v_head_dim, a.kv_lora_rank),
        weight("attn_output.weight", "attn_out", hidden_size, v_width),
    ]
    if a.qkv_bias:
        if a.q_lora_rank is not None:
            tensors.append(weight("attn_q_a.bias", "bias", a.q_lora_rank))
        tensors.append(weight("attn_kv_a_mqa.bias", "bias", kv_down))
        tensors.append(weight("attn_output.bias", "bias", hidden_size))
    if a.output_gate != "none":
        columns = v_width if a.output_gate == "full" else a.n_heads
        tensors.append(weight("attn_gate.weight", "attn_gate", columns, hidden_size))
    if a.indexer is not None:
        tensors += indexer_tensors(a.indexer, hidden_size, a.q_lora_rank)
    return tensors


def indexer_tensors(indexer: Indexer, hidden_size: int, q_lora_rank: int | None) -> list[Tensor]:
    """DeepSeek-V3.2's lightning indexer: queries from the query latent, one key, a weight a head.

    Source: transformers, DeepseekV32Indexer (wq_b, wk, k_norm with bias, weights_proj). Beside GQA it is
    MiniMaxM3VLIndexer's: queries from the hidden state, a norm each of q and k, no head weights. A layer
    that reuses another's selection (``shared``) has none.
    """
    if indexer.shared:
        return []
    width, dim = indexer.n_heads * indexer.head_dim, indexer.head_dim
    tensors = [
        weight("indexer.attn_q_b.weight", "indexer", width, q_lora_rank or hidden_size),
        weight("indexer.attn_k.weight", "indexer", dim, hidden_size),
        weight("indexer.k_norm.weight", "norm", dim),
    ]
    if q_lora_rank is None:
        return [*tensors, weight("indexer.q_norm.weight", "norm", dim)]
    return [
        *tensors,
        weight("indexer.k_norm.bias", "bias", dim),
        weight("indexer.proj.weight", "indexer", indexer.n_heads, hidden_size),
    ]
