"""How far the computed parameter counts are from what vendors publish and repositories store."""

from __future__ import annotations

from typing import Literal

from moeplan.domain.graph import ParamCounts
from moeplan.domain.model import ModelSpec
from moeplan.domain.value import Value

Convention = Literal["all weights", "without input embedding", "without embeddings"]


class Deviation(Value):
    """Computed counts against published and stored ones; None where there is nothing to compare with."""

    total_frac: float | None = None
    """(computed - published) / published."""
    total_is_rounding: bool = False
    """The computed total rounds to the published one."""
    active_frac: float | None = None
    """The same for the active count, in the convention that comes nearest."""
    active_is_rounding: bool = False
    convention: Convention | None = None
    stored_unexplained: int | None = None
    """Parameters of the repository that neither the text model nor anything named accounts for."""


def deviation(spec: ModelSpec, counts: ParamCounts) -> Deviation:
    """Compare ``counts`` of ``spec`` with its ``published`` and ``stored`` values."""
    total, active = spec.published.params_total, spec.published.params_active
    convention, nearest = _nearest_convention(counts, active) if active else (None, 0)
    return Deviation(
        total_frac=None if total is None else counts.total / total - 1,
        total_is_rounding=total is not None and rounds_to(counts.total, total),
        active_frac=None if active is None else nearest / active - 1,
        active_is_rounding=active is not None and rounds_to(nearest, active),
        convention=convention,
        stored_unexplained=_unexplained(spec, counts),
    )


def rounds_to(count: int, published: float) -> bool:
    """Whether ``count`` rounds to ``published`` at its last digit that is not zero (46.7e9: to 0.1e9)."""
    unit, number = 1, round(published)
    while number and number % 10 == 0:
        number //= 10
        unit *= 10
    return 2 * abs(count - published) <= unit


def _nearest_convention(counts: ParamCounts, published: float) -> tuple[Convention, int]:
    """Vendors count embeddings or not: the convention that comes nearest, and the count in it."""
    conventions: dict[Convention, int] = {
        "all weights": counts.active,
        "without input embedding": counts.active_no_input_embedding,
        "without embeddings": counts.active_no_embeddings,
    }
    return min(conventions.items(), key=lambda item: abs(item[1] - published))


def _unexplained(spec: ModelSpec, counts: ParamCounts) -> int | None:
    stored = spec.stored
    if stored is None:
        return None
    parts = sum(part.params for part in spec.parts if part.kind in stored.parts)
    return stored.params - counts.total - parts - stored.extra_params
