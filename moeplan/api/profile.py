"""`moeplan profile` as a function: choose the measurements, run them, derive coefficients, write the file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from moeplan.domain.profile import HostCalibration, HostFacts, Sample
from moeplan.domain.value import Value
from moeplan.errors import MeasurementError, SpecError

if TYPE_CHECKING:
    from moeplan.measure.device import Device
    from moeplan.measure.random_gguf import RandomFile
    from moeplan.measure.run import Job, Progress
    from moeplan.readers.catalog import Catalog

Mode = Literal["quick", "default", "full"]

BUDGET_S: dict[Mode, float] = {"quick": 15.0, "default": 60.0, "full": 300.0}
# Written and read back, at most, on the disk where the user's files are.
_STORAGE_BYTES: dict[Mode, int] = {"quick": 128 << 20, "default": 512 << 20, "full": 2 << 30}
_STORAGE_WEIGHT = 0.8
# Of the time, where an engine is run on small random files.
_ENGINE_SHARE = 0.45
# Files of less weight are not run a second time.
_WORTH_A_SECOND = 0.5
NO_ENGINE = "none"
"""As ``engine``: not even the one that is there."""


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


def run_profile(
    request: ProfileRequest, catalog: Catalog, progress: Progress = lambda what, share: None
) -> HostCalibration:
    """Measure this machine. Ctrl-C ends early with what there is; raises a MoeplanError when nothing is."""
    from datetime import UTC, datetime

    from moeplan._version import __version__
    from moeplan.calibrate.host import Kernels, derive
    from moeplan.measure.run import run_jobs
    from moeplan.readers.cpu_kernels import read_cpu_kernels

    # importing torch and looking at the machine are part of the time that was promised
    started = time.perf_counter()
    facts = local_facts()
    samples: tuple[Sample, ...] = ()
    gaps: tuple[str, ...] = ()
    with tempfile.TemporaryDirectory(prefix="moeplan-profile-") as folder:
        for part in _parts(request, catalog, Path(folder)):
            budget_s = max(1.0, part.share * BUDGET_S[request.mode] - (time.perf_counter() - started))
            outcome = run_jobs(part.jobs, budget_s, progress, patience=part.patience)
            started = time.perf_counter()
            samples, gaps = samples + outcome.samples, gaps + outcome.notes
            if outcome.interrupted:
                break
    if not samples:
        raise MeasurementError("nothing could be measured: " + "; ".join(gaps))
    notes = [*gaps, *_remarks(samples)]
    if not request.gpu and request.endpoint is None:
        notes.append("experts or layers in RAM beside an accelerator are measured with --gpu only")
    kernels = [Kernels(**row) for row in read_cpu_kernels(facts.isa)]  # type: ignore[arg-type]
    return HostCalibration(
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=__version__,
        mode=request.mode,
        host=facts,
        samples=samples,
        coefficients=derive(samples, kernels),
        notes=tuple(notes),
    )


def local_facts() -> HostFacts:
    """This machine, as calibration files know it."""
    from moeplan.hw.detect import detect
    from moeplan.hw.facts import host_facts

    return host_facts(detect())


def _remarks(samples: tuple[Sample, ...]) -> list[str]:
    from moeplan.hw.facts import throttle_notes

    notes = throttle_notes()
    unsteady = [s for s in samples if not s.stable]
    if unsteady:
        worst = max(unsteady, key=lambda s: s.load)
        notes.append(f"{len(unsteady)} of {len(samples)} samples are not steady: {worst.remedy}")
    return notes


Planned = Iterator[tuple[str, float, "Job"]]


class _Part(NamedTuple):
    """Jobs that share one part of the budget; after ``patience`` times that none starts."""

    jobs: list[tuple[str, float, Job]]
    patience: float
    share: float = 1.0


def _parts(request: ProfileRequest, catalog: Catalog, folder: Path) -> Iterator[_Part]:
    """What the request asks for, in parts that get the whole budget each: the machine, then an engine."""
    if request.endpoint is not None:
        yield _Part(list(_endpoint_jobs(request)), 1.5)
        return
    # everything that can be wrong with the request is found before anything is measured
    engine = list(_engine_jobs(request, catalog, folder))
    from moeplan.measure.device import cpu_device, gpu_device

    device = gpu_device(request.memory_share) if request.gpu else cpu_device(request.memory_share)
    # a file that was named takes what it takes; the small random ones run within the time that was promised
    share = _ENGINE_SHARE if engine and request.model is None else 0.0
    yield _Part(list(_device_jobs(request, catalog, device)), 1.3, 1.0 - share)
    if engine:
        yield _Part(engine, 3.0, share or 1.0)


def _device_jobs(request: ProfileRequest, catalog: Catalog, device: Device) -> Planned:
    from moeplan.measure import micro, placements, reference
    from moeplan.measure.storage import storage_rates

    threads, quick = micro.usable_threads(), request.mode == "quick"
    yield from micro.jobs(device, threads, quick=quick)
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


def _engine_jobs(request: ProfileRequest, catalog: Catalog, folder: Path) -> Planned:
    """Runs of the engine asked for; unasked, of llama.cpp where it is there and the CPU is measured."""
    from moeplan.engines.traits import find_engine
    from moeplan.measure.llama_cpp import find_llama_cpp
    from moeplan.measure.micro import thread_counts, usable_threads

    if request.engine == NO_ENGINE or not _wants_engine(request):
        return
    name = find_engine(str(request.engine or "llama.cpp")).id
    if name != "llama.cpp":
        raise SpecError(
            f"--engine {name}: moeplan runs llama.cpp itself; for other engines start their server "
            "and use --endpoint URL"
        )
    try:
        engine = find_llama_cpp(request.binary)
    except MeasurementError:
        if request.engine is not None or request.binary is not None:
            raise
        return
    counts = thread_counts(usable_threads())
    threads = counts if request.mode == "full" else sorted({counts[0], counts[-1]})
    files = list(_gguf_files(request, folder))
    plan = [(file, count, "") for file in files for count in threads]
    # on shared machines all cores together are slow for seconds at a time, with no program to blame:
    # their repeats are spread over two rounds
    spread = request.model is None and len(threads) > 1
    twice = [file for file in files if spread and file.weight >= _WORTH_A_SECOND]
    plan += [(file, counts[-1], " again") for file in twice]
    for file, count, again in plan:
        what = f"llama.cpp on {file.label}, {count} thread{'s' if count > 1 else ''}{again}"
        yield what, file.weight / count, _engine_job(request, catalog, engine, file.write, count)


class _File(NamedTuple):
    """What an engine runs, its weight in time, and how it comes about."""

    label: str
    weight: float
    write: Callable[[], Path]


def _wants_engine(request: ProfileRequest) -> bool:
    """Whether an engine was named, or nothing but the CPU as a whole."""
    return bool(request.engine or request.binary) or not (request.gpu or request.model)


def _gguf_files(request: ProfileRequest, folder: Path) -> Iterator[_File]:
    """The file named, or small random ones, made when they are needed."""
    if request.model is not None:
        path = Path(request.model)
        if not path.is_file():
            raise SpecError("--engine llama.cpp needs a .gguf file as --model", path=request.model)
        yield _File(path.name, 1.0, lambda: path)
        return
    from moeplan.measure.micro import last_cache_bytes
    from moeplan.measure.random_gguf import profile_files, write_random_gguf

    for file in profile_files(every_type=request.mode != "quick", cache_bytes=last_cache_bytes()):

        def write(file: RandomFile = file) -> Path:
            path = folder / f"{file.label.replace(' ', '-')}.gguf"
            if not path.exists():
                for old in folder.glob("*.gguf"):
                    old.unlink()
                write_random_gguf(path, file.shape, file.qtype)
            return path

        yield _File(file.label, file.weight, write)


def _engine_job(
    request: ProfileRequest,
    catalog: Catalog,
    engine: object,
    write: Callable[[], Path],
    threads: int,
) -> Job:
    from moeplan.measure.llama_cpp import Engine, measure_gguf

    assert isinstance(engine, Engine)

    def job(budget_s: float) -> list[Sample]:
        path = write()
        facts, vocab = gguf_facts(path, catalog)
        repeats, more = (1, 2) if request.mode == "quick" else (3, 0)
        return measure_gguf(
            engine,
            path,
            threads,
            vocab=vocab,
            repeats=repeats,
            more_decode=more,
            facts=facts,
            timeout_s=request.timeout_s,
        )

    return job


def gguf_facts(path: Path, catalog: Catalog) -> tuple[dict[str, str | int | float], int]:
    """What decides an engine's speed on a file: elements and bytes of each type, layers, experts."""
    from moeplan.api.resolve import Session
    from moeplan.calibrate.host import work_facts

    session = Session(catalog)
    source = session.source(str(path))
    graph = session.graph(str(path), source.file_quant or "f16")
    return work_facts(path.name, graph), source.spec.vocab_size


def _endpoint_jobs(request: ProfileRequest) -> Planned:
    from moeplan.measure.endpoint import Endpoint

    endpoint = Endpoint(str(request.endpoint), timeout_s=request.timeout_s)
    for n in request.concurrency:

        def job(budget_s: float, n: int = n) -> list[Sample]:
            return endpoint.measure(n, request.prompt_tokens, request.output_tokens)

        yield f"{endpoint.host}, {n} at once", 1.0, job


def save(result: HostCalibration, output: str | None) -> Path:
    """Write the calibration to ``output`` or to where other commands look for it; the path."""
    from moeplan.readers.calibration_host import default_path, write_host_calibration

    path = Path(output) if output is not None else default_path()
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
