"""The check as Markdown: a pull request comment or a step summary."""

from __future__ import annotations

from moeplan.domain.budget import CheckReport
from moeplan.report.check_words import change_words, headline, limit_words, mark, severity, value_words
from moeplan.report.markdown import md_list, md_table

_ICONS = {"pass": "✅ pass", "near": "⚠️ near miss", "unsure": "❔ unsure", "FAIL": "❌ fail"}


def render(report: CheckReport) -> str:
    """One table, worst first, and what would help."""
    worst = sorted(report.results, key=lambda r: ("FAIL", "unsure", "near", "pass").index(mark(r)))
    with_change = any(change_words(result) for result in worst)
    header = ["check", "verdict", "predicted", "budget", "why"] + (
        ["since the baseline"] if with_change else []
    )
    rows = [
        [
            f"`{result.id}`",
            _ICONS[mark(result)],
            value_words(result),
            limit_words(result),
            result.reason,
            *([change_words(result)] if with_change else []),
        ]
        for result in worst
    ]
    fixes = [
        f"`{result.file}:{result.line}` {result.id}: {result.fix}"
        for result in worst
        if result.fix and severity(report, result)
    ]
    remarks = [*report.notes, *(f"no longer checked: {id_}" for id_ in report.gone)]
    remarks += list(dict.fromkeys(f"{result.id}: {note}" for result in worst for note in result.notes))
    parts = [
        f"### moeplan check: {headline(report)}\n",
        md_table(header, "llrrl" + ("l" if with_change else ""), rows),
        md_list("Smallest fixes", fixes),
        md_list("Notes", remarks),
        f"moeplan {report.program}, calibration {report.calibration}, catalog {report.catalog}"
        + (f", compared with {report.baseline}" if report.baseline else "")
        + "\n",
    ]
    return "\n".join(part for part in parts if part)
