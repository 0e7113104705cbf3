"""Where a number comes from (Source), how it was made (Term), and who wants to know (Ledger)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

SourceKind = Literal["measured", "fitted", "datasheet", "paper", "derived", "assumed"]

# From most to least trustworthy; the badge of a total is the worst that matters (see `worst`).
KINDS: tuple[SourceKind, ...] = ("measured", "fitted", "datasheet", "paper", "derived", "assumed")


class Source(NamedTuple):
    """Provenance of a value: what kind of knowledge, where it stands, when it was read."""

    kind: SourceKind
    ref: str
    retrieved: str = ""
    note: str = ""


DERIVED = Source("derived", "computed by moeplan from the inputs shown")


class Term(NamedTuple):
    """One step of an explanation. ``value`` is in ``unit``; children, where present, sum to it."""

    name: str
    value: float
    unit: str
    formula: str = ""
    inputs: Mapping[str, object] = {}
    source: Source = DERIVED
    children: tuple[Term, ...] = ()


class Ledger:
    """Records the terms of a calculation as a tree. Formulas call it; they never read it.

    ``open()`` starts a group; ``close(...)`` ends it and makes the terms noted since its children.
    """

    __slots__ = ("_stack",)

    def __init__(self) -> None:
        self._stack: list[list[Term]] = [[]]

    def note(
        self,
        name: str,
        value: float,
        unit: str,
        formula: str = "",
        inputs: Mapping[str, object] | None = None,
        source: Source = DERIVED,
    ) -> None:
        """Record one leaf term."""
        self._stack[-1].append(Term(name, value, unit, formula, inputs or {}, source))

    def open(self) -> None:
        """Start a group; every term until the matching ``close`` becomes its child."""
        self._stack.append([])

    def close(
        self,
        name: str,
        value: float,
        unit: str,
        formula: str = "sum of the parts",
        inputs: Mapping[str, object] | None = None,
        source: Source | None = None,
    ) -> None:
        """End the innermost group as one term of ``value``."""
        children = tuple(self._stack.pop())
        badge = source or Source(worst(children, value), "worst source among the parts that matter")
        self._stack[-1].append(Term(name, value, unit, formula, inputs or {}, badge, children))

    @property
    def terms(self) -> tuple[Term, ...]:
        """The finished top-level terms."""
        return tuple(self._stack[0])


class NullLedger(Ledger):
    """Forgets everything: what the search loop passes, so that there is one code path only."""

    __slots__ = ()

    def note(self, *args: object, **kwargs: object) -> None:
        """Forget the term."""

    def open(self) -> None:
        """Forget the group."""

    def close(self, *args: object, **kwargs: object) -> None:
        """Forget the group."""


NULL_LEDGER = NullLedger()


def worst(terms: tuple[Term, ...], total: float, share: float = 0.1) -> SourceKind:
    """The least trustworthy kind among ``terms`` that carry at least ``share`` of ``total``."""
    kinds = [t.source.kind for t in terms if total <= 0 or abs(t.value) >= share * abs(total)]
    return max(kinds, key=KINDS.index, default="derived")
