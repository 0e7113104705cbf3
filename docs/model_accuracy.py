"""The tables of docs/models-accuracy.md: computed parameters beside published and stored ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from moeplan.domain.graph import ParamCounts
from moeplan.domain.model import ModelSpec, Stored
from moeplan.graph.deviation import Deviation, deviation
from moeplan.graph.inventory import build_tensors, param_counts
from moeplan.readers.model_yaml import read_model_yaml
from moeplan.readers.paths import shipped_configs

Entry = tuple[ModelSpec, ParamCounts, Deviation]

# Beyond these a difference from the published figure is listed, whether rounding explains it or not.
TOTAL_FRAC, ACTIVE_FRAC = 0.01, 0.03
# Beyond this, rounding alone is no reason.
ROUNDING_FRAC = 0.05


@cache
def entries() -> tuple[Entry, ...]:
    """Every shipped model, counted, by id."""
    found = []
    for path in sorted((shipped_configs() / "models").glob("*.yaml")):
        spec = read_model_yaml(path)
        counts = param_counts(spec, build_tensors(spec))
        found.append((spec, counts, deviation(spec, counts)))
    return tuple(found)


def summary() -> str:
    """How many models are met how well."""
    total = len(entries())
    stored = [found.stored_unexplained for _, _, found in entries() if found.stored_unexplained is not None]
    weak = sum(bool(spec.weak) for spec, _, _ in entries())
    return _table(
        ("models", "of the catalog"),
        [
            (str(total), "in all"),
            (str(stored.count(0)), "meet the safetensors count of their repository to the last parameter"),
            (str(len(stored) - stored.count(0)), "meet it to within 0.02%, the difference is not itemised"),
            (str(weak), "have no such count and are marked as less certain"),
        ],
    )


def differences() -> str:
    """What differs from the published figures beyond the limits, and what repositories hold unexplained."""
    rows: list[tuple[str, ...]] = []
    for spec, _, found in entries():
        for what, frac, is_rounding, limit in (
            ("total", found.total_frac, found.total_is_rounding, TOTAL_FRAC),
            ("active", found.active_frac, found.active_is_rounding, ACTIVE_FRAC),
        ):
            if frac is not None and abs(frac) > limit:
                is_rounding = is_rounding and abs(frac) < ROUNDING_FRAC
                reason = "rounding" if is_rounding else spec.published.note
                rows.append((spec.id, what, f"{frac:+.1%}", reason))
        if found.stored_unexplained:
            rows.append((spec.id, "stored", f"{-found.stored_unexplained:+,}", _stored_note(spec)))
    return _table(("model", "what", "computed against published or stored", "reason"), rows)


def counts() -> str:
    """Every model of the catalog."""
    rows = [tuple(_row(*entry)) for entry in entries()]
    head = (
        "model",
        "total",
        "published",
        "stored beside it",
        "active",
        "published",
        "nearest convention",
        "",
    )
    return _table(head, rows)


def _row(spec: ModelSpec, counted: ParamCounts, found: Deviation) -> Iterator[str]:
    yield spec.id
    yield f"{counted.total:,}"
    yield _published(spec.published.params_total, found.total_frac)
    yield "-" if spec.stored is None else _beside(spec.stored, found)
    yield f"{counted.active:,}" if spec.is_moe else ""
    yield _published(spec.published.params_active, found.active_frac)
    yield found.convention or ""
    yield "less certain" if spec.weak else ""


def _published(value: float | None, frac: float | None) -> str:
    return "" if value is None or frac is None else f"{value / 1e9:,.6g}e9 ({frac:+.1%})"


def _beside(stored: Stored, found: Deviation) -> str:
    """What the repository holds beside the text model; ``nothing``: the counts are equal."""
    named = [*stored.parts, *([stored.extra_note] if stored.extra_params > 0 else [])]
    if stored.extra_params < 0:
        named.append(f"not: {stored.extra_note}")
    if found.stored_unexplained:
        named.append(f"{found.stored_unexplained:,} not itemised")
    where = f" ({stored.repository})" if stored.repository else ""
    return (", ".join(named) or "nothing") + where


def _stored_note(spec: ModelSpec) -> str:
    return next(note for note in spec.notes if "safetensors count" in note)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES = {
    "models-summary": summary,
    "models-differences": differences,
    "models-counts": counts,
}
