"""`moeplan check --init`: a first budget file from the deployments that lie around."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from moeplan.api.check import Checker
from moeplan.api.check_results import Case, result_of
from moeplan.domain.budget import Budget, BudgetKind
from moeplan.errors import MoeplanError

if TYPE_CHECKING:
    from moeplan.domain.budget import CaseResult

MAX_FILES = 2000
MAX_DEPTH = 5
# A first budget leaves this much room, so that it holds today and says when something becomes worse.
SLACK = 0.9
_SKIPPED = frozenset({"node_modules", "venv", "build", "dist", "__pycache__"})
_SUFFIXES = (".yaml", ".yml", ".sh", ".bash", ".service", ".modelfile")

_HEAD = """\
# Sizing budgets, checked by `moeplan check`. Predicted for {hardware}; each leaves a tenth of room.
# All keys: moeplan schema budget. What a figure rests on: moeplan check --explain.
schema: moeplan/budget@1
"""
_EMPTY = """\
# No deployment file was found: this is an example of models x hardware x workloads.
models:
  chat: {model: mixtral-8x7b, quant: q4_k_m}
hardware: [HARDWARE]
workloads:
  short: {context: 8192, prompt: 512, output: 128}
budgets:
  memory: {headroom: 5%}
  decode: {min_tokens_per_s: 10, confidence: expected}
"""


def first_budget_file(checker: Checker) -> tuple[str, list[str]]:
    """(text of a budget file, remarks on files that were passed over)."""
    hardware = checker.options.hardware or "this machine"
    entries: list[str] = []
    remarks: list[str] = []
    for path in _candidates(checker.root):
        try:
            entries += _entries(checker, path)
        except MoeplanError as error:
            if _mentions_engine(checker, path):
                remarks.append(f"left out: {error}")
    head = _HEAD.format(hardware=hardware)
    if not entries:
        return head + _EMPTY.replace("HARDWARE", hardware), remarks
    return head + "deployments:\n" + "".join(entries), remarks


def _candidates(root: Path) -> Iterator[Path]:
    """Files below ``root`` that may deploy something, in a fixed order."""
    found = 0
    for folder, subfolders, names in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        subfolders[:] = sorted(
            s for s in subfolders if s[0] != "." and s not in _SKIPPED and depth < MAX_DEPTH
        )
        for name in sorted(names):
            lower = name.lower()
            if name.startswith("moeplan.check."):
                continue
            if lower.endswith(_SUFFIXES) or lower.startswith("modelfile"):
                found += 1
                if found > MAX_FILES:
                    return
                yield Path(folder) / name


def _mentions_engine(checker: Checker, path: Path) -> bool:
    """Whether a file that cannot be checked is about an engine at all."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")[:200_000]
    except OSError:
        return False
    words = [command[-1] for table in checker.tables.all() for command in table.commands]
    words += [image for table in checker.tables.all() for image in table.images]
    return any(word in text for word in words)


def _entries(checker: Checker, path: Path) -> Iterator[str]:
    from moeplan.domain.budget import DeploymentEntry

    options = checker.options
    entry = DeploymentEntry(file=str(path), hardware=options.hardware, machine=options.machine)
    sizings = [
        s for launch in checker.launches(path, "", 0) if (s := checker.sizing(launch, entry)) is not None
    ]
    for sizing in sizings:
        sized = checker.sizer.size(sizing.request, sizing.static_frac)
        case = Case(
            id=sizing.launch.name, sized=sized, file=str(path), line=sizing.launch.line,
            least_context=sizing.least_context, impossible=sizing.impossible,
        )  # fmt: skip
        only = f"    only: {_quoted(sizing.launch.name)}\n" if len(sizings) > 1 else ""
        head = f"  - file: {_quoted(checker.shown(path))}\n{only}    hardware: {options.hardware}\n"
        fits = result_of(case, Budget(kind="fits"), checker.sizer)
        if fits.verdict != "pass":
            yield f"  # today: {fits.reason}\n{head}"
            continue
        yield head + "    budgets:\n" + "".join(_budgets(checker, case))


def _budgets(checker: Checker, case: Case) -> Iterator[str]:
    """Budgets that hold today with some room."""
    room = _result(checker, case, "fits", 0.0)
    if room.limit and room.amount and room.amount.expected <= 0.95 * room.limit:
        yield "      memory: {headroom: 5%}\n"
    speed = _result(checker, case, "decode", 1.0)
    if speed.amount is not None:
        yield f"      decode: {{min_tokens_per_s: {_below(speed.amount.low * SLACK)}}}\n"
    first = _result(checker, case, "ttft", 1.0)
    if first.amount is not None:
        yield f"      ttft: {{max_ms: {math.ceil(first.amount.high * 1000 / SLACK)}}}\n"


def _result(checker: Checker, case: Case, kind: BudgetKind, limit: float) -> CaseResult:
    return result_of(case, Budget(kind=kind, limit=limit), checker.sizer)


def _below(value: float) -> str:
    """``value`` rounded down to two significant digits."""
    if value <= 0:
        return "0.1"
    step = 10 ** (math.floor(math.log10(value)) - 1)
    return f"{math.floor(value / step) * step:.10g}"


def _quoted(text: str) -> str:
    return text if all(c.isalnum() or c in "._-/" for c in text) and text[0] not in "-." else f'"{text}"'
