"""How well the law predicts what it has not seen, beside other tools' formulas on the same rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from moeplan.api.calibrate import Fit
from moeplan.api.validate import Traced
from moeplan.cost.rates import peak_flop_per_s
from moeplan.errors import NotModelled
from moeplan.predict.estimate import residual_regime
from moeplan.predict.interval import quantile as residual_quantile
from moeplan.validate.baselines import BASELINES, SERVER_BASELINES, Facts
from moeplan.validate.score import quantile

# Median and 90th percentile of the factor error that each regime is held to.
GOALS = {
    "decode/gpu/dense": (0.07, 0.35),
    "decode/gpu/moe": (0.12, 0.30),
    "decode/unified/dense": (0.08, 0.40),
    "decode/unified/moe": (0.09, 0.25),
    "decode/experts/moe": (0.18, 0.50),
    "decode/cpu/dense": (0.08, 0.20),
    "decode/cpu/moe": (0.18, 0.45),
    "prefill/gpu/dense": (0.14, 0.40),
    "tpot_ms/<=16/dense": (0.08, 0.22),
    "tpot_ms/<=16/moe": (0.12, 0.35),
    "bs1_output_tok_s/<=1/dense": (0.15, 0.40),
}


class _Held(NamedTuple):
    """Errors of one regime: log(measured / predicted) of its setups, one list per way of leaving out."""

    setups: list[str]
    sources: int
    devices: int
    by_source: list[float]
    by_device: list[float]
    covered: float


def accuracy_markdown(fit: Fit) -> str:
    """docs/accuracy.md: held-out errors by regime against the goals, and baselines on the same rows."""
    regimes = held_out_by_regime(fit)
    lines = [_HEAD.format(n=len(fit.samples), skipped=len(fit.skipped), date=fit.calibration.date), _TABLE]
    for name in sorted(regimes, key=lambda r: (r not in GOALS, r)):
        lines.append(_row(name, regimes[name]))
    pooled = [h for name, h in regimes.items() if not name.startswith("runs-")]
    n_setups = sum(len(h.setups) for h in pooled)
    inside = sum(h.covered * len(h.setups) for h in pooled) / max(1, n_setups)
    lines.append(f"\nOver all {n_setups} setups of published rows {inside:.0%} lie in their 80% range.\n")
    lines.append(_BASELINE_HEAD)
    lines += _baseline_rows(fit)
    return "\n".join(lines) + "\n"


def held_out_by_regime(fit: Fit) -> dict[str, _Held]:
    """Errors of setups whose source, or device, no fit has seen."""
    rows: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, sample in enumerate(fit.samples):
        rows[_table_regime(sample.regime)][sample.setup].append(i)
    return {regime: _held(fit, setups) for regime, setups in rows.items()}


def _table_regime(regime: str) -> str:
    return regime.replace("tpot_ms/<=1/", "tpot_ms/<=16/")


def _held(fit: Fit, setups: dict[str, list[int]]) -> _Held:
    by_source, by_device, inside = [], [], []
    for rows in setups.values():
        by_source.append(quantile([fit.by_source[i] for i in rows], 0.5))
        by_device.append(quantile([fit.by_device[i] for i in rows], 0.5))
        for errors in (by_source, by_device):
            low, high = _limits(fit, rows[0])
            inside.append(low <= errors[-1] <= high)
    mine = [fit.samples[i] for rows in setups.values() for i in rows]
    return _Held(
        setups=list(setups),
        sources=len({s.source for s in mine}),
        devices=len({s.device for s in mine}),
        by_source=by_source,
        by_device=by_device,
        covered=sum(inside) / len(inside),
    )


def _limits(fit: Fit, row: int, level: float = 0.8) -> tuple[float, float]:
    """The 80% range of log(measured / predicted) from every OTHER source's residuals in the same regime."""
    sample = fit.samples[row]
    same, n_sources = _spread_peers(fit, sample.spread or sample.regime, sample.source)
    if len(same) >= _LEAST_PEERS:
        from moeplan.calibrate.spread import conformal_quantile, independent

        tail = (1 - level) / 2
        n = independent(len(same) // 2, n_sources)
        return (
            min(0.0, conformal_quantile(same, tail, n)),
            max(0.0, conformal_quantile(same, 1 - tail, n)),
        )
    traced = fit.traced[row]
    phase = "decode" if traced.row.phase == "request" else traced.row.phase
    from moeplan.predict.interval import closest

    _, residuals, _ = closest(fit.calibration, residual_regime(phase, traced.problem, traced.placement))
    tail = (1 - level) / 2
    return min(0.0, residual_quantile(residuals, tail)), max(0.0, residual_quantile(residuals, 1 - tail))


_LEAST_PEERS = 16
_peers: dict[tuple[int, str, str], tuple[list[float], int]] = {}


def _spread_peers(fit: Fit, spread: str, source: str) -> tuple[list[float], int]:
    """Held-out errors of the setups of other sources in the regime ``spread``, and how many sources."""
    key = id(fit), spread, source
    if key not in _peers:
        rows: dict[str, list[int]] = defaultdict(list)
        for i, s in enumerate(fit.samples):
            if (s.spread or s.regime) == spread and s.source != source:
                rows[s.setup].append(i)
        errors_of = [
            quantile([errors[i] for i in mine], 0.5)
            for mine in rows.values()
            for errors in (fit.by_source, fit.by_device)
        ]
        _peers[key] = errors_of, len({fit.samples[mine[0]].source for mine in rows.values()})
    return _peers[key]


def _row(name: str, held: _Held) -> str:
    goal = GOALS.get(name)
    n = len(held.setups)
    cells = [name, str(n), str(held.sources), str(held.devices)]
    for errors in (held.by_source, held.by_device):
        factors = [math.expm1(abs(e)) for e in errors]
        cells.append(f"{quantile(factors, 0.5):.0%} / {quantile(factors, 0.9):.0%}")
    bias = quantile([*held.by_source, *held.by_device], 0.5)
    cells += [
        f"{goal[0]:.0%} / {goal[1]:.0%}" if goal else "",
        f"{math.expm1(bias):+.0%}",
        f"{held.covered:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def _baseline_rows(fit: Fit) -> list[str]:
    """Median factor error of every formula in each decode regime with enough setups."""
    by_regime: dict[str, list[int]] = defaultdict(list)
    for i, item in enumerate(fit.traced):
        if item.row.phase == "decode" and not fit.samples[i].regime.startswith("runs-"):
            by_regime[_table_regime(fit.samples[i].regime)].append(i)
    lines = []
    for regime, rows in sorted(by_regime.items()):
        setups = {fit.samples[i].setup for i in rows}
        if len(setups) < 8:
            continue
        server = not regime.startswith("decode/")
        formulas = {**BASELINES, **(SERVER_BASELINES if server else {})}
        ours = _median_factor(
            fit, rows, lambda i: math.exp(max((fit.by_source[i], fit.by_device[i]), key=abs))
        )
        cells = [regime, str(len(setups)), f"**{ours:.0%}**"]
        for name in (*BASELINES, *SERVER_BASELINES):
            formula = formulas.get(name)
            cells.append("" if formula is None else _formula_cell(fit, rows, formula))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _formula_cell(fit: Fit, rows: Sequence[int], formula: Callable[[Facts], float | None]) -> str:
    def ratio(i: int) -> float | None:
        facts = facts_of(fit.traced[i])
        speed = None if facts is None else formula(facts)
        # The formulas know one sequence: a batch's step is taken to cost what one token's does.
        return None if not speed else fit.traced[i].measured_s * speed

    value = _median_factor(fit, rows, ratio)
    return "" if value is None else f"{value:.0%}"


def _median_factor(fit: Fit, rows: Sequence[int], ratio: Callable[[int], float | None]) -> float | None:
    setups: dict[str, list[float]] = defaultdict(list)
    for i in rows:
        value = ratio(i)
        if value:
            setups[fit.samples[i].setup].append(math.log(value))
    if not setups:
        return None
    return quantile([math.expm1(abs(quantile(v, 0.5))) for v in setups.values()], 0.5)


def facts_of(item: Traced) -> Facts | None:
    """What other tools' formulas ask about a decode row; None where the machine lacks it."""
    problem, placement = item.problem, item.placement
    graph, hardware = problem.graph, problem.hardware
    parts = {"gpu": 0.0, "CPU": 0.0}
    kv_bytes = 0.0
    for op in item.ops:
        where = "CPU" if op.term.startswith("CPU") else "gpu"
        if op.term.endswith(("weights", "experts", "output head")):
            parts[where] += op.n_bytes
        elif op.term.endswith("KV cache"):
            kv_bytes += op.n_bytes
    active_bytes = parts["gpu"] + parts["CPU"]
    gpu = hardware.gpus[0] if hardware.gpus and placement.kind != "cpu" else None
    if not active_bytes:
        return None
    try:
        peak = peak_flop_per_s(gpu) if gpu else 0.0
    except NotModelled:
        peak = 0.0
    return Facts(
        params=graph.params.total,
        active_params=graph.params.active,
        weights_bytes=graph.weights_bytes,
        active_bytes=active_bytes,
        kv_bytes=kv_bytes,
        gpu_bytes_per_s=gpu.bandwidth_bytes_per_s if gpu else 0.0,
        ram_bytes_per_s=hardware.host.ram_bytes_per_s,
        gpu_share=parts["gpu"] / active_bytes if gpu else 0.0,
        moe=graph.spec.is_moe,
        n_gpus=placement.tensor_parallel,
        n_layers=graph.spec.n_layers,
        cpu_moe_layers=placement.cpu_moe,
        quant=graph.quant,
        vendor=gpu.vendor if gpu else "",
        unified=hardware.unified,
        peak_flop_per_s=peak,
    )


_HEAD = """\
# Accuracy: speed

Generated by `moeplan calibrate fit --corpus ... --report docs/accuracy.md` on {date} from {n} published
rows ({skipped} could not be predicted). Every figure is of setups that the fit has not seen: each source,
then each device, was left out in turn and everything was fitted again. The factor error is
max(p/m, m/p) - 1; rows are reduced to one value per setup. Each cell is median / 90th percentile.
"""
_TABLE = """\
| regime | setups | sources | devices | sources out | devices out | goal | bias (time) | in 80% range |
|---|---|---|---|---|---|---|---|---|"""
_BASELINE_HEAD = (
    "## Other formulas on the same rows\n\n"
    "Median factor error, decode. moeplan: the worse of both ways of leaving out by row. The others are\n"
    "formulas of tools' public sources (moeplan/validate/baselines.py), with what each accounts for.\n\n"
    f"| regime | setups | moeplan | {' | '.join((*BASELINES, *SERVER_BASELINES))} |\n"
    f"|---|---|---|{'---|' * (len(BASELINES) + len(SERVER_BASELINES))}"
)
