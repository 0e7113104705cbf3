"""Rebuild the coefficients of the cost law from corpus files: same input, same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from moeplan.api.held_out import RANGE_WAYS, RUNS_SOURCE, WAYS, left_out, stretches
from moeplan.api.resolve import Session
from moeplan.api.validate import Skipped, Traced, asked_regime, trace_rows, trace_runs
from moeplan.calibrate.priors import ALWAYS, prior
from moeplan.calibrate.system import Sample, names_of
from moeplan.domain.calibration import Calibration, Coefficient, Residuals
from moeplan.errors import SpecError
from moeplan.provenance import Source
from moeplan.readers.calibration import dump_calibration
from moeplan.readers.corpus import SpeedRow, is_serving, read_serving, read_speed
from moeplan.readers.engine_runs import read_engine_runs
from moeplan.validate.rows import regime_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from moeplan.calibrate.spread import SetupErrors

# Grade C rows are flagged by their collector (paging, speculative decoding suspected): never fitted.
GRADES = ("A", "B")
MAX_SERVING_CONCURRENCY = 16
# The processor of engine runs (a folder with models.json and speed.csv), as the catalog calls it.
RUNS_CPU = "xeon-cascade-lake-gcp"
OFFLOAD = ("experts", "layers", "mixed", "stream")


class Fit(NamedTuple):
    """A calibration and how well its law predicts rows that the fit did not see."""

    calibration: Calibration
    samples: list[Sample]
    traced: list[Traced]
    in_sample: list[float]
    errors: dict[str, list[float]]
    """log(measured / predicted) of every row by way of leaving out (``held_out.WAYS``)."""
    stretches: dict[str, list[float]]
    """How much wider a row's range is than its regime's, for each way that ranges come from."""
    skipped: list[Skipped]
    series: list[Traced]
    """Rows flagged by their collector that vary the micro-batch under offload: seen by no fit."""

    def normalised(self) -> list[list[float]]:
        """Errors over stretches, of the ways that ranges come from."""
        return [
            [error / stretch for error, stretch in zip(self.errors[way], wider, strict=True)]
            for way, wider in self.stretches.items()
        ]


class Corpus(NamedTuple):
    """What the files of a corpus say that can be predicted."""

    traced: list[Traced]
    skipped: list[Skipped]
    series: list[Traced]


def read_corpus(paths: Sequence[Path], session: Session) -> Corpus:
    """Rows of speed and serving files, and of folders that hold them or engine runs; others are refused."""
    rows: list[SpeedRow] = []
    runs: list[Traced] = []
    for path in (found for given in paths for found in _files(given)):
        if path.is_dir():
            runs += trace_runs(read_engine_runs(path, cpu=RUNS_CPU, source=RUNS_SOURCE), session)
        else:
            rows += read_serving(path) if is_serving(path) else read_speed(path)
    usable = [r for r in rows if r.grade in GRADES and not r.speculative and not _loaded(r)]
    traced, skipped = trace_rows(usable, session)
    series, _ = trace_rows([r for r in rows if r.grade not in GRADES and _varies_ubatch(r)], session)
    return Corpus(traced + runs, skipped, series)


def _varies_ubatch(row: SpeedRow) -> bool:
    return row.phase == "prefill" and row.ubatch is not None and row.placement in OFFLOAD


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
    from moeplan.calibrate.spread import setup_errors
    from moeplan.calibrate.system import System

    session.use(start_calibration(date))
    traced, skipped, series = read_corpus(paths, session)
    samples = [_sample(t) for t in traced]
    if not samples:
        raise SpecError("no row of the corpus can be predicted, so there is nothing to fit")
    in_sample = [0.0] * len(samples)
    errors = {way: [0.0] * len(samples) for way in (WAYS if held_out else RANGE_WAYS)}
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
        outside = left_out(part, system, names, fitted) if held_out else dict.fromkeys(RANGE_WAYS, inside)
        for n, i in enumerate(mine):
            in_sample[i] = inside[n]
            for way, values in outside.items():
                errors[way][i] = values[n]
    calibration = Calibration(
        id=id,
        date=date,
        coefficients=dict(sorted({**start_calibration(date).coefficients, **coefficients}.items())),
        residuals={},
        sources=(_spread_source(date, held_out=held_out),),
    )
    wider = {way: stretches(samples, traced, calibration, WAYS[way]) for way in RANGE_WAYS}
    fit = Fit(calibration, samples, traced, in_sample, errors, wider, skipped, series)
    residuals = residuals_of(setup_errors(samples, fit.normalised()), date, held_out=held_out)
    return fit._replace(calibration=replace(calibration, residuals=residuals))


def residuals_of(setups: Sequence[SetupErrors], date: str, *, held_out: bool = True) -> dict[str, Residuals]:
    """The spread of every regime that ``setups`` speak of, and a wide one for a phase without any."""
    from moeplan.calibrate.spread import RESIDUAL_LEVELS, UNMEASURED, Spread, spreads, widened

    source = _spread_source(date, held_out=held_out)
    found = {f"{phase}/*/*": Spread(0, 0, UNMEASURED) for phase in ("decode", "prefill")}
    return {
        regime: Residuals(
            n_setups=s.n_setups,
            n_sources=s.n_sources,
            levels=RESIDUAL_LEVELS,
            log_ratios=s.log_ratios,
            source=source,
        )
        for regime, s in (found | widened(spreads(setups))).items()
    }


def _spread_source(date: str, *, held_out: bool) -> Source:
    ways = "sources left out, then of devices left out" if held_out else "the fitted rows"
    note = "over what widens a range; each regime's scale pulled to its class's, one shape a phase"
    return Source("fitted", f"log(measured / predicted) of {ways}; one value per setup", date, note)


def _sample(traced: Traced) -> Sample:
    row, hardware = traced.row, traced.problem.hardware
    own = row.source_family == RUNS_SOURCE
    regime = f"{'runs-' if own else ''}{regime_of(row)}"
    spread = ""
    if row.phase != "request" or traced.problem.engine.family != "server":
        # In a request to an eager engine the answer is nearly all of the time; elsewhere the prompt counts.
        spread = asked_regime(traced)
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
        model=row.model,
        quant=row.quant,
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
