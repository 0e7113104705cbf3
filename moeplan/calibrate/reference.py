"""The reference decoder at sizes that were not run: a law of four coefficients, fitted on those that were.

A step of batch 1 takes bytes / bandwidth + s per layer + s per expert that ran, with the bandwidth of a large
matrix times one row; a prompt takes FLOP / rate (dense and experts apart) on top of the same fixed parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from moeplan.domain.profile import Sample


class ReferenceLaw(NamedTuple):
    """Fitted on one machine with one number of threads."""

    s_per_byte: float
    s_per_layer: float
    s_per_expert: float
    """Of each routed expert that computes anything, per layer."""
    s_per_flop_dense: float
    s_per_flop_moe: float

    def decode_s(self, n_bytes: float, layers: int, experts: float) -> float:
        """A step of one token that reads ``n_bytes`` and runs ``experts`` experts in each layer."""
        return n_bytes * self.s_per_byte + layers * (self.s_per_layer + experts * self.s_per_expert)

    def prefill_s(self, flop: float, layers: int, experts: float) -> float:
        """A prompt of ``flop``; ``experts`` 0 is a dense model."""
        per_flop = self.s_per_flop_moe if experts else self.s_per_flop_dense
        return flop * per_flop + layers * (self.s_per_layer + experts * self.s_per_expert)


def fit_reference(samples: Sequence[Sample], row_bytes_per_s: float) -> ReferenceLaw | None:
    """The law of the samples of one profile; None where they do not suffice.

    ``row_bytes_per_s`` is the quickest matrix times one row in fp32 with as many threads.
    """
    steps = [s for s in samples if s.name == "reference decode" and s.setup["batch"] == 1]
    if len({s.setup["model"] for s in steps}) < 2 or len({s.setup["layers"] for s in steps}) < 2:
        return None
    rows = [(_get(s, "layers"), _get(s, "layers") * _get(s, "experts_touched")) for s in steps]
    per_byte = 1.0 / row_bytes_per_s
    solved = _least_squares(rows, [_seconds(s) for s in steps], [_get(s, "bytes") * per_byte for s in steps])
    if solved is None:
        return None
    per_layer, per_expert = solved
    law = ReferenceLaw(per_byte, per_layer, per_expert, 0.0, 0.0)
    rates = [_per_flop(samples, law, is_moe) for is_moe in (False, True)]
    return law._replace(s_per_flop_dense=rates[0], s_per_flop_moe=rates[1])


def _per_flop(samples: Sequence[Sample], law: ReferenceLaw, is_moe: bool) -> float:
    found = []
    for s in samples:
        experts = _get(s, "experts_touched")
        if s.name == "reference prefill" and bool(experts) is is_moe:
            fixed = law.prefill_s(0.0, int(_get(s, "layers")), experts)
            found.append(max(0.0, _seconds(s) - fixed) / _get(s, "flop"))
    return sorted(found)[len(found) // 2] if found else 0.0


def _get(sample: Sample, key: str) -> float:
    value = sample.setup.get(key, 0)
    return 0.0 if isinstance(value, str) else float(value)


def _seconds(sample: Sample) -> float:
    """The median, or the quickest tenth where other programs disturbed the repeats."""
    return sample.median if sample.stable else sample.low


def _least_squares(
    rows: list[tuple[float, float]], times: list[float], known: list[float]
) -> tuple[float, float] | None:
    """Both coefficients of the smallest squared relative error, neither below zero."""
    a = [row[0] / t for row, t in zip(rows, times, strict=True)]
    b = [row[1] / t for row, t in zip(rows, times, strict=True)]
    y = [1.0 - k / t for k, t in zip(known, times, strict=True)]
    aa, ab, bb = _dot(a, a), _dot(a, b), _dot(b, b)
    ay, by = _dot(a, y), _dot(b, y)
    det = aa * bb - ab * ab
    if not aa or det < 1e-9 * aa * bb:
        return None
    first, second = (ay * bb - by * ab) / det, (by * aa - ay * ab) / det
    if second < 0:
        first, second = ay / aa, 0.0
    if first < 0:
        first, second = 0.0, max(0.0, by / bb if bb else 0.0)
    return first, second


def _dot(x: list[float], y: list[float]) -> float:
    return sum(p * q for p, q in zip(x, y, strict=True))
