"""The estimate on a screen: a title, memory per device with a bar, speeds, and the facts behind them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from moeplan.domain.result import DeviceMemory, Estimate, PhaseTime, Range
from moeplan.report import words
from moeplan.report.layout import (
    LABEL_WIDTH,
    Line,
    Screen,
    Span,
    apportion,
    fact,
    facts,
    grid,
    join_blocks,
    wrap,
)
from moeplan.units import GIB, MIB, fmt_bytes, fmt_number, fmt_seconds, fmt_si

_MARKS = {"weights": "#", "kv": "=", "state": "+", "compute": "~", "output": "o", "overhead": ":"}
_OPTIONAL = frozenset({"state", "output", "overhead"})
"""Parts whose row is left out when no device has any."""

_BLOCK, _FREE = "█", "."
_MAX_WIDTH = 100
"""Wider than this, lines only get harder to follow."""


def estimate_lines(e: Estimate, screen: Screen) -> list[Line]:
    """The whole answer, fit to ``screen``."""
    width = min(screen.width, _MAX_WIDTH)
    return join_blocks(
        _head(e, width),
        _memory(e, Screen(width=width, color=screen.color)),
        _capacity(e, width),
        _speed(e) if e.fits else [],
        _facts(e, width),
    )


def _head(e: Estimate, width: int) -> list[Line]:
    return [
        *([(text, "title")] for text in wrap(words.title(e), width)),
        *fact("fits", words.verdict(e), width, "good" if e.fits else "bad"),
        *fact("model", words.model_facts(e.model, e.params), width),
        *fact("machine", words.machine_facts(e.hardware), width),
        *fact("placement", words.placement_words(e.placement), width),
        *fact("workload", words.workload_facts(e), width),
    ]


# ── memory ──────────────────────────────────────────────────────────────────────────────────────


def _memory(e: Estimate, screen: Screen) -> list[Line]:
    groups = words.device_groups(e.memory.devices)
    per_block = max(1, (screen.width - LABEL_WIDTH) // 13)
    blocks = [
        _memory_grid(groups[start : start + per_block], e.memory.devices, screen)
        for start in range(0, len(groups), per_block)
    ]
    # A disk holds what is left: how full it is says nothing.
    return [*join_blocks(*blocks), *_bars([g for g in groups if g[1].device != "disk"], screen)]


def _memory_grid(
    groups: Sequence[words.DeviceGroup], devices: Sequence[DeviceMemory], screen: Screen
) -> list[Line]:
    unit = _unit(devices)
    shown = [device for _, device in groups]

    def row(name: str, style: str, values: Iterable[int], mark: Span = ("", "")) -> list[Span]:
        return [(name, style), mark, *((_in_unit(v, unit), "bad" if v < 0 else style) for v in values)]

    rows: list[list[Span]] = [[("memory", "head"), ("", ""), *((name, "head") for name, _ in groups)]]
    for part, name in words.PARTS:
        if part in _OPTIONAL and not any(words.part_bytes(d, part) for d in devices):
            continue
        mark = (_BLOCK if screen.color else _MARKS[part], part)
        rows.append(row(name, "", [words.part_bytes(d, part) for d in shown], mark))
    rows.append(row("total", "head", [d.total_bytes for d in shown]))
    rows.append(row("capacity", "", [d.capacity_bytes for d in shown]))
    if any(d.margin_bytes for d in devices):
        rows.append(row("margin", "", [d.margin_bytes for d in shown]))
    if any(d.droppable_bytes for d in devices):
        rows.append(row("droppable", "", [d.droppable_bytes for d in shown]))
    rows.append(row("headroom", "", [d.headroom_bytes for d in shown]))
    return grid(rows, "ll" + "r" * len(groups), first=LABEL_WIDTH - 5)


def _unit(devices: Sequence[DeviceMemory]) -> tuple[str, int]:
    largest = max((d.total_bytes for d in devices), default=0)
    return ("GiB", GIB) if largest >= GIB else ("MiB", MIB)


def _in_unit(n_bytes: int, unit: tuple[str, int]) -> str:
    if n_bytes == 0:
        return "-"
    if abs(n_bytes) < unit[1] / 200:
        return fmt_bytes(n_bytes)
    return f"{n_bytes / unit[1]:,.2f} {unit[0]}"


def _bars(groups: Sequence[words.DeviceGroup], screen: Screen) -> list[Line]:
    """One bar per group: its parts to scale, what is free, and how full it is."""
    label_width = max([LABEL_WIDTH, *(len(name) + 1 for name, _ in groups)])
    used = [d.resident_bytes / d.capacity_bytes if d.capacity_bytes else math.inf for _, d in groups]
    tails = [
        f"{frac:.0%} of {fmt_bytes(d.capacity_bytes)}" if frac < 10 else f"{frac:,.0f} times what it has"
        for frac, (_, d) in zip(used, groups, strict=True)
    ]
    cells = max(10, screen.width - label_width - max(map(len, tails), default=0) - 3)
    return [
        [
            (name.ljust(label_width), ""),
            ("[", "dim"),
            *_bar(device, cells, screen),
            ("] ", "dim"),
            (tail, "bad" if device.headroom_bytes < 0 else ""),
        ]
        for (name, device), tail in zip(groups, tails, strict=True)
    ]


def _bar(device: DeviceMemory, cells: int, screen: Screen) -> list[Span]:
    parts = [words.part_bytes(device, part) for part, _ in words.PARTS]
    parts[0] -= device.droppable_bytes  # of the weights
    shares = apportion([*parts, max(device.headroom_bytes, 0)], cells)
    spans = [
        ((_BLOCK if screen.color else _MARKS[part]) * n, part)
        for (part, _), n in zip(words.PARTS, shares, strict=False)
    ]
    return [*spans, (_FREE * shares[-1], "free")]


def _capacity(e: Estimate, width: int) -> list[Line]:
    """What a serving engine reserves, and memory against context where it was asked for."""
    lines: list[Line] = []
    if reserved := words.reserved_words(e):
        lines += fact("reserved", reserved, width)
    if e.context_curve:
        names = [device for device, _ in e.context_curve[0].device_bytes]
        rows: list[list[Span]] = [[("context", "head"), *((n, "head") for n in names), ("", "")]]
        for point in e.context_curve:
            style = "" if point.fits else "bad"
            cells = [(fmt_bytes(size), style) for _, size in point.device_bytes]
            mark = ("" if point.fits else "does not fit", style)
            rows.append([(f"{point.context_tokens:,}", style), *cells, mark])
        lines += grid(rows, "r" * (len(names) + 1) + "l", first=LABEL_WIDTH - 2)
    if e.engine_check:
        checked: list[list[Span]] = [
            [("buffer", "head"), ("predicted", "head"), ("allocated", "head"), ("difference", "head")]
        ]
        if not any(name == "weights" for name, _, _ in e.engine_check):
            lines += fact("allocated", "dry: the file is larger than the free RAM, no tensor was read", width)
        for name, predicted, allocated in e.engine_check:
            style = "bad" if allocated > predicted * 1.01 and name != "resident" else ""
            gap = f"{(predicted - allocated) / MIB:+,.2f} MiB"
            checked.append([(name, ""), (fmt_bytes(predicted), ""), (fmt_bytes(allocated), ""), (gap, style)])
        lines += grid(checked, "lrrr", first=LABEL_WIDTH - 2)
    return lines


# ── speed ───────────────────────────────────────────────────────────────────────────────────────


def _speed(e: Estimate) -> list[Line]:
    step, prefill, n = e.decode_step_s, e.prefill_s, e.workload.n_sequences
    rows: list[list[Span]] = [
        [
            ("speed", "head"),
            ("low", "head"),
            ("expected", "head"),
            ("high", "head"),
            (f"({e.level:.0%} interval)", "dim"),
        ]
    ]

    def row(name: str, r: Range, scale: float, unit: str) -> None:
        low, expected, high = (fmt_number(v * scale) for v in (r.low, r.expected, r.high))
        rows.append([(name, ""), (low, ""), (expected, "title"), (high, ""), (unit, "")])

    row("decode", step.inverse(n), 1, "tok/s")
    if n > 1:
        row("per sequence", step.inverse(), 1, "tok/s")
    row("step", step, 1e3, "ms")
    row("prefill", words.prefill_rate(e), 1, "tok/s")
    scale, unit = (1.0, "s") if prefill.expected >= 10 else (1e3, "ms")
    row("first token", prefill, scale, unit)
    rows.append([("load", ""), ("", ""), (fmt_number(e.load_s), "title"), ("", ""), ("s", "")])
    return grid(rows, "lrrrl", first=LABEL_WIDTH - 2)


# ── facts ───────────────────────────────────────────────────────────────────────────────────────


def _facts(e: Estimate, width: int) -> list[Line]:
    badge = e.confidence.badge
    trusted = badge in ("measured", "fitted") and not e.confidence.extrapolated
    return [
        *(facts("binds", _bounds(e), width) if e.fits else []),
        *facts("work", _work(e), width),
        *fact("confidence", words.confidence_words(e.confidence), width, "" if trusted else "warn"),
        *facts("assumed", e.assumptions, width),
        *facts("not modelled", e.not_modelled, width),
    ]


def _bounds(e: Estimate) -> list[str]:
    return [_bound("decode", e.decode), _bound("prefill", e.prefill)]


def _bound(name: str, phase: PhaseTime) -> str:
    seconds = dict(phase.terms).get(phase.bound)
    if seconds is None or phase.seconds <= 0:
        return f"{name}: {phase.bound}"
    share = f"{seconds / phase.seconds:.0%}"
    return f"{name}: {phase.bound}, {fmt_seconds(seconds)} of {fmt_seconds(phase.seconds)} ({share})"


def _work(e: Estimate) -> list[str]:
    return [f"decode: {words.decode_work(e)}", f"prefill: {fmt_si(e.flop_prefill, 'FLOP')}"]
