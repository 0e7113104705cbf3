"""Ways of leaving rows out: errors of rows that no fit has seen, and how far from the seen ones they are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from moeplan.api.validate import Traced
from moeplan.calibrate.priors import ALWAYS
from moeplan.calibrate.system import Sample, System, names_of
from moeplan.cost.timing import time_of
from moeplan.domain.calibration import Calibration
from moeplan.predict.interval import FEW_SETUPS, stretch_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What engine runs (a folder with models.json and speed.csv) are called as a source.
RUNS_SOURCE = "engine runs"

# What is left out together; rows in the group "" never are. Ranges come from the first two.
WAYS: Mapping[str, Callable[[Sample], str]] = {
    "source": lambda s: s.source,
    "device": lambda s: s.device,
    "model": lambda s: s.model,
    "run file": lambda s: f"{s.model}/{s.quant}" if s.source == RUNS_SOURCE else "",
    "run type": lambda s: s.quant if s.source == RUNS_SOURCE else "",
}
RANGE_WAYS = ("source", "device")


def left_out(
    samples: Sequence[Sample], system: System, names: Sequence[str], fitted: NDArray[np.float64]
) -> dict[str, list[float]]:
    """log(measured / predicted) of every row in each of the ``WAYS``, each fit started from ``fitted``."""
    from moeplan.calibrate.fit import held_out

    return {way: held_out(samples, system, names, fitted, group) for way, group in WAYS.items()}


def stretches(
    samples: Sequence[Sample],
    traced: Sequence[Traced],
    calibration: Calibration,
    group: Callable[[Sample], str],
) -> list[float]:
    """How much wider than its regime's the range of each row is, asked of a calibration without its group."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, sample in enumerate(samples):
        members[group(sample)].append(i)
    names = {name: set(names_of([samples[i] for i in rows])) for name, rows in members.items()}
    known = Counter(n for found in names.values() for n in found)
    result = [1.0] * len(samples)
    for name, rows in members.items():
        own = {n for n in names[name] if known[n] == 1} - set(ALWAYS)
        rest = {n: c for n, c in calibration.coefficients.items() if n not in own}
        without = replace(calibration, coefficients=rest)
        for i in rows:
            time = time_of(traced[i].ops, 0.0, 0.0, traced[i].problem.hardware, without)
            result[i] = stretch_of(time, n_setups=FEW_SETUPS)
    return result
