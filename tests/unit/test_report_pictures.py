"""Pictures: well-formed, inside their frame, no two words on top of each other; PNG where its package is."""

from __future__ import annotations

import struct
import sys
from functools import cache
from itertools import combinations
from xml.etree import ElementTree

import pytest

from moeplan.api.plan import plan
from moeplan.errors import MissingExtra, SpecError
from moeplan.report import estimate_svg, picture, plan_svg
from tests.support.report_sample import sample

# Of DejaVu Sans, the widest of the fonts asked for: the mean advance of its lower-case letters and digits
# is 0.6 of the size (AFM of DejaVu 2.37), of its bold cut 0.68.
ADVANCE, ADVANCE_BOLD = 0.60, 0.68
SVG = "{http://www.w3.org/2000/svg}"


@cache
def drawn(name: str) -> str:
    match name:
        case "laptop":
            return plan_svg.render(
                plan("qwen3-30b-a3b", "laptop-rtx-4060", context=16384, depth_tokens=8192, quant="q4_k_m")
            )
        case "server":
            return plan_svg.render(plan("qwen3-235b-a22b", "lambda-8x-h100-sxm", objective="throughput"))
        case "one GPU":
            return plan_svg.render(plan("llama-3.1-8b", gpu="rtx-4090"))
        case "estimate":
            return estimate_svg.render(sample(gpus=(10.0, 12.0, 14.0)))
    return estimate_svg.render(sample(gpus=(30.0,)))


NAMES = ["laptop", "server", "one GPU", "estimate", "does not fit"]
Box = tuple[float, float, float, float]


def boxes(svg: str) -> list[tuple[str, Box]]:
    """Each piece of text with about the room it takes: left, top, right, bottom."""
    found = []
    for element in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        words, size = element.text or "", float(element.attrib["font-size"])
        long = len(words) * size * (ADVANCE_BOLD if element.get("font-weight") else ADVANCE)
        x, y = float(element.attrib["x"]), float(element.attrib["y"])
        left = x - {"start": 0.0, "middle": long / 2, "end": long}[element.attrib["text-anchor"]]
        found.append((words, (left, y - 0.75 * size, left + long, y + 0.2 * size)))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_text_stays_inside_and_apart(name: str) -> None:
    svg = drawn(name)
    root = ElementTree.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    placed = boxes(svg)
    assert len(placed) > 5
    for words, (left, top, right, bottom) in placed:
        assert left >= 0 and top >= 0 and right <= width and bottom <= height, words
    for (one, a), (other, b) in combinations(placed, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, other)


@pytest.mark.parametrize("name", ["laptop", "server", "one GPU"])
def test_a_plan_names_units_knee_and_choice(name: str) -> None:
    said = [words for words, _ in boxes(drawn(name))]
    assert any("tok/s" in words for words in said)
    assert any("GiB (right)" in words for words in said)
    assert any(words.startswith(("knee ", "chosen and knee ")) for words in said)


def test_a_png_is_the_picture_at_twice_the_size() -> None:
    pytest.importorskip("resvg_py")
    svg = drawn("laptop")
    png = picture.to_png(svg)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    root = ElementTree.fromstring(svg)
    # the header chunk: width and height as two big-endian words (PNG specification, 11.2.2)
    assert struct.unpack(">II", png[16:24]) == (2 * int(root.attrib["width"]), 2 * int(root.attrib["height"]))
    blank = picture.to_png(svg.replace("<text", "<desc").replace("</text>", "</desc>"))
    assert len(png) > len(blank), "words are drawn"


def test_without_the_package_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(MissingExtra, match=r"pip install 'moeplan\[plot\]'"):
        picture.check_name("x.png")
    picture.check_name("x.SVG")
    with pytest.raises(SpecError, match=r"ends in \.svg or \.png"):
        picture.check_name("x.gif")


def test_more_regimes_than_colours_are_told_apart_by_shape() -> None:
    from moeplan.report.validate_svg import render
    from moeplan.validate.score import Scored

    rows = [
        Scored(id=f"{i}", setup="s", source_family="x", regime=f"r{i:02}", measured=1.0 + i, predicted=9.0,
               low=1.0, high=99.0)
        for i in range(30)
    ]  # fmt: skip
    svg = render(rows, "t", "MiB")
    marks = [line for line in svg.splitlines() if "fill-opacity" in line]
    # twelve colours: dots, then squares, then diamonds
    diamonds = [line for line in marks if "rotate" in line]
    assert [len(diamonds), sum("<circle" in line for line in marks), len(marks)] == [6, 12, 30]
    assert "measured, MiB" in svg
