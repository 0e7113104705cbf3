"""The check on a screen: a table of results, then what does not hold and why."""

from __future__ import annotations

from moeplan.domain.budget import CaseResult, CheckReport
from moeplan.report.check_words import (
    change_words,
    headline,
    limit_words,
    mark,
    severity,
    value_words,
)
from moeplan.report.layout import Line, Screen, Span, join_blocks, table, wrap

_STYLES = {"pass": "good", "near": "warn", "unsure": "warn", "FAIL": "bad"}


def check_lines(report: CheckReport, screen: Screen) -> list[Line]:
    """The whole report."""
    return join_blocks(
        _table(report, screen.width),
        _details(report, screen.width),
        _notes(report, screen.width),
        _end(report),
    )


def _table(report: CheckReport, width: int) -> list[Line]:
    head: list[Span] = [(text, "head") for text in ("check", "", "predicted", "budget")]
    rows = [head]
    for result in report.results:
        word = mark(result)
        rows.append(
            [(result.id, ""), (word, _STYLES[word]), (value_words(result), ""), (limit_words(result), "dim")]
        )
    return table(rows, "llrr", width)


def _details(report: CheckReport, width: int) -> list[Line]:
    lines: list[Line] = []
    for result in report.results:
        if severity(report, result) or result.change in ("drift", "fixed") or result.explain:
            lines += _detail(result, width)
    return lines


def _detail(result: CaseResult, width: int) -> list[Line]:
    word = mark(result)
    place = f"  {result.file}:{result.line}" if result.line else f"  {result.file}"
    lines: list[Line] = [[(f"{word} ", _STYLES[word]), (result.id, "head"), (place, "dim")]]
    if len(word) + 1 + len(result.id) + len(place) > width:
        lines = [lines[0][:2], [("   ", ""), (place, "dim")]]
    texts = [result.reason]
    changed = change_words(result)
    texts += [changed] if changed else []
    texts += [f"smallest fix: {result.fix}"] if result.fix else []
    texts += [f"note: {note}" for note in result.notes]
    texts += list(result.explain)
    for text in texts:
        lines += [[("     ", ""), (chunk, "")] for chunk in wrap(text, width - 5)]
    return lines


def _notes(report: CheckReport, width: int) -> list[Line]:
    texts = [*report.notes, *(f"no longer checked: {id_}" for id_ in report.gone)]
    texts += [f"compared with {report.baseline}"] if report.baseline else []
    return [[(chunk, "dim")] for text in texts for chunk in wrap(text, width)]


def _end(report: CheckReport) -> list[Line]:
    style = {"pass": "good", "fail": "bad", "unsure": "warn"}[report.verdict]
    return [[(headline(report), style)]]
