"""Which engine `moeplan profile` runs, on which files, how often and in which order.

On shared machines all cores together are slow for seconds at a time, with no program to blame, while one
alone is not. Runs on all cores are therefore made at two moments, seconds apart; those that still look slow
are made again while time is left, and so are those on one core that all together outdo. Of the same run the
quickest counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
# Of the mode's whole time, at least, for what was slow: a second or two later it often is not.
_LEAST_AGAIN = 0.2
# Times its bytes that a file takes in memory while it is loaded: mapped, and once more in the order that its
# kernels read.
_LOADED = 2
_AGAIN_WEIGHT = 2.0
# Prompts of files that weigh less say little of their cores.
_LEAST_WEIGHT = 0.5


class _File(NamedTuple):
    """What an engine runs, its weight in time, and how it comes about."""

    label: str
    weight: float
    write: Callable[[], Path]
    prompts: tuple[int, ...]


class Rounds(NamedTuple):
    """Jobs of two moments that should lie apart."""

    first: list[tuple[str, float, Job]]
    second: list[tuple[str, float, Job]]


def engine_rounds(request: ProfileRequest, catalog: Catalog, folder: Path, stack: ExitStack) -> Rounds:
    """Runs of the engine asked for; unasked, of llama.cpp where it is there and the CPU is measured.

    ``stack`` ends what was started for them.
    """
    from moeplan.engines.traits import find_engine
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
    # with a neighbour on one core the threads of small files mostly wait for each other: these come last
    files = sorted(_gguf_files(request, folder), key=lambda file: file.weight < _LEAST_WEIGHT)
    runs = _Runs(request, catalog, engine, _loaded_bytes(request), stack)
    first = [(_on(file, n), file.weight / n, runs.job(file, n)) for file in files for n in threads]
    if request.model is not None or len(threads) < 2:
        return Rounds(first, [])
    most = threads[-1]
    # those with next to no weights mostly wait: once is enough
    heavy = [file for file in files if file.weight >= _LEAST_WEIGHT]
    second = [(f"{_on(file, most)} again", file.weight / most, runs.job(file, most)) for file in heavy]
    second.append(("llama.cpp, what was slow", _AGAIN_WEIGHT, lambda budget_s: runs.again(most, budget_s)))
    return Rounds(first, second)


def _on(file: _File, threads: int) -> str:
    return f"llama.cpp on {file.label}, {threads} thread{'s' if threads > 1 else ''}"


def _wants_engine(request: ProfileRequest) -> bool:
    """Whether an engine was named, or nothing but the CPU as a whole."""
    return bool(request.engine or request.binary) or not (request.gpu or request.model)


def _loaded_bytes(request: ProfileRequest) -> int:
    """How much may stay loaded between two runs of the same file."""
    from moeplan.measure.device import cpu_device

    return cpu_device(request.memory_share).budget_bytes


def _gguf_files(request: ProfileRequest, folder: Path) -> Iterator[_File]:
    """The file named, or small random ones, made when they are needed."""
    from moeplan.measure.random_gguf import PROMPT_TOKENS, profile_files, write_random_gguf

    if request.model is not None:
        path = Path(request.model)
        if not path.is_file():
            raise SpecError("--engine llama.cpp needs a .gguf file as --model", path=request.model)
        yield _File(path.name, 1.0, lambda: path, (PROMPT_TOKENS,))
        return
    from moeplan.measure.micro import last_cache_bytes

    for file in profile_files(every_type=request.mode != "quick", cache_bytes=last_cache_bytes()):

        def write(file: RandomFile = file) -> Path:
            path = folder / f"{file.label.replace(' ', '-')}.gguf"
            if not path.exists():
                for old in folder.glob("*.gguf"):
                    with suppress(PermissionError):  # Windows, while it is loaded
                        old.unlink()
                write_random_gguf(path, file.shape, file.qtype)
            return path

        yield _File(file.label, file.weight, write, file.prompts)


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

    def job(self, file: _File, threads: int) -> Job:
        """One run of a file; a second one with the same number of threads finds it loaded."""
        self.files[file.label] = file
        return lambda budget_s: self._run(file, threads)

    def again(self, threads: int, budget_s: float) -> list[Sample]:
        """What looks slow, the slowest first, until the time is up or nothing does."""

        started, found = time.perf_counter(), list[Sample]()
        limit_s = max(budget_s, _LEAST_AGAIN * BUDGET_S[self.request.mode])
        while time.perf_counter() - started < limit_s:
            slow = slowest(self.prompts, threads)
            if slow is None:
                break
            label, count = slow
            found += self._run(self.files[label], count)
        return found

    def _run(self, file: _File, threads: int) -> list[Sample]:
        from moeplan.measure.llama_cpp import measure_gguf

        child = self.loaded.get(file.label) if threads > 1 else None
        # a file that is loaded may be gone from the disk
        path = file.write() if child is None else Path(f"{file.label}.gguf")
        if file.label not in self.facts:
            self.facts[file.label] = gguf_facts(path, self.catalog)
        if child is None and threads > 1:
            child = self._child(file, path)
        facts, vocab = self.facts[file.label]
        repeats, more = (1, 2) if self.request.mode == "quick" else (3, 3)
        found: list[Sample] = []
        for n_tokens in file.prompts:
            samples = measure_gguf(
                self.engine, path, threads, vocab=vocab, repeats=repeats, more_decode=more, facts=facts,
                prompt_tokens=n_tokens, timeout_s=self.request.timeout_s, child=child,
            )  # fmt: skip
            found += samples
        if file.weight >= _LEAST_WEIGHT:
            self.prompts.setdefault((file.label, threads), []).append(samples[0].best)
        return found

    def _child(self, file: _File, path: Path) -> Child | None:
        """A process that keeps the file loaded, where that is of use and there is memory for it."""
        from moeplan.measure.llama_cpp import Child

        size = _LOADED * path.stat().st_size
        if self.engine.kind == "binary" or self.request.model is not None or size > self.free_bytes:
            return None
        self.free_bytes -= size
        child = self.loaded[file.label] = Child()
        self.stack.callback(child.close)
        return child


def slowest(prompts: dict[tuple[str, int], list[float]], threads: int) -> tuple[str, int] | None:
    """Of the prompts (rates of every run, by file and cores) the one to be made again, on ``threads`` or one.

    On all cores where the rate per core is far from that of one core, or the two best runs differ; on one
    where all together do better than so many of it. The rarest run of them, then the farthest; None where
    all look well.
    """
    candidates: list[tuple[int, float, tuple[str, int]]] = []
    for (label, count), rates in prompts.items():
        alone = prompts.get((label, 1))
        if count != threads or not alone:
            continue
        best = sorted(rates)[-2:]
        scaling = best[-1] / (threads * max(alone))
        if scaling < _LEAST_SCALING or best[-1] > _MOST_APART * best[0]:
            candidates.append((len(rates), scaling, (label, count)))
        elif scaling > _MOST_SCALING:
            candidates.append((len(alone), 1.0 / scaling, (label, 1)))
    return min(candidates)[2] if candidates else None


def gguf_facts(path: Path, catalog: Catalog) -> tuple[dict[str, str | int | float], int]:
    """What decides an engine's speed on a file: elements and bytes of each type, layers, experts."""
    from moeplan.api.resolve import Session
    from moeplan.calibrate.host import work_facts

    session = Session(catalog)
    source = session.source(str(path))
    graph = session.graph(str(path), source.file_quant or "f16")
    return work_facts(path.name, graph), source.spec.vocab_size
