"""One prior: where a kind of coefficient starts and how far it may go."""

from __future__ import annotations

from typing import NamedTuple

GUESS = "physical guess"


class Prior(NamedTuple):
    """Start and spread of the coefficients whose names match ``pattern`` (searched, first match wins)."""

    pattern: str
    value: float
    spread: float
    unit: str = "1"
    why: str = "factor of its class"
