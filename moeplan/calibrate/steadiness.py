"""Whether a machine was itself while it was measured: what the canary says, and an earlier calibration.

Pure: looks and samples in, words and widths out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from moeplan.domain.calibration import Residuals
from moeplan.domain.profile import HostCalibration, Sample
from moeplan.measure.looks import SLOW_FRAC, WAITING_FRAC, Kind, Look, reading_pace, speed, usual
from moeplan.predict.interval import joined_error

# With fewer slow looks than this share what counts was measured beside good ones too: most runs are made more
# than once, and of the same run the quickest counts.
_SLOW_SHARE = 0.25
_LEAST_SLOW = 2
# Cores that the host takes: less than this explains nothing.
_STOLEN_CORES = 0.05
# Slower than in the calibration before by more than this is worth a word, if so much of all is.
SLOWER_FRAC = 0.15
_SLOWER_SHARE = 0.2
_NAMED = 3


def marked(
    samples: Sequence[Sample], spans: Sequence[tuple[float, float]], looks: Sequence[Look]
) -> tuple[Sample, ...]:
    """``samples``; those measured beside a slow look are not steady and say so, those beside quick ones at
    which pace.

    ``spans``: when each was begun and done. Its looks are those from the last before to the first after.
    """
    good = usual(looks)

    def seen(sample: Sample, span: tuple[float, float]) -> Sample:
        threads, near = int(float(sample.setup.get("threads", 0))), _beside(looks, span)
        beside = [speed(look, good, threads) for look in near]
        if min(beside, default=1.0) >= SLOW_FRAC:
            return replace(sample, pace=reading_pace(looks, near, threads))
        remedy = f"the machine was slow meanwhile ({min(beside):.0%} of its usual speed): run again"
        return replace(sample, stable=False, remedy=sample.remedy or remedy)

    return tuple(seen(sample, span) for sample, span in zip(samples, spans, strict=True))


def _beside(looks: Sequence[Look], span: tuple[float, float]) -> list[Look]:
    began, done = span
    first = max((i for i, look in enumerate(looks) if look.until_s <= began), default=0)
    last = min((i for i, look in enumerate(looks) if look.at_s >= done), default=len(looks) - 1)
    return list(looks[first : last + 1])


def slow_spells(looks: Sequence[Look], *, virtual: bool) -> str:
    """What to say of a run in which the machine was slow for a while; empty where it was not."""
    good = usual(looks)
    slow = [look for look in looks if speed(look, good) < SLOW_FRAC]
    if len(slow) < max(_LEAST_SLOW, _SLOW_SHARE * len(looks)):
        return ""
    worst, rate = min(((k, look.rates[k]) for look in slow for k in good), key=lambda x: x[1] / good[x[0]])
    return (
        f"the machine was slow in {len(slow)} of {len(looks)} looks at it: {_work(worst)} fell to "
        f"{rate / good[worst]:.0%} of its speed; {_cause(slow, virtual)}. What was measured then may be too "
        "slow, and ranges are wider: run again"
    )


def _work(kind: Kind) -> str:
    what, threads = kind
    name = {"read": "reading memory", "product": "a matrix product"}[what]
    return f"{name} on {threads} thread{'s' if threads > 1 else ''}" if threads else name


def _cause(slow: Sequence[Look], virtual: bool) -> str:
    waiting = sum(look.waiting_frac for look in slow) / len(slow)
    stolen = sum(look.stolen_cores for look in slow) / len(slow)
    found = []
    if waiting > WAITING_FRAC:
        found.append(f"other programs here wanted the same cores ({waiting:.0%} of that time)")
    if stolen > _STOLEN_CORES:
        found.append(f"the host took {stolen:.2f} cores")
    if found:
        return " and ".join(found)
    elsewhere = "something else on the host of this virtual machine" if virtual else "heat or power limits"
    return f"no program here shows why ({elsewhere})"


# ── beside an earlier calibration ─────────────────────────────────────────────────────────────────


class Slower(NamedTuple):
    """A figure that an earlier calibration of the same machine has too."""

    name: str
    before: float
    now: float
    """Both as rates, the higher the better."""

    @property
    def share(self) -> float:
        """Of its earlier value."""
        return self.now / self.before


def compared(before: Sequence[Sample], now: Sequence[Sample]) -> list[Slower]:
    """What both measured, each at its best, the slowest now first."""
    one, other = _best_rates(before), _best_rates(now)
    found = [Slower(other[key][0], one[key][1], other[key][1]) for key in other if key in one]
    return sorted(found, key=lambda figure: figure.share)


def slower_than(before: HostCalibration, samples: Sequence[Sample]) -> str:
    """What to say where much is slower than in ``before``; empty where it is not."""
    found = compared(before.samples, samples)
    slow = [figure for figure in found if figure.share < 1.0 - SLOWER_FRAC]
    if not slow or len(slow) < _SLOWER_SHARE * len(found):
        return ""
    named = ", ".join(f"{figure.name} {figure.share - 1.0:+.0%}" for figure in slow[:_NAMED])
    return (
        f"{len(slow)} of {len(found)} figures are more than {SLOWER_FRAC:.0%} lower than in this machine's "
        f"calibration of {before.date} ({named}): run again in a quiet moment; `moeplan profile diff` has all"
    )


# What the repeats decide, so that it differs from run to run.
_COUNTED = frozenset({"bytes", "flop", "experts_touched"})
# Of a sample's setup what names it for a reader.
_SHOWN = ("kind", "model", "batch", "dtype", "size", "rows", "prompt_tokens", "depth", "pages", "order")


def _best_rates(samples: Sequence[Sample]) -> dict[tuple[object, ...], tuple[str, float]]:
    """By name and setup: words for it and its best value as a rate."""
    found: dict[tuple[object, ...], tuple[str, float]] = {}
    for s in samples:
        rate = s.median if s.unit.endswith("/s") else 1.0 / s.median if s.unit == "s" and s.median else 0.0
        # what is read of the disk, and counted of the system, is not the speed of the machine's cores
        if not rate or s.name == "storage read":
            continue
        fixed = {k: v for k, v in s.setup.items() if k not in _COUNTED and not k.startswith("work.")}
        key = (s.name, *sorted(fixed.items()))
        words = [s.name, *(f"{k}={s.setup[k]}" for k in _SHOWN if s.setup.get(k)), _threads(s)]
        if key not in found or rate > found[key][1]:
            found[key] = " ".join(words).strip(), rate
    return found


def _threads(sample: Sample) -> str:
    n = sample.setup.get("threads")
    return f"t{n}" if n else ""


# ── ranges ────────────────────────────────────────────────────────────────────────────────────────


def unsteady_log(samples: Sequence[Sample], threads: int) -> dict[str, float]:
    """By phase: log of how far the speed that decides it moved from its median while the machine was measured
    (10% and 90% of the looks); nothing where the canary was steady or did not run."""
    found: dict[str, float] = {}
    for phase, kind in (("decode", "read"), ("prefill", "product")):
        mine = [s for s in samples if s.name == "canary" and s.setup.get("kind") == kind]
        near = min(mine, key=lambda s: abs(int(s.setup["threads"]) - threads), default=None)
        moved = max(near.high / near.median, near.median / near.low) if near is not None else 1.0
        if moved > 1.0 / SLOW_FRAC:
            found[phase] = math.log(moved)
    return found


def widened(residuals: Mapping[str, Residuals], unsteady: Mapping[str, float]) -> dict[str, Residuals]:
    """``residuals`` (by regime, its phase first) with an error of the machine's own, taken as independent:
    at 10% and 90% as large as ``unsteady`` says."""

    def wider(key: str, one: Residuals) -> Residuals:
        moved = unsteady.get(key.partition("/")[0], 0.0)
        if not moved:
            return one
        ratios = [
            joined_error(q, moved * (level - 0.5) / 0.4)
            for level, q in zip(one.levels, one.log_ratios, strict=True)
        ]
        return replace(one, log_ratios=tuple(ratios))

    return {key: wider(key, one) for key, one in residuals.items()}
