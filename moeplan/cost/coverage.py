"""How many experts a batch touches, and how unevenly over GPUs that hold whole experts."""

from __future__ import annotations

import math
from functools import lru_cache


def expected_experts(n_experts: int, n_active: int, n_tokens: float) -> float:
    """Distinct experts of one layer that ``n_tokens`` tokens touch: N (1 - (1 - k/N)^T).

    Uniform, independent routing; exact at one token, an upper bound otherwise (llama.cpp's own routing
    on random weights lies 0-13% below; trained routers further). Reference: occupancy of N cells.

    >>> expected_experts(8, 2, 1)
    2.0
    """
    if n_tokens <= 0:
        return 0.0
    if n_active >= n_experts:
        return float(n_experts)
    # At least k experts are always touched, whatever rounding does to a fractional token count.
    untouched_frac: float = (1.0 - n_active / n_experts) ** n_tokens
    return max(float(n_active), n_experts * (1.0 - untouched_frac))


# How unevenly one text uses the experts: the shape of a gamma distribution of their popularity. Of
# gpt-oss-120b's experts llama.cpp met 65% in 512 tokens of code (72 to 95 of 128 in layers 0 to 7, and
# 1 - (1 + 16/a)^-a for a = 0.25), and it copies no others to the GPU (PR 15346, comment of 2025-08-16,
# retrieved 2026-11-30; ik_llama.cpp since PR 842, October 2025). Of other models such batches meet nearly
# all (ik_llama.cpp PR 698).
_POPULARITY_SHAPE = {"gpt_oss": 0.25}


def prompt_experts(architecture: str, n_experts: int, n_active: int, n_tokens: float) -> float:
    """Distinct experts of one layer that ``n_tokens`` tokens of one text touch.

    N (1 - (1 + k T / (N a))^-a) for experts of gamma-distributed popularity of shape a, which is uniform
    routing as a grows. ``architecture``: Hugging Face's model_type.

    >>> round(prompt_experts("gpt_oss", 128, 4, 512))
    83
    """
    uniform = expected_experts(n_experts, n_active, n_tokens)
    shape = _POPULARITY_SHAPE.get(architecture)
    if shape is None:
        return uniform
    missed_frac: float = (1.0 + n_active * n_tokens / (n_experts * shape)) ** -shape
    return min(uniform, max(float(n_active), n_experts * (1.0 - missed_frac)))


@lru_cache(maxsize=4096)
def busiest_rank(n_experts: int, n_active: int, n_tokens: float, n_ranks: int) -> tuple[float, float]:
    """How many times the mean the busiest of ``n_ranks`` GPUs has of (experts touched, rows computed).

    Each rank holds n_experts / n_ranks whole experts. With uniform routing both counts are about binomial,
    and the expected largest of n such is the sum over x of 1 - F(x)^n, the ranks taken as independent.
    Trained routers balance experts worse than that. Reference: order statistics of n equal variables.

    >>> [round(times, 2) for times in busiest_rank(2, 1, 1, 2)]  # one expert: one rank has all of it
    [2.0, 2.0]
    """
    if n_ranks <= 1 or n_tokens <= 0:
        return 1.0, 1.0
    held = n_experts / n_ranks
    touched = expected_experts(n_experts, n_active, n_tokens)
    experts = _expected_largest(round(held), touched / n_experts, n_ranks)
    rows = _expected_largest(max(1, round(held * n_tokens)), n_active / n_experts, n_ranks)
    # Something is computed somewhere, and all of it cannot be more than all.
    least = min(1.0, touched), min(1.0, n_active * n_tokens)
    means = touched / n_ranks, n_active * n_tokens / n_ranks
    largest = (min(n_ranks * mean, max(found, floor, mean))
               for found, floor, mean in zip((experts, rows), least, means, strict=True))  # fmt: skip
    most_experts, most_rows = largest
    return most_experts / means[0], most_rows / means[1]


_EXACT_TRIALS = 4096
"""Beyond, a binomial is as good as normal: the largest of 64 differs by less than 0.1%."""


def _expected_largest(trials: int, chance: float, n: int) -> float:
    """Expected largest of ``n`` independent binomial counts."""
    if chance >= 1.0:
        return float(trials)
    if trials > _EXACT_TRIALS:
        return trials * chance + math.sqrt(trials * chance * (1 - chance)) * _largest_normal(n)
    total, below = 0.0, 0.0
    log_odds, log_p = math.log(chance / (1 - chance)), trials * math.log1p(-chance)
    for x in range(trials):
        below = min(1.0, below + math.exp(log_p))
        total += 1.0 - below**n
        log_p += math.log((trials - x) / (x + 1)) + log_odds
    return total


@lru_cache(maxsize=64)
def _largest_normal(n: int) -> float:
    """Expected largest of ``n`` standard normal values, by the trapezoidal rule on -8 to 8."""
    step, total = 1 / 64, 0.0
    for k in range(-512, 513):
        below = (1.0 + math.erf(k * step / math.sqrt(2.0))) / 2
        total += (1.0 if k > 0 else 0.0 if k < 0 else 0.5) - below**n
    return total * step
