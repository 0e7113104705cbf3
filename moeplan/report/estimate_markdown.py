"""The estimate as GitHub-flavoured Markdown, to paste into an issue or a README."""

from __future__ import annotations

from moeplan.domain.result import Estimate, Range
from moeplan.provenance import Term
from moeplan.report import words
from moeplan.report.explain import fmt_inputs, fmt_value
from moeplan.report.markdown import md_list, md_table
from moeplan.units import MIB, fmt_bytes, fmt_number, fmt_si


def render(e: Estimate) -> str:
    """The whole answer: facts, memory, speed, and what it rests on."""
    parts = [
        f"### {words.title(e)}\n",
        _facts(e),
        _memory(e),
        _curve(e),
        _engine_check(e),
        _speed(e) if e.fits else "",
        md_list("Assumed", e.assumptions),
        md_list("Not modelled", e.not_modelled),
        _explain(e.explain),
    ]
    return "\n".join(part for part in parts if part)


def _facts(e: Estimate) -> str:
    rows = [
        ("fits", words.verdict(e)),
        ("model", words.model_facts(e.model, e.params)),
        ("machine", words.machine_facts(e.hardware)),
        ("placement", words.placement_words(e.placement)),
        ("workload", words.workload_facts(e)),
        *([("reserved", reserved)] if (reserved := words.reserved_words(e)) else []),
        ("work of a decode step", words.decode_work(e)),
        ("work of the prefill", fmt_si(e.flop_prefill, "FLOP")),
        ("confidence", words.confidence_words(e.confidence)),
    ]
    return md_table(("", ""), "ll", rows)


def _memory(e: Estimate) -> str:
    groups = words.device_groups(e.memory.devices)
    rows = [(name, *(fmt_bytes(words.part_bytes(d, part)) for _, d in groups)) for part, name in words.PARTS]
    rows += [
        ("**total**", *(f"**{fmt_bytes(d.total_bytes)}**" for _, d in groups)),
        ("capacity", *(fmt_bytes(d.capacity_bytes) for _, d in groups)),
    ]
    if any(d.droppable_bytes for _, d in groups):
        rows.append(("of it droppable", *(fmt_bytes(d.droppable_bytes) for _, d in groups)))
    if any(d.margin_bytes for _, d in groups):
        rows.append(("margin", *(fmt_bytes(d.margin_bytes) for _, d in groups)))
    rows.append(("headroom", *(fmt_bytes(d.headroom_bytes) for _, d in groups)))
    return md_table(("memory", *(name for name, _ in groups)), "l" + "r" * len(groups), rows)


def _curve(e: Estimate) -> str:
    if not e.context_curve:
        return ""
    names = [device for device, _ in e.context_curve[0].device_bytes]
    rows = [
        (
            f"{point.context_tokens:,}",
            *(fmt_bytes(size) for _, size in point.device_bytes),
            "" if point.fits else "does not fit",
        )
        for point in e.context_curve
    ]
    return md_table(("context", *names, ""), "r" * (len(names) + 1) + "l", rows)


def _engine_check(e: Estimate) -> str:
    if not e.engine_check:
        return ""
    rows = [
        (name, fmt_bytes(predicted), fmt_bytes(allocated), f"{(predicted - allocated) / MIB:+,.2f} MiB")
        for name, predicted, allocated in e.engine_check
    ]
    return md_table(("buffer", "predicted", "allocated", "difference"), "lrrr", rows)


def _speed(e: Estimate) -> str:
    def row(name: str, r: Range, unit: str, bound: str) -> tuple[str, ...]:
        return (name, *(f"{fmt_number(v)} {unit}" for v in (r.low, r.expected, r.high)), bound)

    rate = e.decode_step_s.inverse(e.workload.n_sequences)
    rows = [
        row("decode", rate, "tok/s", e.decode.bound),
        row("decode step", words.scaled(e.decode_step_s, 1e3), "ms", e.decode.bound),
        row("prefill", words.prefill_rate(e), "tok/s", e.prefill.bound),
        row("time to first token", words.scaled(e.prefill_s, 1e3), "ms", e.prefill.bound),
        ("load", "", f"{fmt_number(e.load_s)} s", "", ""),
    ]
    header = (f"speed ({e.level:.0%} interval)", "low", "expected", "high", "bound by")
    return md_table(header, "lrrrl", rows)


def _explain(terms: tuple[Term, ...]) -> str:
    if not terms:
        return ""
    return "**Explanation**\n\n" + "".join(_bullets(term, 0) for term in terms)


def _bullets(term: Term, depth: int) -> str:
    detail = f": `{term.formula}`" if term.formula else ""
    inputs = f" with {fmt_inputs(term.inputs)}" if term.inputs else ""
    head = f"{'  ' * depth}- {term.name} = **{fmt_value(term.value, term.unit)}** [{term.source.kind}]"
    return head + detail + inputs + "\n" + "".join(_bullets(child, depth + 1) for child in term.children)
