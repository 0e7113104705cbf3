"""What an engine makes of weights at loading: the bytes that it holds and reads, where a file has others."""

from __future__ import annotations

from msgspec.structs import replace

from moeplan.domain.graph import EXPERT_ROLES, ModelGraph, Tensor
from moeplan.engines.traits import EngineTraits
from moeplan.graph.counts import summarise

_PLAIN_TYPE, _PLAIN_BYTES = "bf16", 2


def as_loaded(graph: ModelGraph, engine: EngineTraits) -> ModelGraph:
    """``graph`` with every tensor as ``engine`` keeps it: what memory holds is what a step reads.

    ``graph`` itself where nothing changes.
    """
    if engine.fuses_experts and graph.quant.startswith("bnb-"):
        tensors = tuple(_unquantised(t) if _is_expert(t) else t for t in graph.tensors)
        return replace(
            summarise(graph.spec, graph.quant, tensors, graph.origin), expert_group=graph.expert_group
        )
    if engine.mxfp4_tile > 1 and graph.quant.startswith("mxfp4"):
        padding = [_padding_bytes(t, engine.mxfp4_tile) for t in graph.tensors]
        tensors = tuple(
            replace(t, n_bytes=t.n_bytes + more) if more else t
            for t, more in zip(graph.tensors, padding, strict=True)
        )
        padded = summarise(graph.spec, graph.quant, tensors, graph.origin)
        return replace(padded, padding_bytes=sum(padding), expert_group=graph.expert_group)
    return graph


def _is_expert(tensor: Tensor) -> bool:
    return tensor.role in EXPERT_ROLES and tensor.owner == "base"


def _unquantised(tensor: Tensor) -> Tensor:
    return replace(tensor, qtype=_PLAIN_TYPE, n_bytes=tensor.n_elements * _PLAIN_BYTES)


def _padding_bytes(tensor: Tensor, tile: int) -> int:
    """Bytes of 4-bit values that fill the rows of experts up to whole tiles."""
    if not _is_expert(tensor) or tensor.qtype != "mxfp4":
        return 0
    width = tensor.shape[-1]
    return tensor.n_elements // width * (-width % tile) // 2
