"""Which engine `moeplan profile` runs, on which files, how often and in which order.

On shared machines all cores together are slow for seconds at a time, with no program to blame, while one
alone is not. Runs on all cores are therefore made again, seconds later, while time is left: first those that
look slow, then the others, then those that still look slow, and so are those on one core that all together
outdo. Of the same run the quickest counts.

Files are written, and the processes that will run them started, while the profile still gets ready.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moeplan.api.profile_request import BUDGET_S, ProfileRequest
from moeplan.domain.profile import Sample
from moeplan.errors import MeasurementError, SpecError

if TYPE_CHECKING:
    from moeplan.measure.llama_cpp import Child, Engine
    from moeplan.measure.random_gguf import RandomFile
    from moeplan.measure.run import Job
    from moeplan.readers.catalog import Catalog

NO_ENGINE = "none"
"""As ``engine``: not even the one that is there."""
# A prompt on two cores ran at 0.93 to 0.97 of twice one core's rate in quiet seconds and at 0.5 to 0.85 in
# slow ones; in two quiet seconds the same run differed by up to 3% (EPYC 9004, two of its cores, 2026-11-30).
# More than their number times one core all cores cannot do, but for that much noise.
_LEAST_SCALING, _MOST_SCALING, _MOST_APART = 0.9, 1.02, 1.1
# Of the mode's whole time, at least, for runs that are made again.
_LEAST_AGAIN = 0.05
_TWICE = 2
# Times its bytes that a file takes in memory while it is loaded: mapped, and once more in the order that its
# kernels read.
_LOADED = 2
_AGAIN_WEIGHT = 2.0
# Of what may be held in memory, for files that wait on the disk: the system keeps them in its cache.
_WAITING_SHARE = 0.25
_MOST_READY = 32
# Prompts of files that weigh less say little of their cores.
_LEAST_WEIGHT = 0.5


class _File(NamedTuple):
    """What an engine runs, its weight in time, and how it comes about."""

    label: str
    weight: float
    write: Callable[[], Path]
    prompts: tuple[int, ...]


class Rounds(NamedTuple):
    """Jobs of two moments that should lie apart: every run once, and some of them again."""

    first: list[tuple[str, float, Job]]
    second: list[tuple[str, float, Job]]
    get_ready: Callable[[], object] = lambda: None
    """Waits for what goes on meanwhile: nothing may be measured before."""


def engine_rounds(request: ProfileRequest, catalog: Catalog, folder: Path, stack: ExitStack) -> Rounds:
    """Runs of the engine asked for; unasked, of llama.cpp where it is there and the CPU is measured.

    ``stack`` ends what was started for them.
    """
    from moeplan.engines.traits import find_engine
    from moeplan.measure.device import free_ram_bytes
    from moeplan.measure.llama_cpp import find_llama_cpp
    from moeplan.measure.micro import thread_counts, usable_threads

    if request.engine == NO_ENGINE or not _wants_engine(request):
        return Rounds([], [])
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
        return Rounds([], [])
    counts = thread_counts(usable_threads())
    threads = counts if request.mode == "full" else tuple(sorted({counts[0], counts[-1]}))
    free_bytes = free_ram_bytes(request.memory_share)
    # one thread: two of them and torch's import wait for each other, half a second in all
    beside = ThreadPoolExecutor(1)
    runs = _Runs(request, catalog, engine, free_bytes, stack)
    stack.callback(beside.shutdown, cancel_futures=True)
    files = list(_gguf_files(request, folder, _WAITING_SHARE * free_bytes, beside))
    first = [(_on(file, n), file.weight / n, runs.job(file, n)) for file in files for n in threads]
    if engine.kind != "binary":
        runs.starting = [beside.submit(runs.start_child) for _ in first[:_MOST_READY]]
    if request.model is not None or len(threads) < 2:
        return Rounds(first, [], beside.shutdown)
    again = ("llama.cpp again", _AGAIN_WEIGHT, lambda budget_s: runs.again(threads[-1], budget_s))
    return Rounds(first, [again], beside.shutdown)


def _on(file: _File, threads: int) -> str:
    return f"llama.cpp on {file.label}, {threads} thread{'s' if threads > 1 else ''}"


def _wants_engine(request: ProfileRequest) -> bool:
    """Whether an engine was named, or nothing but the CPU as a whole."""
    return bool(request.engine or request.binary) or not (request.gpu or request.model)


def _gguf_files(
    request: ProfileRequest, folder: Path, may_wait_bytes: float, beside: Executor
) -> Iterator[_File]:
    """The file named, or small random ones: written ``beside`` what else is done where all of them fit in
    ``may_wait_bytes`` and are little beside what the disk has free, else each when it is needed."""
    from moeplan.measure.random_gguf import PROMPT_TOKENS, file_bytes, profile_files, write_random_gguf

    if request.model is not None:
        path = Path(request.model)
        if not path.is_file():
            raise SpecError("--engine llama.cpp needs a .gguf file as --model", path=request.model)
        yield _File(path.name, 1.0, lambda: path, (PROMPT_TOKENS,))
        return
    from moeplan.measure.micro import last_cache_bytes

    files = profile_files(every_type=request.mode != "quick", cache_bytes=last_cache_bytes())
    # with a neighbour on one core the threads of small files mostly wait for each other: these come last
    files.sort(key=lambda file: file.weight < _LEAST_WEIGHT)
    total = sum(file_bytes(file.shape, file.qtype) for file in files)
    ahead = total < min(may_wait_bytes, _WAITING_SHARE * shutil.disk_usage(folder).free)
    for file in files:

        def write(file: RandomFile = file) -> Path:
            path = folder / f"{file.label.replace(' ', '-')}.gguf"
            if not path.exists():
                for old in () if ahead else folder.glob("*.gguf"):
                    with suppress(PermissionError):  # Windows, while it is loaded
                        old.unlink()
                write_random_gguf(path, file.shape, file.qtype)
            return path

        yield _File(file.label, file.weight, beside.submit(write).result if ahead else write, file.prompts)


class _Runs:
    """The engine's runs of one profile: what is loaded, and how fast each was."""

    def __init__(
        self, request: ProfileRequest, catalog: Catalog, engine: Engine, free_bytes: int, stack: ExitStack
    ) -> None:
        self.request, self.catalog, self.engine = request, catalog, engine
        self.free_bytes, self.stack = free_bytes, stack
        self.facts: dict[str, tuple[dict[str, str | int | float], int]] = {}
        self.loaded: dict[str, Child] = {}
        self.files: dict[str, _File] = {}
        self.prompts: dict[tuple[str, int], list[float]] = {}
        self.took_s: dict[tuple[str, int], float] = {}
        self.starting: list[Future[Child]] = []

    def start_child(self) -> Child:
        """A process that has nothing loaded yet; it takes a moment before it can be asked."""
        from moeplan.measure.llama_cpp import Child

        child = Child()
        self.stack.callback(child.close)
        child.start()
        return child

    def job(self, file: _File, threads: int) -> Job:
        """One run of a file; a second one with the same number of threads finds it loaded."""
        self.files[file.label] = file
        return lambda budget_s: self._run(file, threads)

    def again(self, threads: int, budget_s: float) -> list[Sample]:
        """What is in need of it, the neediest first, until the time is up or nothing is."""
        started, found = time.perf_counter(), list[Sample]()
        limit_s = max(budget_s, _LEAST_AGAIN * BUDGET_S[self.request.mode])
        while (needy := neediest(self.prompts, threads)) is not None:
            left_s = limit_s - (time.perf_counter() - started)
            # one run is made however late it is; others where they end in time
            if left_s <= 0 or (found and self.took_s[needy] > left_s):
                break
            label, count = needy
            found += self._run(self.files[label], count)
        return found

    def _run(self, file: _File, threads: int) -> list[Sample]:
        from moeplan.measure.llama_cpp import measure_gguf

        started = time.perf_counter()
        child = self.loaded.get(file.label) if threads > 1 else None
        # a file that is loaded may be gone from the disk
        path = file.write() if child is None else Path(f"{file.label}.gguf")
        if file.label not in self.facts:
            self.facts[file.label] = gguf_facts(path, self.catalog)
        if child is None and self.engine.kind != "binary":
            child = self.starting.pop(0).result() if self.starting else self.start_child()
        stays = child is not None and threads > 1 and self._may_stay(file, path, child)
        facts, vocab = self.facts[file.label]
        # the difference of two decodes tells attention: on one core, where seldom a run follows, of three
        quick = self.request.mode == "quick"
        repeats, more = (1, 2 if threads == 1 else 1) if quick else (3, 3)
        found: list[Sample] = []
        try:
            for n_tokens in file.prompts:
                samples = measure_gguf(
                    self.engine, path, threads, vocab=vocab, repeats=repeats, more_decode=more, facts=facts,
                    prompt_tokens=n_tokens, timeout_s=self.request.timeout_s, child=child,
                )  # fmt: skip
                found += samples
        finally:
            if child is not None and not stays:
                child.close()
        self.took_s[file.label, threads] = time.perf_counter() - started
        if file.weight >= _LEAST_WEIGHT:
            self.prompts.setdefault((file.label, threads), []).append(samples[0].best)
        return found

    def _may_stay(self, file: _File, path: Path, child: Child) -> bool:
        """Whether ``child`` keeps the file loaded: where it will be of use and there is memory for it."""
        if file.label in self.loaded:
            return True
        size = _LOADED * path.stat().st_size
        if self.request.model is not None or size > self.free_bytes:
            return False
        self.free_bytes -= size
        self.loaded[file.label] = child
        return True


