"""Hourly prices: which ones count, and that they are of GPUs that the catalog knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeplan.domain.prices import Offer, Pricing, cheapest_usd_per_hour
from moeplan.errors import SpecError
from moeplan.provenance import Source
from moeplan.readers.catalog import Catalog
from moeplan.readers.prices import read_prices
from tests.support.problems import gpu, machine


def offer(usd: float, pricing: Pricing, gpu_id: str = "gpu") -> Offer:
    return Offer(
        gpu=gpu_id,
        provider="P",
        usd_per_gpu_hour=usd,
        pricing=pricing,
        source=Source("datasheet", "page", "2026"),
    )


def test_the_cheapest_lasting_offer_of_every_gpu_counts() -> None:
    box = machine((gpu(), gpu()))
    offers = [offer(0.5, "spot"), offer(2.0, "on-demand"), offer(1.5, "listed"), offer(0.1, "market")]
    # two GPUs at 1.5; spot and market prices are no offers to keep a machine at
    assert cheapest_usd_per_hour(box, offers) == (3.0, "P listed, 2026")
    assert cheapest_usd_per_hour(box, offers[:1]) is None
    assert cheapest_usd_per_hour(machine(), offers) is None


def test_every_price_is_of_a_gpu_of_the_catalog() -> None:
    known = set(Catalog().ids("hardware/gpu"))
    offers = read_prices()
    assert len(offers) > 40
    assert {o.gpu for o in offers} <= known
    assert all(o.source.ref and o.source.retrieved for o in offers)


def test_a_mistake_is_found_at_its_place(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(
        "offers:\n  - {gpu: a, provider: b, usd_per_gpu_hour: -1, pricing: spot}\n", encoding="utf-8"
    )
    with pytest.raises(SpecError) as caught:
        read_prices(path)
    assert caught.value.line == 2
