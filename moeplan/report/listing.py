"""Lists and cards: rows of a catalog as a table that fits the screen, as JSON, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moeplan.report.layout import Line, Screen, Span, fact, facts, grid, join_blocks, table, wrap
from moeplan.report.markdown import md_list, md_table

_ELLIPSIS = "..."


class Column(NamedTuple):
    """A column of a list; on a narrow screen those with the highest ``rank`` are left out first, text
    columns (never numbers) of a rank are shortened, and those without are wrapped."""

    name: str
    align: str = "l"
    rank: int = 0


class Listing(NamedTuple):
    """Rows of text under named columns. ``note`` is what to say when there are none."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    note: str = "nothing matches"


def listing_lines(listing: Listing, screen: Screen) -> list[Line]:
    """The list as aligned columns that fit the screen; whole: everything, one row a line."""
    if not listing.rows:
        return [[(listing.note, "dim")]]
    shown = list(range(len(listing.columns)))
    widths = [max(len(listing.columns[i].name), *(len(row[i]) for row in listing.rows)) for i in shown]
    if not screen.whole:
        shown = _fitting(listing.columns, widths, screen.width)
    head: list[Span] = [(listing.columns[i].name, "head") for i in shown]
    body: list[list[Span]] = [[(row[i], "") for i in shown] for row in listing.rows]
    align = "".join(listing.columns[i].align for i in shown)
    if screen.whole:
        return grid([head, *body], align)
    limit = _text_limit(listing.columns, widths, shown, screen.width)
    for line in body:
        for at, i in enumerate(shown):
            if _shortens(listing.columns[i]):
                line[at] = (_shorten(line[at][0], limit), "")
    return table([head, *body], align, screen.width)


def listing_markdown(listing: Listing) -> str:
    """The list as a GitHub table."""
    if not listing.rows:
        return listing.note + "\n"
    align = "".join(column.align for column in listing.columns)
    return md_table([column.name for column in listing.columns], align, listing.rows)


class Card(NamedTuple):
    """One entry in full: a title, facts, lists under a label, and tables."""

    title: str
    facts: Sequence[tuple[str, str]]
    lists: Mapping[str, Sequence[str]] = {}
    tables: Sequence[Listing] = ()


def card_lines(card: Card, screen: Screen) -> list[Line]:
    """The card on a screen."""
    width = min(screen.width, 100)
    head: list[Line] = [[(text, "title")] for text in wrap(card.title, width)]
    for label, text in card.facts:
        if text:
            head += fact(label, text, width)
    tables = [listing_lines(table, screen._replace(width=width)) for table in card.tables]
    tail = [line for label, items in card.lists.items() for line in facts(label, items, width)]
    return join_blocks(head, *tables, tail)


def card_markdown(card: Card) -> str:
    """The card as Markdown."""
    parts = [
        f"### {card.title}\n",
        md_table(("", ""), "ll", [(label, text) for label, text in card.facts if text]),
        *(listing_markdown(table) for table in card.tables),
        *(md_list(label.capitalize(), items) for label, items in card.lists.items()),
    ]
    return "\n".join(part for part in parts if part)


def _fitting(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """Indices of the columns to show: the least important go while the rest is too wide."""
    shown = list(range(len(columns)))
    while len(shown) > 1 and _least_width(columns, widths, shown) > width:
        worst = max(shown, key=lambda i: (columns[i].rank, i))
        if columns[worst].rank == 0:
            break
        shown.remove(worst)
    return shown


_TEXT_MIN = 28
"""A text column is shortened down to this many characters before another column is left out."""


def _shortens(column: Column) -> bool:
    return column.align == "l" and column.rank > 0


def _least_width(columns: Sequence[Column], widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum((min(widths[i], _TEXT_MIN) if _shortens(columns[i]) else widths[i]) + 2 for i in shown)


def _text_limit(columns: Sequence[Column], widths: Sequence[int], shown: Sequence[int], width: int) -> int:
    """The longest text cell that still lets every row fit."""
    limit = max(widths)
    while limit > _TEXT_MIN:
        total = sum((min(widths[i], limit) if _shortens(columns[i]) else widths[i]) + 2 for i in shown)
        if total - 2 <= width:
            break
        limit -= 1
    return limit


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(_ELLIPSIS)] + _ELLIPSIS
