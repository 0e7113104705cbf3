"""One device's share of a micro-batch played through the allocator: its compute buffer in bytes."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from moeplan.domain.model import Block, GqaAttention
from moeplan.memory.activations import F32, Batch, Homes, Tape, attends, feed_forward, mixer
from moeplan.memory.arena import NOTHING, Arena, Slot

# ggml-cpu and ggml-cuda buffer alignment (ggml_backend_*_buffer_type_get_alignment), November 2026.
CPU_ALIGNMENT_BYTES, GPU_ALIGNMENT_BYTES = 32, 128
_INDEX_BYTES = 8  # set_rows takes its targets as int64
# A cache's inputs: rotations of K and V (none for an f16 cache), targets of K and V, mask.
_N_INPUTS, _MASK = 5, 4


class Layer(NamedTuple):
    """A layer to play. ``kind`` tells caches apart (each has one mask); ``cells`` are one stream's."""

    block: Block
    kind: str
    cells: int
    homes: Homes = Homes()


class Pass(NamedTuple):
    """Everything the buffer of one device follows from.

    ``input_copies``: 0 where the token ids arrive (the host), else how many copies of the hidden state, the
    masks and the positions the device keeps (4 when micro-batches are pipelined over several GPUs).
    """

    batch: Batch
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    input_copies: int
    holds_embedding: bool
    has_head: bool
    ends_model: bool
    crops_late: bool = False
    """The rows whose logits are asked for are picked behind the last layer, not inside it."""
    host_inputs_only: bool = False
    """GPUs compute everything: the host holds the inputs of the graph and no more."""
    host_copies: int = 1


@lru_cache(maxsize=4096)
def buffer_bytes(work: Pass) -> int:
    """Peak of the allocator over the pass."""
    return _Player(work).play()


