"""Lines of styled text: one layout for the terminal (painted with rich) and for a pipe (plain).

A line is a list of (text, style) spans. Renderers build lines that fit a given width; only the very last
step knows about colour, so a pipe never pays for rich.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
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
    """Where a result is shown: ``width`` in columns; without ``color`` it is plain ASCII marks."""

    width: int = 80
    color: bool = False


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
    """``text`` in lines of at most ``width`` columns where its words allow it; words are never cut."""
    return textwrap.wrap(printable(text), max(width, 20), break_long_words=False, break_on_hyphens=False)


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
