"""The work of one step: bytes read and FLOPs of each group of identical layers.

One multiply-add is two FLOPs. A group is a set of layers with equal weights in equal places, so that a
model of 61 layers is usually two or three groups, however it is split.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec.structs import replace

from moeplan.cost.coverage import expected_experts, prompt_experts
from moeplan.domain.graph import LayerWeights, ModelGraph
from moeplan.domain.model import Block, GqaAttention, MlaAttention, MoeFfn
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.kv import cross_token_bytes, kv_elements, kv_token_bytes, visible_tokens
from moeplan.graph.state import state_elements, state_flop_per_token

_STATE_BYTES = 4


class Step(NamedTuple):
    """One pass of the engine: ``n_tokens`` rows over ``n_sequences`` sequences.

    ``first_depth`` is the cache length before the first token of each sequence; a decode step has one
    token a sequence, a prefill chunk many. ``n_head_rows`` rows go through the output head. Counts of a
    prefill are means over its steps and need not be whole.
    Of an encoder-decoder model a step runs one ``stack``; each sequence of the decoder's attends to
    ``encoded_tokens`` of the encoder's output.
    """

    n_tokens: float
    n_sequences: float
    first_depth: float
    n_head_rows: float
    stack: Literal["whole", "encoder", "decoder"] = "whole"
    encoded_tokens: int = 0

    @property
    def tokens_per_sequence(self) -> float:
        """Rows of each sequence."""
        return self.n_tokens / self.n_sequences


class LayerGroup(NamedTuple):
    """``n_layers`` identical layers whose dense part is on one tier and whose experts are on one."""

    block: Block
    weights: LayerWeights
    dense_tier: str
    expert_tier: str
    n_layers: int


class LayerWork(NamedTuple):
    """Work of ONE layer in one step. Bytes are read, FLOPs computed."""

    dense_bytes: float
    dense_flop: float
    expert_bytes: float
    expert_flop: float
    kv_bytes: float
    attention_flop: float
    expert_elements: float = 0.0
    """Of the experts read."""
    cross_bytes: float = 0.0
    cross_flop: float = 0.0
    """Of attention to the encoder's output."""


class _Kinds(NamedTuple):
    """The layers of one graph by equality: what is the same for every placement."""

    layers: tuple[LayerWeights, ...]
    kind_of: tuple[int, ...]
    """For each layer the index of the first one that equals it."""
    main_type: str
    stored_type: str
    """The same as stored: interleaved rows apart."""


def running(graph: ModelGraph, placement: Placement, step: Step) -> tuple[ModelGraph, Placement]:
    """The layers that ``step`` goes through: of an encoder-decoder model those of its stack.

    The encoder's pass ends with the keys and values that its output has in the decoder's cross-attention:
    layers of these two matrices alone, which the decoder then finds in its cache.
    """
    spec = graph.spec
    if step.stack == "whole":
        return graph, placement
    layers, kept = [], []
    for i, weights in enumerate(graph.layers):
        block = spec.blocks[weights.block]
        runs, crossed = weights, _crossed(block, weights, spec.hidden_size, len(spec.blocks))
        if step.stack == "decoder" and crossed is not None:
            runs = replace(
                weights,
                dense_bytes=weights.dense_bytes - crossed.dense_bytes,
                dense_elements=weights.dense_elements - crossed.dense_elements,
            )
        elif step.stack == "encoder" and crossed is not None:
            runs = crossed
        elif block.encoder != (step.stack == "encoder"):
            continue
        layers.append(runs)
        kept.append(i)
    return (
        replace(graph, layers=tuple(layers), spec=replace(spec, blocks=(*spec.blocks, _CROSSED))),
        replace(
            placement,
            dense_tiers=tuple(placement.dense_tiers[i] for i in kept),
            expert_tiers=tuple(placement.expert_tiers[i] for i in kept),
        ),
    )


_CROSSED = Block(name="keys and values of cross-attention", mixer=None, ffn=None, n_norms=0)


def _crossed(block: Block, weights: LayerWeights, hidden_size: int, index: int) -> LayerWeights | None:
    """The two matrices of a decoder layer that the encoder's output goes through, as a layer of block
    ``index``; their bytes are the layer's, in proportion."""
    cross = block.cross_attention
    if cross is None:
        return None
    n = hidden_size * cross.n_kv_heads * (cross.head_dim + cross.v_head_dim)
    n_bytes = round(weights.dense_bytes * n / max(1, weights.dense_elements))
    return LayerWeights(block=index, dense_bytes=n_bytes, expert_bytes=0, dense_elements=n, expert_elements=0)


