"""`moeplan textbook` on a screen and as Markdown: training, one step by batch, and what they leave out."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.domain.textbook import Textbook, TextbookStep
from moeplan.report.layout import Line, Screen, Span, fact, facts, grid, join_blocks, wrap
from moeplan.report.markdown import md_list, md_table
from moeplan.units import GIB, fmt_number, fmt_params, fmt_si

_MAX_WIDTH = 100


def textbook_lines(t: Textbook, screen: Screen) -> list[Line]:
    """The whole answer, fit to ``screen``."""
    width = min(screen.width, _MAX_WIDTH)
    head: list[Line] = [[(text, "title")] for text in wrap(_title(t), width)]
    head += fact("machine", _machine(t), width)
    training = [[(cell, "head") for cell in _TRAINING_HEAD]]
    training += [[(cell, "title" if i in (1, 2) else "") for i, cell in enumerate(r)] for r in _training(t)]
    steps = [[(cell, "head") for cell in _STEP_HEAD], *([_span(c) for c in row] for row in _steps(t))]
    return join_blocks(
        head,
        grid(training, "lrrr"),
        [
            *([(text, "dim")] for text in wrap(_RULE, width)),
            *grid(steps, "rrlrrlr", gap=2 if width >= 72 else 1),
        ],
        [*facts("caveats", t.caveats, width), *facts("assumed", t.assumptions, width)],
    )


def markdown(t: Textbook) -> str:
    """The whole answer as GitHub-flavoured Markdown."""
    parts = [
        f"### {_title(t)}\n",
        f"{_machine(t)}\n",
        md_table(_TRAINING_HEAD, "lrrr", _training(t)),
        f"{_RULE.capitalize()}:\n",
        md_table(_STEP_HEAD, "rrlrrlr", _steps(t)),
        md_list("Caveats", t.caveats),
        md_list("Assumed", t.assumptions),
    ]
    return "\n".join(part for part in parts if part)


_TRAINING_HEAD = ("training", "dense", "MoE", "MoE/dense")
_RULE = "one decode step: the slower of reading all parameters and computing with the active"
_STEP_HEAD = ("batch", "dense ms", "bound", "tok/s", "MoE ms", "bound", "tok/s")


def _span(text: str) -> Span:
    return (text, "")


def _title(t: Textbook) -> str:
    i = t.inputs
    return (
        f"Textbook: dense {fmt_params(i.dense_params)} beside MoE {fmt_params(i.moe_params_total)} "
        f"with {fmt_params(i.moe_params_active)} active"
    )


def _machine(t: Textbook) -> str:
    i = t.inputs
    gpus = f"{i.n_gpus:,} GPU{'s' if i.n_gpus != 1 else ''}"
    return (
        f"{fmt_si(i.bandwidth_bytes_per_s, 'B/s')} and {fmt_si(i.peak_flop_per_s, 'FLOP/s')} a GPU; "
        f"training on {gpus} at {i.mfu_frac:.0%} MFU; {i.bytes_per_param:g} bytes a parameter"
    )


def _training(t: Textbook) -> list[tuple[str, ...]]:
    dense, moe = t.dense, t.moe
    return [
        _row("FLOP per token, 6N", [fmt_si(m.train_flop_per_token, "FLOP") for m in (dense, moe)],
             1 / t.compute_speedup),
        _row("tokens per day", [power(m.train_tokens_per_day) for m in (dense, moe)], t.compute_speedup),
        _row("weights", [f"{m.weights_bytes / GIB:,.1f} GiB" for m in (dense, moe)], t.memory_ratio),
        _row("FLOP per decoded token, 2N", [fmt_si(m.decode_flop_per_token, "FLOP") for m in (dense, moe)],
             1 / t.compute_speedup),
    ]  # fmt: skip


def _row(name: str, cells: Sequence[str], ratio: float) -> tuple[str, ...]:
    return (name, *cells, f"{fmt_number(ratio, 2)}x")


def _steps(t: Textbook) -> list[tuple[str, ...]]:
    return [
        (f"{dense.batch:,}", *_cells(dense), *_cells(moe))
        for dense, moe in zip(t.dense.steps, t.moe.steps, strict=True)
    ]


def _cells(step: TextbookStep) -> tuple[str, str, str]:
    return (f"{step.total_s * 1e3:,.1f}", step.bound, fmt_rate(step.tokens_per_s))


def fmt_rate(tokens_per_s: float) -> str:
    """Tokens per second: a decimal below a hundred, none above."""
    return f"{tokens_per_s:,.1f}" if tokens_per_s < 100 else f"{tokens_per_s:,.0f}"


def power(value: float) -> str:
    """A large number with four digits and its power of ten: ``'1.848e9'``."""
    digits, _, exponent = f"{value:.3e}".partition("e")
    return f"{digits}e{int(exponent)}"
