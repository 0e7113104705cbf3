"""Rows as arrays: the time of all of them, and its slope in every coefficient, at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from moeplan.cost.ops import OVERLAP, Names, Op, multiplies

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_NOTHING = -60.0  # the logarithm of a time too short to matter


class Sample(NamedTuple):
    """One measured row: its operations and how long they took together."""

    id: str
    setup: str
    source: str
    device: str
    regime: str
    """Phase, placement and kind of model, or metric, concurrency and kind: what weights and tables go by."""
    spread: str
    """The regime of predictions whose interval its residual widens; "" for none."""
    date: str
    measured_s: float
    ops: tuple[Op, ...]
    sweep: bool = False
    """One of very many setups that its source ran in one go."""
    model: str = ""
    quant: str = ""


class System:
    """Predicted log times of ``samples`` as a function of the logarithms of ``names``.

    The same formula as ``Op.seconds``, on arrays: moving and computing joined by a norm, computing and
    drawing power joined before, waiting for launches after, unpacking joined to moving, all of it no
    less than a step of fewer rows, operations summed.
    """

    def __init__(self, samples: Sequence[Sample], names: Sequence[str]) -> None:
        import numpy as np

        self._index = {name: i for i, name in enumerate(names)}
        self._tuples: dict[Names, int] = {}
        self._slopes: list[Any] = []
        rows, norms, unpacking_norms, waiting_norms, least_norms = [], [], [], [], []
        logs: tuple[list[float], ...] = ([], [], [], [], [], [])
        kinds: tuple[list[int], ...] = ([], [], [], [], [], [])
        for row, sample in enumerate(samples):
            for op in sample.ops:
                if op.moving_s <= 0 and op.computing_s <= 0:
                    continue
                rows.append(row)
                norms.append(op.norm)
                unpacking_norms.append(op.unpacking_norm)
                waiting_norms.append(op.waiting_norm)
                least_norms.append(op.least_norm)
                sides = (
                    (op.moving_s, op.moving),
                    (op.computing_s, op.computing),
                    (op.drawing_s, op.drawing),
                    (op.waiting_s, op.waiting),
                    (op.unpacking_s, op.unpacking),
                    (op.least_unpacking_s, op.unpacking),
                )
                for side, (seconds, used) in enumerate(sides):
                    logs[side].append(math.log(seconds) if seconds > 0 else _NOTHING)
                    kinds[side].append(self._tuple(used))
        self.n = len(samples)
        self.measured: Floats = np.log([s.measured_s for s in samples])
        self._rows, self._norms = np.array(rows), np.array(norms)
        self._unpacking_norms, self._waiting_norms = np.array(unpacking_norms), np.array(waiting_norms)
        self._least_norms = np.array(least_norms)
        self._logs = [np.array(side) for side in logs]
        self._kinds = [np.array(side) for side in kinds]
        self._matrix = np.array(self._slopes)
        self._draws = self._logs[2] > _NOTHING
        self._waits = self._logs[3] > _NOTHING

    def _tuple(self, names: Names) -> int:
        import numpy as np

        known = self._tuples.get(names)
        if known is not None:
            return known
        slope = np.zeros(len(self._index))
        for name in names:
            if name in self._index:
                slope[self._index[name]] += 1.0 if multiplies(name) else -1.0
        self._slopes.append(slope)
        self._tuples[names] = len(self._slopes) - 1
        return self._tuples[names]

    def log_times(self, values: Floats) -> Floats:
        """Log of the predicted time of every row."""
        return self._evaluate(values, slopes=False)[0]

    def with_slopes(self, values: Floats) -> tuple[Floats, Floats]:
        """Log times, and their derivatives by the logarithm of each coefficient (rows x names)."""
        return self._evaluate(values, slopes=True)

    def _evaluate(self, values: Floats, *, slopes: bool) -> tuple[Floats, Floats]:
        import numpy as np

        scales = self._matrix @ values
        copying, computing, drawing, waiting, unpacking, least = (
            log + scales[kind] for log, kind in zip(self._logs, self._kinds, strict=True)
        )
        moving, unpacking_norms = _join(copying, unpacking, self._unpacking_norms), self._unpacking_norms
        limited = np.where(self._draws, _join(computing, drawing, OVERLAP), computing)
        working = _join(moving, limited, self._norms)
        fewer = _join(copying, least, self._least_norms)
        longer = fewer > working
        working, moving = np.where(longer, fewer, working), np.where(longer, fewer, moving)
        unpacking = np.where(longer, least, unpacking)
        unpacking_norms = np.where(longer, self._least_norms, unpacking_norms)
        total = np.where(self._waits, _join(working, waiting, self._waiting_norms), working)
        seconds = np.exp(total)
        sums: Floats = np.bincount(self._rows, seconds, self.n).astype(np.float64)
        if not slopes:
            return np.log(sums), np.zeros((0, 0))
        share = seconds / sums[self._rows]
        by_waiting = np.where(self._waits, share * np.exp((waiting - total) * self._waiting_norms), 0.0)
        share = share - by_waiting
        by_moving = share * np.exp((moving - working) * self._norms)
        by_unpacking = by_moving * np.exp((unpacking - moving) * unpacking_norms)
        by_copying = by_moving - by_unpacking
        by_limit = np.where(longer, 0.0, share * np.exp((limited - working) * self._norms))
        by_computing = by_limit * np.where(self._draws, np.exp((computing - limited) * OVERLAP), 1.0)
        by_drawing = np.where(self._draws, by_limit * np.exp((drawing - limited) * OVERLAP), 0.0)
        width = len(self._matrix)
        weights = np.zeros(self.n * width)
        parts = by_copying, by_computing, by_drawing, by_waiting, by_unpacking
        for kind, part in zip(self._kinds[:5], parts, strict=True):  # the least unpacking has the same names
            weights += np.bincount(self._rows * width + kind, part, self.n * width)
        return np.log(sums), weights.reshape(self.n, width) @ self._matrix


def names_of(samples: Sequence[Sample]) -> dict[str, set[tuple[str, str, str]]]:
    """(setup, source, date) of the rows in which each coefficient plays a part."""
    found: dict[str, set[tuple[str, str, str]]] = {}
    for sample in samples:
        mark = sample.setup, sample.source, sample.date[:7]
        for op in sample.ops:
            for name in chain(*op.names):
                if name.startswith("host."):
                    continue  # of one machine, measured there
                found.setdefault(name, set()).add(mark)
    return dict(sorted(found.items()))


def _join(one: Floats, other: Floats, norm: Floats | float) -> Floats:
    """log (e^(one norm) + e^(other norm))^(1/norm)."""
    import numpy as np

    high = np.maximum(one, other)
    joined: Floats = high + np.log1p(np.exp((np.minimum(one, other) - high) * norm)) / norm
    return joined
