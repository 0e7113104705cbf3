"""Names of what multiplies the fixed time of a layer for the kinds of mixers and FFNs it may have."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.cost.ops import Names
from moeplan.cost.work import Step
from moeplan.domain.hardware import GpuSpec
from moeplan.domain.model import GqaAttention, Mixer, MlaAttention, MoeFfn
from moeplan.engines.launches import launches_prompts
from moeplan.engines.traits import EngineTraits


def mixing_names(mixer: Mixer, family: str, architecture: str) -> Names:
    """Of what a mixer has more of than plain attention: kernels, one after the other.

    ``architecture``: what the names of the GPU's coefficients begin with. On servers latent attention has
    kernels of its own for each; one that scores the cache first (an indexer) runs about as many again.
    """
    names: Names = ()
    if not isinstance(mixer, GqaAttention):
        kind = type(mixer).__name__.casefold()
        names = (f"{family}.{kind}.layer_time",)
        if family == "server" and isinstance(mixer, MlaAttention):
            names += (f"{architecture}.{kind}.layer_time",)
    indexer = getattr(mixer, "indexer", None)
    if family == "server" and indexer is not None and not indexer.shared:
        names += (f"{family}.indexer.layer_time",)
    return names


def routing_names(ffn: MoeFfn, family: str) -> Names:
    """Of routing, gather and scatter; on servers of shared experts beside them too."""
    names: Names = (f"{family}.moe.layer_time",)
    if family == "server" and (ffn.shared_intermediate or ffn.parallel_dense):
        names += (f"{family}.shared_experts.layer_time",)
    return names


def prompt_halves(
    halves: Sequence[tuple[float, Names]], engine: EngineTraits, gpu: GpuSpec | None, step: Step
) -> list[tuple[float, Names]]:
    """``halves`` of layers with the names of their fixed time, in ``step`` on ``gpu`` (None: a CPU).

    A prompt's kernels are more than a token's and none of them is replayed from a graph, whatever the build.
    """
    if gpu is None or step.tokens_per_sequence <= 1 or not launches_prompts(engine, gpu):
        return list(halves)
    alone, more = f"{engine.family}.ungraphed.layer_time", f"{engine.family}.prompt.layer_time"
    return [(n, (*(name for name in names if name != alone), more)) for n, names in halves]
