"""The explanation trace as an indented tree: value, formula, inputs and source of every term."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from moeplan.provenance import DERIVED, Term
from moeplan.report.layout import Line, Screen, wrap
from moeplan.units import fmt_bytes, fmt_number, fmt_seconds, fmt_si

_INDENT = 2
_SI_UNITS = frozenset({"FLOP", "FLOP/s", "B/s"})


def explain_lines(terms: Iterable[Term], screen: Screen) -> list[Line]:
    """One block of lines per top-level term; children are indented below their sum."""
    width = min(screen.width, 100)
    lines: list[Line] = []
    for term in terms:
        if lines:
            lines.append([])
        lines += _term_lines(term, None, 0, width)
    return lines


def fmt_value(value: float, unit: str) -> str:
    """``value`` with its unit, in the prefix that reads best."""
    if not math.isfinite(value):
        return f"unknown {unit}".rstrip()
    if unit in ("B", "bytes"):
        return fmt_bytes(value)
    if unit == "s" and value >= 0:
        return "0 s" if value == 0 else fmt_seconds(value)
    if unit in _SI_UNITS:
        return fmt_si(value, unit)
    number = f"{value:,}" if isinstance(value, int) else fmt_number(value, 4)
    return f"{number} {unit}".rstrip()


def fmt_inputs(inputs: Mapping[str, object]) -> str:
    """``name = value`` of every input, numbers in full."""
    return ", ".join(f"{name} = {_fmt_input(value)}" for name, value in inputs.items())


def _fmt_input(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:,.6g}"


def _term_lines(term: Term, total: float | None, depth: int, width: int) -> list[Line]:
    pad = " " * (depth * _INDENT)
    head: Line = [(pad, ""), (term.name, "title" if term.children else ""), (" = ", "")]
    head.append((fmt_value(term.value, term.unit), "title"))
    if total is not None and total > 0 and math.isfinite(term.value):
        head.append((f"  {term.value / total:.0%}", "dim"))
    kind, inner = f"[{term.source.kind}]", pad + " " * _INDENT
    fits = sum(len(text) for text, _ in head) + 2 + len(kind) <= width
    badge = ("  " + kind if fits else inner + kind, "warn" if term.source.kind == "assumed" else "dim")
    lines: list[Line] = [[*head, badge]] if fits else [head, [badge]]
    for text in _details(term):
        chunks = wrap(text, width - len(inner) - _INDENT)
        for i, chunk in enumerate(chunks):
            lines.append([(inner + (" " * _INDENT if i else ""), ""), (chunk, "dim")])
    for child in term.children:
        lines += _term_lines(child, term.value, depth + 1, width)
    return lines


def _details(term: Term) -> Iterable[str]:
    if term.formula:
        yield f"by {term.formula}"
    if term.inputs:
        yield f"with {fmt_inputs(term.inputs)}"
    if term.source.ref and term.source != DERIVED and not term.children:
        retrieved = f", {term.source.retrieved}" if term.source.retrieved else ""
        note = f" ({term.source.note})" if term.source.note else ""
        yield f"from {term.source.ref}{retrieved}{note}"