def neediest(prompts: dict[tuple[str, int], list[float]], threads: int) -> tuple[str, int] | None:
    """Of the prompts (rates of every run, by file and cores) the one to be made again, on ``threads`` or one.

    A run on all cores looks slow where its rate per core is far from that of one core, or the two best runs
    differ; one on a single core where all together do better than so many of it. The rarest run of them, then
    those that look slow, then the farthest; what was run twice and looks well is left. None: nothing to do.
    """
    candidates: list[tuple[int, bool, float, tuple[str, int]]] = []
    for (label, count), rates in prompts.items():
        alone = prompts.get((label, 1))
        if count != threads or not alone:
            continue
        best = sorted(rates)[-2:]
        scaling = best[-1] / (threads * max(alone))
        if scaling < _LEAST_SCALING or best[-1] > _MOST_APART * best[0]:
            candidates.append((len(rates), False, scaling, (label, count)))
        elif scaling > _MOST_SCALING:
            candidates.append((len(alone), False, 1.0 / scaling, (label, 1)))
        elif len(rates) < _TWICE:
            candidates.append((len(rates), True, scaling, (label, count)))
    return min(candidates)[3] if candidates else None


def gguf_facts(path: Path, catalog: Catalog) -> tuple[dict[str, str | int | float], int]:
    """What decides an engine's speed on a file: elements and bytes of each type, layers, experts."""
    from moeplan.api.resolve import Session
    from moeplan.calibrate.host import work_facts

    session = Session(catalog)
    source = session.source(str(path))
    graph = session.graph(str(path), source.file_quant or "f16")
    return work_facts(path.name, graph), source.spec.vocab_size
