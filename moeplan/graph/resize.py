"""A model whose file is larger or smaller than the rules of its quantisation say."""

from __future__ import annotations

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
