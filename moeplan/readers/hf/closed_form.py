"""Parameters of one layer in closed form: what readers need to size parts beside the text model.

The inventory (moeplan.graph) lists tensors; this is arithmetic, so that the two check each other.
"""

from __future__ import annotations

from moeplan.domain.model import Block, DenseFfn, GqaAttention, Indexer, MlaAttention, MoeFfn
from moeplan.errors import NotModelled


def block_params(block: Block, hidden_size: int) -> int:
    """Parameters of one layer of ``block``: its mixer, its FFN and its norms (without norm biases).

    Raises NotModelled for mixers other than softmax attention.
    """
    n = block.n_norms * hidden_size + block.extra_params
    if isinstance(block.mixer, GqaAttention):
        n += _gqa(block.mixer, hidden_size)
    elif isinstance(block.mixer, MlaAttention):
        n += _mla(block.mixer, hidden_size)
    elif block.mixer is not None:
        raise NotModelled(f"parameters of a {type(block.mixer).__name__} layer in closed form")
    if isinstance(block.ffn, MoeFfn):
        n += _moe(block.ffn, hidden_size)
    elif isinstance(block.ffn, DenseFfn):
        n += _dense(block.ffn, hidden_size)
    return n


def _gqa(a: GqaAttention, hidden: int) -> int:
    q = a.n_heads * a.head_dim
    k = 0 if a.shares_kv else a.n_kv_heads * a.head_dim
    v = 0 if a.shares_kv or a.value_is_key else a.n_kv_heads * a.v_head_dim
    gate = {"none": 0, "full": q, "head": a.n_heads}[a.output_gate]
    n = hidden * (q + k + v + gate + a.n_heads * a.v_head_dim)
    if a.qkv_bias:
        n += q + k + v + (gate if a.output_gate == "full" else 0)
    if a.out_bias:
        n += hidden
    if a.qk_norm == "head":
        n += a.head_dim * (1 if a.shares_kv else 2)
    elif a.qk_norm != "none":
        n += q + k
    if a.sinks:
        n += a.n_heads
    return n + (_indexer(a.indexer, hidden, None) if a.indexer else 0)


def _mla(a: MlaAttention, hidden: int) -> int:
    q_out = a.n_heads * (a.nope_head_dim + a.rope_head_dim)
    v_out = a.n_heads * a.v_head_dim
    kv_down = a.kv_lora_rank + a.rope_head_dim
    rank = a.q_lora_rank
    n = hidden * q_out if rank is None else rank * (hidden + q_out + 1)
    n += hidden * (kv_down + v_out) + a.kv_lora_rank * (1 + a.n_heads * (a.nope_head_dim + a.v_head_dim))
    n += hidden * {"none": 0, "full": v_out, "head": a.n_heads}[a.output_gate]
    if a.qkv_bias:
        n += (rank or 0) + kv_down + hidden
    return n + (_indexer(a.indexer, hidden, rank) if a.indexer else 0)


def _indexer(x: Indexer, hidden: int, q_rank: int | None) -> int:
    if x.shared:
        return 0
    n = x.head_dim * (x.n_heads * (q_rank or hidden) + hidden + 2)
    return n if q_rank is None else n + x.n_heads * hidden


def _dense(f: DenseFfn, hidden: int) -> int:
    ups = 2 if f.gated else 1
    return (ups + 1) * hidden * f.intermediate + (ups * f.intermediate + hidden if f.bias else 0)


def _moe(f: MoeFfn, hidden: int) -> int:
    width = f.latent_dim or hidden
    ups = 2 if f.gated else 1
    outputs = f.n_experts + f.n_zero_experts
    expert = (ups + 1) * width * f.expert_intermediate
    if f.bias:
        expert += ups * f.expert_intermediate + width
    n = f.n_experts * expert + outputs * hidden + 2 * f.latent_dim * hidden
    n += outputs * (int(f.router_bias) + int(f.router_correction))
    n += (hidden + f.n_experts) if f.router_scale else 0
    n += (ups + 1) * hidden * (f.shared_intermediate + f.parallel_dense)
    return n + (hidden if f.shared_gate else 0)
