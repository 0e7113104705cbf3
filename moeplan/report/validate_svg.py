"""Predicted against measured as one picture: logarithmic axes, a mark a row, a look a regime."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moeplan.report.picture import COLORS, document, text
from moeplan.validate.score import Scored

_SIZE, _LEFT, _TOP, _LEGEND = 520, 70, 56, 300


def render(rows: Sequence[Scored], title: str, unit: str = "") -> str:
    """The SVG document; the diagonal is a perfect prediction, the dashed lines a factor of two.

    ``unit`` is that of both axes, where the rows share one.
    """
    values = [math.log10(v) for r in rows for v in (r.measured, r.predicted)] or [0.0, 1.0]
    low, high = math.floor(min(values)), math.ceil(max(values))
    span = max(1, high - low)

    def place(value: float) -> float:
        return (math.log10(value) - low) / span * _SIZE

    regimes = sorted({r.regime for r in rows})
    marks = {regime: (COLORS[i % len(COLORS)], i // len(COLORS)) for i, regime in enumerate(regimes)}
    body = [text(_LEFT, 24, title, 14)]
    body.append(f'<rect x="{_LEFT}" y="{_TOP}" width="{_SIZE}" height="{_SIZE}" fill="none" stroke="#888"/>')
    for factor, dash in ((1.0, ""), (2.0, "4 4"), (0.5, "4 4")):
        body.append(_diagonal(math.log10(factor) / span * _SIZE, dash))
    for exponent in range(low, high + 1):
        at = (exponent - low) / span * _SIZE
        body.append(text(_LEFT + at, _TOP + _SIZE + 18, _tick(exponent), 11, anchor="middle"))
        body.append(text(_LEFT - 8, _TOP + _SIZE - at + 4, _tick(exponent), 11, anchor="end"))
    for row in rows:
        x, y = _LEFT + place(row.measured), _TOP + _SIZE - place(row.predicted)
        body.append(_mark(marks[row.regime], x, y, 2.5, ' fill-opacity="0.6"'))
    body.append(
        text(_LEFT + _SIZE / 2, _TOP + _SIZE + 38, f"measured{unit and ', '}{unit}", 12, anchor="middle")
    )
    body.append(text(16, _TOP - 10, f"predicted{unit and ', '}{unit}", 12))
    for i, regime in enumerate(regimes):
        y = _TOP + 12 + 16 * i
        body.append(_mark(marks[regime], _LEFT + _SIZE + 16, y - 4, 4.0))
        body.append(text(_LEFT + _SIZE + 26, y, regime, 11))
    width, height = _LEFT + _SIZE + _LEGEND, _TOP + max(_SIZE + 60, 16 * len(regimes) + 30)
    return document(body, width, height)


def _diagonal(shift: float, dash: str) -> str:
    """The line predicted = factor x measured, cut at the frame."""
    start, end = max(0.0, -shift), min(_SIZE, _SIZE - shift)
    x1, x2 = _LEFT + start, _LEFT + end
    y1, y2 = _TOP + _SIZE - (start + shift), _TOP + _SIZE - (end + shift)
    style = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#555"{style}/>'


def _tick(exponent: int) -> str:
    """10 to the ``exponent``, in full up to a million."""
    return f"{10**exponent:,}" if 0 <= exponent <= 6 else f"{10.0**exponent:g}"


def _mark(look: tuple[str, int], x: float, y: float, size: float, style: str = "") -> str:
    """A dot; where colours come round again a square, then a diamond: regimes outnumber colours."""
    color, round_ = look
    if round_ == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{color}"{style}/>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if round_ % 2 == 0 else ""
    side = 1.8 * size
    corner = f'x="{x - side / 2:.1f}" y="{y - side / 2:.1f}"'
    return f'<rect {corner} width="{side:.1f}" height="{side:.1f}" fill="{color}"{turn}{style}/>'
