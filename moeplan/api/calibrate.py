"""Rebuild the coefficients of the cost law from corpus files: same input, same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moeplan.api.resolve import Session
from moeplan.api.validate import Skipped, Traced, trace_rows, trace_runs
from moeplan.calibrate.priors import ALWAYS, prior
from moeplan.calibrate.system import Sample, names_of
from moeplan.domain.calibration import Calibration, Coefficient, Residuals
from moeplan.errors import SpecError
from moeplan.predict.estimate import residual_regime
from moeplan.provenance import Source
from moeplan.readers.calibration import dump_calibration
from moeplan.readers.corpus import SpeedRow, is_serving, read_serving, read_speed
from moeplan.readers.engine_runs import read_engine_runs
from moeplan.validate.rows import regime_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Grade C rows are flagged by their collector (paging, speculative decoding suspected): never fitted.
GRADES = ("A", "B")
MAX_SERVING_CONCURRENCY = 16
# The processor of engine runs (a folder with models.json and speed.csv), as the catalog calls it.
RUNS_CPU = "xeon-cascade-lake-gcp"
RUNS_SOURCE = "engine runs"


class Fit(NamedTuple):
    """A calibration and how well its law predicts rows of which the fit saw no source or no device."""

    calibration: Calibration
    samples: list[Sample]
    traced: list[Traced]
    in_sample: list[float]
    by_source: list[float]
    by_device: list[float]
    skipped: list[Skipped]


def read_traced(paths: Sequence[Path], session: Session) -> tuple[list[Traced], list[Skipped]]:
    """Rows of speed and serving files, and of folders that hold them or engine runs; others are refused."""
    rows: list[SpeedRow] = []
    runs: list[Traced] = []
    for path in (found for given in paths for found in _files(given)):
        if path.is_dir():
            runs += trace_runs(read_engine_runs(path, cpu=RUNS_CPU, source=RUNS_SOURCE), session)
        else:
            rows += read_serving(path) if is_serving(path) else read_speed(path)
    usable = [r for r in rows if r.grade in GRADES and not _loaded(r)]
    traced, skipped = trace_rows(usable, session)
    return traced + runs, skipped


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if (path / "models.json").is_file():
        return [path]
    files = [p for pattern in ("speed*.csv", "serving*.csv") for p in sorted(path.glob(pattern))]
    files += [p.parent for p in sorted(path.glob("*/models.json"))]
    if not files:
        raise SpecError("no speed*.csv, serving*.csv or engine runs here", path=str(path))
    return files


def _loaded(row: SpeedRow) -> bool:
    """Servers under load queue and schedule, which is not the time of a step."""
    return row.metric != "tokens_per_s" and row.batch > MAX_SERVING_CONCURRENCY


def fit_calibration(
    paths: Sequence[Path], session: Session, *, id: str, date: str, held_out: bool = True
) -> Fit:
    """Coefficients from the rows of ``paths``, and intervals from rows left out. Deterministic."""
    from moeplan.calibrate import fit as solver
    from moeplan.calibrate.spread import RESIDUAL_LEVELS, spreads
    from moeplan.calibrate.system import System

    session.use(start_calibration(date))
    traced, skipped = read_traced(paths, session)
    samples = [_sample(t) for t in traced]
    if not samples:
        raise SpecError("no row of the corpus can be predicted, so there is nothing to fit")
    in_sample, by_source, by_device = ([0.0] * len(samples) for _ in range(3))
    coefficients: dict[str, Coefficient] = {}
    for family in sorted({t.problem.engine.family for t in traced}):  # they share no coefficient
        mine = [i for i, t in enumerate(traced) if t.problem.engine.family == family]
        part = [samples[i] for i in mine]
        marks = names_of(part)
        names = list(marks)
        system = System(part, names)
        fitted = solver.fit(part, system, names)
        coefficients |= _coefficients(names, fitted, marks, date)
        inside = [float(v) for v in system.measured - system.log_times(fitted)]
        outside = inside, inside
        if held_out:
            outside = (
                solver.held_out(part, system, names, fitted, lambda s: s.source),
                solver.held_out(part, system, names, fitted, lambda s: s.device),
            )
        for i, errors in zip(mine, zip(inside, *outside, strict=True), strict=True):
            in_sample[i], by_source[i], by_device[i] = errors
    ways = "sources left out, then of devices left out" if held_out else "the fitted rows"
    spread = Source("fitted", f"log(measured / predicted) of {ways}; one value per setup", date)
    calibration = Calibration(
        id=id,
        date=date,
        coefficients=dict(sorted({**start_calibration(date).coefficients, **coefficients}.items())),
        residuals=_unmeasured(RESIDUAL_LEVELS, spread)
        | {
            regime: Residuals(n_setups=n, n_sources=m, levels=RESIDUAL_LEVELS, log_ratios=q, source=spread)
            for regime, (n, m, q) in spreads(samples, (by_source, by_device)).items()
        },
        sources=(spread,),
    )
    return Fit(calibration, samples, traced, in_sample, by_source, by_device, skipped)


def _unmeasured(levels: tuple[float, ...], source: Source) -> dict[str, Residuals]:
    """What stands for a phase without any row: 80% within a factor of three, counted as no setup."""
    ratios = tuple(math.log(3.0) * (2.0 * level - 1.0) / 0.8 for level in levels)
    wide = Residuals(n_setups=0, n_sources=0, levels=levels, log_ratios=ratios, source=source)
    return {f"{phase}/*/*": wide for phase in ("decode", "prefill")}


def _sample(traced: Traced) -> Sample:
    row, hardware = traced.row, traced.problem.hardware
    own = row.source_family == RUNS_SOURCE
    regime = f"{'runs-' if own else ''}{regime_of(row)}"
    spread = ""
    if row.phase != "request" or traced.problem.engine.family != "server":
        # In a request to an eager engine the answer is nearly all of the time; elsewhere the prompt counts.
        phase = "decode" if row.phase == "request" else row.phase
        spread = residual_regime(phase, traced.problem, traced.placement)
    device = row.gpu or f"cpu:{hardware.host.cpu.id}"
    return Sample(
        id=row.id,
        setup=row.setup,
        source=row.source_family,
        device=device,
        regime=regime,
        spread="" if own else spread,
        date=row.date,
        measured_s=traced.measured_s,
        ops=traced.ops,
        sweep=row.metric != "tokens_per_s",
    )


def _coefficients(
    names: Sequence[str],
    fitted: NDArray[np.float64],
    marks: dict[str, set[tuple[str, str, str]]],
    date: str,
) -> dict[str, Coefficient]:
    coefficients = {}
    for name, value in zip(names, fitted, strict=True):
        known = prior(name)
        dates = sorted({d for _, _, d in marks[name] if d})
        note = f"start {known.value:g} ({known.why}), log spread {known.spread:g}"
        coefficients[name] = Coefficient(
            value=float(f"{math.exp(float(value)):.4g}"),
            unit=known.unit,
            source=Source("fitted", "published speeds (docs/corpus.md), grade A and B", date, note),
            n_setups=len({setup for setup, _, _ in marks[name]}),
            n_sources=len({source for _, source, _ in marks[name]}),
            dates=f"{dates[0]}..{dates[-1]}" if dates else "",
        )
    return coefficients


def start_calibration(date: str) -> Calibration:
    """The coefficients that every calibration has, at their starts: what no row speaks of keeps them."""
    coefficients = {}
    for name in ALWAYS:
        known = prior(name)
        source = Source("assumed", known.why, date, "no row speaks of it")
        coefficients[name] = Coefficient(value=known.value, unit=known.unit, source=source)
    return Calibration(id="start", date=date, coefficients=coefficients, residuals={}, sources=())


NOTES = "few terms with physical meaning; factors of architectures, engines and types held near one"


def save_fit(fit: Fit, path: Path) -> None:
    """Write the calibration as YAML. Raises SpecError."""
    try:
        path.write_text(dump_calibration(fit.calibration, NOTES), encoding="utf-8")
    except OSError as error:
        raise SpecError(f"--output: cannot be written: {error.strerror}", path=str(path)) from None
