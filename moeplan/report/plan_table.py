"""The plan on a screen: the choice, the commands to paste, who lost and why, and the curves."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.domain.plan import Command, Curve, CurvePoint, Plan
from moeplan.report import plan_words as pw
from moeplan.report import words
from moeplan.report.layout import LABEL_WIDTH, Line, Screen, Span, fact, facts, grid, join_blocks, table, wrap
from moeplan.units import fmt_bytes, fmt_number, fmt_seconds

_MAX_WIDTH = 110
_BAR, _LEAST_BAR = 24, 8
_BLOCK = "█"
_DENSE = 10
"""Points from which a curve is drawn as well, on a terminal."""


def plan_lines(plan: Plan, screen: Screen) -> list[Line]:
    """The whole answer, fit to ``screen``."""
    width = min(screen.width, _MAX_WIDTH)
    return join_blocks(
        _head(plan, width),
        _commands(plan, width),
        _alternatives(plan, width),
        _rows("machines", pw.machine_rows(plan.machines), width),
        _rows("what if", pw.change_rows(plan.what_if), width),
        _rejected(plan, width),
        *(_curve(curve, screen, width) for curve in plan.curves if len(curve.points) > 2),
        _foot(plan, width),
    )


def _head(plan: Plan, width: int) -> list[Line]:
    lines: list[Line] = [[(text, "title")] for text in wrap(pw.title(plan), width)]
    best = plan.best
    if best is None:
        lines += fact("fits", pw.none_words(plan), width, "bad")
        lines += _rows("try", pw.change_rows(plan.changes), width)
        return lines if plan.changes else [*lines, *fact("try", "no single change was found", width)]
    e = best.estimate
    return [
        *lines,
        *fact("plan", pw.headline(best), width, "good"),
        *fact("speed", pw.speed(best), width, "title"),
        *fact("memory", pw.memory(best), width),
        *fact("workload", words.workload_facts(e), width),
        *fact("micro-batch", pw.micro_batch(e.workload), width),
        *fact("binds", f"decode: {e.decode.bound}; prefill: {e.prefill.bound}", width),
        *fact("confidence", words.confidence_words(e.confidence), width),
    ]


def _commands(plan: Plan, width: int) -> list[Line]:
    lines: list[Line] = []
    for command in plan.best.commands if plan.best else ():
        lines += [[(text, "head")] for text in _label(command, width)]
        for text in _text(command, width):
            lines.append([(text, "")])
    return lines


def _label(command: Command, width: int) -> list[str]:
    """What a command is for, as comments of a shell: a block can be pasted as a whole."""
    what = {"measure": "to check the prediction", "file": f"the file {command.file}"}.get(
        command.purpose, "to run it"
    )
    version = f" {command.version}" if command.version else ""
    note = f" ({command.note})" if command.note else ""
    first, *rest = wrap(f"{command.engine}{version}, {what}{note}", width - 4)
    return [f"# {first}", *(f"#   {text}" for text in rest)]


def _text(command: Command, width: int) -> list[str]:
    if command.purpose == "file":
        return command.text.rstrip("\n").split("\n")
    return pw.fold(command.text, width)


def _alternatives(plan: Plan, width: int) -> list[Line]:
    if not plan.alternatives:
        return []
    header = ("runners-up", "tok/s", "full", "first token", "VRAM", "lost by")
    rows: list[list[Span]] = [[(text, "dim" if i else "head") for i, text in enumerate(header)]]
    for c in plan.alternatives:
        cells = (
            pw.short(c, plan),
            fmt_number(pw.decode_rate(c)),
            fmt_number(c.full_decode_tokens_per_s),
            fmt_seconds(c.estimate.prefill_s.expected),
            pw.vram(c),
            c.lost_by + (" ~" if c.within_range else ""),
        )
        rows.append([(text, "") for text in cells])
    lines = table(rows, "lrrrrl", width, first=LABEL_WIDTH - 2)
    if any(c.within_range for c in plan.alternatives):
        lines += [[(text, "dim")] for text in wrap(pw.SWAP, width)]
    return lines


def _rows(name: str, rows: Sequence[Sequence[str]], width: int) -> list[Line]:
    return facts(name, [": ".join((row[0], ", ".join(row[1:]))) for row in rows], width)


def _rejected(plan: Plan, width: int) -> list[Line]:
    texts = [f"{r.quant}, {r.placement}: {pw.rejection(r)}" for r in plan.rejected]
    return facts("no plan", texts, width)


# ── curves ──────────────────────────────────────────────────────────────────────────────────────


def _curve(curve: Curve, screen: Screen, width: int) -> list[Line]:
    head: list[Line] = [[(f"by {pw.AXES[curve.name]}", "head")]]
    tail = [*(_figure(curve, width) if screen.color else []), *_knee(curve, width)]
    points = pw.sampled(curve)
    rows: list[list[Span]] = [
        [(t, "dim") for t in (curve.name, "tok/s", "first token", "VRAM", "", "")],
        *(_point(curve, p) for p in points),
    ]
    used = [max(len(row[i][0]) for row in rows) + 2 for i in range(6)]
    cells = min(_BAR, width - sum(used))
    if cells < _LEAST_BAR:
        return [*head, *grid([(*row[:4], row[5]) for row in rows], "rrrrl"), *tail]
    block = _BLOCK if screen.color else "#"
    top = max((_height(curve, p) for p in points), default=0.0) or 1.0
    for row, p in zip(rows[1:], points, strict=True):
        row[4] = (block * max(1, round(_height(curve, p) / top * cells)) if p.fits else "", "weights")
    return [*head, *grid(rows, "rrrrll"), *tail]


def _knee(curve: Curve, width: int) -> list[Line]:
    if curve.knee is None:
        return []
    return [[(text, "dim")] for text in wrap(f"knee at {curve.knee:,}: {curve.why}", width)]


def _height(curve: Curve, p: CurvePoint) -> float:
    """What the bar shows: the prompt's speed for the micro-batch, decode for the rest."""
    return (p.prefill_tokens_per_s if curve.name == "ubatch" else p.decode_tokens_per_s) or 0.0


