"""Engine runs with files, models and types left out, and shapes: speed against depth and micro-batch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from moeplan.api.accuracy_cells import by_setup, cell, line, setups_of
from moeplan.api.calibrate import Fit
from moeplan.api.held_out import RUNS_SOURCE
from moeplan.api.validate import Traced
from moeplan.cost.ops import scales_of
from moeplan.validate.score import quantile

_RUN_WAYS = {"a file (model and type)": "run file", "a model": "model", "a type": "run type"}
# Depths that are told of, and how far from them a row may be.
_DEPTHS_TOKENS, _NEAR = (8192, 32768), 0.3
# A series starts at most at this depth.
_SHALLOW_TOKENS = 512
_BASE_UBATCH = 512
# Fewer micro-batches show no shape.
_LEAST_STEPS = 3


def runs_markdown(fit: Fit) -> list[str]:
    """Errors of engine runs of which the fit has seen no file, model or type like them."""
    rows = [i for i, s in enumerate(fit.samples) if s.source == RUNS_SOURCE]
    if not rows:
        return []
    lines = [_RUNS_HEAD.format(n=len(rows), setups=len(setups_of(fit, rows)))]
    for words, way in _RUN_WAYS.items():
        cells = [words]
        for part in ("runs-decode/cpu/dense", "runs-decode/cpu/moe", "runs-decode", "runs-prefill", "runs-"):
            mine = setups_of(fit, [i for i in rows if fit.samples[i].regime.startswith(part)])
            cells.append(f"{cell(by_setup(mine, fit.errors[way]))} ({len(mine)})" if mine else "")
        lines.append(line(cells))
    return [*lines, ""]


def depth_markdown(fit: Fit) -> list[str]:
    """Decode against depth: predicted over measured speed, both relative to a shallow context."""
    found: dict[tuple[int, str], list[_Fall]] = defaultdict(list)
    for rows in _series_of_depths(fit):
        for depth, fall in _falls(fit, rows):
            for placement in ("all", fit.traced[rows[0]].row.placement):
                found[depth, placement].append(fall)
    if not found:
        return []
    lines = [_DEPTH_HEAD]
    for (depth, placement), falls in sorted(found.items()):
        cells = [f"{depth:,}", placement, str(len(falls)), str(len({f.source for f in falls}))]
        for way in range(len(falls[0].log_ratios)):
            cells.append(f"{math.exp(quantile([f.log_ratios[way] for f in falls], 0.5)):.3f}")
        lines.append(line(cells))
    return [*lines, ""]


class _Fall(NamedTuple):
    """One series at a depth."""

    source: str
    log_ratios: tuple[float, ...]
    """log of predicted over measured relative speed: fitted, sources left out, devices left out."""


def _series_of_depths(fit: Fit) -> list[list[int]]:
    """Published decode rows alike in everything but depth."""
    series: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, item in enumerate(fit.traced):
        r = item.row
        if r.phase == "decode" and r.metric == "tokens_per_s" and r.source_family != RUNS_SOURCE:
            machine = r.gpu, r.cpu, r.placement, r.gpu_layers, r.cpu_moe, r.threads
            engine = r.engine, r.date, r.kv_type, r.batch, r.flash_attn
            series[r.source_family, r.model, r.quant, machine, engine].append(i)
    return list(series.values())


def _falls(fit: Fit, rows: Sequence[int]) -> Iterator[tuple[int, _Fall]]:
    """(depth told of, fall) of a series that starts shallow."""
    depths: dict[int, list[int]] = defaultdict(list)
    for i in rows:
        depths[fit.traced[i].row.depth_tokens].append(i)
    base = min(depths)
    if base > _SHALLOW_TOKENS:
        return
    for told in _DEPTHS_TOKENS:
        for depth, deep in depths.items():
            if depth != base and abs(depth / told - 1.0) <= _NEAR:
                ways = fit.in_sample, fit.errors["source"], fit.errors["device"]
                ratios = tuple(_mean(e, deep) - _mean(e, depths[base]) for e in ways)
                yield told, _Fall(fit.samples[deep[0]].source, ratios)


def _mean(errors: Sequence[float], rows: Sequence[int]) -> float:
    return sum(errors[i] for i in rows) / len(rows)


def ubatch_markdown(fit: Fit) -> list[str]:
    """Prompts against micro-batch under offload, on flagged rows that no fit has seen."""
    series: dict[tuple[str, ...], dict[int, Traced]] = defaultdict(dict)
    for item in fit.series:
        r = item.row
        series[r.source_family, r.model, r.quant, r.gpu, r.placement, r.engine][r.ubatch or 0] = item
    lines = []
    for (source, model, quant, gpu, placement, _), steps in sorted(series.items()):
        if len(steps) >= _LEAST_STEPS and _BASE_UBATCH in steps:
            lines.append(_UBATCH_HEAD.format(what=f"{model} {quant} on {gpu}, {placement}", source=source))
            lines += [*_steps(fit, steps), ""]
    return lines


def _steps(fit: Fit, steps: dict[int, Traced]) -> list[str]:
    scales = scales_of(fit.calibration)
    predicted = {u: t.n_tokens / sum(op.seconds(scales) for op in t.ops) for u, t in steps.items()}
    lines = []
    for ubatch, item in sorted(steps.items()):
        measured = item.row.tokens_per_s
        relative = measured / steps[_BASE_UBATCH].row.tokens_per_s
        told = predicted[ubatch] / predicted[_BASE_UBATCH]
        cells = [f"{ubatch}", f"{measured:.0f}", f"{predicted[ubatch]:.0f}", f"{relative:.2f}", f"{told:.2f}"]
        lines.append(line([*cells, f"{told / relative - 1.0:+.0%}"]))
    return lines


_RUNS_HEAD = """\
## Engine runs on one CPU

{n} rows ({setups} setups) of llama.cpp on one processor over small files of known hyperparameters. Each file,
then each model with all its types, then each type with all its models, was left out in turn; published rows
stayed in. Factor error, median / 90th percentile (setups); the goal is a median of 12%.

| left out | decode, dense | decode, MoE | decode | prefill | all |
|---|---|---|---|---|---|"""
_DEPTH_HEAD = """\
## Shape: decode against depth

Speed at a depth over speed of the same series in a context of at most 512 tokens: median of predicted /
measured. The goal is 0.9 to 1.1 over all. A series is alike in everything but depth.

| depth, within 30% | placement | series | sources | fitted | sources out | devices out |
|---|---|---|---|---|---|---|"""
_UBATCH_HEAD = """\
## Shape: prompts against micro-batch under offload

{what} ({source}): rows that their collector flagged (the
host is not stated; a usual one is assumed), so no fit has seen them. Speed relative to a micro-batch of 512;
the goal is within 25%.

| micro-batch | measured tokens/s | predicted | measured, relative | predicted, relative | off |
|---|---|---|---|---|---|"""
