"""GitHub-flavoured Markdown: tables and lists whose cells cannot break out of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moeplan.report.layout import printable


def md_table(header: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """A table; ``align`` has one of ``l`` and ``r`` per column. Ends in a newline."""
    rules = ["---:" if a == "r" else "---" for a in align]
    lines = [_row(header), "|" + "|".join(rules) + "|", *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def md_list(title: str, items: Iterable[str]) -> str:
    """A bold title and a bullet per item; empty when there are none."""
    bullets = [f"- {printable(item)}" for item in items]
    return f"**{title}**\n\n" + "\n".join(bullets) + "\n" if bullets else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return " ".join(printable(text).split()).replace("|", "\\|")
