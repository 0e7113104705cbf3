"""What one forward pass of the reference decoder has to do, counted from shapes. Pure: no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from moeplan.domain.model import Block, DenseFfn, GqaAttention, MlaAttention, ModelSpec, MoeFfn
from moeplan.graph.inventory import build_tensors

_CACHE_BYTES = 4
"""Of a cached value: reference runs are in fp32."""
PREFIX = "work."


class Work(NamedTuple):
    """Elements of matrices and the rows that each meets; what attention reads and computes."""

    layers: int
    experts: float
    """Routed experts that run, summed over the layers."""
    rows: float
    dense_elements: float
    """Of the layers, routed experts left out."""
    head_rows: float
    head_elements: float
    expert_rows: float
    """Rows that a routed expert meets, of those that run."""
    expert_elements: float
    """Of the experts that run."""
    values: float
    """That norms, rope, activations and additions pass over, and picking and adding rows of experts."""
    cache_bytes: float
    """Keys and values that a decode step reads."""
    attention_flop: float
    """Of a prompt over itself, the causal half."""

    def setup(self) -> dict[str, str | int | float]:
        """As a sample's setup holds it."""
        return {PREFIX + name: value for name, value in self._asdict().items()}


def work_in(setup: Mapping[str, str | int | float]) -> Work | None:
    """The work that a sample names; None where it names none."""
    if PREFIX + "layers" not in setup:
        return None
    return Work(**{name: float(setup[PREFIX + name]) for name in Work._fields})  # type: ignore[arg-type]


def work_of(spec: ModelSpec, phase: str, batch: int, depth: int, touched: float) -> Work:
    """Of a decode step of ``batch`` sequences with ``depth`` tokens cached, or prompts of ``depth`` tokens.

    ``touched``: routed experts that run in a MoE layer.
    """
    moe = {i: b.ffn for i, b in enumerate(spec.layer_blocks()) if isinstance(b.ffn, MoeFfn)}
    rows = float(batch if phase == "decode" else batch * depth)
    dense = expert = head = 0.0
    for t in build_tensors(spec):
        if t.expert_stacked:
            expert += t.n_elements * touched / moe[t.layer].n_experts
        elif t.role == "head" or (t.role == "embedding" and spec.tied_embeddings):
            head += t.n_elements
        elif t.layer >= 0 and len(t.shape) > 1:
            dense += t.n_elements
    chosen = sum(rows * ffn.n_active for ffn in moe.values())
    experts = touched * len(moe)
    attention = [_attention(block, phase, batch, depth) for block in spec.layer_blocks()]
    return Work(
        layers=spec.n_layers,
        experts=experts,
        rows=rows,
        dense_elements=dense,
        head_rows=float(batch),
        head_elements=head,
        expert_rows=chosen / experts if experts else 0.0,
        expert_elements=expert,
        values=rows * sum(_values(block, spec.hidden_size) for block in spec.layer_blocks()),
        cache_bytes=sum(n_bytes for n_bytes, _ in attention),
        attention_flop=sum(flop for _, flop in attention),
    )


def _values(block: Block, hidden: int) -> float:
    """Of one row in one layer, each counted as often as an operation passes over it."""
    mixer, ffn = block.mixer, block.ffn
    if isinstance(mixer, MlaAttention):
        turned = mixer.n_heads * mixer.rope_head_dim
    else:
        assert isinstance(mixer, GqaAttention)
        turned = (mixer.n_heads + mixer.n_kv_heads) * mixer.head_dim
    if isinstance(ffn, MoeFfn):
        # every chosen expert: its row picked, weighed and added; the activation and the product of its halves
        passed = ffn.n_active * (3 * hidden + 2 * ffn.expert_intermediate)
        passed += 2 * ffn.shared_intermediate
    else:
        assert isinstance(ffn, DenseFfn)
        passed = 2 * ffn.intermediate
    # two norms and two additions; rope takes six products, two sums and joins them
    return float(4 * hidden + 9 * turned / 2 + passed)


def _attention(block: Block, phase: str, batch: int, depth: int) -> tuple[float, float]:
    """(bytes of cache read by a decode step, FLOP of a prompt) of one layer."""
    mixer = block.mixer
    if isinstance(mixer, MlaAttention):
        stored, computed = (
            mixer.kv_lora_rank + mixer.rope_head_dim,
            2 * mixer.kv_lora_rank + mixer.rope_head_dim,
        )
        heads = mixer.n_heads
    else:
        assert isinstance(mixer, GqaAttention)
        stored = mixer.n_kv_heads * (mixer.head_dim + mixer.v_head_dim)
        computed, heads = mixer.head_dim + mixer.v_head_dim, mixer.n_heads
    seen = depth if mixer.window_tokens is None else min(depth, mixer.window_tokens)
    if phase == "decode":
        return float(batch * seen * stored * _CACHE_BYTES), 0.0
    # every row meets, on average, half of what it may see
    return 0.0, 2.0 * batch * depth * heads * computed * (seen - seen * seen / (2.0 * depth))
