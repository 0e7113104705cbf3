"""Calibration files: coefficients of the cost law and residuals, each with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from moeplan.domain.calibration import Calibration, Coefficient, Residuals
from moeplan.errors import SpecError
from moeplan.provenance import KINDS, Source
from moeplan.readers.paths import shipped_configs
from moeplan.readers.yaml_convert import convert
from moeplan.readers.yaml_doc import load_document

SHIPPED = "published-speeds"


class SourceWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Provenance as written in YAML."""

    kind: str
    ref: str
    retrieved: str = ""
    note: str = ""


class CoefficientWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A coefficient as written in YAML; ``source`` may be a key of the file's ``sources``."""

    value: float
    unit: str
    source: SourceWire | str
    n_setups: int = 0
    n_sources: int = 0
    dates: str = ""


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
    sources: dict[str, SourceWire] = {}
    coefficients: dict[str, CoefficientWire]
    residual_levels: list[float]
    residual_source: SourceWire
    residuals: dict[str, ResidualsWire]


def read_calibration(path: Path | None = None) -> Calibration:
    """The calibration at ``path``, or the one that ships. Raises SpecError with the place of a mistake."""
    path = path or shipped_configs() / "calibration" / f"{SHIPPED}.yaml"
    wire: CalibrationWire = convert(load_document(path), CalibrationWire)
    return _calibration(wire, path)


def _calibration(wire: CalibrationWire, path: Path) -> Calibration:
    levels = tuple(wire.residual_levels)
    if list(levels) != sorted(levels) or not all(0 < level < 1 for level in levels):
        raise SpecError("residual_levels must rise within 0..1", path=str(path))
    for name, coefficient in wire.coefficients.items():
        if not coefficient.value > 0:
            raise SpecError(f"{name}: must be above zero, got {coefficient.value}", path=str(path))
    for regime, residuals in wire.residuals.items():
        if len(residuals.log_ratios) != len(levels):
            raise SpecError(
                f"{regime}: {len(residuals.log_ratios)} log_ratios for {len(levels)} residual_levels",
                path=str(path),
            )
    named = {key: _source(source, path) for key, source in wire.sources.items()}
    source = _source(wire.residual_source, path)
    return Calibration(
        id=wire.id,
        date=wire.date,
        coefficients={
            name: Coefficient(
                value=c.value,
                unit=c.unit,
                source=_named(c.source, named, path),
                n_setups=c.n_setups,
                n_sources=c.n_sources,
                dates=c.dates,
            )
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


def _named(wire: SourceWire | str, named: dict[str, Source], path: Path) -> Source:
    if isinstance(wire, SourceWire):
        return _source(wire, path)
    if wire not in named:
        raise SpecError(f"source {wire!r} is not among the file's sources", path=str(path))
    return named[wire]


def _source(wire: SourceWire, path: Path) -> Source:
    kind: Any = wire.kind
    if kind not in KINDS:
        raise SpecError(f"source kind {kind!r}", path=str(path), hint=f"one of {', '.join(KINDS)}")
    return Source(kind, wire.ref, wire.retrieved, wire.note)


def dump_calibration(calibration: Calibration, notes: str = "") -> str:
    """The YAML of ``calibration``; reads back equal."""
    levels = next(iter(calibration.residuals.values())).levels
    keys: dict[Source, str] = {}
    for _, coefficient in sorted(calibration.coefficients.items()):
        keys.setdefault(coefficient.source, f"s{len(keys) + 1}")
    lines = [f"id: {calibration.id}", f"date: {calibration.date}", f"notes: {_quoted(notes)}", "sources:"]
    lines += [f"  {key}: {_flow(source)}" for source, key in keys.items()]
    lines.append("coefficients:")
    for name, c in sorted(calibration.coefficients.items()):
        dates = f", dates: {_quoted(c.dates)}" if c.dates else ""
        counts = f", n_setups: {c.n_setups}, n_sources: {c.n_sources}{dates}" if c.n_setups else ""
        lines.append(
            f"  {name}: {{value: {c.value!r}, unit: {_quoted(c.unit)}{counts}, source: {keys[c.source]}}}"
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
