"""What every rendering of a check shares: severity, headline, one line per result."""

from __future__ import annotations

from typing import Literal

from moeplan.check.policy import blocks, is_at_most
from moeplan.domain.budget import CaseResult, CheckReport
from moeplan.units import fmt_bytes, fmt_number, fmt_seconds

Severity = Literal["error", "warning", "notice", ""]

BUDGETS = {
    "fits": "fits in memory",
    "memory": "memory with headroom",
    "decode": "decode speed",
    "prefill": "prefill speed",
    "ttft": "time to the first token of one request",
    "context": "longest context that fits",
    "concurrency": "sequences that fit together",
}
"""What each kind of budget is about."""


def severity(report: CheckReport, result: CaseResult) -> Severity:
    """error: it blocks; warning: it does not hold, but does not block; notice: a near miss; else nothing."""
    if blocks(result, report.unsure, against_baseline=bool(report.baseline)):
        return "error"
    if result.verdict != "pass":
        return "warning"
    return "notice" if result.near else ""


def headline(report: CheckReport) -> str:
    """``2 of 12 fail, 1 unsure, 3 near misses`` and the verdict of the whole."""
    n = len(report.results)
    parts = [f"{count} {what}" for what, count in _counts(report).items() if count]
    parts = ["1 near miss" if part == "1 near misses" else part for part in parts]
    return f"{report.verdict}: {n} check{'s' if n != 1 else ''}" + (f", {', '.join(parts)}" if parts else "")


def _counts(report: CheckReport) -> dict[str, int]:
    verdicts = [result.verdict for result in report.results]
    changes = [result.change for result in report.results]
    return {
        "failed": verdicts.count("fail"),
        "unsure": verdicts.count("unsure"),
        "near misses": sum(r.near and r.verdict == "pass" for r in report.results),
        "worse than the baseline": changes.count("regression"),
        "failed before as well": changes.count("known"),
        "fixed": changes.count("fixed"),
        "drifted": changes.count("drift"),
    }


def figure(value: float | None, unit: str) -> str:
    """A figure of a result with its unit."""
    if value is None:
        return "-"
    if unit == "bytes":
        return fmt_bytes(value)
    if unit == "s":
        return fmt_seconds(value)
    return f"{fmt_number(value)} tok/s" if unit == "tokens/s" else f"{value:,.0f}"


def value_words(result: CaseResult) -> str:
    """The predicted figure."""
    return figure(result.amount.expected, result.amount.unit) if result.amount else "-"


def limit_words(result: CaseResult) -> str:
    """The budget, as ``<= 72.0 GiB`` or ``>= 40 tok/s``."""
    if result.limit is None or result.amount is None:
        return "-"
    sign = "<=" if is_at_most(result.budget) else ">="
    return f"{sign} {figure(result.limit, result.amount.unit)}"


def change_words(result: CaseResult) -> str:
    """What happened since the baseline, with the cause; empty without one."""
    if not result.change or result.change == "same":
        return ""
    moved = ""
    if result.before is not None and result.amount is not None and result.change != "new":
        before = figure(result.before, result.amount.unit)
        moved = f" from {before}" if before != value_words(result) else ""
    cause = f" ({result.cause})" if result.cause else ""
    words = {"regression": "worse than the baseline", "known": "failed before as well"}
    return f"{words.get(result.change, result.change)}{moved}{cause}"


def message(result: CaseResult) -> str:
    """One line for a reviewer: the case, the reason, the fix."""
    text = f"{result.id}: {result.reason}"
    if result.change in ("regression", "known", "drift"):
        text += f"; {change_words(result)}"
    return text + (f"; smallest fix: {result.fix}" if result.fix else "")


def mark(result: CaseResult) -> str:
    """``pass``, ``near``, ``unsure`` or ``FAIL``."""
    if result.verdict == "pass":
        return "near" if result.near else "pass"
    return "FAIL" if result.verdict == "fail" else "unsure"
