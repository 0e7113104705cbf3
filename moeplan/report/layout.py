"""Lines of styled text: one layout for the terminal (painted with rich) and for a pipe (plain).

A line is a list of (text, style) spans. Renderers build lines that fit a given width; only the very last
step knows about colour, so a pipe never pays for rich.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.text import Text

Span = tuple[str, str]
Line = list[Span]

LABEL_WIDTH = 13
"""Columns of the label that starts a line of facts."""

_STYLES = {
    "title": "bold",
    "head": "bold",
    "dim": "dim",
    "good": "green",
    "bad": "bold red",
    "warn": "yellow",
    "weights": "blue",
    "kv": "cyan",
    "state": "green",
    "compute": "magenta",
    "output": "yellow",
    "overhead": "white",
    "free": "bright_black",
}


class Screen(NamedTuple):
    """Where a result is shown: ``width`` in columns; without ``color`` it is plain ASCII marks.

    ``whole``: a pipe or a file, whose reader wants the rows of a list whole; prose is wrapped all the same.
    """

    width: int = 80
    color: bool = False
    whole: bool = False


def printable(text: str) -> str:
    """``text`` without control characters, so that a name from a file cannot steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def plain(lines: Iterable[Line]) -> str:
    """The lines as plain text, each ending in a newline, without trailing blanks."""
    return "".join(printable("".join(text for text, _ in line)).rstrip() + "\n" for line in lines)


def painted(lines: Iterable[Line]) -> Text:
    """The lines as one rich Text, for a terminal with colour."""
    from rich.text import Text

    text = Text(no_wrap=True, overflow="ignore", end="")
    for line in lines:
        for part, style in line:
            text.append(printable(part), style=_STYLES.get(style, ""))
        text.append("\n")
    return text


def join_blocks(*blocks: list[Line]) -> list[Line]:
    """The blocks below each other, a blank line between; empty ones are left out."""
    lines: list[Line] = []
    for block in filter(None, blocks):
        lines += [[], *block] if lines else block
    return lines


def grid(rows: Sequence[Sequence[Span]], align: str, gap: int = 2, first: int = 0) -> list[Line]:
    """``rows`` of cells in aligned columns; ``align`` has one of ``l`` and ``r`` per column.

    ``first`` is the least width of the first column, so that blocks below each other line up.
    """
    widths = [max((len(row[i][0]) for row in rows), default=0) for i in range(len(align))]
    widths[0] = max(widths[0], first)
    lines = []
    for row in rows:
        line: Line = []
        for i, (text, style) in enumerate(row):
            pad = " " * (widths[i] - len(text))
            before, after = (pad, "") if align[i] == "r" else ("", pad)
            line += [(before, ""), (text, style)]
            if i + 1 < len(row):
                line.append((after + " " * gap, ""))
        lines.append(line)
    return lines


def table(rows: Sequence[Sequence[Span]], align: str, width: int, first: int = 0) -> list[Line]:
    """``rows`` below their header as ``grid`` lays them out, at most ``width`` columns wide.

    Where they do not fit, text in the last column is wrapped within it or goes below its row; where that is
    still too wide, the first cell goes above. No cell is cut.
    """
    lines = grid(rows, align, first=first)
    if _width(lines) <= width:
        return lines
    n = len(align) - (align[-1] == "l")
    lines = grid([row[:n] for row in rows], align[:n], first=first)
    if n < len(align) and (fitting := _wrapped_last(rows, lines, width)):
        return fitting
    above = _width(lines) > width
    if above:
        lines = [[("  ", ""), *line] for line in grid([row[1:n] for row in rows], align[1:n])]
    stacked: list[Line] = []
    for i, (row, line) in enumerate(zip(rows, lines, strict=True)):
        if above:
            stacked += [[(text, row[0][1])] for text in wrap(row[0][0], width)]
        stacked.append(line)
        if i and n < len(row):  # the last name of the header would stand over no column
            stacked += [[("  ", ""), (text, row[-1][1])] for text in wrap(row[-1][0], width - 2)]
    return stacked


def _wrapped_last(rows: Sequence[Sequence[Span]], lines: Sequence[Line], width: int) -> list[Line]:
    """``lines`` with the last cells of ``rows`` wrapped to their right; none where there is no room."""
    start = _width(lines) + 2
    room = width - start
    if room < 20 or any(len(word) > room for row in rows for word in row[-1][0].split()):
        return []
    wrapped: list[Line] = []
    for row, line in zip(rows, lines, strict=True):
        chunks = wrap(row[-1][0], room) or [""]
        pad = start - _width([line])
        wrapped.append([*line, (" " * pad, ""), (chunks[0], row[-1][1])])
        wrapped += [[(" " * start, ""), (chunk, row[-1][1])] for chunk in chunks[1:]]
    return wrapped


def _width(lines: Iterable[Line]) -> int:
    return max((sum(len(text) for text, _ in line) for line in lines), default=0)


def fact(label: str, text: str, width: int, style: str = "") -> list[Line]:
    """``label`` and ``text`` on as many lines as needed, the text aligned in its own column."""
    chunks = wrap(text, width - LABEL_WIDTH) or [""]
    return [
        [(label.ljust(LABEL_WIDTH) if i == 0 else " " * LABEL_WIDTH, "dim"), (chunk, style)]
        for i, chunk in enumerate(chunks)
    ]


def facts(label: str, texts: Iterable[str], width: int) -> list[Line]:
    """Several texts under one label, each with its own dash; nothing when there are none."""
    lines: list[Line] = []
    for text in texts:
        for i, chunk in enumerate(wrap(text, width - LABEL_WIDTH - 2)):
            mark = "- " if i == 0 else "  "
            lines.append(
                [((label if not lines else "").ljust(LABEL_WIDTH), "dim"), (mark, "dim"), (chunk, "")]
            )
    return lines


def wrap(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` columns where its words allow it; words are never cut, and a
    number keeps its unit."""
    words = printable(text).split()
    for i, (word, after) in enumerate(pairwise(words)):
        figure = word[0].isdigit() and word[-1].isdigit()
        words[i] = word + ("\xa0" if figure and not after[0].isdigit() else " ")
    lines = textwrap.wrap("".join(words), max(width, 20), break_long_words=False, break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines]


def apportion(parts: Sequence[float], cells: int) -> list[int]:
    """``cells`` shared out in proportion to ``parts``; every part above zero gets at least one cell."""
    total = sum(parts)
    if total <= 0 or cells <= 0:
        return [0] * len(parts)
    exact = [part / total * cells for part in parts]
    shares = [max(int(x), 1 if part > 0 else 0) for x, part in zip(exact, parts, strict=True)]
    while sum(shares) > cells:
        shares[max(range(len(shares)), key=lambda i: shares[i] - exact[i] if shares[i] > 1 else -1e9)] -= 1
    while sum(shares) < cells:
        shares[max(range(len(shares)), key=lambda i: exact[i] - shares[i])] += 1
    return shares
