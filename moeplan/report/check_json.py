"""JSON of `moeplan check`, which is also what ``--baseline`` reads. Schema: configs/schema/check.json."""

from __future__ import annotations

from typing import Literal

import msgspec

from moeplan.check.baseline import Before
from moeplan.domain.budget import BudgetKind, CaseResult, Change, CheckReport, Inputs, Verdict
from moeplan.errors import SpecError


class ValueJson(msgspec.Struct, kw_only=True):
    """Low, expected and high; equal where there is no interval."""

    low: float
    expected: float
    high: float


class InputsJson(msgspec.Struct, kw_only=True):
    """Fingerprints of what a value was made from."""

    request: str
    model: str
    hardware: str
    calibration: str
    program: str


class CaseJson(msgspec.Struct, kw_only=True):
    """One case under one budget; ``value`` and ``limit`` are in ``unit``."""

    id: str
    verdict: Verdict
    budget: BudgetKind
    value: float | None
    limit: float | None
    unit: str
    interval: ValueJson | None
    confidence: float | str | None
    near: bool
    reason: str
    fix: str
    file: str
    line: int
    notes: list[str]
    change: Change
    before: float | None
    cause: str
    inputs: InputsJson | None
    explain: list[str]


class CheckJson(msgspec.Struct, kw_only=True):
    """The answer of `moeplan check`."""

    schema: Literal["moeplan/check@1"]
    verdict: Verdict
    unsure: Literal["fail", "warn"]
    program: str
    calibration: str
    catalog: str
    baseline: str
    cases: list[CaseJson]
    gone: list[str]
    notes: list[str]


def check_json(report: CheckReport) -> CheckJson:
    """The wire form of ``report``."""
    return CheckJson(
        schema="moeplan/check@1",
        verdict=report.verdict,
        unsure=report.unsure,
        program=report.program,
        calibration=report.calibration,
        catalog=report.catalog,
        baseline=report.baseline,
        cases=[_case(result) for result in report.results],
        gone=list(report.gone),
        notes=list(report.notes),
    )


def read_baseline(raw: bytes, path: str) -> dict[str, Before]:
    """The results of an earlier run by id. SpecError when ``raw`` is not the JSON of `moeplan check`."""
    try:
        wire = msgspec.json.decode(raw, type=CheckJson)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"not the JSON of `moeplan check`: {error}", path=path) from None
    return {
        case.id: Before(case.verdict, case.value, case.limit, _inputs(case.inputs)) for case in wire.cases
    }


def _case(result: CaseResult) -> CaseJson:
    amount, inputs = result.amount, result.inputs
    return CaseJson(
        id=result.id,
        verdict=result.verdict,
        budget=result.budget,
        value=amount.expected if amount else None,
        limit=result.limit,
        unit=amount.unit if amount else "",
        interval=ValueJson(low=amount.low, expected=amount.expected, high=amount.high) if amount else None,
        confidence=result.confidence,
        near=result.near,
        reason=result.reason,
        fix=result.fix,
        file=result.file,
        line=result.line,
        notes=list(result.notes),
        change=result.change,
        before=result.before,
        cause=result.cause,
        inputs=None
        if inputs is None
        else InputsJson(
            request=inputs.request,
            model=inputs.model,
            hardware=inputs.hardware,
            calibration=inputs.calibration,
            program=inputs.program,
        ),
        explain=list(result.explain),
    )


def _inputs(wire: InputsJson | None) -> Inputs | None:
    if wire is None:
        return None
    return Inputs(
        request=wire.request,
        model=wire.model,
        hardware=wire.hardware,
        calibration=wire.calibration,
        program=wire.program,
    )
