"""The reference decoder at sizes that were not run: a law of a few terms, fitted on those that were.

A forward pass takes, for each matrix, its elements x the time of an element with as many rows (measured
past the caches at several numbers of rows: one row waits for the memory, many for arithmetic); what attention
reads or computes; and fixed time a layer, an expert and a value of the activations, which runs of the decoder
tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moeplan.domain.profile import Sample
from moeplan.measure.work import Work, work_in

# A coefficient that moves by less than this share of itself in a round has arrived.
_STILL = 1e-12


class ReferenceLaw(NamedTuple):
    """Of one machine with one number of threads."""

    s_per_element: Mapping[int, float]
    """Of a matrix in fp32, by the number of rows that it meets."""
    s_per_layer: float
    s_per_expert: float
    """Of each routed expert that runs on the only row of a step."""
    s_per_expert_of_many: float
    """Of each routed expert that picks its rows out of several."""
    s_per_value: float
    s_per_cache_byte: float
    s_per_attention_flop: float

    def seconds(self, work: Work) -> float:
        """Of one forward pass."""
        fixed = sum(c * n for c, n in zip(self.fitted(), _counts(work), strict=True))
        return fixed + self.known_s(work)

    def fitted(self) -> tuple[float, ...]:
        """What is not measured by itself, in the order of the counts."""
        return self.s_per_layer, self.s_per_expert, self.s_per_expert_of_many, self.s_per_value

    def known_s(self, work: Work) -> float:
        """Matrices and attention alone."""
        return (
            work.dense_elements * self.element_s(work.rows)
            + work.head_elements * self.element_s(work.head_rows)
            + work.expert_elements * self.element_s(work.expert_rows)
            + work.cache_bytes * self.s_per_cache_byte
            + work.attention_flop * self.s_per_attention_flop
        )

    def element_s(self, rows: float) -> float:
        """Between the numbers of rows that were measured a power law; beyond the last, the same rate."""
        if rows <= 0:
            return 0.0
        known = sorted(self.s_per_element.items())
        if rows >= known[-1][0]:
            return known[-1][1] * rows / known[-1][0]
        if rows <= known[0][0]:
            return known[0][1]
        above = next(i for i, (n, _) in enumerate(known) if n >= rows)
        (n0, t0), (n1, t1) = known[above - 1], known[above]
        share = math.log(rows / n0) / math.log(n1 / n0)
        return float(t0 * (t1 / t0) ** share)


def _counts(work: Work) -> tuple[float, ...]:
    single = work.rows <= 1
    return (
        work.layers,
        work.experts if single else 0.0,
        0.0 if single else work.experts,
        work.values,
    )


def fit_reference(samples: Sequence[Sample]) -> ReferenceLaw | None:
    """The law of the samples of one profile, with the most threads; None where they do not suffice."""
    threads = max((_threads(s) for s in samples if s.name.startswith("reference ")), default=0)
    here = [s for s in samples if _threads(s) == threads]
    rows = {int(_get(s, "rows")): _seconds(s) for s in here if s.name == "matrix times rows"}
    runs = [
        (work, _seconds(s)) for s in here if s.name.startswith("reference ") and (work := work_in(s.setup))
    ]
    if len(rows) < 2 or not runs:
        return None
    elements = {int(_get(s, "rows")): _get(s, "elements") for s in here if s.name == "matrix times rows"}
    law = ReferenceLaw(
        s_per_element={n: t / elements[n] for n, t in rows.items()},
        s_per_layer=0.0,
        s_per_expert=0.0,
        s_per_expert_of_many=0.0,
        s_per_value=0.0,
        s_per_cache_byte=_best_time(here, "attention, decode"),
        s_per_attention_flop=_best_time(here, "attention, prompt"),
    )
    found = non_negative(
        [_counts(w) for w, _ in runs], [t - law.known_s(w) for w, t in runs], [t for _, t in runs]
    )
    return law._replace(
        s_per_layer=found[0], s_per_expert=found[1], s_per_expert_of_many=found[2], s_per_value=found[3]
    )


def _threads(sample: Sample) -> int:
    return int(_get(sample, "threads"))


def _best_time(samples: Sequence[Sample], name: str) -> float:
    """Seconds per unit of a rate, of the quickest sample; 0 where there is none."""
    rates = [s.median if s.stable else s.high for s in samples if s.name == name]
    return 1.0 / max(rates) if rates else 0.0


def _get(sample: Sample, key: str) -> float:
    value = sample.setup.get(key, 0)
    return 0.0 if isinstance(value, str) else float(value)


def _seconds(sample: Sample) -> float:
    """The median, or the quickest tenth where other programs disturbed the repeats."""
    return sample.median if sample.stable else sample.low


def non_negative(
    counts: Sequence[tuple[float, ...]], left: Sequence[float], times: Sequence[float], rounds: int = 200
) -> list[float]:
    """Coefficients, none below zero, with the smallest squared error of ``left`` relative to ``times``.

    ``counts``: what each is multiplied with, row by row. Each coefficient in turn, until none moves.
    """
    n = len(counts[0])
    scaled = [[c / t for c in row] for row, t in zip(counts, times, strict=True)]
    rest = [x / t for x, t in zip(left, times, strict=True)]
    found = [0.0] * n
    squares = [sum(row[i] ** 2 for row in scaled) for i in range(n)]
    for _ in range(rounds):
        before = list(found)
        for i in range(n):
            if not squares[i]:
                continue
            gain = sum(row[i] * r for row, r in zip(scaled, rest, strict=True)) / squares[i]
            step = max(found[i] + gain, 0.0) - found[i]
            found[i] += step
            rest = [r - row[i] * step for row, r in zip(scaled, rest, strict=True)]
        if all(abs(new - old) <= _STILL * new for new, old in zip(found, before, strict=True)):
            break
    return found
