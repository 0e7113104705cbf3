"""Errors as the tables of docs/accuracy.md print them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from moeplan.api.calibrate import Fit
from moeplan.validate.score import quantile


def setups_of(fit: Fit, rows: Iterable[int]) -> dict[str, list[int]]:
    """The rows of each setup."""
    setups: dict[str, list[int]] = defaultdict(list)
    for i in rows:
        setups[fit.samples[i].setup].append(i)
    return dict(setups)


def by_setup(setups: Mapping[str, Sequence[int]], errors: Sequence[float]) -> list[float]:
    """The error of each setup: the median of its rows."""
    return [quantile([errors[i] for i in rows], 0.5) for rows in setups.values()]


def factors(errors: Iterable[float]) -> tuple[float, float]:
    """Median and 90th percentile of the factor errors that the log errors stand for."""
    values = [math.expm1(abs(e)) for e in errors]
    return quantile(values, 0.5), quantile(values, 0.9)


def cell(errors: Sequence[float]) -> str:
    """``median / 90th percentile``, empty without errors."""
    if not errors:
        return ""
    median, tail = factors(errors)
    return f"{median:.0%} / {tail:.0%}"


def line(cells: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def table_regime(regime: str) -> str:
    """The row of the tables that a regime belongs to: servers of one sequence and of few are one."""
    return regime.replace("tpot_ms/<=1/", "tpot_ms/<=16/")
