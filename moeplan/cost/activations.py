"""Activations between the products of a prompt: ggml runs one operation after the other, on f32 tensors.

Each norm, sum, rotation and activation reads its inputs from memory and writes its output there, and each
product has its inputs quantised by a kernel of its own. The work grows with the width of a layer, that of its
matrices with the square: of a model of 1B it is a fifth of a prompt.
"""

from __future__ import annotations

from moeplan.cost.ops import Op
from moeplan.cost.rates import Rates
from moeplan.domain.model import Block, DenseFfn, GqaAttention, MoeFfn

# Last-level caches of 24 MB and more hold the 8 MB that 512 tokens of a layer of 4,096 values are, so that
# the next kernel finds them: 24 to 72 MB on Ada, 24 to 128 on Blackwell, 50 on Hopper, 32 to 128 of Infinity
# Cache since RDNA 2 (data sheets, recalled 2026-11-30 and not re-read), 256 MB of it on CDNA 3 and 4
# (rocm.docs.amd.com, reference/gpu-specs); 6 or less on Amperes and before. Of RDNA 3.5 the Ryzen AI Max has
# 32 MB beside its memory, others none; its prompts do not tell (docs/design/003).
# GA100 has 40 in two halves, but prompts of an A100 (build 2837, Q4_K_M) take 1.1 times as long as without.
_LARGE_CACHES = frozenset(
    {"ada", "blackwell", "blackwell-ultra", "cdna3", "cdna4", "hopper", "rdna2", "rdna3", "rdna4"}
)

_F32 = 4.0
# Passes over f32 values, read or written, by ggml's graph of a plain layer (llama.cpp src/llama-graph.cpp and
# src/models): a norm reads and writes (its weights are fused), a sum reads twice and writes, inputs are read
# and written in 8 bits for each product.
_QUANTISED = 1.25
_AROUND_ATTENTION = 2 + 3 * _QUANTISED + 1 + 3
"""Of the hidden state: norm, inputs of Q, K and V, output, sum."""
_QUERIES, _KEYS_VALUES = 1 + 2 + 2 + _QUANTISED, 3.5
"""Written, rotated, read by attention, which writes as much, and quantised; keys and values to the cache."""
_AROUND_FFN = 2 + 2 * _QUANTISED + 1 + 3
_INNER = 2 + 3 + _QUANTISED
"""Of the inner width: up and gate, their product, inputs of down."""
_AROUND_EXPERTS, _EACH_EXPERT = 2 + 1 + 1 + 3, 2 * _QUANTISED + 1 + 2 + 1
"""Norm, router and sum; for each expert inputs, output, its weight and the sum of all."""


def activation_bytes(block: Block, hidden: int) -> float:
    """Bytes that one token moves beside the products of one layer.

    >>> from moeplan.domain.model import Block, DenseFfn
    >>> activation_bytes(Block(name="ffn", mixer=None, ffn=DenseFfn(intermediate=4096)), 1024) / 1024
    134.0
    """
    values = 0.0
    mixer, ffn = block.mixer, block.ffn
    if isinstance(mixer, GqaAttention):
        keys_values = mixer.n_kv_heads * (mixer.head_dim + mixer.v_head_dim)
        values += _QUERIES * mixer.n_heads * mixer.head_dim + _KEYS_VALUES * keys_values
    if mixer is not None:
        values += _AROUND_ATTENTION * hidden
    if isinstance(ffn, MoeFfn):
        values += _AROUND_EXPERTS * hidden + ffn.n_active * (
            _EACH_EXPERT * hidden + _INNER * ffn.expert_intermediate
        )
    elif isinstance(ffn, DenseFfn):
        values += _AROUND_FFN * hidden + _INNER * ffn.intermediate
    return _F32 * values


def activations_op(
    rates: Rates, tier: str, family: str, block: Block, n_layers: int, hidden: int, n_tokens: float
) -> Op:
    """What ``n_tokens`` rows of a prompt move between the products of ``n_layers`` layers."""
    n_bytes = n_layers * n_tokens * activation_bytes(block, hidden)
    names = (*rates.weights[0], f"{family}.activations.bandwidth")
    if rates.architecture.rpartition(".")[2] in _LARGE_CACHES:
        names += (f"{family}.cached.activations.bandwidth",)
    return Op(
        f"{tier} activations",
        n_bytes / rates.bytes_per_s,
        names,
        n_bytes=n_bytes,
        formula="layers x tokens x bytes between products / bandwidth",
        inputs={**rates.inputs, "layers": n_layers},
    )
