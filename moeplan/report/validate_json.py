"""JSON of `moeplan validate`: the wire structs, from which configs/schema/validate.json is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from moeplan.report.estimate_json import pretty
from moeplan.validate.score import Scored, Summary

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]


class RowJson(msgspec.Struct, kw_only=True):
    """One predicted row, in the unit of what was measured. ``factor_error_frac`` is max(p/m, m/p) - 1."""

    id: str
    regime: str
    measured: float
    predicted: float
    low: float
    high: float
    signed_error_frac: float
    factor_error_frac: float


class SkippedJson(msgspec.Struct, kw_only=True):
    """A row that was not predicted, and why."""

    id: str
    reason: str


class SummaryJson(msgspec.Struct, kw_only=True):
    """One regime; errors are of setups, each the median of its rows."""

    regime: str
    n: Count
    n_setups: Count
    n_sources: Count
    median_factor_error_frac: float
    p90_factor_error_frac: float
    bias_frac: float
    coverage_frac: Share


class IntervalJson(msgspec.Struct, kw_only=True):
    """Share of measurements that ranges are made to hold."""

    level: Share


class ValidateJson(msgspec.Struct, kw_only=True):
    """What `moeplan validate --format json` prints."""

    schema: Literal["moeplan/validate@1"]
    kind: str
    calibration: str
    interval: IntervalJson
    rows: list[RowJson]
    skipped: list[SkippedJson]
    summary: list[SummaryJson]


def render(
    kind: str,
    calibration: str,
    level: float,
    rows: Sequence[Scored],
    skipped: Sequence[tuple[str, str]],
    summary: Sequence[Summary],
) -> str:
    """The JSON text."""
    return pretty(
        ValidateJson(
            schema="moeplan/validate@1",
            kind=kind,
            calibration=calibration,
            interval=IntervalJson(level=level),
            rows=[_row(row) for row in sorted(rows, key=lambda r: (-r.factor_error_frac, r.id))],
            skipped=[SkippedJson(id=id, reason=reason) for id, reason in skipped],
            summary=[
                SummaryJson(**{f: getattr(s, f) for f in SummaryJson.__struct_fields__}) for s in summary
            ],
        )
    )


def _row(row: Scored) -> RowJson:
    return RowJson(
        id=row.id,
        regime=row.regime,
        measured=row.measured,
        predicted=row.predicted,
        low=row.low,
        high=row.high,
        signed_error_frac=row.signed_error_frac,
        factor_error_frac=row.factor_error_frac,
    )
