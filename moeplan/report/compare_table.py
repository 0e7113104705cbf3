"""A comparison on a screen: facts side by side, speed by batch, a verdict per axis, what they rest on."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.domain.comparison import Comparison
from moeplan.report import compare_words as cw
from moeplan.report.layout import Line, Screen, Span, fact, grid, join_blocks, wrap
from moeplan.report.words import machine_facts, workload_facts

_MAX_WIDTH = 100
_CELL_MIN = 16
"""Columns that a range of speeds takes: fewer models stand side by side on a narrow screen."""
_BATCH_CELLS = len("A GiB/tok") + len("A tok/s")
_NARROW = 72


def compare_lines(c: Comparison, screen: Screen) -> list[Line]:
    """The whole answer, fit to ``screen``."""
    width = min(screen.width, _MAX_WIDTH)
    return join_blocks(
        _head(c, width),
        *_facts(c, width),
        *_batches(c, width),
        _verdicts(c, width),
        _notes(c, width),
    )


def _head(c: Comparison, width: int) -> list[Line]:
    e = c.models[0].estimate
    return [
        *([(text, "title")] for text in wrap(cw.title(c), width)),
        *fact("machine", machine_facts(e.hardware), width),
        *fact("workload", workload_facts(e), width),
    ]


def _facts(c: Comparison, width: int) -> list[list[Line]]:
    rows = cw.fact_rows(c, compact=width >= _NARROW)
    first = max(len(label) for label, _ in rows)
    names = [f"{cw.letter(i)} {m.label}" for i, m in enumerate(c.models)]
    widths = [max([_CELL_MIN, *(len(cells[i]) for _, cells in rows)]) for i in range(len(names))]
    blocks, start = [], 0
    while start < len(names):
        end = start + 1
        while end < len(names) and first + sum(w + 2 for w in widths[start : end + 1]) <= width:
            end += 1
        blocks.append(_fact_grid(rows, names, range(start, end), widths, f"({c.level:.0%} interval)"))
        start = end
    return blocks


def _fact_grid(
    rows: Sequence[cw.Row], names: Sequence[str], shown: range, widths: Sequence[int], corner: str
) -> list[Line]:
    head: list[Span] = [(corner, "dim"), *((_cut(names[i], widths[i]), "head") for i in shown)]
    body: list[list[Span]] = [[(label, "dim"), *((cells[i], "") for i in shown)] for label, cells in rows]
    return grid([head, *body], "l" + "r" * len(shown))


def _batches(c: Comparison, width: int) -> list[list[Line]]:
    blocks: list[list[Line]] = []
    for group in _batch_groups(cw.sides(c.models), width):
        head: list[Span] = [(name, "head") for name in cw.batch_head(group)]
        body: list[list[Span]] = [[(cell, "") for cell in row] for row in cw.batch_rows(group)]
        blocks.append(grid([head, *body], "r" * len(head), gap=2 if width >= _NARROW else 1))
    blocks[-1] += [[(text, "dim")] for text in wrap(cw.batch_note(c), width)]
    return blocks


def _batch_groups(sides: Sequence[cw.Side], width: int) -> list[list[cw.Side]]:
    """As many models in one table as fit beside the batch."""
    gap = 2 if width >= _NARROW else 1
    groups: list[list[cw.Side]] = []
    room = 0
    for side in sides:
        # bytes a token, tokens per second and, of a MoE, the experts read
        needed = _BATCH_CELLS + 2 * gap + (len("A experts") + gap if side[1].coverage else 0)
        if not groups or room < needed:
            groups.append([])
            room = width - len("batch")
        groups[-1].append(side)
        room -= needed
    return groups


def _verdicts(c: Comparison, width: int) -> list[Line]:
    lines: list[Line] = []
    for verdict in c.verdicts:
        style = "warn" if verdict.within_uncertainty or verdict.better is None else "good"
        name, _ = cw.AXES[verdict.axis]
        lines += fact(name, cw.verdict_words(verdict, c.models), width, style)
    return lines


def _notes(c: Comparison, width: int) -> list[Line]:
    texts = (
        ("offloaded", cw.offload_words(c.models)),
        ("twin", cw.twin_words(c.models)),
        ("scores", cw.score_words(c.models)),
        ("assumed", cw.assumed_words(c)),
        ("not modelled", "; ".join(c.not_modelled)),
    )
    return [line for label, text in texts if text for line in fact(label, text, width)]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
