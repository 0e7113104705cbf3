"""Sums over an inventory: parameters in the three conventions, bytes and elements by layer.

Both work on tensors built from an architecture and on those read from a file; tensors that belong to
a part beside the text model (``owner`` other than "base") are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from moeplan.domain.graph import LayerWeights, ModelGraph, ParamCounts, Tensor
from moeplan.domain.model import ModelSpec, MoeFfn

# Roles that do not multiply activations in a matrix product, whatever their shape.
_NOT_MATRICES = frozenset({"norm", "bias", "sink"})


def param_counts(spec: ModelSpec, tensors: Sequence[Tensor]) -> ParamCounts:
    """Total and active parameters of the text model.

    Active per token: every weight but the routed experts that do not compute (on average, where the
    router may pick zero experts). A tied embedding is one tensor: it is the output head, so that
    leaving out the input embedding leaves out nothing.
    """
    chosen = _chosen_experts(spec)
    by_role: dict[str, int] = {}
    total = routed = active = 0
    for t in tensors:
        if t.owner != "base":
            continue
        n = t.n_elements
        total += n
        by_role[t.role] = by_role.get(t.role, 0) + n
        if t.expert_stacked:
            routed += n
            n_active, n_experts = chosen.get(t.layer, (1, 1))
            n = n * n_active // n_experts
        active += n
    head = by_role.get("head", 0)
    embedding = by_role.get("embedding", 0)
    without_input = active - embedding if head else active
    return ParamCounts(
        total=total,
        active=active,
        active_no_input_embedding=without_input,
        active_no_embeddings=active - embedding - head,
        routed_experts=routed,
        by_role=by_role,
    )


def _chosen_experts(spec: ModelSpec) -> dict[int, tuple[int, int]]:
    """Layer -> (experts that compute for a token, experts), for the MoE layers."""
    by_block = {
        index: (block.ffn.n_active, block.ffn.n_experts)
        for index, block in enumerate(spec.blocks)
        if isinstance(block.ffn, MoeFfn)
    }
    return {layer: by_block[index] for layer, index in enumerate(spec.layout) if index in by_block}


def summarise(
    spec: ModelSpec, quant: str, tensors: Sequence[Tensor], origin: Literal["file", "rules"]
) -> ModelGraph:
    """The graph of typed ``tensors``: sums by layer, of the embedding, of the head and of everything.

    The head is the embedding where no head tensor exists (tied embeddings).
    """
    by_layer: list[list[Tensor]] = [[] for _ in spec.layout]
    outside: list[Tensor] = []
    for t in tensors:
        if t.owner != "base":
            continue
        inside = 0 <= t.layer < len(by_layer)
        (by_layer[t.layer] if inside else outside).append(t)

    layers = tuple(_layer(block, found) for block, found in zip(spec.layout, by_layer, strict=True))
    embedding = [t for t in outside if t.role in ("embedding", "position")]
    head = [t for t in outside if t.role == "head"] or [t for t in outside if t.role == "embedding"]
    beside_head = [t for t in outside if t.name.startswith(("output_norm.", "output.bias"))]
    expert = _bits_per_weight([t for found in by_layer for t in found if t.expert_stacked])
    other = _bits_per_weight([*outside, *(t for found in by_layer for t in found if not t.expert_stacked)])
    outside_bytes = _bytes(outside)
    return ModelGraph(
        spec=spec,
        quant=quant,
        origin=origin,
        tensors=tuple(tensors),
        layers=layers,
        embedding_bytes=_bytes(embedding),
        head_bytes=_bytes(head) + _bytes(beside_head),
        head_elements=sum(t.n_elements for t in head),
        outside_bytes=outside_bytes,
        weights_bytes=outside_bytes + sum(x.dense_bytes + x.expert_bytes for x in layers),
        params=param_counts(spec, tensors),
        expert_bits_per_weight=expert,
        other_bits_per_weight=other,
    )


def _layer(block: int, tensors: Sequence[Tensor]) -> LayerWeights:
    dense_bytes = expert_bytes = dense_elements = expert_elements = 0
    by_qtype: dict[str, int] = {}
    for t in tensors:
        by_qtype[t.qtype] = by_qtype.get(t.qtype, 0) + t.n_bytes
        elements = t.n_elements if len(t.shape) > 1 and t.role not in _NOT_MATRICES else 0
        if t.expert_stacked:
            expert_bytes += t.n_bytes
            expert_elements += elements
        else:
            dense_bytes += t.n_bytes
            dense_elements += elements
    return LayerWeights(
        block=block,
        dense_bytes=dense_bytes,
        expert_bytes=expert_bytes,
        dense_elements=dense_elements,
        expert_elements=expert_elements,
        bytes_by_qtype=tuple(sorted(by_qtype.items())),
    )


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(t.n_bytes for t in tensors)


def _bits_per_weight(tensors: Sequence[Tensor]) -> float | None:
    """Average bits a weight, or None without tensors or types."""
    n_bytes = _bytes(tensors)
    return 8 * n_bytes / sum(t.n_elements for t in tensors) if n_bytes else None
