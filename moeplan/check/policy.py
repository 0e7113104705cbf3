"""When a budget holds. An interval that straddles the limit is neither a pass nor a failure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from moeplan.domain.budget import Amount, Budget, BudgetKind, CaseResult, Verdict

NEAR_FRAC = 0.05
"""Closer to the limit than this, on either side, is a near miss: the next small change may flip it."""

_AT_MOST: frozenset[BudgetKind] = frozenset({"fits", "memory", "ttft"})


def is_at_most(kind: BudgetKind) -> bool:
    """Whether the budget is a most (memory, time) rather than a least (speed, context)."""
    return kind in _AT_MOST


def judge(budget: Budget, amount: Amount, limit: float) -> tuple[Verdict, bool]:
    """(verdict, near) of ``amount`` against ``limit``.

    Without a confidence the whole interval must lie on the good side, and one that straddles the limit is
    unsure. With a confidence its worse end decides, and "expected" compares the expected value. Near is what
    the end that decides lies close to its limit.
    """
    sign = -1.0 if is_at_most(budget.kind) else 1.0
    low, high = sorted((sign * amount.low, sign * amount.high))
    bound = sign * limit
    if budget.confidence == "expected":
        low = high = sign * amount.expected
    if low >= bound:
        return "pass", _is_near(low, bound)
    if high < bound:
        return "fail", _is_near(high, bound)
    verdict: Verdict = "unsure" if budget.confidence is None else "fail"
    return verdict, _is_near(sign * amount.expected, bound)


def _is_near(value: float, bound: float) -> bool:
    return bound != 0 and abs(value - bound) <= NEAR_FRAC * abs(bound)


def blocks(result: CaseResult, unsure: Literal["fail", "warn"], *, against_baseline: bool) -> bool:
    """Whether ``result`` makes the check fail. Against a baseline only what became worse or is new does."""
    if result.verdict == "pass" or (result.verdict == "unsure" and unsure == "warn"):
        return False
    return result.change in ("regression", "new") if against_baseline else True


def overall(
    results: Iterable[CaseResult], unsure: Literal["fail", "warn"], *, against_baseline: bool
) -> Verdict:
    """fail if anything that failed blocks, unsure if only unsure ones block, else pass."""
    blocking = [r for r in results if blocks(r, unsure, against_baseline=against_baseline)]
    if any(r.verdict == "fail" for r in blocking):
        return "fail"
    return "unsure" if blocking else "pass"
