"""What a GPU costs by the hour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.value import Value
from moeplan.provenance import Source

Pricing = Literal["on-demand", "spot", "listed", "serverless", "market", "old"]
LASTING: frozenset[Pricing] = frozenset({"on-demand", "listed"})
"""Prices at which a machine can be had and kept: spot may be taken away, serverless bills by the second."""


class Offer(Value):
    """One listed price. ``pricing`` is "listed" where the page did not say which kind it is."""

    gpu: str
    provider: str
    usd_per_gpu_hour: float
    pricing: Pricing
    source: Source


def cheapest_usd_per_hour(hardware: HardwareSpec, offers: Iterable[Offer]) -> tuple[float, str] | None:
    """(dollars per hour of all GPUs at their cheapest lasting offers, where from); None: one has no offer."""
    kept = [offer for offer in offers if offer.pricing in LASTING]
    total, refs = 0.0, []
    for gpu in hardware.gpus:
        prices = [offer for offer in kept if offer.gpu == gpu.id]
        if not prices:
            return None
        best = min(prices, key=lambda offer: offer.usd_per_gpu_hour)
        total += best.usd_per_gpu_hour
        refs.append(f"{best.provider} {best.pricing}, {best.source.retrieved}")
    return (total, "; ".join(dict.fromkeys(refs))) if refs else None
