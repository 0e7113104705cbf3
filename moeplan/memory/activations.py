"""The tensors of a layer as llama.cpp's graph allocates them, one line per node that takes room.

Sizes are f32 elements a token unless said otherwise. What is computed in place (bias, rope of a fresh
tensor, scaling, softmax of scores, residual sums) takes none. Order and lifetimes follow the node list that
the engine itself prints (GGML_SCHED_DEBUG=2; llama-graph.cpp and src/models/*.cpp, November 2026); a view of
a matrix product cannot be overwritten, so that rope and the norms of q and k get rooms of their own.
"""

from __future__ import annotations

from typing import NamedTuple

from moeplan.domain.model import (
    Block,
    CompressedAttention,
    DenseFfn,
    Ffn,
    GatedDeltaNet,
    GqaAttention,
    KimiDelta,
    Lightning,
    Mamba1,
    Mamba2,
    Mixer,
    MlaAttention,
    MoeFfn,
    ShortConv,
)
from moeplan.memory.arena import NOTHING, Arena, Slot

F32 = 4


class Batch(NamedTuple):
    """What one pass through the graph is made for. ``scores`` cells are those of one stream."""

    rows: int
    outputs: int
    flash: bool
    streams: int = 1
    """Sequences whose caches are apart."""
    rotate_k: bool = False
    rotate_v: bool = False
    """Quantised caches are rotated (Hadamard) before they are written: one more product each."""
    fused_up_gate: bool = False
    """ik_llama.cpp's -fmoe: up, gate and activation are one node."""
    expand_latent: bool = False
    """Keys and values of all heads are rebuilt from the latent, for the whole cache at once."""
    score_latent: bool = False
    """Scores of an MLA cache are there whatever ``flash`` says."""
    cast_mask: bool = False
    spare_embeddings: bool = True
    mixed_inputs: bool = False


class Homes(NamedTuple):
    """Whose weights are copied to the device for the pass, largest matrix in bytes; 0: they live there."""

    dense_copy_bytes: int = 0
    expert_copy_bytes: int = 0
    experts_away: bool = False
    """Another device computes the experts; what they put out is copied here and summed."""


class Tape:
    """An arena with the width of the batch: ``act(n)`` takes n elements for every row."""

    def __init__(self, arena: Arena, batch: Batch, rows: int, homes: Homes) -> None:
        self.arena, self.batch, self.homes = arena, batch, homes
        self.indices: list[Slot] = []
        self.mask: list[Slot] = []
        """Inputs of the cache and of attention that nothing reads after this layer."""
        self._row_bytes = rows * F32

    def act(self, elements: float) -> Slot:
        """Room for ``elements`` f32 values of every row."""
        return self.arena.take(elements * self._row_bytes)

    def drop(self, *slots: Slot) -> None:
        """Give room back."""
        self.arena.drop(*slots)

    def product(self, elements: float, *, expert: bool = False) -> Slot:
        """Output of a matrix product; a copied matrix is there until it has run."""
        copied = self.homes.expert_copy_bytes if expert else self.homes.dense_copy_bytes
        matrix = self.arena.take(copied) if copied else None
        out = self.act(elements)
        if matrix is not None:
            self.drop(matrix)
        return out


# ── mixers: normed input (released here) -> output of hidden width ──────────────────────────────


def mixer(tape: Tape, layer: Mixer | None, normed: Slot, hidden: int, cells: int) -> Slot:
    """Play a mixer; ``normed`` is released once its last reader has run."""
    if isinstance(layer, GqaAttention):
        return _gqa(tape, layer, normed, hidden, cells)
    if isinstance(layer, MlaAttention):
        if layer.expanded_cache:
            return _mla_expanded(tape, layer, normed, hidden, cells)
        return _mla(tape, layer, normed, hidden, cells)
    if isinstance(layer, CompressedAttention):
        same = GqaAttention(
            n_heads=layer.n_heads, n_kv_heads=1, head_dim=layer.head_dim, v_head_dim=layer.head_dim
        )
        return _gqa(tape, same, normed, hidden, cells)
    return _recurrent(tape, layer, normed, hidden)


def _gqa(tape: Tape, a: GqaAttention, normed: Slot, hidden: int, cells: int) -> Slot:
    act, drop, batch = tape.act, tape.drop, tape.batch
    # q_proj, with the columns of an output gate
    flat = tape.product(a.n_heads * a.head_dim * (2 if a.output_gate == "full" else 1))
    q = act(a.n_heads * a.head_dim)  # norm or rope of a view
    gate = flat if a.output_gate == "full" else None
    if gate is None:
        drop(flat)
    if batch.rotate_k:
        q = _replaced(tape, q, a.n_heads * a.head_dim)
    if a.sinks:  # gpt-oss builds K first
        k, v = _key(tape, a), _value(tape, a)
        drop(normed)
    else:
        v = _value(tape, a)
        k = _key(tape, a, normed)
    drop(k)
    drop(v)
    out = _attend(tape, q, a.n_heads, a.n_heads * a.v_head_dim, cells)
    if not batch.flash:
        out = _replaced(tape, out, a.n_heads * a.v_head_dim)  # made contiguous
    if batch.rotate_v:
        out = _replaced(tape, out, a.n_heads * a.v_head_dim)
    if gate is not None:
        drop(act(a.n_heads * a.v_head_dim), gate)
    result = tape.product(hidden)
    drop(out)
    return result


