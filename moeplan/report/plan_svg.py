"""The curves of a plan as one picture: a panel each, speed on the left axis, VRAM on the right one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from moeplan.domain.plan import Curve, CurvePoint, Plan
from moeplan.report import plan_words as pw
from moeplan.report.layout import wrap
from moeplan.report.picture import COLORS, document, text
from moeplan.units import GIB

_WIDTH, _LEFT, _RIGHT = 860, 76, 76
_ROOM = _WIDTH - _LEFT - _RIGHT
_HEADER, _HEIGHT, _FOOTER = 44, 170, 62
"""Above the frame of a panel, the frame, and below it."""
_LOG = frozenset({"context", "batch", "ubatch"})
_SPEED, _VRAM, _KNEE, _GREY = COLORS[0], COLORS[3], COLORS[5], "#666666"


def render(plan: Plan) -> str:
    """The SVG document."""
    lines = [(line, 16) for line in wrap(pw.title(plan), 78)]
    if plan.best is not None:
        said = (pw.headline(plan.best), pw.speed(plan.best), pw.memory(plan.best))
        lines += [(line, 12) for words in said for line in wrap(words, 124)]
    body, y = [], 12
    for line, size in lines:
        y += size + 6
        body.append(text(16, y, line, size, bold=size > 12))
    y += 24
    for curve in (c for c in plan.curves if len(c.points) > 2):
        body += _panel(curve, y)
        y += _HEADER + _HEIGHT + _FOOTER
    return document(body, _WIDTH, y)


def _panel(curve: Curve, y: int) -> list[str]:
    top = y + _HEADER
    speeds = [(p.x, _speed(curve, p)) for p in curve.points if p.fits]
    sizes = [(p.x, p.vram_bytes / GIB) for p in curve.points]
    name = "prompt" if curve.name == "ubatch" else "decode"
    parts = [
        text(_LEFT, y + 12, f"by {pw.AXES[curve.name]}", 13, bold=True),
        *_key(_LEFT, y + 30, f"{name} speed, tok/s (left)", _SPEED),
        *_key(_LEFT + 220, y + 30, "VRAM of the fullest GPU, GiB (right)", _VRAM, dashed=True),
        *_unfit(curve, top),
        *_axis(max((v for _, v in speeds), default=0.0), top, left=True),
        *_axis(max((v for _, v in sizes), default=0.0), top, left=False),
        *_below(curve, top),
        f'<rect x="{_LEFT}" y="{top}" width="{_ROOM}" height="{_HEIGHT}" fill="none" stroke="{_GREY}"/>',
        *_line(curve, sizes, top, _VRAM, dashed=True),
        *_line(curve, speeds, top, _SPEED),
    ]
    return parts + _markers(curve, top)


def _key(x: int, y: int, words: str, color: str, *, dashed: bool = False) -> list[str]:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    line = f'<line x1="{x}" y1="{y - 4}" x2="{x + 24}" y2="{y - 4}" stroke="{color}" stroke-width="2"{dash}/>'
    return [line, text(x + 30, y, words, color=color)]


def _speed(curve: Curve, p: CurvePoint) -> float:
    return (p.prefill_tokens_per_s if curve.name == "ubatch" else p.decode_tokens_per_s) or 0.0


# ── axes ────────────────────────────────────────────────────────────────────────────────────────


def _step(largest: float, most: int) -> float:
    """1, 2 or 5 times a power of ten, at most ``most`` of which reach ``largest``."""
    exact = max(largest, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(exact))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= exact * 0.999)


def _top(largest: float) -> tuple[float, float]:
    """The value at the top of an axis, and the step of its ticks."""
    step = _step(largest, 5)
    return max(1, math.ceil(largest / step * 0.999)) * step, step


def _axis(largest: float, top: int, *, left: bool) -> list[str]:
    high, step = _top(largest)
    parts = []
    for i in range(round(high / step) + 1):
        y = top + _HEIGHT * (1 - i * step / high)
        if left and 0 < i * step < high:
            parts.append(
                f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_LEFT + _ROOM}" y2="{y:.1f}" stroke="#e4e4e4"/>'
            )
        x, anchor, color = (_LEFT - 7, "end", _SPEED) if left else (_LEFT + _ROOM + 7, "start", _VRAM)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        parts.append(text(x, y + 4, f"{i * step:,.{digits}f}", anchor=anchor, color=color))
    return parts


def _x(curve: Curve, x: float) -> float:
    low, high = float(curve.points[0].x), float(curve.points[-1].x)
    if curve.name in _LOG:
        low, high, x = (math.log2(max(1.0, v)) for v in (low, high, x))
    return _LEFT + (x - low) / max(high - low, 1e-9) * _ROOM


def _below(curve: Curve, top: int) -> list[str]:
    """Numbers below the frame: every point where there is room, else round ones."""
    shown = [p.x for p in curve.points]
    if curve.name not in _LOG or len(shown) > 12:
        step = max(1, round(_step(shown[-1] - shown[0], 12)))
        shown = [x for x in shown if x % step == 0]
    parts, free = [], -math.inf
    for x in shown:
        half = 3.6 * len(f"{x:,}")
        if _x(curve, x) - half > free:
            parts.append(text(_x(curve, x), top + _HEIGHT + 16, f"{x:,}", anchor="middle"))
            free = _x(curve, x) + half
    return parts


# ── what is drawn ───────────────────────────────────────────────────────────────────────────────


def _unfit(curve: Curve, top: int) -> list[str]:
    """Grey where the setting does not fit, up to half way to the next one that does."""
    at = [_x(curve, p.x) for p in curve.points]
    edges = [_LEFT, *((a + b) / 2 for a, b in pairwise(at)), _LEFT + _ROOM]
    parts, start = [], None
    for i, p in enumerate((*curve.points, None)):
        if p is not None and not p.fits:
            start = edges[i] if start is None else start
        elif start is not None:
            width = edges[i] - start
            parts.append(
                f'<rect x="{start:.1f}" y="{top}" width="{width:.1f}" height="{_HEIGHT}" fill="#f1f1f1"/>'
            )
            if width > 70:
                middle = start + width / 2
                parts.append(text(middle, top + _HEIGHT - 10, "does not fit", anchor="middle", color=_GREY))
            start = None
    return parts


def _line(
    curve: Curve, points: Sequence[tuple[int, float]], top: int, color: str, *, dashed: bool = False
) -> list[str]:
    high = _top(max((v for _, v in points), default=0.0))[0]
    at = [(_x(curve, x), top + _HEIGHT * (1 - v / high)) for x, v in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    parts = [f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>']
    if not dashed and len(at) <= 24:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in at]
    return parts


def _markers(curve: Curve, top: int) -> list[str]:
    """The knee and the chosen setting, with their names below the numbers, beside each other if need be."""
    if curve.knee is not None and curve.knee == curve.chosen:
        marks = [(curve.knee, "chosen and knee", _KNEE)]
    else:
        named = ((curve.knee, "knee", _KNEE), (curve.chosen, "chosen", _GREY))
        marks = sorted((x, name, color) for x, name, color in named if x is not None)
    near = len(marks) == 2 and _x(curve, marks[1][0]) - _x(curve, marks[0][0]) < 110
    parts = []
    for i, (at, name, color) in enumerate(marks):
        x, words = _x(curve, at), f"{name} {at:,}"
        half = 3.4 * len(words)
        anchor = ("end", "start")[i] if near else "middle"
        middle = x if not near else x + (half + 4) * (2 * i - 1)
        shift = max(0.0, 4 + half - middle) - max(0.0, middle + half + 4 - _WIDTH)
        parts.append(
            f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + _HEIGHT}" stroke="{color}" '
            'stroke-width="1.5" stroke-dasharray="2 3"/>'
        )
        place = x + shift + (4 * (2 * i - 1) if near else 0)
        parts.append(text(place, top + _HEIGHT + 33, words, anchor=anchor, color=color, bold=True))
    return parts
