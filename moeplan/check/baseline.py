"""Against a baseline: which results became worse, which moved, and because of what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moeplan.domain.budget import CaseResult, Change, Inputs, Verdict

DRIFT_FRAC = 0.01
"""A value that moves by more than this is reported; less is rounding."""


class Before(NamedTuple):
    """One result of the baseline."""

    verdict: Verdict
    value: float | None
    limit: float | None
    inputs: Inputs | None


def compare(
    results: Sequence[CaseResult], before: Mapping[str, Before]
) -> tuple[tuple[CaseResult, ...], tuple[str, ...]]:
    """(results with what changed, ids that are no more). Results are matched by id."""
    from msgspec.structs import replace

    told = []
    for result in results:
        old = before.get(result.id)
        change = _change(result, old)
        cause = "" if old is None or change in ("same", "known") else _cause(result, old)
        told.append(replace(result, change=change, cause=cause, before=old.value if old else None))
    ids = {result.id for result in results}
    return tuple(told), tuple(id_ for id_ in before if id_ not in ids)


def _change(result: CaseResult, old: Before | None) -> Change:
    if old is None:
        return "new"
    if result.verdict != "pass":
        worse = old.verdict == "pass" or (old.verdict == "unsure" and result.verdict == "fail")
        return "regression" if worse else "known"
    if old.verdict != "pass":
        return "fixed"
    return "drift" if _moved(result, old) else "same"


def _moved(result: CaseResult, old: Before) -> bool:
    now = result.amount.expected if result.amount else None
    if now is None or old.value is None:
        return (now is None) != (old.value is None)
    return abs(now - old.value) > DRIFT_FRAC * max(abs(old.value), abs(now))


def _cause(result: CaseResult, old: Before) -> str:
    """What of the inputs differs, the team's own doing first."""
    now, then = result.inputs, old.inputs
    causes = []
    if old.limit != result.limit and result.budget not in ("fits", "memory"):
        causes.append("the budget changed")
    if now is None or then is None:
        return ", ".join(causes)
    told = {
        "request": "the deployment changed",
        "model": "the model's catalog entry changed",
        "hardware": "the machine's catalog entry changed",
        "calibration": "the calibration changed",
        "program": "moeplan itself changed",
    }
    causes += [text for field, text in told.items() if getattr(now, field) != getattr(then, field)]
    return ", ".join(causes)