def _value(tape: Tape, a: GqaAttention) -> Slot:
    width = 0 if a.shares_kv else a.n_kv_heads * a.v_head_dim
    v = tape.product(width)
    return _replaced(tape, v, width) if tape.batch.rotate_v else v


def _key(tape: Tape, a: GqaAttention, normed: Slot = NOTHING) -> Slot:
    width = 0 if a.shares_kv else a.n_kv_heads * a.head_dim
    flat = tape.product(width)
    tape.drop(normed)
    k = _replaced(tape, flat, width)  # norm or rope of a view
    return _replaced(tape, k, width) if tape.batch.rotate_k else k


def _attend(tape: Tape, q: Slot, n_heads: int, width: int, cells: int, *, flash: bool | None = None) -> Slot:
    """Scores of every cell and head, or none of them with flash attention; then their weighted values."""
    tape.drop(*tape.indices)
    if tape.batch.flash if flash is None else flash:
        out = tape.act(width)
        tape.drop(q, *tape.mask)
        return out
    scores = tape.act(n_heads * cells)
    tape.drop(q, *tape.mask)
    out = tape.act(width)
    tape.drop(scores)
    return out


def _mla(tape: Tape, a: MlaAttention, normed: Slot, hidden: int, cells: int) -> Slot:
    """Absorbed form: queries move to the latent space, which is the cache."""
    act, drop = tape.act, tape.drop
    latent, rope = a.kv_lora_rank, a.rope_head_dim
    low = tape.product(a.q_lora_rank or 0)
    q = tape.product(a.n_heads * (a.nope_head_dim + rope))
    drop(low)
    absorbed = tape.product(a.n_heads * latent)
    roped = act(a.n_heads * rope)
    drop(q)
    joined = act(a.n_heads * (latent + rope))
    drop(absorbed)
    drop(roped)
    both = tape.product(latent + rope)
    drop(normed)
    compressed, k_rope = act(latent), act(rope)
    drop(both)
    k = act(latent + rope)
    drop(compressed, k_rope, k)
    values = tape.arena.take(_latent_copy_bytes(tape.batch, a, cells))
    flash = tape.batch.flash and not tape.batch.score_latent
    out = _attend(tape, joined, a.n_heads, a.n_heads * latent, cells, flash=flash)
    drop(values)
    out = _replaced(tape, out, a.n_heads * a.v_head_dim)
    out = _replaced(tape, out, a.n_heads * a.v_head_dim)
    result = tape.product(hidden)
    drop(out)
    return result


def _latent_copy_bytes(batch: Batch, a: MlaAttention, cells: int) -> int:
    """f16 copies of the cache made for attention: the latent, or keys and values of every head."""
    if batch.expand_latent:
        # The product with kv_b (nope + v), and the keys taken from it.
        return cells * a.n_heads * (2 * a.nope_head_dim + a.v_head_dim) * 2
    return 0 if batch.flash else cells * batch.streams * a.kv_lora_rank * 2


def _mla_expanded(tape: Tape, a: MlaAttention, normed: Slot, hidden: int, cells: int) -> Slot:
    """Keys and values of every head are rebuilt from the latent and cached."""
    act, drop = tape.act, tape.drop
    head = a.nope_head_dim + a.rope_head_dim
    low = tape.product(a.q_lora_rank or 0)
    q = tape.product(a.n_heads * head)
    drop(low)
    both = tape.product(a.kv_lora_rank + a.rope_head_dim)
    drop(normed)
    compressed = act(a.kv_lora_rank)
    kv = tape.product(a.n_heads * (a.nope_head_dim + a.v_head_dim))
    drop(compressed)
    v = act(a.n_heads * a.v_head_dim)
    roped = act(a.n_heads * a.rope_head_dim)
    joined = act(a.n_heads * head)
    drop(q, roped)
    k = act(a.n_heads * head)
    drop(both, kv, k, v)
    out = _attend(tape, joined, a.n_heads, a.n_heads * a.v_head_dim, cells)
    out = _replaced(tape, out, a.n_heads * a.v_head_dim)
    result = tape.product(hidden)
    drop(out)
    return result


