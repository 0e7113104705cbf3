"""A model whose file is larger or smaller than the rules of its quantisation say."""

from __future__ import annotations

from functools import lru_cache

from msgspec.structs import replace

from moeplan.domain.graph import LayerWeights, ModelGraph


def resized(graph: ModelGraph, file_bytes: float) -> ModelGraph:
    """``graph`` with every size scaled so that the weights take ``file_bytes``; elements stay."""
    ratio = file_bytes / graph.file_bytes
    scaled: dict[int, LayerWeights] = {}
    for weights in graph.layers:
        if id(weights) not in scaled:
            scaled[id(weights)] = replace(
                weights,
                dense_bytes=round(weights.dense_bytes * ratio),
                expert_bytes=round(weights.expert_bytes * ratio),
                bytes_by_qtype=tuple((name, round(n * ratio)) for name, n in weights.bytes_by_qtype),
            )
    return replace(
        graph,
        layers=tuple(scaled[id(weights)] for weights in graph.layers),
        embedding_bytes=round(graph.embedding_bytes * ratio),
        head_bytes=round(graph.head_bytes * ratio),
        outside_bytes=round(graph.outside_bytes * ratio),
        weights_bytes=round(file_bytes) + round(graph.padding_bytes * ratio),
        padding_bytes=round(graph.padding_bytes * ratio),
    )


# The least that the rest of a file has where its name states the type of its experts: iq4_ks for q8_0 (model
# cards of sokann's and lmganon123's DeepSeek-V3-0324 files, copies retrieved 2026-11-30).
_LEAST_OF_REST = 4.25 / 8.5


def resized_rest(graph: ModelGraph, file_bytes: float) -> ModelGraph:
    """``graph`` with all but its experts scaled so that the weights take ``file_bytes``.

    For files whose name states the type of the experts and whose maker chooses the rest. What the rest cannot
    be smaller by is taken from all in proportion.
    """
    experts = sum(weights.expert_bytes for weights in graph.layers)
    rest = graph.file_bytes - experts
    ratio = max(_LEAST_OF_REST, (file_bytes - experts) / rest)
    smaller = replace(
        graph,
        layers=tuple(_dense_scaled(weights, ratio) for weights in graph.layers),
        embedding_bytes=round(graph.embedding_bytes * ratio),
        head_bytes=round(graph.head_bytes * ratio),
        outside_bytes=round(graph.outside_bytes * ratio),
        weights_bytes=experts + round(rest * ratio) + graph.padding_bytes,
    )
    return smaller if ratio > _LEAST_OF_REST else resized(smaller, file_bytes)


def resized_experts(graph: ModelGraph, file_bytes: float) -> ModelGraph:
    """``graph`` with its experts scaled so that the weights take ``file_bytes``."""
    experts = sum(weights.expert_bytes for weights in graph.layers)
    ratio = (file_bytes - graph.file_bytes + experts) / experts
    return replace(
        graph,
        layers=tuple(_experts_scaled(weights, ratio) for weights in graph.layers),
        weights_bytes=graph.weights_bytes + round(file_bytes) - graph.file_bytes,
    )


@lru_cache(maxsize=256)
def _experts_scaled(weights: LayerWeights, ratio: float) -> LayerWeights:
    """``weights`` with experts ``ratio`` times as large; that share of its types goes with them."""
    experts = round(weights.expert_bytes * ratio)
    return _with(weights, weights.dense_bytes, experts)


@lru_cache(maxsize=256)
def _dense_scaled(weights: LayerWeights, ratio: float) -> LayerWeights:
    """``weights`` whose dense part is ``ratio`` times as large; that share of its types goes with it."""
    return _with(weights, round(weights.dense_bytes * ratio), weights.expert_bytes)


def _with(weights: LayerWeights, dense: int, experts: int) -> LayerWeights:
    total = weights.dense_bytes + weights.expert_bytes
    share = (dense + experts) / total if total else 1.0
    by_type = tuple((name, round(n * share)) for name, n in weights.bytes_by_qtype)
    return replace(weights, dense_bytes=dense, expert_bytes=experts, bytes_by_qtype=by_type)
