"""What is sought and what must hold, as numbers that can be compared: smaller is better."""

from __future__ import annotations

from typing import Literal, NamedTuple

from moeplan.domain.plan import Limits, Objective
from moeplan.domain.workload import Workload

Score = tuple[float, ...]


def score(
    objective: Objective,
    workload: Workload,
    bits: float,
    decode_s: float,
    prefill_s: float,
    total_bytes: float,
) -> Score:
    """The objective first, then what decides between equals: the other speeds, then memory.

    ``bits`` is the mean width of the weights. Speeds are expected values.
    """
    d, p = round(decode_s, 12), round(prefill_s, 12)  # picoseconds: below, prefix sums differ by rounding
    match objective:
        case "ttft":
            return (p, d, total_bytes)
        case "request":
            return (round(p + workload.output_tokens * d, 9), d, total_bytes)
        case "throughput":
            return (round(d / workload.n_sequences, 15), p, total_bytes)
        case "context":
            return (-workload.context_tokens, d, p, total_bytes)
        case "quality":
            return (-bits, d, p, total_bytes)
        case "memory":
            return (total_bytes, d, p)
        case _:
            return (d, p, total_bytes)


class Aim(NamedTuple):
    """An objective as weights of the seconds of (decode, prefill): what counts, and what decides between
    equals. Memory is not part of it."""

    first: tuple[float, float]
    second: tuple[float, float]


def aim_of(objective: Objective, workload: Workload) -> Aim | None:
    """The order of `score` among the layouts of one variant; None where memory comes first."""
    match objective:
        case "memory":
            return None
        case "ttft":
            return Aim((0.0, 1.0), (1.0, 0.0))
        case "request":
            return Aim((float(workload.output_tokens), 1.0), (1.0, 0.0))
        case _:
            return Aim((1.0, 0.0), (0.0, 1.0))


Miss = Literal["too slow", "too late"]


def broken(limits: Limits, decode_s: float, prefill_s: float) -> Miss | None:
    """Which limit of speed a plan misses; None when it keeps them all."""
    if limits.min_tokens_per_s is not None and decode_s * limits.min_tokens_per_s > 1.0:
        return "too slow"
    if limits.max_ttft_s is not None and prefill_s > limits.max_ttft_s:
        return "too late"
    return None
