"""A calibration of this machine as text: facts, coefficients, samples, and two of them side by side."""

from __future__ import annotations

from typing import Any

from moeplan.domain.profile import HostCalibration, Sample
from moeplan.report.layout import Line, Screen, join_blocks
from moeplan.report.listing import (
    Card,
    Column,
    Listing,
    card_lines,
    card_markdown,
    listing_lines,
    listing_markdown,
)
from moeplan.units import fmt_bytes, fmt_number, fmt_seconds, fmt_si

# What a sample's setup holds for the fit alone: the file and the JSON have it.
_HIDDEN_SETUP = frozenset(
    {"device", "bytes", "flop", "engine", "output_tokens", "vocab", "moe_layers", "elements"}
)
_HIDDEN_ENDS = ("_bytes", "_elements")
# Below this a change is not worth a word even where repeats agree that well.
_LEAST_CHANGE_FRAC = 0.03


def profile_lines(result: HostCalibration, screen: Screen) -> list[Line]:
    """The whole calibration for a terminal or a pipe."""
    return join_blocks(
        card_lines(_card(result), screen),
        listing_lines(_coefficients(result), screen),
        listing_lines(_samples(result), screen),
    )


def profile_markdown(result: HostCalibration) -> str:
    """The same as Markdown."""
    parts = [card_markdown(_card(result)), listing_markdown(_coefficients(result))]
    return "\n".join([*parts, listing_markdown(_samples(result))])


def _card(result: HostCalibration) -> Card:
    host = result.host
    unsteady = sum(1 for s in result.samples if not s.stable)
    facts = [
        ("CPU", f"{host.cpu}, {host.cores} cores, {', '.join(host.isa) or 'no known vector units'}"),
        ("RAM", fmt_bytes(host.ram_bytes)),
        ("GPU", ", ".join(host.gpus) or "none (not yet run on a GPU)"),
        ("torch", host.torch or "not installed"),
        ("measured", f"{result.date}, {result.mode}, moeplan {result.version}"),
        ("samples", f"{len(result.samples)}, {unsteady} of them not steady"),
    ]
    return Card("Calibration of this machine", facts, {"notes": [*result.notes, *host.notes]})


def _coefficients(result: HostCalibration) -> Listing:
    rows = [
        (name, shown(c.value, c.unit), f"{shown(c.low, c.unit)} .. {shown(c.high, c.unit)}", str(c.n), c.note)
        for name, c in result.coefficients.items()
    ]
    columns = [Column("coefficient"), Column("value", "r"), Column("10%..90%", "r", 1), Column("n", "r", 2),
               Column("note", "l", 3)]  # fmt: skip
    return Listing(columns, rows, "no coefficients")


def _samples(result: HostCalibration) -> Listing:
    rows = [
        (
            s.name, _setup(s), shown(s.median, s.unit), f"{shown(s.low, s.unit)} .. {shown(s.high, s.unit)}",
            str(s.n), "steady" if s.stable else s.remedy,
        )
        for s in result.samples
    ]  # fmt: skip
    columns = [Column("measured"), Column("setup"), Column("median", "r"), Column("10%..90%", "r", 2),
               Column("n", "r", 3), Column("verdict", "l", 1)]  # fmt: skip
    return Listing(columns, rows, "no samples")


def _setup(sample: Sample) -> str:
    shown = {
        k: v
        for k, v in sample.setup.items()
        if k not in _HIDDEN_SETUP and not k.startswith("work.") and not k.endswith(_HIDDEN_ENDS) and v != 0
    }
    return " ".join(f"{k}={_short(v)}" for k, v in shown.items())


def _short(value: str | int | float) -> str:
    return fmt_number(value, 4) if isinstance(value, float) else str(value)


def shown(value: float, unit: str) -> str:
    """``value`` in the prefix that reads best."""
    if unit == "s":
        return fmt_seconds(value)
    return fmt_si(value, unit) if unit in ("B/s", "FLOP/s", "tokens/s", "B") else fmt_number(value, 3)


def _changes(one: HostCalibration, other: HostCalibration) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys((*one.coefficients, *other.coefficients)):
        a, b = one.coefficients.get(name), other.coefficients.get(name)
        row: dict[str, Any] = {"name": name, "unit": (a or b).unit}  # type: ignore[union-attr]
        row["before"], row["after"] = a.value if a else None, b.value if b else None
        row["change_frac"] = b.value / a.value - 1 if a and b and a.value else None
        apart = bool(a and b) and (b.low > a.high or b.high < a.low)  # type: ignore[union-attr]
        row["beyond_spread"] = apart and abs(row["change_frac"] or 0.0) > _LEAST_CHANGE_FRAC
        rows.append(row)
    return rows


def diff_json(one: HostCalibration, other: HostCalibration) -> dict[str, Any]:
    """Both values of every coefficient, the change, and whether their ranges are apart."""
    from moeplan.domain.profile import host_differences

    return {
        "schema": "moeplan/profile-diff@1",
        "machine": list(host_differences(one.host, other.host)),
        "rows": _changes(one, other),
    }


def diff_listing(one: HostCalibration, other: HostCalibration) -> Listing:
    """The same as a table."""
    rows = []
    for row in _changes(one, other):
        values = [shown(row[k], row["unit"]) if row[k] is not None else "-" for k in ("before", "after")]
        change = f"{row['change_frac']:+.1%}" if row["change_frac"] is not None else "-"
        rows.append((row["name"], *values, change, "beyond its spread" if row["beyond_spread"] else ""))
    columns = [
        Column("coefficient"),
        Column("before", "r"),
        Column("after", "r"),
        Column("change", "r"),
        Column(""),
    ]
    return Listing(columns, rows, "both are empty")
