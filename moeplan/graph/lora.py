"""Low-rank adapters on every FFN of a model: how many, and how many parameters.

An adapter of rank r on a matrix (out, in) has r x (in + out) parameters (Hu et al., arXiv:2106.09685).
"""

from __future__ import annotations

from collections.abc import Iterable

from moeplan.domain.comparison import Lora, LoraCount
from moeplan.domain.graph import EXPERT_ROLES, Tensor

_SHARED_OR_DENSE = frozenset(
    {"shared_gate", "shared_up", "shared_down", "ffn_gate", "ffn_up", "ffn_down", "ffn_gate_up"}
)
_DOWN = frozenset({"expert_down", "shared_down", "ffn_down"})


def count_lora(tensors: Iterable[Tensor], rank: int) -> Lora:
    """Adapters of ``rank`` on every matrix of every FFN, experts stored either way.

    Shared experts and dense MLPs are counted as the model stores them: fusing concerns routed experts.

    Mixtral-8x7B at rank 16: 256 experts x 3 x 16 x (4,096 + 14,336) = 226,492,416 unfused;
    256 x 16 x ((4,096 + 28,672) + (14,336 + 4,096)) = 209,715,200 fused.
    """
    matrices = [t for t in tensors if t.owner == "base" and len(t.shape) > 1]
    experts = [t for t in matrices if t.role in EXPERT_ROLES]
    others = [t for t in matrices if t.role in _SHARED_OR_DENSE]
    outside = LoraCount(
        n_adapters=len(others), trainable_params=sum(rank * (t.shape[0] + t.shape[1]) for t in others)
    )
    n_expert_ffns = sum(t.shape[0] for t in experts if t.role in _DOWN)
    return Lora(
        rank=rank,
        n_expert_ffns=n_expert_ffns,
        n_ffns=n_expert_ffns + sum(1 for t in others if t.role in _DOWN),
        unfused=_sum(outside, [pair for t in experts for pair in _unfused(t)], rank),
        fused=_sum(outside, _fused(experts), rank),
    )


_Matrices = tuple[int, int]
"""(how many, inputs + outputs of each)"""


def _unfused(expert: Tensor) -> Iterable[_Matrices]:
    n, out, into = expert.shape
    if expert.role == "expert_gate_up":
        yield 2 * n, out // 2 + into
    else:
        yield n, out + into


def _fused(experts: Iterable[Tensor]) -> list[_Matrices]:
    """Gate and up of a layer become one matrix with the outputs of both."""
    matrices: list[_Matrices] = []
    gates: dict[int, Tensor] = {}
    for t in experts:
        n, out, into = t.shape
        if t.role in ("expert_gate", "expert_up"):
            other = gates.pop(t.layer, None)
            if other is None:
                gates[t.layer] = t
            else:
                matrices.append((n, other.shape[1] + out + into))
        else:
            matrices.append((n, out + into))
    # experts without a gate have nothing to fuse
    matrices += [(t.shape[0], t.shape[1] + t.shape[2]) for t in gates.values()]
    return matrices


def _sum(outside: LoraCount, matrices: Iterable[_Matrices], rank: int) -> LoraCount:
    n_adapters, params = outside.n_adapters, outside.trainable_params
    for n, width in matrices:
        n_adapters += n
        params += n * rank * width
    return LoraCount(n_adapters=n_adapters, trainable_params=params)