def layer_groups(graph: ModelGraph, placement: Placement) -> tuple[LayerGroup, ...]:
    """Layers grouped by (block, weights, tiers), in order of first appearance."""
    counts: dict[tuple[int, str, str], int] = {}
    kinds = _kinds(graph).kind_of
    for key in zip(kinds, placement.dense_tiers, placement.expert_tiers, strict=True):
        counts[key] = counts.get(key, 0) + 1
    blocks, layers = graph.spec.blocks, graph.layers
    return tuple(
        LayerGroup(blocks[layers[kind].block], layers[kind], dense, expert, n)
        for (kind, dense, expert), n in counts.items()
    )


def main_type(graph: ModelGraph, *, stored: bool = False) -> str:
    """The storage type that most bytes of the layers have.

    Row-interleaved variants count as their type, unless it is asked for as ``stored``.
    A method that stores several widths is named with its bits: gptq4, gptq8.
    """
    kinds = _kinds(graph)
    return kinds.stored_type if stored else kinds.main_type


_KEPT = 8
_recent: list[_Kinds] = []


def _kinds(graph: ModelGraph) -> _Kinds:
    """Kept for the last few graphs: a search prices thousands of placements of one."""
    for kinds in _recent:
        if kinds.layers is graph.layers:
            return kinds
    first: dict[LayerWeights, int] = {}
    kind_of = tuple(first.setdefault(weights, i) for i, weights in enumerate(graph.layers))
    sums: dict[str, int] = {}
    for weights in graph.layers:
        for qtype, n_bytes in weights.bytes_by_qtype:
            sums[qtype] = sums.get(qtype, 0) + n_bytes
    stored = max(sums, key=lambda qtype: sums[qtype], default="unknown")
    name = stored.removesuffix("_r4")
    if not any(c.isdigit() for c in name):
        n_bytes = sum(w.dense_bytes + w.expert_bytes for w in graph.layers)
        n_elements = sum(w.dense_elements + w.expert_elements for w in graph.layers)
        name += f"{4 if 8 * n_bytes < 6 * n_elements else 8}"
    _recent.insert(0, _Kinds(graph.layers, kind_of, name, stored))
    del _recent[_KEPT:]
    return _recent[0]


def layer_work(
    block: Block, weights: LayerWeights, step: Step, workload: Workload, architecture: str = ""
) -> LayerWork:
    """Bytes and FLOPs of one layer in ``step``. ``architecture``: whose router it is."""
    expert_bytes = expert_flop = expert_elements = 0.0
    ffn = block.ffn
    if isinstance(ffn, MoeFfn):
        touched = _touched(ffn, step, architecture)
        expert_bytes = weights.expert_bytes * touched / ffn.n_experts
        expert_elements = weights.expert_elements * touched / ffn.n_experts
        expert_flop = 2.0 * weights.expert_elements * ffn.n_active / ffn.n_experts * step.n_tokens
    kv_bytes, attention_flop = attention_work(block, step, workload)
    cross_bytes, cross_flop = cross_work(block, step, workload)
    return LayerWork(
        dense_bytes=float(weights.dense_bytes),
        dense_flop=2.0 * weights.dense_elements * step.n_tokens,
        expert_bytes=expert_bytes,
        expert_flop=expert_flop,
        kv_bytes=kv_bytes,
        attention_flop=attention_flop,
        expert_elements=expert_elements,
        cross_bytes=cross_bytes,
        cross_flop=cross_flop,
    )


def _touched(ffn: MoeFfn, step: Step, architecture: str) -> float:
    """A batch of sequences is as varied as its requests; the tokens of a prompt are of one text."""
    if step.n_sequences == 1 and step.n_tokens > 1:
        return prompt_experts(architecture, ffn.n_experts, ffn.n_active, step.n_tokens)
    return expected_experts(ffn.n_experts, ffn.n_active, step.n_tokens)


