"""Calibration files: coefficients of the cost law and residuals, each with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from moeplan.domain.calibration import Calibration, Coefficient, Residuals
from moeplan.errors import SpecError
from moeplan.provenance import Source
from moeplan.readers.paths import shipped_configs
from moeplan.readers.yaml_doc import convert, load_document

SHIPPED = "simple-law"


class SourceWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Provenance as written in YAML."""

    kind: str
    ref: str
    retrieved: str = ""
    note: str = ""


class CoefficientWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A coefficient as written in YAML."""

    value: float
    unit: str
    source: SourceWire
    n_setups: int = 0


class ResidualsWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Quantiles of log(measured/predicted time) as written in YAML, on the file's common levels."""

    n_setups: int
    n_sources: int
    log_ratios: list[float]


class CalibrationWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A calibration file as written in YAML."""

    id: str
    date: str
    notes: str = ""
    coefficients: dict[str, CoefficientWire]
    residual_levels: list[float]
    residual_source: SourceWire
    residuals: dict[str, ResidualsWire]


def read_calibration(path: Path | None = None) -> Calibration:
    """The calibration at ``path``, or the one that ships. Raises SpecError with the place of a mistake."""
    document = load_document(path or shipped_configs() / "calibration" / f"{SHIPPED}.yaml")
    wire: CalibrationWire = convert(document, CalibrationWire)
    levels = tuple(wire.residual_levels)
    if list(levels) != sorted(levels) or not all(0 < level < 1 for level in levels):
        raise SpecError("residual_levels must rise within 0..1", path=str(path))
    source = _source(wire.residual_source)
    return Calibration(
        id=wire.id,
        date=wire.date,
        coefficients={
            name: Coefficient(value=c.value, unit=c.unit, source=_source(c.source), n_setups=c.n_setups)
            for name, c in wire.coefficients.items()
        },
        residuals={
            regime: Residuals(
                n_setups=r.n_setups,
                n_sources=r.n_sources,
                levels=levels,
                log_ratios=tuple(r.log_ratios),
                source=source,
            )
            for regime, r in wire.residuals.items()
        },
        sources=(source,),
    )


def _source(wire: SourceWire) -> Source:
    kind: Any = wire.kind
    return Source(kind, wire.ref, wire.retrieved, wire.note)


def dump_calibration(calibration: Calibration, notes: str = "") -> str:
    """The YAML of ``calibration``; reads back equal."""
    levels = next(iter(calibration.residuals.values())).levels
    lines = [
        f"id: {calibration.id}",
        f"date: {calibration.date}",
        f"notes: {_quoted(notes)}",
        "coefficients:",
    ]
    for name, c in sorted(calibration.coefficients.items()):
        n_setups = f", n_setups: {c.n_setups}" if c.n_setups else ""
        lines.append(f"  {name}:")
        lines.append(
            f"    {{value: {c.value!r}, unit: {_quoted(c.unit)}{n_setups}, source: {_flow(c.source)}}}"
        )
    lines.append(f"residual_levels: [{', '.join(map(str, levels))}]")
    lines.append(f"residual_source: {_flow(calibration.sources[0])}")
    lines.append("residuals:  # quantiles of log(measured time / predicted time)")
    for regime, r in sorted(calibration.residuals.items()):
        ratios = ", ".join(f"{value:.3f}" for value in r.log_ratios)
        lines.append(
            f"  {regime}: {{n_setups: {r.n_setups}, n_sources: {r.n_sources}, log_ratios: [{ratios}]}}"
        )
    return "\n".join(lines) + "\n"


def _flow(source: Source) -> str:
    parts = [f"kind: {source.kind}", f"ref: {_quoted(source.ref)}"]
    parts += [f"retrieved: {_quoted(source.retrieved)}"] if source.retrieved else []
    parts += [f"note: {_quoted(source.note)}"] if source.note else []
    return "{" + ", ".join(parts) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
