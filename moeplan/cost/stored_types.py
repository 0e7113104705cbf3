"""How the work of a model is shared by its storage types: files mix them, and a CPU is not as fast in all."""

from __future__ import annotations

from typing import NamedTuple

from moeplan.cost.work import main_type
from moeplan.domain.graph import ModelGraph, Tensor

_LEAST_FRAC = 0.005


class TypeShare(NamedTuple):
    """Of the weights that multiply activations: the fractions of bytes and of FLOPs in one type."""

    qtype: str
    bytes_frac: float
    flop_frac: float


class _Shares(NamedTuple):
    tensors: tuple[Tensor, ...]
    by_part: dict[str, tuple[TypeShare, ...]]


_KEPT = 8
_recent: list[_Shares] = []


def type_shares(graph: ModelGraph, part: str) -> tuple[TypeShare, ...]:
    """Shares of ``part`` ("weights", "experts" or "output head").

    Row-interleaved variants (``_r4``) stand apart. One share of the main type where no tensors are known.
    """
    for shares in _recent:
        if shares.tensors is graph.tensors:
            break
    else:
        shares = _Shares(graph.tensors, _by_part(graph))
        _recent.insert(0, shares)
        del _recent[_KEPT:]
    return shares.by_part.get(part) or (TypeShare(main_type(graph), 1.0, 1.0),)


def _by_part(graph: ModelGraph) -> dict[str, tuple[TypeShare, ...]]:
    sums: dict[str, dict[str, list[int]]] = {}
    tied = not any(t.role == "head" for t in graph.tensors)
    for t in graph.tensors:
        part = _part(t, tied=tied)
        if part and t.owner == "base":
            of_type = sums.setdefault(part, {}).setdefault(_named(t, graph), [0, 0])
            of_type[0] += t.n_bytes
            of_type[1] += t.n_elements
    return {part: _fractions(of_types) for part, of_types in sums.items()}


def _part(tensor: Tensor, *, tied: bool) -> str:
    if tensor.role == "head" or (tied and tensor.role == "embedding"):
        return "output head"
    if tensor.layer < 0 or len(tensor.shape) < 2 or not tensor.qtype:
        return ""
    return "experts" if tensor.expert_stacked else "weights"


def _named(tensor: Tensor, graph: ModelGraph) -> str:
    """Types that state no width are the main one: packed by a method that stores several."""
    name = tensor.qtype
    return name if any(c.isdigit() for c in name) else main_type(graph)


def _fractions(of_types: dict[str, list[int]]) -> tuple[TypeShare, ...]:
    """By type; what takes next to no bytes goes with the largest."""
    n_bytes, n_elements = (sum(pair[i] for pair in of_types.values()) for i in (0, 1))
    kept = {name: pair for name, pair in of_types.items() if pair[1] >= _LEAST_FRAC * n_elements}
    n_bytes, n_elements = (sum(pair[i] for pair in kept.values()) for i in (0, 1))
    if not n_bytes or not n_elements:
        return ()
    return tuple(TypeShare(name, b / n_bytes, n / n_elements) for name, (b, n) in sorted(kept.items()))
