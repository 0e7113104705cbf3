"""The cells and sentences of a comparison that the screen and Markdown share."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.advise.compare import lead
from moeplan.domain.comparison import Axis, BatchPoint, ComparedModel, Comparison, LoraCount, Verdict
from moeplan.domain.result import Estimate, Range
from moeplan.report.textbook_table import power
from moeplan.report.words import first_moe, is_gpu, placement_words, prefill_rate
from moeplan.units import GIB, fmt_bytes, fmt_number, fmt_params

AXES: dict[Axis, tuple[str, str]] = {
    "memory": ("memory", "smaller"),
    "single-user speed": ("single user", "faster"),
    "batch throughput": ("batches", "faster"),
    "offload": ("offload", "faster"),
    "training compute": ("training", "fewer FLOPs"),
    "fine-tuning": ("fine-tuning", "fewer trained parameters"),
}
"""Axis -> (short name, what its ratio says of the better one)."""

NONE = "-"
# What stands behind a speed whose weights are not all on the GPUs, and what it means.
_AWAY = {
    "disk": ("*", "weights read from disk"),
    **dict.fromkeys(("layers", "experts", "mixed"), ("+", "part of the weights in RAM")),
}
Row = tuple[str, list[str]]


def letter(index: int) -> str:
    """The letter that stands for a model in narrow columns."""
    return chr(ord("A") + index)


def title(c: Comparison) -> str:
    """The models, their types and the machine."""
    names = ", ".join(f"{letter(i)} {m.label}" for i, m in enumerate(c.models))
    quants = list(dict.fromkeys(m.estimate.quant for m in c.models))
    engines = ", ".join(dict.fromkeys(m.estimate.workload.engine for m in c.models))
    return f"{names} at {', '.join(quants)} on {c.models[0].estimate.hardware.name} with {engines}"


# ── facts ───────────────────────────────────────────────────────────────────────────────────────


def fact_rows(c: Comparison, *, compact: bool = True) -> list[Row]:
    """(label, a cell per model) of everything that does not depend on the batch.

    ``compact`` puts all sizes in one row, which needs a wide label.
    """
    models = c.models
    rows: list[Row] = [
        ("parameters", [_params(m) for m in models]),
        ("experts", [_experts(m) for m in models]),
        *_coverage_rows(models),
        *_size_rows(models, compact),
        ("fullest device", [_fullest(m.estimate) for m in models]),
        ("largest context", [_context(m) for m in models]),
        ("decode tok/s", [_decode(m.estimate) for m in models]),
        ("prefill tok/s", [_prefill(m.estimate) for m in models]),
        ("offloaded decode", [_decode(m.offloaded) for m in models]),
        ("offloaded prefill", [_prefill(m.offloaded) for m in models]),
        ("GFLOP a token", [fmt_number(m.estimate.flop_decode_per_token / 1e9) for m in models]),
        ("trained tokens/day", [_trained(m) for m in models]),
        (f"LoRA r{models[0].lora.rank}, all FFNs", [_lora(m.lora.unfused) for m in models]),
    ]  # fmt: skip
    if any(m.lora.fused != m.lora.unfused for m in models):
        cells = [_lora(m.lora.fused) if m.lora.fused != m.lora.unfused else "same" for m in models]
        rows.append(("  experts fused", cells))
    return rows + _score_rows(models)


def _params(m: ComparedModel) -> str:
    params = m.estimate.params
    if not m.estimate.model.is_moe:
        return fmt_params(params.total)
    return f"{fmt_params(params.total)}, {fmt_params(params.active)} on"


def _experts(m: ComparedModel) -> str:
    moe = first_moe(m.estimate.model)
    if moe is None:
        return "dense"
    shared = f" + {moe.n_shared}" if moe.n_shared else ""
    return f"{moe.n_active} of {moe.n_experts}{shared}"


def _coverage_rows(models: Sequence[ComparedModel]) -> list[Row]:
    """The batches at which a step reads half, 90% and 99% of the experts."""
    if not any(m.coverage for m in models):
        return []
    cells = [
        f"batch {m.coverage.batch_50:,}/{m.coverage.batch_90:,}/{m.coverage.batch_99:,}"
        if m.coverage
        else NONE
        for m in models
    ]
    return [("50/90/99% read at", cells)]


def _size_rows(models: Sequence[ComparedModel], compact: bool) -> list[Row]:
    """One row for all quantisations where the models have the same ones, else a row of each."""
    lists = [[size.quant for size in m.sizes] for m in models]
    gib = [{s.quant: f"{s.weights_bytes / GIB:,.1f}" for s in m.sizes} for m in models]
    if compact and all(names == lists[0] for names in lists):
        return [(f"GiB {'/'.join(lists[0])}", ["/".join(sizes.values()) for sizes in gib])]
    names = dict.fromkeys(name for names in lists for name in names)
    return [(f"GiB in {name}", [sizes.get(name, NONE) for sizes in gib]) for name in names]


def _fullest(e: Estimate) -> str:
    devices = [d for d in e.memory.devices if d.device != "disk"]
    tightest = min(devices, key=lambda d: d.headroom_bytes / max(d.capacity_bytes, 1))
    held, room = tightest.total_bytes / GIB, tightest.capacity_bytes / GIB
    text = f"{held:,.1f} of {room:,.1f} GiB"
    return text if e.fits else f"no: {text}"


def _context(m: ComparedModel) -> str:
    tokens = m.largest_context_tokens
    if tokens == 0:
        return "none fits"
    return f"{tokens:,}" + (" (limit)" if tokens == m.estimate.model.context_tokens else "")


def _decode(e: Estimate | None) -> str:
    if e is None or not e.fits:
        return NONE if e is None else "does not fit"
    return span(e.decode_step_s.inverse(e.workload.n_sequences))


def _prefill(e: Estimate | None) -> str:
    if e is None or not e.fits:
        return NONE if e is None else "does not fit"
    return span(prefill_rate(e))


def span(r: Range) -> str:
    """``'20.0 (15-26)'``: what is expected, and the ends to two digits."""
    return f"{fmt_number(r.expected)} ({_end(r.low)}-{_end(r.high)})"


def _end(value: float) -> str:
    return f"{fmt_number(value / 1000, 2)}k" if value >= 1000 else fmt_number(value, 2)


def _trained(m: ComparedModel) -> str:
    return power(m.textbook.train_tokens_per_day) if m.textbook else NONE


def _lora(count: LoraCount) -> str:
    params = count.trainable_params
    return (
        f"{count.n_adapters:,}: {params:,}" if params < 1e9 else f"{count.n_adapters:,}: {fmt_params(params)}"
    )


# ── scores ──────────────────────────────────────────────────────────────────────────────────────


def _score_rows(models: Sequence[ComparedModel]) -> list[Row]:
    """A row per metric and variant; scores of several sources stand side by side, marked by source."""
    marks = score_sources(models)
    keys = dict.fromkeys((s.metric, s.variant) for m in models for s in m.scores)
    rows = []
    metrics = list(dict.fromkeys(metric for metric, _ in keys))
    for metric, variant in sorted(keys, key=lambda key: metrics.index(key[0])):
        cells = [
            " / ".join(
                f"{s.value:g} {marks[s.source.ref, s.checked]}"
                for s in m.scores
                if (s.metric, s.variant) == (metric, variant)
            )
            or NONE
            for m in models
        ]
        rows.append((f"{metric}, {variant}", cells))
    return rows


def score_sources(models: Sequence[ComparedModel]) -> dict[tuple[str, str], str]:
    """(source, how it was taken) -> its mark, in order of first use."""
    keys = dict.fromkeys((s.source.ref, s.checked) for m in models for s in m.scores)
    return {key: chr(ord("a") + i) if i < 26 else str(i) for i, key in enumerate(keys)}


def score_words(models: Sequence[ComparedModel]) -> str:
    """The sources behind the marks."""
    return "; ".join(f"{mark} {ref} ({checked})" for (ref, checked), mark in score_sources(models).items())


# ── batches ─────────────────────────────────────────────────────────────────────────────────────


Side = tuple[str, ComparedModel]
"""A model and its letter."""


def sides(models: Sequence[ComparedModel]) -> list[Side]:
    """The models with their letters."""
    return [(letter(i), model) for i, model in enumerate(models)]


def batch_head(shown: Sequence[Side]) -> list[str]:
    """Column names of the batch table."""
    names = ["batch"]
    for mark, model in shown:
        names += [f"{mark} experts"] if model.coverage else []
        names += [f"{mark} GiB/tok", f"{mark} tok/s"]
    pair = lead_pair(shown)
    return [*names, f"{pair[0][0]}/{pair[1][0]}"] if pair else names


def batch_rows(shown: Sequence[Side]) -> list[list[str]]:
    """A row per batch: share of experts read, bytes a token, tokens per second, and the lead of two."""
    pair = lead_pair(shown)
    rows = []
    for points in zip(*(model.by_batch for _, model in shown), strict=True):
        row = [f"{points[0].batch:,}"]
        for point in points:
            row += [] if point.coverage_frac is None else [f"{point.coverage_frac:.0%}"]
            row += [fmt_number(point.bytes_per_step / point.batch / GIB), _speed(point)]
        if pair:
            ratio = lead(pair[0][1], pair[1][1], points[0].batch)
            row.append(f"{fmt_number(ratio, 2)}x" if ratio else NONE)
        rows.append(row)
    return rows


def lead_pair(shown: Sequence[Side]) -> tuple[Side, Side] | None:
    """Of two models: (the one whose lead is shown, the other): the MoE over the dense one, else B over A."""
    if len(shown) != 2:
        return None
    a, b = shown
    return (a, b) if a[1].coverage and not b[1].coverage else (b, a)


def _speed(point: BatchPoint) -> str:
    if point.step_s is None:
        return NONE
    rate = fmt_number(point.batch / point.step_s.expected)
    return rate + _AWAY.get(point.placement, ("", ""))[0]


def batch_note(c: Comparison) -> str:
    """How the batch table is to be read."""
    points = [p for m in c.models for p in m.by_batch]
    text = f"each sequence holds {c.batch_context_tokens:,} tokens; expected speed"
    if any(p.step_s is None for p in points):
        text += f"; {NONE} does not fit"
    marks = {_AWAY[p.placement]: None for p in points if p.step_s is not None and p.placement in _AWAY}
    return text + "".join(f"; {mark} {meaning}" for mark, meaning in sorted(marks))


# ── sentences ───────────────────────────────────────────────────────────────────────────────────


def verdict_words(verdict: Verdict, models: Sequence[ComparedModel]) -> str:
    """``'Mixtral 8x7B 4.5x faster: 90 tok/s ...'``."""
    name = next((m.label for m in models if m.key == verdict.better), None)
    if name is None:
        return verdict.why
    if verdict.by is None:
        return f"{name}: {verdict.why}"
    return f"{name} {fmt_number(verdict.by, 2)}x {AXES[verdict.axis][1]}: {verdict.why}"


def offload_words(models: Sequence[ComparedModel]) -> str:
    """Where the weights are in the offloaded form of each model."""
    texts = []
    for i, m in enumerate(models):
        if m.offloaded is not None:
            held = sum(d.total_bytes for d in m.offloaded.memory.devices if is_gpu(d.device))
            vram = f"{fmt_bytes(held)} of VRAM, " if held else ""
            texts.append(f"{letter(i)} {vram}{placement_words(m.offloaded.placement)}")
    engines = dict.fromkeys(m.offloaded.workload.engine for m in models if m.offloaded is not None)
    return "; ".join(texts) + (f"; {' and '.join(engines)}" if texts else "")


def assumed_words(c: Comparison) -> str:
    """The assumptions in one paragraph; a remark in parentheses that repeats is said once."""
    said: set[str] = set()
    texts = []
    for text in c.assumptions:
        _, bracket, remark = text.rpartition(" (")
        if bracket and remark.endswith(")"):
            texts.append(text.removesuffix(bracket + remark) if remark in said else text)
            said.add(remark)
        else:
            texts.append(text)
    return "; ".join(texts)


def twin_words(models: Sequence[ComparedModel]) -> str:
    """What the made-up models are."""
    texts = []
    for i, m in enumerate(models):
        if m.twin is not None:
            spec, params = m.estimate.model, m.estimate.params
            sizes = sorted({getattr(b.ffn, "intermediate", 0) for b in spec.blocks if b.ffn})
            widths = " and ".join(f"{size:,}" for size in sizes)
            texts.append(
                f"{letter(i)} is made up: {m.twin_of} with dense FFNs and equal {m.twin} size, "
                f"{spec.n_layers} layers of {spec.hidden_size:,}, FFNs of {widths}, "
                f"{fmt_params(params.total)} parameters"
            )
    return "; ".join(texts)
