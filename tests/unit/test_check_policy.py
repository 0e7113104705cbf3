"""When a budget holds, and what a baseline makes of it. A judge that cannot say no is no judge."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeplan.check.baseline import Before, compare
from moeplan.check.policy import blocks, judge, overall
from moeplan.domain.budget import Amount, Budget, CaseResult, Inputs

INPUTS = Inputs(request="r", model="m", hardware="h", calibration="c", program="1")


def amount(low: float, expected: float, high: float) -> Amount:
    """A figure with an interval."""
    return Amount(low=low, expected=expected, high=high, unit="tokens/s")


def verdict(kind: Any, limit: float, figures: tuple[float, float, float], confidence: Any = None) -> str:
    """The verdict of one budget."""
    return judge(Budget(kind=kind, confidence=confidence), amount(*figures), limit)[0]


@pytest.mark.parametrize(
    ("kind", "figures", "confidence", "expected"),
    [
        # at least 40: speeds
        ("decode", (40, 50, 60), None, "pass"),
        ("decode", (39, 50, 60), None, "unsure"),
        ("decode", (20, 30, 40), None, "unsure"),
        ("decode", (20, 30, 39), None, "fail"),
        ("decode", (39, 50, 60), 0.9, "fail"),
        ("decode", (40, 50, 60), 0.9, "pass"),
        ("decode", (20, 40, 60), "expected", "pass"),
        ("decode", (20, 39, 60), "expected", "fail"),
        ("prefill", (39, 50, 60), None, "unsure"),
        # at most 40: times and bytes
        ("ttft", (20, 30, 40), None, "pass"),
        ("ttft", (20, 30, 41), None, "unsure"),
        ("ttft", (41, 50, 60), None, "fail"),
        ("ttft", (20, 30, 41), 0.9, "fail"),
        ("ttft", (20, 40, 60), "expected", "pass"),
        # one number: never unsure
        ("memory", (40, 40, 40), None, "pass"),
        ("memory", (41, 41, 41), None, "fail"),
        ("fits", (41, 41, 41), None, "fail"),
        ("context", (40, 40, 40), None, "pass"),
        ("context", (39, 39, 39), None, "fail"),
        ("concurrency", (39, 39, 39), None, "fail"),
    ],
)
def test_verdicts_at_the_limit_of_40(kind: Any, figures: Any, confidence: Any, expected: str) -> None:
    assert verdict(kind, 40, figures, confidence) == expected


@given(
    st.sampled_from(["decode", "prefill", "ttft", "memory", "context", "concurrency"]),
    st.tuples(st.floats(1, 1e6), st.floats(1, 1e6), st.floats(1, 1e6)).map(lambda t: tuple(sorted(t))),
    st.floats(1, 1e6),
    st.floats(1, 1e6),
    st.sampled_from([None, 0.9, "expected"]),
)
def test_a_stricter_budget_is_never_easier(
    kind: Any, figures: Any, one: float, other: float, confidence: Any
) -> None:
    lax, strict = sorted((one, other))
    if kind in ("ttft", "memory"):
        lax, strict = strict, lax
    order = ["fail", "unsure", "pass"]
    assert order.index(verdict(kind, strict, figures, confidence)) <= order.index(
        verdict(kind, lax, figures, confidence)
    )


@pytest.mark.parametrize(("value", "near"), [(38, True), (42, True), (37.9, False), (42.1, False)])
def test_near_is_within_a_twentieth_on_either_side(value: float, near: bool) -> None:
    assert judge(Budget(kind="decode"), amount(value, value, value), 40)[1] is near


def result(id_: str, verdict: Any, value: float = 50, **more: Any) -> CaseResult:
    """A result for comparing."""
    fields: dict[str, Any] = {
        "id": id_, "budget": "decode", "verdict": verdict, "amount": amount(value, value, value),
        "limit": 40.0, "confidence": None, "near": False, "reason": "", "fix": "", "file": "f", "line": 1,
        "inputs": INPUTS,
    }  # fmt: skip
    return CaseResult(**(fields | more))


@pytest.mark.parametrize(
    ("verdict", "unsure", "expected"),
    [
        ("pass", "fail", False),
        ("fail", "fail", True),
        ("fail", "warn", True),
        ("unsure", "fail", True),
        ("unsure", "warn", False),
    ],
)
def test_what_blocks(verdict: Any, unsure: Any, expected: bool) -> None:
    assert blocks(result("a", verdict), unsure, against_baseline=False) is expected


@pytest.mark.parametrize(
    ("before", "now", "change", "is_blocking"),
    [
        ("pass", "pass", "same", False),
        ("pass", "fail", "regression", True),
        ("pass", "unsure", "regression", True),
        ("unsure", "fail", "regression", True),
        ("unsure", "unsure", "known", False),
        ("fail", "fail", "known", False),
        ("fail", "unsure", "known", False),
        ("fail", "pass", "fixed", False),
        (None, "pass", "new", False),
        (None, "fail", "new", True),
    ],
)
def test_against_a_baseline_only_what_got_worse_or_is_new_blocks(
    before: Any, now: Any, change: str, is_blocking: bool
) -> None:
    old = {} if before is None else {"a": Before(before, 50, 40.0, INPUTS)}
    results, gone = compare([result("a", now)], old)
    assert results[0].change == change
    assert gone == ()
    assert (overall(results, "fail", against_baseline=True) != "pass") is is_blocking


def test_drift_names_its_cause() -> None:
    def cause(**changed: str) -> str:
        inputs = Inputs(**({f: getattr(INPUTS, f) for f in Inputs.__struct_fields__} | changed))
        results, _ = compare(
            [result("a", "pass", 52, inputs=inputs)], {"a": Before("pass", 50, 40.0, INPUTS)}
        )
        assert results[0].change == "drift"
        return results[0].cause

    assert cause(request="x") == "the deployment changed"
    assert cause(model="x") == "the model's catalog entry changed"
    assert cause(hardware="x") == "the machine's catalog entry changed"
    assert cause(calibration="x") == "the calibration changed"
    assert cause(program="x", calibration="x") == "the calibration changed, moeplan itself changed"


def test_less_than_a_hundredth_is_no_drift_and_what_is_gone_is_told() -> None:
    old = {"a": Before("pass", 50.4, 40.0, INPUTS), "b": Before("pass", 1, 1.0, None)}
    results, gone = compare([result("a", "pass", 50)], old)
    assert (results[0].change, gone) == ("same", ("b",))


def test_a_changed_budget_is_a_cause_of_its_own() -> None:
    results, _ = compare([result("a", "fail", 39)], {"a": Before("pass", 39, 30.0, INPUTS)})
    assert (results[0].change, results[0].cause) == ("regression", "the budget changed")
