"""What `moeplan profile` is asked to measure, and for how long."""

from __future__ import annotations

from typing import Literal

from moeplan.domain.value import Value

Mode = Literal["quick", "default", "full"]

BUDGET_S: dict[Mode, float] = {"quick": 15.0, "default": 60.0, "full": 300.0}


class ProfileRequest(Value):
    """What to measure; the names are those of the options."""

    mode: Mode = "default"
    gpu: bool = False
    model: str | None = None
    engine: str | None = None
    binary: str | None = None
    endpoint: str | None = None
    concurrency: tuple[int, ...] = (1, 2, 4)
    prompt_tokens: int = 128
    output_tokens: int = 32
    timeout_s: float = 120.0
    memory_share: float = 0.4
    training: bool = False
    storage: str | None = None
    age_s: float = 0.0
    """Seconds since the command was given: they are part of what the mode promises."""
