"""How well the law predicts what it has not seen, beside other tools' formulas on the same rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moeplan.api.accuracy_cells import by_setup, cell, line, setups_of, table_regime
from moeplan.api.accuracy_formulas import formulas_markdown
from moeplan.api.accuracy_shapes import depth_markdown, runs_markdown, ubatch_markdown
from moeplan.api.calibrate import Fit
from moeplan.api.coverage import Ranges
from moeplan.api.held_out import RANGE_WAYS
from moeplan.calibrate.spread import independent
from moeplan.validate.score import binomial_band, quantile

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


LEVEL = 0.8


class _Held(NamedTuple):
    """What is known of one regime."""

    regime: str
    setups: int
    sources: int
    devices: int
    errors: Mapping[str, list[float]]
    """log(measured / predicted) of its setups by way of leaving out."""
    covered: float
    """Share of setups in their range, over the ways that ranges come from."""
    widths: list[float]
    """log(high / low) of those ranges."""

    @property
    def published(self) -> bool:
        """Whether its rows come from publications, and not from engine runs."""
        return not self.regime.startswith("runs-")

    @property
    def independent(self) -> int:
        """As how many independent setups they count."""
        return round(independent(self.setups, self.sources))

    @property
    def band(self) -> tuple[float, float]:
        """Where the share would lie 95 times in 100 if ranges held as often as they say."""
        return binomial_band(self.independent, LEVEL)

    @property
    def within(self) -> bool:
        """Whether it does."""
        return _inside(self.covered, self.independent)


def accuracy_markdown(fit: Fit) -> str:
    """docs/accuracy.md: held-out errors against the goals, shapes, and baselines on the same rows."""
    regimes = held_out_by_regime(fit)
    lines = [_HEAD.format(n=len(fit.samples), skipped=len(fit.skipped), date=fit.calibration.date)]
    lines += [_row(held) for held in sorted(regimes, key=lambda h: (h.regime not in GOALS, h.regime))]
    lines += ["", *_coverage(regimes), ""]
    lines += [*runs_markdown(fit), *depth_markdown(fit), *ubatch_markdown(fit), *formulas_markdown(fit)]
    return "\n".join(lines) + "\n"


def held_out_by_regime(fit: Fit) -> list[_Held]:
    """Errors and ranges of setups whose source, device or model no fit has seen."""
    rows: dict[str, list[int]] = defaultdict(list)
    for i, sample in enumerate(fit.samples):
        rows[table_regime(sample.regime)].append(i)
    ranges = Ranges(fit, LEVEL)
    return [_held(fit, regime, mine, ranges) for regime, mine in rows.items()]


def _held(fit: Fit, regime: str, rows: Sequence[int], ranges: Ranges) -> _Held:
    setups = setups_of(fit, rows)
    errors = {way: by_setup(setups, values) for way, values in fit.errors.items()}
    inside, widths = [], []
    for way in RANGE_WAYS:
        for error, mine in zip(errors[way], setups.values(), strict=True):
            low, high = ranges.of(mine[0], way)
            inside.append(low <= error <= high)
            widths.append(high - low)
    return _Held(
        regime=regime,
        setups=len(setups),
        sources=len({fit.samples[i].source for i in rows}),
        devices=len({fit.samples[i].device for i in rows}),
        errors=errors,
        covered=sum(inside) / len(inside),
        widths=widths,
    )


def _row(held: _Held) -> str:
    goal = GOALS.get(held.regime)
    bias = quantile([e for way in RANGE_WAYS for e in held.errors[way]], 0.5)
    low, high = held.band
    return line(
        [
            *(held.regime, str(held.setups), str(held.sources), str(held.devices)),
            *(cell(held.errors[way]) for way in ("source", "device", "model")),
            f"{goal[0]:.0%} / {goal[1]:.0%}" if goal else "",
            f"{math.expm1(bias):+.0%}",
            f"{held.covered:.0%} ({low:.0%} to {high:.0%}){'' if held.within else ' **out**'}",
        ]
    )


def _coverage(regimes: Sequence[_Held]) -> list[str]:
    """Whether ranges hold as often as they say, and how wide they are."""
    published = [h for h in regimes if h.published]
    n_setups = sum(h.setups for h in published)
    covered = sum(h.covered * h.setups for h in published) / max(1, n_setups)
    widths = [w for h in published for w in h.widths]
    factor = math.exp(sum(widths) / max(1, len(widths)))
    out = sorted(h.regime for h in published if not h.within)
    strict = [h for h in published if not _inside(h.covered, h.setups)]
    return [
        f"Over all {n_setups} setups of published rows {covered:.1%} lie in their {LEVEL:.0%} range "
        f"(goal 75 to 88%); the range is a factor",
        f"of {factor:.2f} from low to high in the geometric mean (mean log {math.log(factor):.3f}). "
        f"{len(published) - len(out)} of {len(published)} regimes lie in their band",
        f"(outside: {', '.join(out) or 'none'}); "
        f"{len(published) - len(strict)} would if every setup were counted as independent.",
    ]


def _inside(share: float, n: int) -> bool:
    low, high = binomial_band(n, LEVEL)
    return low <= share <= high


_HEAD = """\
# Accuracy: speed

Generated by `moeplan calibrate fit --corpus ... --report docs/accuracy.md` on {date} from {n} published
rows ({skipped} could not be predicted). Every figure is of setups that the fit has not seen: each source,
then each device, then each model, was left out in turn and everything was fitted again. The factor error is
max(p/m, m/p) - 1; rows are reduced to one value per setup. Each cell is median / 90th percentile.

The last column is the share of setups in their 80% range, sources and devices left out counted alike: the
range that moeplan would print if it had never heard of the setup's source (in quantiles and scales of
residuals too). In brackets where that share lies 95 times in 100 for a true 80%; setups of one source are
not independent, so sqrt(setups x sources) are counted.

| regime | setups | sources | devices | sources out | devices out | models out | goal | bias | in 80% range |
|---|---|---|---|---|---|---|---|---|---|"""