def _point(curve: Curve, p: CurvePoint) -> list[Span]:
    vram, mark = fmt_bytes(p.vram_bytes), pw.mark(curve, p.x)
    if not p.fits:
        return [(f"{p.x:,}", ""), ("-", ""), ("-", ""), (vram, "bad"), ("", ""), ("does not fit", "bad")]
    rate, first = fmt_number(p.decode_tokens_per_s or 0.0), fmt_seconds(p.ttft_s or 0.0)
    return [(f"{p.x:,}", ""), (rate, ""), (first, ""), (vram, ""), ("", ""), (mark, "good")]


def _figure(curve: Curve, width: int) -> list[Line]:
    """The curve drawn by plotille, where it is installed (extra ``plot``) and the table leaves points out."""
    points = [p for p in curve.points if p.fits]
    if len(points) < _DENSE:
        return []
    try:
        import plotille
    except ImportError:
        return []
    figure = plotille.Figure()
    figure.width, figure.height, figure.origin = max(30, width - 30), 10, False
    figure.x_label, figure.y_label = curve.name, "tok/s"
    figure.with_colors = False  # the lines are painted as a whole, if at all
    figure.set_y_limits(min_=0.0)
    figure.set_x_limits(min_=float(points[0].x), max_=float(points[-1].x))
    figure.register_label_formatter(float, _tick)
    figure.plot([float(p.x) for p in points], [_height(curve, p) for p in points])
    if curve.knee is not None:
        figure.axvline((curve.knee - points[0].x) / max(1, points[-1].x - points[0].x))
    return [[(text.rstrip(" \u2800"), "")] for text in str(figure.show()).split("\n")]


def _tick(value: float, chars: int, delta: float, left: bool = False) -> str:
    """A number on an axis of plotille, ``chars`` wide."""
    text = f"{value:,.0f}" if abs(delta) >= 10 else f"{value:.1f}"
    return text.ljust(chars) if left else text.rjust(chars)


def _foot(plan: Plan, width: int) -> list[Line]:
    return [
        *fact("searched", f"{plan.n_candidates:,} candidates", width),
        *facts("assumed", plan.assumptions, width),
        *facts("not modelled", plan.not_modelled, width),
    ]
