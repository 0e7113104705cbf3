"""The plan as GitHub-flavoured Markdown."""

from __future__ import annotations

from moeplan.domain.plan import Curve, Plan
from moeplan.report import plan_words as pw
from moeplan.report import words
from moeplan.report.markdown import md_list, md_table
from moeplan.units import fmt_bytes, fmt_number, fmt_seconds


def render(plan: Plan) -> str:
    """The whole answer."""
    parts = [
        f"### {pw.title(plan)}\n",
        _best(plan),
        _commands(plan),
        _alternatives(plan),
        _changes("try instead", plan.changes and pw.change_rows(plan.changes)),
        _changes("what if", plan.what_if and pw.change_rows(plan.what_if)),
        _changes("machine", plan.machines and pw.machine_rows(plan.machines)),
        _rejected(plan),
        *(_curve(curve) for curve in plan.curves),
        md_list("Assumed", plan.assumptions),
        md_list("Not modelled", plan.not_modelled),
    ]
    return "\n".join(part for part in parts if part)


def _best(plan: Plan) -> str:
    if plan.best is None:
        return "Nothing fits.\n"
    rows = [
        ("plan", pw.headline(plan.best)),
        ("speed", pw.speed(plan.best)),
        ("memory", pw.memory(plan.best)),
        ("workload", words.workload_facts(plan.best.estimate)),
        ("micro-batch", pw.micro_batch(plan.best.estimate.workload)),
        ("confidence", words.confidence_words(plan.best.estimate.confidence)),
    ]
    return md_table(("", ""), "ll", rows)


def _commands(plan: Plan) -> str:
    if plan.best is None:
        return ""
    parts = []
    for c in plan.best.commands:
        what = c.file or {"measure": "to check the prediction"}.get(c.purpose, "to run it")
        parts.append(f"{c.engine} {c.version}, {what}:\n\n```\n{c.text.rstrip()}\n```\n")
    return "\n".join(parts)


def _alternatives(plan: Plan) -> str:
    if not plan.alternatives:
        return ""
    rows = [
        (
            pw.weights(c, plan),
            words.placement_words(c.estimate.placement),
            f"{fmt_number(pw.decode_rate(c))} tok/s",
            f"{fmt_number(c.full_decode_tokens_per_s)} tok/s",
            fmt_seconds(c.estimate.prefill_s.expected),
            pw.vram(c),
            pw.lost_by(c),
        )
        for c in plan.alternatives
    ]
    header = ("runner-up", "placement", "decode", "at a full context", "first token", "VRAM", "lost by")
    return md_table(header, "llrrrrl", rows)


def _changes(name: str, rows: object) -> str:
    return md_table((name, "", "", ""), "llll", rows) if isinstance(rows, list) and rows else ""


def _rejected(plan: Plan) -> str:
    rows = [(r.quant, r.placement, pw.rejection(r)) for r in plan.rejected]
    return md_table(("no plan", "placement", "why"), "lll", rows) if rows else ""


def _curve(curve: Curve) -> str:
    rows = [
        (
            f"{p.x:,}",
            f"{fmt_number(p.decode_tokens_per_s)} tok/s"
            if p.decode_tokens_per_s is not None
            else "does not fit",
            fmt_seconds(p.ttft_s) if p.ttft_s is not None else "",
            fmt_bytes(p.vram_bytes),
            pw.mark(curve, p.x),
        )
        for p in pw.sampled(curve)
    ]
    return md_table((pw.AXES[curve.name], "decode", "first token", "VRAM", ""), "rrrrl", rows)
