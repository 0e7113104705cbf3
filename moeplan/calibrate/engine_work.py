"""What llama.cpp does on a CPU where the cost law counts FLOPs and bytes: attention, and the last FFN.

Attention takes time a head and cached token. On two cores of an EPYC 9004 (AVX-512, 2026-11-30; six layers,
caches of 4 to 512 tokens, 8 to 32 query heads of 64, 128 and 256 values, 2 to 8 heads of the cache) a query
head takes 27 ns a cached token at 64 values, 30 ns at 128 and about twice that at 256: softmax and calls. A
head of the cache takes 150 ns at 64 and 130 ns at 128: its rows lie far apart.

Behind the last layer's attention only the row that gives a token goes on (``inp_out_ids`` in llama.cpp's
models): a prompt misses one FFN. Without it prompts of 2 to 21 layers ran at 92 to 99 GFLOP/s, as if all
were there at 100 to 160 (q4_K, the same machine).
"""

from __future__ import annotations

from typing import NamedTuple

from moeplan.cost.work import score_flop
from moeplan.domain.graph import EXPERT_ROLES, ModelGraph
from moeplan.domain.model import GqaAttention
from moeplan.engines.kv import kv_token_bytes

# A head of 128 values: narrower ones take as long, wider ones in proportion (measured as above).
_FLAT_FLOP, _FLAT_BYTES = 4.0 * 128, 4.0 * 128


ROW_HEADS = 5.0
"""Query heads that take as long as a head of the cache (as above; 5.5 and 4.3 with one thread, 6.2 and 3.8
with two). Too little of a short run to be fitted apart."""


class Attention(NamedTuple):
    """Of all layers together, for one new token and one cached one."""

    heads: float
    """Query heads, wider ones counted by their width."""
    rows: float
    """Heads of the cache, wider ones counted by their width."""
    decode_flop: float
    prompt_flop: float
    cache_bytes: float

    @property
    def decode_heads(self) -> float:
        """Query heads, and those that take as long as the rows of the cache."""
        return self.heads + ROW_HEADS * self.rows


class Parts(NamedTuple):
    """Elements of weights, or shares of them."""

    dense_elements: float
    expert_elements: float


# Matrices behind the attention of a layer.
_FFN_ROLES = EXPERT_ROLES | {
    "ffn_gate", "ffn_up", "ffn_down", "ffn_gate_up", "shared_gate", "shared_up", "shared_down", "router",
    "shared_router",
}  # fmt: skip


def last_ffn_of(graph: ModelGraph) -> Parts:
    """The FFN that a prompt's tokens do not pass, but for the last of them."""
    last = len(graph.layers) - 1
    ffn = [t for t in graph.tensors if t.layer == last and t.role in _FFN_ROLES and t.owner == "base"]
    experts = sum(t.n_elements for t in ffn if t.expert_stacked)
    return Parts(float(sum(t.n_elements for t in ffn)) - experts, float(experts))


def passed_frac(graph: ModelGraph, prompt_tokens: int) -> Parts:
    """Of the work on the layers' elements that a whole prompt would be, the share that is done."""
    last, skipped = last_ffn_of(graph), 1.0 - 1.0 / max(1, prompt_tokens)
    dense = sum(w.dense_elements for w in graph.layers)
    experts = sum(w.expert_elements for w in graph.layers)
    return Parts(
        1.0 - skipped * last.dense_elements / max(1, dense),
        1.0 - skipped * last.expert_elements / max(1, experts),
    )


def attention_of(graph: ModelGraph, type_k: str = "f16", type_v: str = "f16") -> Attention:
    """Heads and rows, and what the cost law counts for them."""
    total = Attention(0.0, 0.0, 0.0, 0.0, 0.0)
    for weights in graph.layers:
        block = graph.spec.blocks[weights.block]
        n_bytes = kv_token_bytes(block, type_k, type_v)
        decode, prompt = (score_flop(block, decode=d) for d in (True, False))
        if not n_bytes or not decode:
            continue
        mixer = block.mixer
        n, n_kv = (mixer.n_heads, mixer.n_kv_heads) if isinstance(mixer, GqaAttention) else (1, 1)
        one = (max(n, decode / _FLAT_FLOP), max(n_kv, n_bytes / _FLAT_BYTES), decode, prompt, n_bytes)
        total = Attention(*(a + b for a, b in zip(total, one, strict=True)))
    return total