def attention_work(block: Block, step: Step, workload: Workload) -> tuple[float, float]:
    """(cache and state bytes read, FLOPs of scores and values) of one layer in ``step``.

    FLOPs: 2 x heads x (d_qk + d_v) x sum over new tokens of the context each sees (causal; in an encoder
    all of it). MLA counts the absorbed form in decode (latent + rope keys, latent values) and the expanded
    form in prefill.
    """
    block = _own_cache(block)
    mixer = block.mixer
    if mixer is None:
        return 0.0, 0.0
    rows = step.tokens_per_sequence
    state_bytes = 2.0 * state_elements(mixer) * _STATE_BYTES * step.n_sequences
    flop = float(state_flop_per_token(mixer)) * step.n_tokens
    if block.encoder:
        seen = rows * step.n_tokens
        own = kv_token_bytes(replace(block, encoder=False), workload.kv_type_k, workload.kv_type_v)
        return state_bytes + own * step.n_tokens, flop + score_flop(block, decode=False) * seen
    if not any(kv_elements(block)):
        return state_bytes, flop
    last = step.first_depth + rows
    read = visible_tokens(block, last) * kv_token_bytes(block, workload.kv_type_k, workload.kv_type_v)
    seen = _mean_visible(block, step.first_depth, rows) * step.n_tokens
    return state_bytes + read * step.n_sequences, flop + score_flop(block, decode=rows <= 1) * seen


def _own_cache(block: Block) -> Block:
    """``block`` as if it kept keys and values: those of another layer are no less read, scored and summed."""
    mixer = block.mixer
    if isinstance(mixer, GqaAttention) and mixer.shares_kv:
        return replace(block, mixer=replace(mixer, shares_kv=False))
    return block


def cross_work(block: Block, step: Step, workload: Workload) -> tuple[float, float]:
    """(cached bytes read, FLOPs) of attention to the encoder's output, all of which every row sees."""
    cross = block.cross_attention
    if cross is None or not step.encoded_tokens:
        return 0.0, 0.0
    n_bytes = cross_token_bytes(block, workload.kv_type_k, workload.kv_type_v)
    flop = 2.0 * cross.n_heads * (cross.head_dim + cross.v_head_dim)
    return n_bytes * step.encoded_tokens * step.n_sequences, flop * step.encoded_tokens * step.n_tokens


def unfused_scores(block: Block, step: Step) -> tuple[float, float]:
    """(scores of one layer in ``step``, times the FLOPs of fused attention) where they are computed apart:
    for all heads and rows over the whole cache, masked ones too. An encoder masks none, and a recurrent
    state has no scores."""
    block = _own_cache(block)
    n_heads, rows = getattr(block.mixer, "n_heads", 0), step.tokens_per_sequence
    if block.encoder and isinstance(block.mixer, GqaAttention):
        return n_heads * step.n_tokens * rows, 1.0
    if not any(kv_elements(block)):
        return 0.0, 1.0
    last = step.first_depth + rows
    cells = visible_tokens(block, last) if rows <= 1 else last
    return n_heads * step.n_tokens * cells, cells / _mean_visible(block, step.first_depth, rows)


def cross_scores(block: Block, step: Step) -> float:
    """Scores of one layer over the encoder's output, where they are computed apart."""
    cross = block.cross_attention
    return cross.n_heads * step.n_tokens * step.encoded_tokens if cross is not None else 0.0


def score_flop(block: Block, *, decode: bool) -> float:
    """FLOPs per new token and visible cached token of one layer, all heads together."""
    mixer = block.mixer
    if isinstance(mixer, GqaAttention):
        return 2.0 * mixer.n_heads * (mixer.head_dim + mixer.v_head_dim)
    if isinstance(mixer, MlaAttention):
        if decode:
            return 2.0 * mixer.n_heads * (2 * mixer.kv_lora_rank + mixer.rope_head_dim)
        return 2.0 * mixer.n_heads * (mixer.nope_head_dim + mixer.rope_head_dim + mixer.v_head_dim)
    heads = getattr(mixer, "n_heads", 0)
    return 4.0 * heads * getattr(mixer, "head_dim", 0)


def _mean_visible(block: Block, first_depth: float, rows: float) -> float:
    """Mean context that ``rows`` consecutive new tokens see, window caps included.

    Without a cap this is first_depth + (rows + 1) / 2; the cap is applied at the two ends and, where
    it is crossed in between, as the exact average of the ramp and the flat part.
    """
    first, last = first_depth + 1.0, first_depth + rows
    cap = visible_tokens(block, 1e12)
    if last <= cap:
        return (first + last) / 2
    if first >= cap:
        return visible_tokens(block, (first + last) / 2)
    ramp = cap - first
    return (ramp * (first + cap) / 2 + (rows - ramp) * cap) / rows
