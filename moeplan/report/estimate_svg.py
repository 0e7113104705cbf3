"""The estimate as one picture: memory of every device and what makes up the time of both phases.

Written by hand as SVG, which needs no library and opens in every browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from moeplan.domain.result import Estimate, PhaseTime
from moeplan.report import words
from moeplan.report.layout import printable
from moeplan.units import fmt_bytes, fmt_number, fmt_seconds

_WIDTH, _LEFT, _RIGHT = 860, 130, 150
_ROW, _BAR = 34, 20
# Colour-blind safe (Okabe and Ito, 2008).
_COLORS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#D55E00", "#999999", "#F0E442")
_FONT = 'font-family="system-ui, sans-serif"'


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
    body, y = [_text(16, 30, words.title(e), size=16, weight="bold")], 54
    body.append(_text(16, y, _subtitle(e), size=12))
    for title, bars in sections:
        y += 34
        body.append(_text(16, y, title, size=13, weight="bold"))
        y += 12
        colors = _palette(bars)
        for bar in bars:
            body += _draw(bar, colors, y)
            y += _ROW
        body += _legend(colors, y + 8)
        y += 12 + 18 * ((len(colors) + 3) // 4)
    height = y + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" {_FONT}>\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


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
    segments = sorted((term for term in phase.terms if term[1] > 0), key=lambda term: -term[1])
    shown, rest = segments[:6], sum(seconds for _, seconds in segments[6:])
    if rest > 0:
        shown = [*shown, ("other", rest)]
    return _Bar(name, shown, phase.seconds or 1.0, fmt_seconds(phase.seconds))


def _palette(bars: Sequence[_Bar]) -> dict[str, str]:
    names = dict.fromkeys(name for bar in bars for name, _ in bar.segments)
    return {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(names)}


def _draw(bar: _Bar, colors: dict[str, str], y: int) -> list[str]:
    room = _WIDTH - _LEFT - _RIGHT
    parts = [
        _text(_LEFT - 10, y + 15, bar.label, size=12, anchor="end"),
        f'<rect x="{_LEFT}" y="{y}" width="{room}" height="{_BAR}" fill="#eeeeee"/>',
    ]
    x = float(_LEFT)
    for name, amount in bar.segments:
        width = amount / bar.full * room
        parts.append(
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colors[name]}">'
            f"<title>{_escape(name)}</title></rect>"
        )
        x += width
    return [*parts, _text(_WIDTH - _RIGHT + 10, y + 15, bar.tail, size=12)]


def _legend(colors: dict[str, str], y: int) -> list[str]:
    parts = []
    for i, (name, color) in enumerate(colors.items()):
        x, row = _LEFT + (i % 4) * 170, y + (i // 4) * 18
        parts.append(f'<rect x="{x}" y="{row - 9}" width="10" height="10" fill="{color}"/>')
        parts.append(_text(x + 15, row, name, size=11))
    return parts


def _text(x: int, y: int, text: str, *, size: int, weight: str = "normal", anchor: str = "start") -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x}" y="{y}" {style} fill="#222222">{_escape(text)}</text>'


def _escape(text: str) -> str:
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
