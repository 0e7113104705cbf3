"""Other tools' formulas on the rows that moeplan is scored on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from moeplan.api.accuracy_cells import by_setup, cell, factors, line, setups_of, table_regime
from moeplan.api.calibrate import Fit
from moeplan.api.validate import Traced
from moeplan.cost.gpu_units import peak_flop_per_s
from moeplan.errors import NotModelled
from moeplan.validate.baselines import BASELINES, SERVER_BASELINES, Facts, simple_law_with
from moeplan.validate.score import quantile

# Regimes with fewer setups are not compared; with these or more, from as many sources, a margin is claimed.
_LEAST_SETUPS = 8
_CLAIM_SETUPS, _CLAIM_SOURCES = 20, 4
_CLAIMED = 2.0 / 3.0
_NAMES = (*BASELINES, *SERVER_BASELINES)


class _Compared(NamedTuple):
    """One regime: log errors by setup, of moeplan by way of leaving out and of every formula."""

    regime: str
    setups: int
    sources: int
    ours: Mapping[str, list[float]]
    formulas: Mapping[str, list[float]]
    refitted: Mapping[str, list[float]]
    """The simple law with its two constants fitted without the source, or device, of each setup."""

    @property
    def best(self) -> str:
        """The formula with the lowest median, of those that answer for nine setups in ten."""
        able = [n for n, errors in self.formulas.items() if len(errors) >= 0.9 * self.setups]
        return min(able, key=lambda n: factors(self.formulas[n])[0])

    def ahead(self, way: str) -> bool:
        """Whether moeplan's median is at least a third lower than the best formula's."""
        return factors(self.ours[way])[0] <= _CLAIMED * factors(self.formulas[self.best])[0]


def formulas_markdown(fit: Fit) -> list[str]:
    """moeplan beside the best formula, then every formula, in each decode regime with enough setups."""
    compared = _compared(fit)
    lines = [_HEAD, *(_beside_best(c) for c in compared), "", *_claims(compared), _EVERY]
    lines += [line([c.regime, *(cell(c.formulas.get(n, [])) for n in _NAMES)]) for c in compared]
    return lines


def _compared(fit: Fit) -> list[_Compared]:
    by_regime: dict[str, list[int]] = defaultdict(list)
    for i, item in enumerate(fit.traced):
        if item.row.phase == "decode" and not fit.samples[i].regime.startswith("runs-"):
            by_regime[table_regime(fit.samples[i].regime)].append(i)
    found = []
    for regime, rows in sorted(by_regime.items()):
        setups = setups_of(fit, rows)
        if len(setups) < _LEAST_SETUPS:
            continue
        server = not regime.startswith("decode/")
        formulas = {**BASELINES, **(SERVER_BASELINES if server else {})}
        answers = {name: _formula_errors(fit, setups, formula) for name, formula in formulas.items()}
        worse = [max(pair, key=abs) for pair in zip(fit.errors["source"], fit.errors["device"], strict=True)]
        ours = {"source": fit.errors["source"], "device": fit.errors["device"], "worse": worse}
        found.append(
            _Compared(
                regime=regime,
                setups=len(setups),
                sources=len({fit.samples[i].source for i in rows}),
                ours={way: by_setup(setups, errors) for way, errors in ours.items()},
                formulas={name: errors for name, errors in answers.items() if errors},
                refitted={way: _refitted(fit, setups, way) for way in ("source", "device")},
            )
        )
    return found


def _formula_errors(
    fit: Fit, setups: Mapping[str, Sequence[int]], formula: Callable[[Facts], float | None]
) -> list[float]:
    """log(measured / predicted) of each setup that the formula answers for."""
    found = []
    for rows in setups.values():
        values = []
        for i in rows:
            facts = facts_of(fit.traced[i])
            speed = None if facts is None else formula(facts)
            if speed:  # of one sequence: a batch's step is taken to cost what one token's does
                values.append(math.log(fit.traced[i].measured_s * speed))
        if values:
            found.append(quantile(values, 0.5))
    return found


# Bandwidths of the simple law from 0.5 to 1.3 times its own, and up to 8 ms a step.
_GRID = [(0.5 + 0.05 * i, 2e-4 * j) for i in range(17) for j in range(41)]


def _refitted(fit: Fit, setups: Mapping[str, Sequence[int]], way: str) -> list[float]:
    """log(measured / predicted) of each setup by the simple law, with the two constants that have the lowest
    mean error over the setups of all other sources, or devices."""
    facts = {i: facts_of(fit.traced[i]) for rows in setups.values() for i in rows}
    errors = {}  # of each setup, by constants
    for setup, rows in setups.items():
        known = [(f, fit.traced[i].measured_s) for i in rows if (f := facts[i]) is not None]
        speeds = [[simple_law_with(f, *constants) or math.nan for constants in _GRID] for f, _ in known]
        logs = [[math.log(s * v) for v in vs] for vs, (_, s) in zip(speeds, known, strict=True)]
        if logs and not any(map(math.isnan, logs[0])):
            errors[setup] = [quantile(column, 0.5) for column in zip(*logs, strict=True)]
    group = {setup: getattr(fit.samples[setups[setup][0]], way) for setup in errors}
    found = []
    for setup, mine in errors.items():
        others = [e for other, e in errors.items() if group[other] != group[setup]]
        losses = [sum(map(abs, column)) for column in zip(*others, strict=True)] or [0.0]
        found.append(mine[losses.index(min(losses))])
    return found


def _beside_best(c: _Compared) -> str:
    ways = [f"**{cell(c.ours[way])}**" for way in ("source", "device", "worse")]
    ahead = ", ".join("yes" if c.ahead(way) else "no" for way in ("source", "device"))
    return line(
        [c.regime, str(c.setups), str(c.sources), *ways, f"{c.best} {cell(c.formulas[c.best])}", ahead]
    )


def _claims(compared: Sequence[_Compared]) -> list[str]:
    """In each regime with setups and sources enough: is moeplan a third ahead of the best formula?"""
    told = [c for c in compared if c.setups >= _CLAIM_SETUPS and c.sources >= _CLAIM_SOURCES]
    if not told:
        return ["No regime has setups and sources enough to claim a margin.", ""]
    head = (
        "At least a third lower median than the best formula, in the regimes with "
        f"{_CLAIM_SETUPS} setups from {_CLAIM_SOURCES} sources.\n"
        "The simple law comes with its constants but not with the rows they are from; fitted again is with\n"
        "both of them from all other sources, or devices:"
    )
    return [head, "", *(_claim(c) for c in told), ""]


def _claim(c: _Compared) -> str:
    held = [f"with {way}s left out" for way in ("source", "device") if c.ahead(way)]
    other = factors(c.formulas[c.best])[0]
    ours = ", ".join(f"{factors(c.ours[way])[0]:.1%} {way}s out" for way in ("source", "device"))
    verdict = "holds both ways" if len(held) == 2 else f"holds {held[0]} only" if held else "missed"
    again = ", ".join(f"{factors(c.refitted[way])[0]:.1%} {way}s out" for way in ("source", "device"))
    return f"- {c.regime}: {verdict} ({ours}; {c.best} {other:.1%}; simple law fitted again {again})"


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
## Other formulas on the same rows

Factor error of decode, median / 90th percentile. The first three are moeplan's: with sources left out, with
devices left out, and the worse of both row by row. The others are formulas of tools' public sources
(moeplan/validate/baselines.py), with what each accounts for, and nothing of them is fitted here; the best has
the lowest median of those that answer for nine setups in ten. The last column: is moeplan's median at least a
third lower with sources left out, with devices left out?

| regime | setups | sources | sources out | devices out | worse | best formula | a third lower |
|---|---|---|---|---|---|---|---|"""
_EVERY = (
    "Every formula, empty where it has no answer:\n\n"
    f"| regime | {' | '.join(_NAMES)} |\n"
    f"|---|{'---|' * len(_NAMES)}"
)
