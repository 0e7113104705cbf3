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
    Column("measured", "r"),
    Column("predicted", "r"),
    Column("factor", "r"),
    Column("error", "r"),
)


def summary_listing(summary: Sequence[Summary], *, ranged: bool = True) -> Listing:
    """Factor errors of setups by regime; without ``ranged`` predictions are one number and have no range."""
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
    n = len(_COLUMNS) if ranged else len(_COLUMNS) - 1
    return Listing(_COLUMNS[:n], [row[:n] for row in rows], "no row could be predicted")


def worst_listing(rows: Sequence[Scored], n: int = 10) -> Listing:
    """The rows that are predicted worst: the factor either way, and the error with its sign."""
    worst = sorted(rows, key=lambda r: (-r.factor_error_frac, r.id))[:n]
    shown = [
        (
            f"{r.id}  {r.regime}  {r.about}".rstrip(),
            _number(r.measured),
            _number(r.predicted),
            f"{1 + r.factor_error_frac:.2f}x",
            f"{r.signed_error_frac:+.0%}",
        )
        for r in worst
    ]
    return Listing(_WORST, shown)


def _number(value: float) -> str:
    """Four digits, without an exponent where they are many."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
