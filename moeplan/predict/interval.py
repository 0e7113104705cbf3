"""From an expected time to a range: held-out residuals of the closest regime that was measured."""

from __future__ import annotations

import math
from bisect import bisect_left

from moeplan.cost.paging import PAGING
from moeplan.domain.calibration import Calibration, Residuals
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.result import PhaseTime, Range
from moeplan.engines.machines import maker

# A spread is stretched by this much on each side where its regime has no measured setup and its class stands
# in, by less the more it has; where no measurement speaks of the architecture, engine or type; where the RAM
# bandwidth is assumed. Held-out residuals are divided by the last two before they become quantiles
# (docs/design/004-intervals.md).
EXTRAPOLATION_STRETCH = 1.25
UNSEEN_STRETCH = 1.4
ASSUMED_STRETCH = 1.1
# And where weights come back in pages: what stays in memory from one token to the next makes a factor of four
# either way (disk reads of a MoE took 0.5 and 0.7 of what an even router misses, 5.5 with random weights;
# unified memory paged at 1.8 to 3.8 GB/s), most of it beyond what other regimes are off by.
PAGED_STRETCH = 3.0
# A guess is stated as the factor within which eight of ten lie: a tail of a tenth on each side.
_GUESS_LEVEL = 0.4
_MAY_EXCEED = (".compute", ".vector", ".int8", ".activations.bandwidth")
# With fewer measured setups than this in a regime an answer is called extrapolated.
FEW_SETUPS = 8
# Whose GPUs the corpus of the shipped coefficients has (docs/accuracy.md).
_MEASURED_MAKERS = frozenset({"nvidia", "amd", "intel", "apple"})


def closest(calibration: Calibration, regime: str) -> tuple[str, Residuals, bool]:
    """(regime used, its residuals, whether it is a stand-in) for ``phase/placement/arch_class``.

    Falls back to the phase over the same class, then to the phase alone.
    """
    phase, _, arch_class = regime.split("/")
    for stand_in, key in enumerate((regime, f"{phase}/*/{arch_class}", f"{phase}/*/*")):
        residuals = calibration.residuals.get(key)
        if residuals is not None:
            return key, residuals, stand_in > 0
    raise KeyError(f"calibration {calibration.id} has no residuals for {phase}")


def is_uncharted(hardware: HardwareSpec) -> bool:
    """Whether an accelerator is of a maker of which no published speed is known: another's stand in."""
    return any(maker(gpu) not in _MEASURED_MAKERS for gpu in hardware.gpus)


def extrapolation_stretch(n_setups: int) -> float:
    """How much wider than its class's a range is for want of setups of its regime.

    >>> extrapolation_stretch(0), extrapolation_stretch(4), extrapolation_stretch(40)
    (1.25, 1.125, 1.0)
    """
    return 1.0 + (EXTRAPOLATION_STRETCH - 1.0) * max(0.0, 1.0 - n_setups / FEW_SETUPS)


def stretch_of(time: PhaseTime, *, n_setups: int) -> float:
    """How much wider than the regime's own spread a range has to be, the further from what was measured.

    ``n_setups``: of the regime, 0 where its class stands in.
    """
    stretch = extrapolation_stretch(n_setups)
    if time.unseen:
        stretch *= UNSEEN_STRETCH
    if time.assumed_s > 0.1 * time.seconds:
        stretch *= ASSUMED_STRETCH
    if sum(seconds for term, seconds in time.terms if term in PAGING) > 0.1 * time.seconds:
        stretch *= PAGED_STRETCH
    return stretch


def time_range(
    seconds: float, residuals: Residuals, level: float, *, stretch: float = 1.0, floor_s: float = 0.0,
    guess_log: float = 0.0,
) -> Range:  # fmt: skip
    """``seconds`` widened to the central ``level`` of measured/predicted in this regime.

    ``floor_s`` is the time at full bandwidth and peak rate: nothing is faster, whatever other machines
    of the regime did relative to their predictions. ``guess_log``: of a host that was guessed (see
    ``PhaseTime``), an error independent of the law's own; the floor rests on the guess too.
    """
    tail = (1.0 - level) / 2.0
    slower, faster = (
        joined_error(quantile(residuals, at) * stretch, guess_log * (at - 0.5) / _GUESS_LEVEL)
        for at in (1.0 - tail, tail)
    )
    low, high = seconds * math.exp(min(0.0, faster)), seconds * math.exp(max(0.0, slower))
    floor_s *= math.exp(-guess_log)
    return Range(low=min(seconds, max(low, floor_s)), expected=seconds, high=high)


def joined_error(error: float, moved: float) -> float:
    """Of two independent errors; where they point apart the regime's own side counts towards the median."""
    if not moved:
        return error
    return math.copysign(math.hypot(error, moved), moved) if error * moved > 0 else error + moved


def ideal(calibration: Calibration) -> Calibration:
    """The law without losses: bandwidths and shares of one, no fixed times, CPUs at three times their rate.

    (Per-core CPU rates are themselves measured, not peaks; three times covers AMX on AVX-512 figures. Nothing
    is read from disk where the experts that a text uses are in the page cache. Copies that are not pinned
    wait for the link alone.)
    """
    from msgspec.structs import replace

    def best(name: str, value: float) -> float:
        if name.endswith(("_s", "disk.moe_read_time")):
            return 0.0
        if "flop_per_s_per_core" in name:
            return value * 3.0
        if name.endswith("flop_per_joule") or ".staged." in name:
            return math.inf
        # Units that a data sheet leaves out, caches: such factors are above one for what they stand for.
        return max(1.0, value) if name.endswith(_MAY_EXCEED) else 1.0

    return replace(
        calibration,
        coefficients={n: replace(c, value=best(n, c.value)) for n, c in calibration.coefficients.items()},
    )


def quantile(residuals: Residuals, level: float) -> float:
    """log(measured/predicted) at ``level``, linear between the stored levels, flat outside them."""
    levels, values = residuals.levels, residuals.log_ratios
    i = bisect_left(levels, level)
    if i == 0:
        return values[0]
    if i == len(levels):
        return values[-1]
    share = (level - levels[i - 1]) / (levels[i] - levels[i - 1])
    return values[i - 1] + share * (values[i] - values[i - 1])
