"""Which tensors a placement moves, as the patterns and counts that llama.cpp takes."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.domain.graph import ModelGraph
from moeplan.domain.workload import Placement
from moeplan.predict.placement import moe_layers

# llama.cpp common/common.h (LLM_FFN_EXPS_REGEX), November 2026; searched for, not matched whole.
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"


def hosted_layers(placement: Placement) -> tuple[int, ...]:
    """Layers on a GPU whose routed experts are in RAM."""
    homes = zip(placement.dense_tiers, placement.expert_tiers, strict=True)
    return tuple(i for i, (d, e) in enumerate(homes) if d.startswith("gpu") and e == "ram")


def n_cpu_moe(graph: ModelGraph, placement: Placement) -> int | None:
    """The value of --n-cpu-moe that moves exactly the hosted experts; None where only patterns do.

    llama.cpp counts layers from the first, dense ones included; whole layers in RAM may be among them.
    """
    hosted = hosted_layers(placement)
    if not hosted:
        return 0
    count = hosted[-1] + 1
    on_gpu = [i for i in moe_layers(graph.spec) if i < count and placement.dense_tiers[i].startswith("gpu")]
    return count if tuple(on_gpu) == hosted else None


def tensor_overrides(placement: Placement) -> tuple[str, ...]:
    """``pattern=buffer`` for -ot that moves exactly the hosted experts; empty when there are none.

    No commas: llama.cpp separates overrides by them.
    """
    hosted = hosted_layers(placement)
    if not hosted:
        return ()
    return (rf"blk\.({one_of(hosted)}){EXPERTS}=CPU",)


def one_of(numbers: Sequence[int]) -> str:
    """A regular expression that matches these numbers, by their last digits.

    >>> one_of((7, 8, 9, 10, 11, 23))
    '[7-9]|1[0-1]|23'
    """
    by_tens: dict[int, list[int]] = {}
    for number in sorted(numbers):
        by_tens.setdefault(number // 10, []).append(number % 10)
    parts = []
    for tens, digits in by_tens.items():
        head = str(tens) if tens else ""
        if len(digits) == 1:
            parts.append(f"{head}{digits[0]}")
        elif digits == list(range(digits[0], digits[-1] + 1)):
            parts.append(f"{head}[{digits[0]}-{digits[-1]}]")
        else:
            parts.append(f"{head}[{''.join(map(str, digits))}]")
    return "|".join(parts)


def tensor_split(placement: Placement, n_gpus: int) -> tuple[int, ...]:
    """Layers of each GPU, the output layer counted with the last that has any; as -ts takes them."""
    counts = [placement.dense_tiers.count(f"gpu{g}") for g in range(n_gpus)]
    counts[int(placement.head_tier[3:])] += 1
    return tuple(counts)


def device_map(graph: ModelGraph, placement: Placement) -> dict[str, int | str]:
    """The ``device_map`` of transformers: modules by name -> GPU index or ``cpu``."""

    def home(tier: str) -> int | str:
        return int(tier[3:]) if tier.startswith("gpu") else "cpu"

    dense: Sequence[str] = placement.dense_tiers
    layers = {f"model.layers.{i}": home(tier) for i, tier in enumerate(dense)}
    head = home(placement.head_tier)
    embedding = home(placement.embedding_tier)
    return {"model.embed_tokens": embedding, **layers, "model.norm": head, "model.rotary_emb": head,
            "lm_head": embedding if graph.spec.tied_embeddings else head}  # fmt: skip
