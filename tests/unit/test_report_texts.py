"""Markdown, explanations, lists and the picture."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from moeplan.provenance import Source, Term
from moeplan.report import estimate_markdown, estimate_svg
from moeplan.report.explain import explain_lines, fmt_value
from moeplan.report.layout import Screen, plain
from moeplan.report.listing import Card, Column, Listing, card_lines, listing_lines, listing_markdown
from moeplan.report.markdown import md_table
from tests.support.report_sample import sample

# ── Markdown ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("estimate", [sample(), sample(gpus=(30.0, 20.0))], ids=["fits", "does not"])
def test_every_markdown_table_is_rectangular(estimate: object) -> None:
    text = estimate_markdown.render(estimate)  # type: ignore[arg-type]
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) >= 2
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_markdown_figures() -> None:
    text = estimate_markdown.render(sample())
    assert "| **total** | **12.2 GiB** | **15.3 GiB** |" in text
    assert "| decode | 10.0 tok/s | 12.5 tok/s | 16.0 tok/s | ram experts |" in text
    assert "- context 8,192 tokens" in text
    assert "  - ram experts = **60.0 ms** [fitted]: `bytes / (bandwidth x efficiency)`" in text


def test_a_cell_cannot_break_out_of_its_table() -> None:
    assert md_table(["a"], "l", [["x | y\nz"]]).splitlines()[-1] == "| x \\| y z |"


# ── explanation ─────────────────────────────────────────────────────────────────────────────────


def test_the_tree_shows_value_formula_inputs_and_source() -> None:
    assert plain(explain_lines(sample().explain, Screen(100))) == (
        "decode step = 80.0 ms  [fitted]\n"
        "  by sum of the parts\n"
        "  ram experts = 60.0 ms  75%  [fitted]\n"
        "    by bytes / (bandwidth x efficiency)\n"
        "    with bytes = 3,360,000,000, bandwidth = 80 GB/s, efficiency = 0.7\n"
        "    from calibration of 2026-11, 2026-11-20\n"
        "  gpu0 weights = 20.0 ms  25%  [datasheet]\n"
        "    from NVIDIA data sheet\n"
    )


def test_a_deep_tree_stays_on_the_screen() -> None:
    term = Term("leaf", 1.0, "s", "a " * 60, {"x": 1.5}, Source("paper", "b " * 60))
    for level in range(6):
        term = Term(f"level {level}", 1.0, "s", children=(term,))
    assert max(map(len, plain(explain_lines([term], Screen(60))).splitlines())) <= 60


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (3 * 2**30, "bytes", "3.00 GiB"),
        (0.0123, "s", "12.3 ms"),
        (0.0, "s", "0 s"),
        (1.008e12, "B/s", "1.01 TB/s"),
        (2.58e10, "FLOP", "25.8 GFLOP"),
        (12.345, "tok/s", "12.35 tok/s"),
        (math.nan, "s", "unknown s"),
        (3.0, "", "3.000"),
    ],
)
def test_values_carry_their_unit(value: float, unit: str, text: str) -> None:
    assert fmt_value(value, unit) == text


# ── lists ───────────────────────────────────────────────────────────────────────────────────────

LISTING = Listing(
    [Column("id"), Column("size", "r", 1), Column("count", "r", 2), Column("name", "l", 3)],
    [("short", "1.00 GiB", "123,456,789", "a name"), ("a-much-longer-id", "20.0 GiB", "7", "n" * 90)],
)


def test_a_pipe_gets_every_column_whole() -> None:
    lines = plain(listing_lines(LISTING, Screen(40, whole=True))).splitlines()
    assert lines[2].endswith("n" * 90)
    assert lines[0].split() == ["id", "size", "count", "name"]
    assert [line.index("GiB") for line in lines[1:]] == [lines[1].index("GiB")] * 2, "columns line up"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_a_screen_gets_what_fits(width: int) -> None:
    text = plain(listing_lines(LISTING, Screen(width)))
    assert max(map(len, text.splitlines())) <= max(width, len("a-much-longer-id"))
    numbers = re.findall(r"[\d,]{5,}", text)
    assert numbers in ([], ["123,456,789"]), "a number is shown whole or not at all"


def test_columns_leave_by_rank() -> None:
    narrow = plain(listing_lines(LISTING, Screen(30))).splitlines()[0]
    assert narrow.split() == ["id", "size"]


def test_an_empty_list_says_so() -> None:
    empty = Listing(LISTING.columns, [], "no model matches")
    assert plain(listing_lines(empty, Screen(80))) == "no model matches\n"
    assert listing_markdown(empty) == "no model matches\n"


def test_a_card_leaves_out_what_is_unknown() -> None:
    card = Card("Title", [("known", "1"), ("unknown", "")], {"notes": ["first", "second"], "none": []})
    text = plain(card_lines(card, Screen(80)))
    assert "known        1" in text
    assert "unknown" not in text
    assert "none" not in text
    assert "notes        - first\n             - second" in text


# ── picture ─────────────────────────────────────────────────────────────────────────────────────


def rectangles(svg: str) -> list[tuple[str, float, float]]:
    """(title, x, width) of every titled rectangle."""
    space = "{http://www.w3.org/2000/svg}"
    return [
        (str(title.text), float(rect.attrib["x"]), float(rect.attrib["width"]))
        for rect in ElementTree.fromstring(svg).iter(f"{space}rect")
        if (title := rect.find(f"{space}title")) is not None
    ]


def test_the_picture_is_to_scale() -> None:
    found = rectangles(estimate_svg.render(sample()))
    weights, *_ = [width for title, _, width in found if title == "weights"]
    (cache,) = [width for title, _, width in found if title == "KV cache"]
    # 10 GiB of weights, 1 GiB of cache
    assert weights == pytest.approx(10 * cache, rel=0.02)


@pytest.mark.parametrize("estimate", [sample(), sample(gpus=(30.0, 40.0)), sample(quant="<&>\x1b")])
def test_the_picture_is_well_formed_and_inside_its_frame(estimate: object) -> None:
    for _, x, width in rectangles(estimate_svg.render(estimate)):  # type: ignore[arg-type]
        assert 0 <= x <= x + width <= 860
