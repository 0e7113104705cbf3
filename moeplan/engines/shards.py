"""What GPUs can share evenly under tensor parallelism: heads, experts, and the groups that quantise them."""

from __future__ import annotations

from moeplan.domain.model import GqaAttention, MlaAttention, ModelSpec, MoeFfn
from moeplan.domain.quant import QuantScheme
from moeplan.engines.traits import EngineTraits

_LARGEST_PADDED_GROUP = 32


def expert_group(scheme: QuantScheme) -> int:
    """Columns of an expert's matrix that share a scale and cannot be cut: 1 where there are none.

    Groups of 32 and fewer do not count: vLLM pads MXFP4 experts to whole ones (mxfp4.py, 0.19).
    """
    storage = scheme.storages.get(scheme.weights.get("experts", scheme.weights.get("default", "")))
    return storage.group if storage is not None and storage.group > _LARGEST_PADDED_GROUP else 1


def undivided(spec: ModelSpec, n: int, group: int = 1) -> str | None:
    """What ``n`` GPUs cannot share evenly, in words; None when all divides.

    ``group``: columns of an expert's matrix that are quantised together.
    """
    return undivided_heads(spec, n) or undivided_experts(spec, n, group)


def undivided_heads(spec: ModelSpec, n: int) -> str | None:
    """Attention heads that ``n`` GPUs cannot share evenly; of fewer cached heads each GPU has a copy.

    vLLM: config/model.py, verify_with_parallel_config; QKVParallelLinear of layers/linear.py.
    """
    for block in spec.blocks:
        mixer = block.mixer
        if isinstance(mixer, GqaAttention | MlaAttention) and mixer.n_heads % n:
            return f"{mixer.n_heads} attention heads"
        if isinstance(mixer, GqaAttention) and max(mixer.n_kv_heads, n) % min(mixer.n_kv_heads, n):
            return f"{mixer.n_kv_heads} key-value heads"
    return None


def undivided_experts(spec: ModelSpec, n: int, group: int = 1) -> str | None:
    """Experts that ``n`` GPUs cannot share as equal slices of whole quantisation groups.

    vLLM and SGLang refuse slices that cut 128-wide FP8 blocks, and leave their fast kernels where they cut
    the groups of a 4-bit format (vLLM 0.19 fp8.py and marlin_utils.py, read 2026-11).
    """
    for width in sorted({b.ffn.expert_intermediate for b in spec.blocks if isinstance(b.ffn, MoeFfn)}):
        if width % n:
            return f"experts of width {width}"
        if n > 1 and group > 1 and width // n % group:
            return f"experts of width {width} in whole groups of {group}"
    return None


def shares_experts(spec: ModelSpec, n: int) -> bool:
    """Whether ``n`` GPUs can hold equally many whole experts."""
    counts = {b.ffn.n_experts for b in spec.blocks if isinstance(b.ffn, MoeFfn)}
    return bool(counts) and not any(count % n for count in counts)


def takes_whole_experts(spec: ModelSpec, engine: EngineTraits, n: int, group: int = 1) -> bool:
    """Whether ``engine`` gives each of ``n`` GPUs whole experts, where slices of them do not divide."""
    if n < 2 or undivided_experts(spec, n, group) is None:
        return False
    return engine.expert_parallel and shares_experts(spec, n)
