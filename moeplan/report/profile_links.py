"""Latency and bandwidth between ranks as a table."""

from __future__ import annotations

from typing import Any

from moeplan.report.listing import Column, Listing
from moeplan.units import fmt_bytes, fmt_seconds, fmt_si


def links_listing(found: dict[str, Any]) -> Listing:
    """The fitted links, then the times by size."""
    rows = [
        (link["kind"], "fitted", fmt_seconds(link["latency_s"]), fmt_si(link["bytes_per_s"], "B/s"))
        for link in found["links"]
    ]
    for sample in found["samples"]:
        setup = sample["setup"]
        size = fmt_bytes(setup["bytes"]) if "bytes" in setup else f"{setup['experts']} experts"
        rows.append((setup.get("kind", sample["name"]), size, fmt_seconds(sample["median"]), ""))
    columns = [Column("kind"), Column("size"), Column("latency or time", "r"), Column("bandwidth", "r")]
    return Listing(columns, rows, "nothing was measured")
