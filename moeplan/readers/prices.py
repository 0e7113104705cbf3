"""configs/prices.yaml: what a GPU costs by the hour."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from moeplan.domain.prices import Offer
from moeplan.provenance import Source, SourceKind
from moeplan.readers.paths import shipped_configs
from moeplan.readers.yaml_convert import convert
from moeplan.readers.yaml_doc import load_document


class SourceWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Provenance as written in YAML."""

    kind: SourceKind
    ref: str
    retrieved: str
    note: str = ""


class OfferWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One listed price."""

    gpu: str
    provider: str
    usd_per_gpu_hour: Annotated[float, Meta(gt=0)]
    pricing: Literal["on-demand", "spot", "listed", "serverless", "market", "old"]
    source: SourceWire


class PricesFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """configs/prices.yaml."""

    offers: list[OfferWire]


def read_prices(path: Path | None = None) -> tuple[Offer, ...]:
    """Every offer of ``path`` or of the file that ships; SpecError with the place of a mistake."""
    wire: PricesFile = convert(load_document(path or shipped_configs() / "prices.yaml"), PricesFile)
    return tuple(
        Offer(
            gpu=offer.gpu,
            provider=offer.provider,
            usd_per_gpu_hour=offer.usd_per_gpu_hour,
            pricing=offer.pricing,
            source=Source(offer.source.kind, offer.source.ref, offer.source.retrieved, offer.source.note),
        )
        for offer in wire.offers
    )
