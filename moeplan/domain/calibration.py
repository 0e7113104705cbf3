"""Coefficients of the cost law with their origin: shipped in configs/calibration or measured here."""

from __future__ import annotations

from collections.abc import Mapping

from moeplan.domain.value import Value
from moeplan.provenance import Source, SourceKind

Badge = SourceKind


class Coefficient(Value):
    """One number of the law, where it came from and on how many setups it stands."""

    value: float
    unit: str
    source: Source
    n_setups: int = 0
    n_sources: int = 0
    dates: str = ""
    """Of the measurements it stands on, first..last; empty where none states one."""


class Residuals(Value):
    """Spread of measured over predicted time in one regime: quantiles of log(measured/predicted)."""

    n_setups: int
    n_sources: int
    levels: tuple[float, ...]
    log_ratios: tuple[float, ...]
    source: Source


class Calibration(Value):
    """A dated set of coefficients, and the residuals by regime (phase/placement/arch_class)."""

    id: str
    date: str
    coefficients: Mapping[str, Coefficient]
    residuals: Mapping[str, Residuals]
    sources: tuple[Source, ...]
