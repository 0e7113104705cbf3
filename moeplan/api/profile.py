"""`moeplan profile` as a function: choose the measurements, run them, derive coefficients, write the file."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moeplan.api.profile_request import BUDGET_S, Mode, ProfileRequest
from moeplan.domain.profile import HostCalibration, Sample
from moeplan.errors import MeasurementError, MoeplanError, SpecError

if TYPE_CHECKING:
    from moeplan.api.profile_engine import Rounds
    from moeplan.domain.profile import HostFacts
    from moeplan.measure.canary import Watch
    from moeplan.measure.device import Device
    from moeplan.measure.run import Job, Progress
    from moeplan.readers.catalog import Catalog

# Written and read back, at most, on the disk where the user's files are.
_STORAGE_BYTES: dict[Mode, int] = {"quick": 128 << 20, "default": 512 << 20, "full": 2 << 30}
_STORAGE_WEIGHT = 0.8
# Of the time, where an engine is run on small random files.
_ENGINE_SHARE = 0.7
# That a part gets however late it is.
_LEAST_S = 0.5
# After the last measurement: fitting, writing, printing and leaving the interpreter.
_LEAVING_S = 0.3


def run_profile(
    request: ProfileRequest,
    catalog: Catalog,
    progress: Progress = lambda what, share: None,
    earlier: HostCalibration | None = None,
) -> HostCalibration:
    """Measure this machine. Ctrl-C ends early with what there is; raises a MoeplanError when nothing is.

    ``earlier``: a calibration of the same machine, beside which this one should not look slow.
    """
    from datetime import UTC, datetime

    from moeplan._version import __version__
    from moeplan.calibrate.host import Kernels, derive
    from moeplan.hw.facts import local_facts
    from moeplan.readers.cpu_kernels import read_cpu_kernels

    # starting, importing torch and looking at the machine are part of the time that was promised
    started = time.perf_counter()
    facts = local_facts()
    with tempfile.TemporaryDirectory(prefix="moeplan-profile-") as folder, ExitStack() as stack:
        # what the engine needs is made ready while torch is imported
        engine = _engine(request, catalog, Path(folder), stack)
        device = _device(request)
        parts = list(_parts(request, catalog, device, engine))
        engine.get_ready()
        watch = _watch(device)
        whole_s = time_left_s(request, time.perf_counter() - started)
        samples, notes = _measured(parts, whole_s, progress, watch)
    if not samples:
        raise MeasurementError("nothing could be measured: " + "; ".join(notes))
    notes += _remarks(samples, watch, facts, earlier)
    if not request.gpu and request.endpoint is None:
        notes.append("experts or layers in RAM beside an accelerator are measured with --gpu only")
    kernels = [Kernels(**row) for row in read_cpu_kernels(facts.isa)]  # type: ignore[arg-type] # checked by the reader
    return HostCalibration(
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=__version__,
        mode=request.mode,
        host=facts,
        samples=(*samples, *(watch.samples() if watch else ())),
        coefficients=derive(samples, kernels),
        notes=tuple(notes),
    )


def time_left_s(request: ProfileRequest, spent_s: float) -> float:
    """Seconds for measurements when ``spent_s`` have gone into getting ready: all of it was promised."""
    return max(_LEAST_S, BUDGET_S[request.mode] - request.age_s - spent_s - _LEAVING_S)


def _measured(
    parts: list[_Part], whole_s: float, progress: Progress, watch: Watch | None
) -> tuple[tuple[Sample, ...], list[str]]:
    """What all parts measured within ``whole_s``, and what was left out; slow moments are marked."""
    from moeplan.calibrate.steadiness import marked
    from moeplan.hw.pressure import throttle_events
    from moeplan.measure.run import run_jobs

    samples: list[Sample] = []
    spans: list[tuple[float, float]] = []
    notes: list[str] = []
    throttled = throttle_events()
    spent_s = 0.0
    for i, (part, shown) in enumerate(zip(parts, _shown(parts, progress), strict=True)):
        at = time.perf_counter()
        budget_s = _budget_s(parts[i:], whole_s, spent_s)
        outcome = run_jobs(part.jobs, budget_s, shown, patience=part.patience, watch=watch)
        if part.promised:
            spent_s += time.perf_counter() - at
        samples += outcome.samples
        spans += outcome.spans
        notes += outcome.notes
        if outcome.interrupted:
            break
    else:
        progress("done", 1.0)
    throttled = throttle_events() - throttled
    if throttled > 0:
        notes.append(f"the CPU lowered its clock for heat {throttled} times meanwhile")
    if watch is None:
        return tuple(samples), notes
    watch.look()
    return marked(samples, spans, watch.looks), notes


def _budget_s(left: list[_Part], whole_s: float, spent_s: float) -> float:
    """Of the first of the parts that are ``left``: what took longer than its share leaves less for others."""
    if not left[0].promised:
        return whole_s
    shares = sum(part.share for part in left if part.promised) or 1.0
    return max(_LEAST_S, (whole_s - spent_s) * left[0].share / shares)


def _device(request: ProfileRequest) -> Device | None:
    """What is measured; a server elsewhere is none."""
    from moeplan.measure.device import cpu_device, gpu_device

    if request.endpoint is not None:
        return None
    return gpu_device(request.memory_share) if request.gpu else cpu_device(request.memory_share)


def _watch(device: Device | None) -> Watch | None:
    """What tells slow moments of ``device`` from good ones."""
    if device is None:
        return None
    from moeplan.measure.canary import Watch, torch_canary
    from moeplan.measure.micro import thread_counts, usable_threads

    return Watch(torch_canary(device, thread_counts(usable_threads()) if device.is_cpu else (0,)))


def _remarks(
    samples: tuple[Sample, ...], watch: Watch | None, facts: HostFacts, earlier: HostCalibration | None
) -> list[str]:
    """Whether the machine was itself: by its clocks, the canary, the samples and the calibration before."""
    from moeplan.calibrate.steadiness import slow_spells, slower_than
    from moeplan.hw.facts import throttle_notes
    from moeplan.measure.timing import BUSY_CORES, MIN_REPEATS

    notes = throttle_notes()
    notes.append(slow_spells(watch.looks, virtual=facts.virtual) if watch else "")
    notes.append(slower_than(earlier, samples) if earlier else "")
    # a few repeats of something steady are no reason to run it again
    unsteady = [s for s in samples if not s.stable and (s.n >= MIN_REPEATS or s.load > BUSY_CORES)]
    if unsteady:
        worst = max(unsteady, key=lambda s: s.load)
        notes.append(f"{len(unsteady)} of {len(samples)} samples are not steady: {worst.remedy}")
    return [note for note in notes if note]


Planned = Iterator[tuple[str, float, "Job"]]


class _Part(NamedTuple):
    """Jobs that share one part of the budget; after ``patience`` times that none starts."""

    jobs: list[tuple[str, float, Job]]
    patience: float
    share: float = 1.0
    promised: bool = True
    """Whether it runs within the time that was promised; a file that was named takes what it takes."""


def _engine(request: ProfileRequest, catalog: Catalog, folder: Path, stack: ExitStack) -> Rounds:
    """The runs of an engine that the request asks for; none for a server."""
    from moeplan.api.profile_engine import Rounds, engine_rounds

    if request.endpoint is not None:
        return Rounds([], [])
    return engine_rounds(request, catalog, folder, stack)


def _parts(
    request: ProfileRequest, catalog: Catalog, device: Device | None, engine: Rounds
) -> Iterator[_Part]:
    """What the request asks for, in parts that share the time: the machine, and an engine in between."""
    if device is None:
        yield _Part(list(_endpoint_jobs(request)), 1.5)
        return
    promised = request.model is None
    share = _ENGINE_SHARE if engine.first and promised else 0.0
    # everything that can be wrong with the request is found before anything is measured
    first = list(_micro_jobs(request, device))
    rest = list(_device_jobs(request, catalog, device))
    mine = _weight(first) / (_weight(first) + _weight(rest))
    # what else is measured lies between the two rounds of the engine: a slow moment seldom lasts that long
    yield _Part(first, 1.3, (1.0 - share) * mine)
    if engine.first:
        both = _weight(engine.first) + _weight(engine.second)
        yield _Part(engine.first, 3.0, (share or 1.0) * _weight(engine.first) / both, promised)
    yield _Part(rest, 1.5, (1.0 - share) * (1.0 - mine))
    if engine.second:
        yield _Part(engine.second, 3.0, share * _weight(engine.second) / both)


def _shown(parts: list[_Part], progress: Progress) -> Iterator[Progress]:
    """For each part a progress that shows its share of the whole."""
    whole, before = sum(part.share for part in parts) or 1.0, 0.0
    for part in parts:

        def shown(what: str, share: float, before: float = before, mine: float = part.share) -> None:
            progress(what, (before + share * mine) / whole)

        yield shown
        before += part.share


def _weight(jobs: list[tuple[str, float, Job]]) -> float:
    return sum(weight for _, weight, _ in jobs)


def _micro_jobs(request: ProfileRequest, device: Device) -> Planned:
    """What everything else is compared with."""
    from moeplan.measure import micro, numa

    yield from micro.jobs(device, micro.usable_threads(), quick=request.mode == "quick")
    yield from numa.jobs(device)


def _device_jobs(request: ProfileRequest, catalog: Catalog, device: Device) -> Planned:
    from moeplan.measure import micro, placements, reference
    from moeplan.measure.storage import storage_rates

    threads, quick = micro.usable_threads(), request.mode == "quick"
    count = threads if device.is_cpu else 0
    if request.model is not None and not (request.engine or request.binary):
        from moeplan.api.resolve import Session

        yield from reference.model_jobs(Session(catalog).source(request.model).spec, device, count)
    else:
        yield from reference.jobs(device, count, quick=quick, full=request.mode == "full")
        yield from placements.jobs(device, count, quick=quick)
    storage = Path(request.storage or tempfile.gettempdir())
    if not storage.is_dir():
        raise SpecError("--storage: not a directory", path=str(storage))
    n_bytes = _STORAGE_BYTES[request.mode]
    yield "storage", _STORAGE_WEIGHT, lambda budget_s: storage_rates(storage, n_bytes, budget_s)
    yield from micro.more_jobs(device, threads, quick=quick)
    if request.training or request.mode == "full":
        from moeplan.measure import training

        yield from training.jobs(device, count)


def _endpoint_jobs(request: ProfileRequest) -> Planned:
    from moeplan.measure.endpoint import Endpoint

    endpoint = Endpoint(str(request.endpoint), timeout_s=request.timeout_s)
    for n in request.concurrency:

        def job(budget_s: float, n: int = n) -> list[Sample]:
            return endpoint.measure(n, request.prompt_tokens, request.output_tokens)

        yield f"{endpoint.host}, {n} at once", 1.0, job


def earlier_calibration(output: str | None) -> HostCalibration | None:
    """Of this machine: the file that will be replaced, else the one that other commands use."""
    from moeplan.hw.facts import local_facts
    from moeplan.readers.calibration_host import default_path, read_host_calibration, require_same_host

    for path in (Path(output) if output is not None else default_path(), default_path()):
        try:
            found = read_host_calibration(path)
            require_same_host(found, local_facts(), str(path))
        except MoeplanError:
            continue
        return found
    return None


def save(result: HostCalibration, output: str | None) -> Path:
    """Write the calibration to ``output`` or to where other commands look for it; the path.

    What lay there stays beside it, so that `profile diff` has something to compare with.
    """
    from moeplan.readers.calibration_host import before_path, default_path, write_host_calibration

    path = Path(output) if output is not None else default_path()
    if output is None and path.is_file():
        with suppress(OSError):  # writing the new one will say why
            shutil.copyfile(path, before_path())
    write_host_calibration(result, path)
    return path


_SHARED = ("id", "cpu_isa", "cores", "threads", "phase", "engine", "quant", "moe", "layers", "dense_bytes",
           "expert_bytes", "experts", "active", "prompt_tokens", "output_tokens", "tokens_per_s",
           "read_bytes_per_s", "load")  # fmt: skip


def shared_rows(result: HostCalibration) -> str:
    """Corpus rows (CSV) of the engine runs: shapes and speeds, no names of machine, user, model or file."""
    import csv
    import io

    reads = {s.setup.get("threads"): s.median for s in result.samples if s.name == "read bandwidth"}
    text = io.StringIO()
    writer = csv.DictWriter(text, _SHARED, lineterminator="\n")
    writer.writeheader()
    runs = [s for s in result.samples if s.name in ("engine decode", "engine prefill")]
    for i, sample in enumerate(runs):
        setup = sample.setup
        row = {key: setup.get(key, "") for key in _SHARED}
        row |= {
            "id": f"P{i + 1:04d}", "cpu_isa": "+".join(result.host.isa), "cores": result.host.cores,
            "phase": sample.name.removeprefix("engine "), "moe": int(bool(setup.get("experts"))),
            "tokens_per_s": f"{sample.median:.6g}",
            "read_bytes_per_s": f"{reads.get(setup['threads'], 0.0):.4g}",
            "load": sample.load,
        }  # fmt: skip
        writer.writerow(row)
    return text.getvalue()