def _recurrent(tape: Tape, layer: Mixer | None, normed: Slot, hidden: int) -> Slot:
    """Linear mixers: projections, their convolution, the scan's inputs and output. Reasoned, not measured."""
    width = recurrent_width(layer)
    projected = tape.product(width)
    tape.drop(normed)
    convolved = tape.act(width)
    scanned = tape.act(width)
    tape.drop(projected, convolved)
    out = tape.product(hidden)
    tape.drop(scanned)
    return out


def recurrent_width(layer: Mixer | None) -> int:
    """Elements a token of the joint input projection of a linear mixer."""
    if isinstance(layer, Mamba1):
        return 2 * layer.inner_dim
    if isinstance(layer, Mamba2):
        return 2 * layer.n_heads * layer.head_dim + 2 * layer.n_groups * layer.state_dim + layer.n_heads
    if isinstance(layer, GatedDeltaNet):
        return 2 * layer.n_k_heads * layer.k_head_dim + 2 * layer.n_v_heads * layer.v_head_dim
    if isinstance(layer, KimiDelta | Lightning):
        return 4 * layer.n_heads * layer.head_dim
    return 3 * layer.channels if isinstance(layer, ShortConv) else 0


# ── feed-forward parts ──────────────────────────────────────────────────────────────────────────


def feed_forward(tape: Tape, ffn: Ffn | None, normed: Slot, hidden: int) -> Slot | None:
    """Play the feed-forward part; None where there is none. ``normed`` is released."""
    if isinstance(ffn, MoeFfn):
        return _moe(tape, ffn, normed, hidden)
    if isinstance(ffn, DenseFfn):
        out = _mlp(tape, normed, hidden, ffn.intermediate, gated=ffn.gated)
        return out
    tape.drop(normed)
    return None


def _mlp(tape: Tape, normed: Slot, hidden: int, width: int, *, gated: bool, keep: bool = False) -> Slot:
    gate = tape.product(width)
    up = tape.product(width) if gated else None
    if not keep:
        tape.drop(normed)
    if up is not None:
        inner = tape.act(width)
        tape.drop(gate)
        tape.drop(up)
    else:
        inner = gate
    out = tape.product(hidden)
    tape.drop(inner)
    return out


def _moe(tape: Tape, ffn: MoeFfn, normed: Slot, hidden: int) -> Slot:
    act, drop = tape.act, tape.drop
    k, width = ffn.n_active, ffn.expert_intermediate
    wide = ffn.latent_dim or hidden
    probabilities = tape.product(ffn.n_experts)
    biased = act(ffn.n_experts) if ffn.router_correction else None
    ranked = act(ffn.n_experts)
    if biased is not None:
        drop(biased)
    weights = act(k)
    drop(probabilities)
    drop(act(1))  # their sum
    if ffn.router_bias:  # gpt-oss: softmax over the chosen ones
        weights = _replaced(tape, weights, k)
    shared = ffn.n_shared or ffn.parallel_dense
    if tape.homes.experts_away:
        if not shared:
            drop(normed)
        received = act(k * wide)
        down = act(k * wide)
        drop(received, ranked, weights)
    else:
        inner = _experts_inner(tape, ffn, k * width, None if shared else normed)
        down = tape.product(k * wide, expert=True)
        drop(inner, ranked, weights)
    out = act(wide)  # the sum over the chosen experts; with one it is the matrix itself
    drop(down)
    for side in (ffn.shared_intermediate, ffn.parallel_dense):
        if side:
            drop(_mlp(tape, normed, hidden, side, gated=ffn.gated, keep=True))
    if shared:
        drop(normed)
    return out


def _experts_inner(tape: Tape, ffn: MoeFfn, width: int, normed: Slot | None) -> Slot:
    """Inner activations of the chosen experts; ``normed``, if given, is released after its last reader."""
    if tape.batch.fused_up_gate:
        inner = tape.product(width, expert=True)
        return _released(tape, normed, inner)
    gate = tape.product(width, expert=True)
    if not ffn.gated:
        return _released(tape, normed, gate)
    up = tape.product(width, expert=True)
    if normed is not None:
        tape.drop(normed)
    inner = tape.act(width)
    tape.drop(gate)
    tape.drop(up)
    return inner


def _released(tape: Tape, normed: Slot | None, result: Slot) -> Slot:
    if normed is not None:
        tape.drop(normed)
    return result


def _replaced(tape: Tape, old: Slot, elements: int) -> Slot:
    """A new tensor of ``elements`` a row computed from ``old``, which goes."""
    new = tape.act(elements)
    tape.drop(old)
    return new


def attends(block: Block) -> bool:
    """Whether the block reads a key/value cache."""
    return isinstance(block.mixer, GqaAttention | MlaAttention | CompressedAttention)
