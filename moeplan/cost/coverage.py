"""How many experts a batch touches."""

from __future__ import annotations


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


def tokens_for_coverage(n_experts: int, n_active: int, fraction: float) -> int:
    """Smallest batch at which the expected share of touched experts reaches ``fraction`` (0..1)."""
    tokens = 1
    while expected_experts(n_experts, n_active, tokens) < fraction * n_experts:
        tokens += 1
    return tokens