def alike(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The first two layers of each sort and the last one: further repeats change no peak."""
    seen: dict[Layer, int] = {}
    kept = []
    for i, layer in enumerate(layers):
        seen[layer] = seen.get(layer, 0) + 1
        if seen[layer] <= 2 or i == len(layers) - 1:
            kept.append(layer)
    return tuple(kept)


class _Player:
    def __init__(self, work: Pass) -> None:
        self.work = work
        on_host = work.input_copies == 0
        self.arena = Arena(CPU_ALIGNMENT_BYTES if on_host else GPU_ALIGNMENT_BYTES)
        self.full = self._tape(work.batch.rows, Homes())
        self.inputs: dict[str, list[Slot]] = {}

    def _tape(self, rows: int, homes: Homes) -> Tape:
        return Tape(self.arena, self.work.batch, rows, homes)

    def play(self) -> int:
        work = self.work
        hidden = self._enter()
        if work.host_inputs_only:
            return self.arena.peak_bytes
        last_of = {layer.kind: i for i, layer in enumerate(work.layers)}
        for i, layer in enumerate(work.layers):
            final = work.ends_model and not work.crops_late and i == len(work.layers) - 1
            done = layer.kind if last_of[layer.kind] == i else None
            hidden = self._layer(layer, hidden, final=final, release=done)
        if work.ends_model and work.crops_late:
            self._tape(work.batch.outputs, Homes()).act(work.hidden)
            # What was picked from stays: the draft head may ask for it.
            self.arena.drop(*self.inputs.pop("", []))
        if work.has_head:
            outputs = work.batch.outputs * F32
            if work.batch.fused_up_gate:  # a fused norm has room of its own
                self.arena.take(outputs * work.hidden)
            # The head's input stays while the head runs: it can be asked for as an embedding.
            self.arena.take(outputs * work.vocab)
        return self.arena.peak_bytes

    def _enter(self) -> Slot:
        """Inputs, which live until their last reader has run; copies of a pipeline live forever."""
        work, rows = self.work, self.work.batch.rows
        take = self.arena.take
        copies = max(1, work.input_copies)
        on_host = work.input_copies == 0
        tokens = take(rows * F32) if on_host else NOTHING
        if on_host and work.batch.spare_embeddings:
            self.full.act(work.hidden)  # embeddings instead of tokens: reserved, never used
        mixes = on_host and work.batch.mixed_inputs
        marked, slots, given = (self.full.act(n if mixes else 0) for n in (1, 2, work.hidden))
        if work.host_inputs_only and work.host_copies > 1:
            copies = work.host_copies
        position = [take(rows * F32) for _ in range(copies)]
        for layer in work.layers:
            if attends(layer.block) and layer.kind not in self.inputs:
                self.inputs[layer.kind] = [slot for _ in range(copies) for slot in self._cache_inputs(layer)]
        picked = take(work.batch.outputs * F32)
        hidden = [self.full.act(work.hidden) for _ in range(copies if not work.holds_embedding else 1)]
        self.arena.drop(tokens)
        if mixes:
            looked_up = self.full.act(work.hidden)
            self.arena.drop(marked)
            self.full.act(work.hidden)  # the mixture: its only reader is a view that nobody reads
            self.arena.drop(given, looked_up, slots)
        if work.batch.cast_mask and work.layers:
            self._cast_masks(keep=copies > 1 or work.host_inputs_only)
        if copies > 1:
            self.inputs = {kind: [] for kind in self.inputs}
            return self.full.act(0)
        self.inputs[""] = [*position, picked]
        return hidden[0]

    def _cache_inputs(self, layer: Layer) -> list[Slot]:
        rows, batch, take = self.work.batch.rows, self.work.batch, self.arena.take
        # Without flash attention V is stored transposed, element by element.
        width_v = 1 if batch.flash else max(1, _value_width(layer.block))
        rotations = [NOTHING, NOTHING]
        if isinstance(layer.block.mixer, GqaAttention):
            head = layer.block.mixer
            rotations = [
                take(head.head_dim**2 * F32 * batch.rotate_k),
                take(head.v_head_dim**2 * F32 * batch.rotate_v),
            ]
        mask = layer.cells * rows * (2 if batch.flash and not batch.cast_mask else F32)
        return [*rotations, take(_INDEX_BYTES * rows), take(_INDEX_BYTES * rows * width_v), take(mask)]

    def _cast_masks(self, *, keep: bool) -> None:
        """Each f32 mask becomes one of half the size, and goes unless it is a copy of a pipeline."""
        for slots in self.inputs.values():
            if self.work.host_inputs_only or len(slots) <= _MASK:
                continue
            cast = self.arena.take(slots[_MASK][1] / 2)
            if not keep:
                self.arena.drop(slots[_MASK])
            slots[_MASK] = cast

    def _layer(self, layer: Layer, entering: Slot, *, final: bool, release: str | None) -> Slot:
        work, drop = self.work, self.arena.drop
        tape = self._tape(work.batch.rows, layer.homes)
        normed = tape.act(work.hidden)
        read_last = self.inputs.pop(release, []) if release is not None else []
        tape.indices = [slot for i, slot in enumerate(read_last) if i % _N_INPUTS != _MASK]
        tape.mask = read_last[_MASK::_N_INPUTS]
        out = mixer(tape, layer.block.mixer, normed, work.hidden, layer.cells)
        if final:
            # Only rows whose logits are asked for go on.
            drop(*self.inputs.pop("", []))
            few = self._tape(work.batch.outputs, layer.homes)
            picked = few.act(work.hidden)
            drop(out)
            rest = few.act(work.hidden)
            drop(entering)
            drop(rest)
            tape, out = few, picked
        else:
            drop(entering)
        result = feed_forward(tape, layer.block.ffn, tape.act(work.hidden), work.hidden)
        if result is None:
            return out
        drop(out)
        return result


def _value_width(block: Block) -> int:
    mixer_of = block.mixer
    heads = getattr(mixer_of, "n_kv_heads", 0)
    return int(heads * getattr(mixer_of, "v_head_dim", 0)) if heads else 0
