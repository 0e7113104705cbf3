"""What a team allows a deployment to need, and what came of comparing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.domain.value import Value

BudgetKind = Literal["fits", "memory", "decode", "prefill", "ttft", "context", "concurrency"]
Verdict = Literal["pass", "fail", "unsure"]
Change = Literal["", "new", "same", "drift", "regression", "fixed", "known"]


class Budget(Value):
    """One limit. ``limit`` is in the unit of its kind: bytes, tokens/s, seconds, tokens, sequences."""

    kind: BudgetKind
    limit: float = 0.0
    """Least tokens/s, tokens or sequences; most seconds or bytes (0: no more than the capacity)."""
    headroom_bytes: int = 0
    headroom_frac: float = 0.0
    """Share of every device's capacity to leave free."""
    confidence: float | Literal["expected"] | None = None
    """Level whose low end must hold; "expected" compares the expected value; None: the whole interval."""
    file: str = ""
    line: int = 0


class BudgetCase(Value):
    """One model on one machine under one workload, and its budgets."""

    id: str
    request: EstimateRequest
    budgets: tuple[Budget, ...]
    file: str
    line: int
    places: Mapping[str, tuple[str, int, int]] = {}
    """Where fields of the request are stated: (file, line, column)."""


class DeploymentEntry(Value):
    """A deployment file to be checked; ``only`` names the service or container, empty for all."""

    file: str
    hardware: str | None
    machine: MachineFlags = MachineFlags()
    only: str = ""
    overrides: EstimateRequest | None = None
    """Prompt, output, batch and quantisation where the file of the deployment does not say."""
    budgets: tuple[Budget, ...] = ()
    line: int = 0
    ignore_flags: frozenset[str] = frozenset()


class BudgetFile(Value):
    """moeplan.check.yaml with its matrix written out."""

    path: str
    cases: tuple[BudgetCase, ...]
    deployments: tuple[DeploymentEntry, ...]


class Amount(Value):
    """What was predicted, in the unit of the budget; equal ends where there is no interval."""

    low: float
    expected: float
    high: float
    unit: str


class Inputs(Value):
    """Fingerprints of what a result was made from, to tell why it moved."""

    request: str
    model: str
    hardware: str
    calibration: str
    program: str


class CaseResult(Value):
    """One case under one budget."""

    id: str
    budget: BudgetKind
    verdict: Verdict
    amount: Amount | None
    limit: float | None
    confidence: float | Literal["expected"] | None
    near: bool
    """Within a twentieth of the limit, on either side."""
    reason: str
    fix: str
    file: str
    line: int
    notes: tuple[str, ...] = ()
    inputs: Inputs | None = None
    change: Change = ""
    cause: str = ""
    """Against a baseline: what moved the value."""
    before: float | None = None
    """The expected value of the baseline."""
    explain: tuple[str, ...] = ()


class CheckReport(Value):
    """All results of one run; ``verdict`` is what the exit code says."""

    verdict: Verdict
    results: tuple[CaseResult, ...]
    calibration: str
    catalog: str
    """Fingerprint of everything of the catalog that was used."""
    program: str
    unsure: Literal["fail", "warn"]
    baseline: str = ""
    """What was compared with, in words."""
    gone: tuple[str, ...] = ()
    """Cases of the baseline that are no more."""
    notes: tuple[str, ...] = ()
