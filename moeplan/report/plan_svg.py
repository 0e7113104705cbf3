"""The curves of a plan as one picture, written by hand as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moeplan.domain.plan import Curve, CurvePoint, Plan
from moeplan.report import plan_words as pw
from moeplan.report.layout import printable
from moeplan.units import GIB, fmt_number

_WIDTH, _LEFT, _RIGHT, _TOP, _HEIGHT, _GAP = 860, 70, 70, 84, 170, 84
_LOG = frozenset({"context", "batch", "ubatch"})
# Colour-blind safe (Okabe and Ito, 2008).
_DECODE, _VRAM, _KNEE, _GREY = "#0072B2", "#E69F00", "#D55E00", "#999999"


def render(plan: Plan) -> str:
    """The SVG document: one panel per curve, speed to the left, VRAM of the fullest GPU to the right."""
    body = [_text(16, 28, pw.title(plan), 16, weight="bold")]
    if plan.best is not None:
        body.append(_text(16, 47, pw.headline(plan.best), 12))
        body.append(_text(16, 63, pw.speed(plan.best), 12))
    y = _TOP
    for curve in plan.curves:
        body += _panel(curve, y)
        y += _HEIGHT + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}" '
        'font-family="system-ui, sans-serif">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _panel(curve: Curve, top: int) -> list[str]:
    name = "prefill" if curve.name == "ubatch" else "decode"
    speeds = [(p.x, _speed(curve, p)) for p in curve.points if p.fits]
    sizes = [(p.x, p.vram_bytes / GIB) for p in curve.points]
    fastest = max((v for _, v in speeds), default=0.0) or 1.0
    largest = max((v for _, v in sizes), default=0.0) or 1.0
    bottom = top + 18 + _HEIGHT
    parts = [
        _text(_LEFT, top + 10, f"by {pw.AXES[curve.name]}", 13, weight="bold"),
        f'<rect x="{_LEFT}" y="{top + 18}" width="{_WIDTH - _LEFT - _RIGHT}" height="{_HEIGHT}" fill="none" '
        f'stroke="{_GREY}"/>',
        _text(_LEFT - 6, top + 28, fmt_number(fastest), 11, anchor="end", color=_DECODE),
        _text(_LEFT - 6, bottom, "0 tok/s", 11, anchor="end", color=_DECODE),
        _text(_WIDTH - _RIGHT + 6, top + 28, f"{largest:.1f}", 11, color=_VRAM),
        _text(_WIDTH - _RIGHT + 6, bottom, "0 GiB", 11, color=_VRAM),
        _text(_LEFT, bottom + 16, f"{curve.points[0].x:,}", 11),
        _text(_WIDTH - _RIGHT, bottom + 16, f"{curve.points[-1].x:,}", 11, anchor="end"),
        _text(_LEFT + 8, bottom - 8, f"{name} speed", 11, color=_DECODE),
        _text(_LEFT + 130, bottom - 8, "VRAM of the fullest GPU", 11, color=_VRAM),
        _line(curve, sizes, largest, top + 18, _VRAM, dashed=True),
        _line(curve, speeds, fastest, top + 18, _DECODE),
    ]
    for x, label, color in ((curve.knee, "knee", _KNEE), (curve.chosen, "chosen", _GREY)):
        if x is not None:
            parts += _marker(curve, x, label, color, top + 18, below=label == "chosen")
    return parts


def _speed(curve: Curve, p: CurvePoint) -> float:
    return (p.prefill_tokens_per_s if curve.name == "ubatch" else p.decode_tokens_per_s) or 0.0


def _x(curve: Curve, x: float) -> float:
    low, high = float(curve.points[0].x), float(curve.points[-1].x)
    if curve.name in _LOG:
        low, high, x = (math.log2(max(1.0, v)) for v in (low, high, x))
    return _LEFT + (x - low) / max(high - low, 1e-9) * (_WIDTH - _LEFT - _RIGHT)


def _line(
    curve: Curve,
    points: Sequence[tuple[int, float]],
    top_value: float,
    top: int,
    color: str,
    *,
    dashed: bool = False,
) -> str:
    path = " ".join(f"{_x(curve, x):.1f},{top + _HEIGHT * (1 - v / top_value * 0.95):.1f}" for x, v in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>'


def _marker(curve: Curve, at: int, label: str, color: str, top: int, *, below: bool) -> list[str]:
    x = _x(curve, at)
    y = top + _HEIGHT + 32 if below else top + _HEIGHT + 16
    return [
        f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + _HEIGHT}" stroke="{color}" '
        'stroke-dasharray="2 3"/>',
        _text(round(x), y, f"{label} {at:,}", 11, anchor="middle", color=color),
    ]


def _text(
    x: int,
    y: int,
    text: str,
    size: int,
    *,
    weight: str = "normal",
    anchor: str = "start",
    color: str = "#222222",
) -> str:
    safe = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{color}"'
    return f'<text x="{x}" y="{y}" {style}>{safe}</text>'
