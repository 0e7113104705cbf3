"""The estimate as one picture: memory of every device and what makes up the time of both phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from moeplan.domain.result import Estimate, PhaseTime
from moeplan.report import words
from moeplan.report.layout import wrap
from moeplan.report.picture import COLORS, document, escape, text
from moeplan.units import fmt_bytes, fmt_number, fmt_seconds

_WIDTH, _LEFT, _RIGHT = 860, 110, 190
_COLUMNS, _COLUMN = 3, 240
"""Of the legend."""
_TERMS = 5
"""Parts of a phase that are shown by name: with those of both phases the colours are enough."""
_ROW, _BAR = 34, 20


class _Bar(NamedTuple):
    """Segments (name, amount) of one bar, the amount that fills its row, and the text behind it."""

    label: str
    segments: Sequence[tuple[str, float]]
    full: float
    tail: str


def render(e: Estimate) -> str:
    """The SVG document. Speeds of what does not fit are left out: there are none."""
    sections = [("Memory", _memory_bars(e))]
    if e.fits:
        sections.append(("Time", [_phase_bar("decode step", e.decode), _phase_bar("prefill", e.prefill)]))
    lines = [(line, 16) for line in wrap(words.title(e), 78)]
    lines += [(line, 12) for line in wrap(_subtitle(e), 124)]
    body, y = [], 12
    for line, size in lines:
        y += size + 6
        body.append(text(16, y, line, size=size, bold=size > 12))
    for title, bars in sections:
        y += 34
        body.append(text(16, y, title, size=13, bold=True))
        y += 12
        colors = _palette(bars)
        for bar in bars:
            body += _draw(bar, colors, y)
            y += _ROW
        body += _legend(colors, y + 8)
        y += 18 * -(-len(colors) // _COLUMNS)
    height = y + 16
    return document(body, _WIDTH, height)


def _subtitle(e: Estimate) -> str:
    if not e.fits:
        return f"does not fit: {words.verdict(e)}"
    rate = e.decode_step_s.inverse(e.workload.n_sequences)
    low, expected, high = (fmt_number(v) for v in (rate.low, rate.expected, rate.high))
    speed = f"decode {expected} tok/s ({low} to {high}, {e.level:.0%} interval)"
    return f"{speed}; {words.placement_words(e.placement)}"


def _memory_bars(e: Estimate) -> list[_Bar]:
    bars = []
    for name, device in words.device_groups(e.memory.devices):
        segments = [(what, float(words.part_bytes(device, part))) for part, what in words.PARTS]
        tail = f"{fmt_bytes(device.total_bytes)} of {fmt_bytes(device.capacity_bytes)}"
        if device.droppable_bytes:
            tail += f", {fmt_bytes(device.droppable_bytes)} droppable"
        full = float(max(device.capacity_bytes, device.total_bytes, 1))
        bars.append(_Bar(name, [s for s in segments if s[1] > 0], full, tail))
    return bars


def _phase_bar(name: str, phase: PhaseTime) -> _Bar:
    terms: dict[str, float] = {}
    for term, seconds in phase.terms:
        device, _, what = term.partition(" ")
        kind = f"GPU {what}" if words.is_gpu(device) and what else term
        terms[kind] = terms.get(kind, 0.0) + seconds
    segments = sorted((term for term in terms.items() if term[1] > 0), key=lambda term: -term[1])
    shown, rest = segments[:_TERMS], sum(seconds for _, seconds in segments[_TERMS:])
    if rest > 0:
        shown = [*shown, ("other", rest)]
    return _Bar(name, shown, phase.seconds or 1.0, fmt_seconds(phase.seconds))


def _palette(bars: Sequence[_Bar]) -> dict[str, str]:
    names = dict.fromkeys(name for bar in bars for name, _ in bar.segments)
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}


def _draw(bar: _Bar, colors: dict[str, str], y: int) -> list[str]:
    room = _WIDTH - _LEFT - _RIGHT
    parts = [
        text(_LEFT - 10, y + 15, bar.label, size=12, anchor="end"),
        f'<rect x="{_LEFT}" y="{y}" width="{room}" height="{_BAR}" fill="#eeeeee"/>',
    ]
    x = float(_LEFT)
    for name, amount in bar.segments:
        width = amount / bar.full * room
        parts.append(
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colors[name]}">'
            f"<title>{escape(name)}</title></rect>"
        )
        x += width
    return [*parts, text(_WIDTH - _RIGHT + 10, y + 15, bar.tail, size=12)]


def _legend(colors: dict[str, str], y: int) -> list[str]:
    parts = []
    for i, (name, color) in enumerate(colors.items()):
        x, row = _LEFT + (i % _COLUMNS) * _COLUMN, y + (i // _COLUMNS) * 18
        parts.append(f'<rect x="{x}" y="{row - 9}" width="10" height="10" fill="{color}"/>')
        parts.append(text(x + 15, row, name, size=11))
    return parts
