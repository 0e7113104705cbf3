"""`moeplan validate` as a list: regimes, largest median error first."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.report.listing import Column, Listing
from moeplan.validate.score import Scored, Summary

_COLUMNS = (
    Column("regime"),
    Column("rows", "r", 3),
    Column("setups", "r"),
    Column("sources", "r", 2),
    Column("median", "r"),
    Column("p90", "r", 1),
    Column("bias", "r"),
    Column("in range", "r"),
)
_WORST = (
    Column("row"),
    Column("regime", "l", 1),
    Column("measured", "r"),
    Column("predicted", "r"),
    Column("factor", "r"),
)


def summary_listing(summary: Sequence[Summary]) -> Listing:
    """Factor errors of setups by regime."""
    rows = [
        (
            s.regime,
            str(s.n),
            str(s.n_setups),
            str(s.n_sources),
            f"{s.median_factor_error_frac:.1%}",
            f"{s.p90_factor_error_frac:.1%}",
            f"{s.bias_frac:+.1%}",
            f"{s.coverage_frac:.0%}",
        )
        for s in summary
    ]
    return Listing(_COLUMNS, rows, "no row could be predicted")


def worst_listing(rows: Sequence[Scored], n: int = 10) -> Listing:
    """The rows that are predicted worst."""
    worst = sorted(rows, key=lambda r: (-r.factor_error_frac, r.id))[:n]
    shown = [
        (r.id, r.regime, f"{r.measured:.4g}", f"{r.predicted:.4g}", f"{1 + r.factor_error_frac:.2f}x")
        for r in worst
    ]
    return Listing(_WORST, shown)
