"""Rates of an engine from its own runs on this machine, by number of threads.

A decode step takes, for each type of weights, bytes x the time of a byte (dense matrices and experts apart),
fixed time a layer, a layer that routes and an entry of the vocabulary, which files with next to no weights
tell, and time a head and cached token, which the same file tells with a short and a long cache. The time of
a byte is then split into reading and computing as the cost law has it, so that what was measured with one
sequence comes back as it was. Pure: samples in, coefficients out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from moeplan.calibrate.reference import non_negative
from moeplan.cost.coverage import expected_experts
from moeplan.domain.profile import HostCoefficient, Sample

FIXED = ("layer.s", "moe-layer.s", "vocab.s")
"""Parts of a decode step that do not depend on the weights' size."""
RATES = ("decode", "prefill", "experts-decode", "experts-prefill")
HEAD = "head.s"
"""Of a query head and a cached token in decode."""
PROMPT_HEAD = "prompt-head.s"
"""Of a query head and a token that it sees in a prompt."""
# Where a run reads faster than the plain sum did, and at least: computing has this share of its time.
_LEAST_COMPUTING = 0.05
# Less than this share of the time cannot be told from the noise of the other parts.
_NOISE = 0.1
# Share of a step that reading takes at least where the weights push the cache of the model out of the CPU's.
_READING = 0.5
_ROUNDS = 4000


class EngineRun(NamedTuple):
    """One sample of an engine, as numbers."""

    engine: str
    model: str
    quant: str
    threads: int
    phase: str
    seconds: float
    """Of a decode step or of the whole prompt."""
    spread: tuple[float, float]
    """10% and 90% quantile of the rate over the rate that counts."""
    rows: float
    dense_bytes: float
    """Matrices that every step reads, the head with them."""
    dense_flop: float
    expert_bytes: float
    """Of the experts that a step touches."""
    expert_flop: float
    fixed: tuple[float, float, float]
    """Layers, layers that route, entries of the vocabulary."""
    head_tokens: float = 0.0
    """Query heads (and in decode what the rows of the cache count for) times the tokens that each sees."""
    pace: float = 1.0
    """Of reading memory meanwhile, over what it mostly is."""

    @property
    def file(self) -> tuple[object, ...]:
        """Runs of the same file agree in it."""
        return self.model, self.quant, self.fixed

    def bytes_of(self, part: str) -> float:
        """Of ``dense`` or ``expert``."""
        return self.dense_bytes if part == "dense" else self.expert_bytes


def engine_runs(samples: Iterable[Sample]) -> list[EngineRun]:
    """The runs among ``samples`` whose file is known by its parts; of the same run made twice the quicker,
    unless memory was quicker then than it mostly is."""
    found: dict[tuple[object, ...], EngineRun] = {}
    for s in samples:
        if s.name in ("engine decode", "engine prefill") and "dense_elements" in s.setup:
            run, key = _run(s), (s.name, *s.setup.values())
            if key not in found or (run.pace, run.seconds) < (found[key].pace, found[key].seconds):
                found[key] = run
    return list(found.values())


def _run(sample: Sample) -> EngineRun:
    get = {key: float(value) for key, value in sample.setup.items() if not isinstance(value, str)}
    phase = sample.name.removeprefix("engine ")
    rows = 1.0 if phase == "decode" else get["prompt_tokens"]
    routed = get["experts"] > 0
    touched = expected_experts(int(get["experts"]), int(get["active"]), rows) if routed else 0.0
    chosen = get["active"] / get["experts"] if routed else 0.0
    dense, experts = (_rows_of(get, part, rows) for part in ("dense", "expert"))
    alone = (
        get.get("last_expert_elements", 0.0) / get["expert_elements"]
        if phase == "prefill" and routed
        else 0.0
    )
    if phase == "decode":
        head_tokens = get.get("decode_heads", 0.0) * get.get("depth", 0.0)
    else:
        head_tokens = get.get("heads", 0.0) * rows * (rows + 1.0) / 2.0
    # of few repeats the quickest: whatever disturbs them only makes them slower
    rate = sample.median if sample.stable else sample.best
    return EngineRun(
        engine=str(sample.setup["engine"]),
        model=str(sample.setup.get("model", "")),
        quant=str(sample.setup["quant"]),
        threads=int(get["threads"]),
        phase=phase,
        seconds=rows / rate,
        spread=(min(1.0, sample.low / rate), max(1.0, sample.high / rate)),
        rows=rows,
        dense_bytes=get["dense_bytes"] + get["head_bytes"],
        dense_flop=2.0 * (dense + get["head_elements"]),
        expert_bytes=get["expert_bytes"]
        * ((1.0 - alone) * touched + alone * get["active"])
        / max(1.0, get["experts"]),
        expert_flop=2.0 * experts * chosen,
        fixed=(get["layers"], get["moe_layers"], get["vocab"]),
        head_tokens=head_tokens,
        pace=sample.pace if phase == "decode" else 1.0,
    )


def usually(run: EngineRun, read_bytes_per_s: float) -> EngineRun:
    """``run`` as it would have been with memory at ``read_bytes_per_s``, at which it mostly reads."""
    if run.pace == 1.0:
        return run
    reading_s = min(run.seconds, (run.dense_bytes + run.expert_bytes) / (read_bytes_per_s * run.pace))
    return run._replace(seconds=run.seconds + reading_s * (run.pace - 1.0), pace=1.0)


def _rows_of(get: Mapping[str, float], part: str, rows: float) -> float:
    """Elements of a part times the rows that meet them: in the last FFN only the row that gives a token."""
    last = get.get(f"last_{part}_elements", 0.0)
    return (get[f"{part}_elements"] - last) * rows + last


def from_engine(
    samples: Sequence[Sample], found: Mapping[str, HostCoefficient]
) -> dict[str, HostCoefficient]:
    """Coefficients of every engine and number of threads that was run; ``found``: bandwidths and, for types
    that were not run, what the engine's kernels reach elsewhere."""
    made: dict[str, HostCoefficient] = {}
    groups: dict[tuple[str, int], list[EngineRun]] = {}
    for run in engine_runs(samples):
        groups.setdefault((run.engine, run.threads), []).append(run)
    for (engine, threads), runs in groups.items():
        read = found.get(f"read.t{threads}.bytes_per_s")
        if read is not None:
            usual = [usually(run, read.value) for run in runs]
            made |= _Fit(engine, threads, usual, read.value, found).coefficients()
    return made


class _Fit:
    """One engine with one number of threads."""

    def __init__(
        self,
        engine: str,
        threads: int,
        runs: Sequence[EngineRun],
        read_bytes_per_s: float,
        found: Mapping[str, HostCoefficient],
    ) -> None:
        self.engine, self.threads, self.found = engine, threads, found
        self.decode = [r for r in runs if r.phase == "decode"]
        self.prefill = [r for r in runs if r.phase == "prefill"]
        self.read = read_bytes_per_s
        self.fixed = tuple(self._assumed(name) / threads for name in FIXED)
        self.head_s = self.prompt_head_s = 0.0
        self.made: dict[str, HostCoefficient] = {}

    def coefficients(self) -> dict[str, HostCoefficient]:
        """By name, with engine and threads in front."""
        times = self._times_of_a_byte()
        dense = [t for (part, _), t in times.items() if part == "dense" and t > 0]
        if dense:  # the memory is one, whatever type is read: the type that is read fastest shows it
            self.read = max(self.read, 1.0 / (min(dense) * (1.0 - _LEAST_COMPUTING)))
            self._put("read.bytes_per_s", self.read, "B/s", self.decode)
        for (part, quant), s_per_byte in times.items():
            if s_per_byte > 0:
                self._put_rate(quant, "decode" if part == "dense" else "experts-decode", s_per_byte)
        self._put_prefill()
        self._put_others()
        return {f"{self.engine}.t{self.threads}.{name}": c for name, c in self.made.items()}

    def _times_of_a_byte(self) -> dict[tuple[str, str], float]:
        """Seconds of a byte by part and type; of attention and fixed times too where the runs tell them."""
        self.head_s = self._head_s()
        if self.head_s:
            self._put(HEAD, self.head_s, "s", self.decode)
        runs = self._told_apart()
        quants = list(dict.fromkeys(r.quant for r in runs))
        known = {q: t for q in quants if (t := self._dense_elsewhere(q)) is not None}
        columns = [("dense", q) for q in quants if q not in known] + [("expert", q) for q in quants]
        counts = [tuple((quant == r.quant) * r.bytes_of(part) for part, quant in columns) for r in runs]
        used = sum(1 for i in range(len(columns)) if any(row[i] for row in counts))
        times = [r.seconds for r in runs]
        left = [r.seconds - known.get(r.quant, 0.0) * r.dense_bytes - self._seen_s(r) for r in runs]
        if len({r.file for r in runs}) >= used + len(FIXED):
            found = non_negative(
                [(*row, *r.fixed) for row, r in zip(counts, runs, strict=True)], left, times, _ROUNDS
            )
            self.fixed = tuple(found[-len(FIXED) :])
            for name, value in zip(FIXED, self.fixed, strict=True):
                self._put(name, value, "s", runs)
        else:
            left = [s - self._fixed_s(r) for s, r in zip(left, runs, strict=True)]
            found = non_negative(counts, left, times, _ROUNDS) if runs else []
        return dict(zip(columns, found, strict=False))

    def _head_s(self) -> float:
        """What steps take longer with the longest than with the shortest cache, of all files that read."""
        longer, more = 0.0, 0.0
        for runs in self._files(r for r in self.decode if self._reads(r)):
            one, other = min(runs, key=lambda r: r.head_tokens), max(runs, key=lambda r: r.head_tokens)
            longer, more = longer + other.seconds - one.seconds, more + other.head_tokens - one.head_tokens
        return max(0.0, longer / more) if more else 0.0

    def _seen_s(self, run: EngineRun) -> float:
        return self.head_s * run.head_tokens if self._reads(run) else 0.0

    def _reads(self, run: EngineRun) -> bool:
        """Whether weights enough pass through the caches that those of the model's own rows do not stay."""
        return (run.dense_bytes + run.expert_bytes) / self.read > _READING * run.seconds

    def _told_apart(self) -> list[EngineRun]:
        """Of files with next to no weights, whose cache stays near, the runs with the least of it."""
        least = {r.file: min(o.head_tokens for o in self.decode if o.file == r.file) for r in self.decode}
        return [r for r in self.decode if self._reads(r) or r.head_tokens == least[r.file]]

    @staticmethod
    def _files(runs: Iterable[EngineRun]) -> list[list[EngineRun]]:
        files: dict[tuple[object, ...], list[EngineRun]] = {}
        for run in runs:
            files.setdefault(run.file, []).append(run)
        return list(files.values())

    def _dense_elsewhere(self, quant: str) -> float | None:
        """Seconds of a byte of dense matrices as on other machines, where no dense file was run here."""
        runs = self._of(quant)
        rate = self.found.get(f"{self.engine}.{quant}.decode.flop_per_s")
        if rate is None or any(not r.expert_bytes for r in runs):
            return None
        flop = runs[0].dense_flop / runs[0].dense_bytes
        return 1.0 / self.read + flop / (rate.value * self.threads)

    def _fixed_s(self, run: EngineRun) -> float:
        return sum(n * t for n, t in zip(run.fixed, self.fixed, strict=True))

    def _put_rate(self, quant: str, what: str, s_per_byte: float) -> None:
        """FLOP/s a thread, of what reading leaves of a byte's time."""
        runs = self._of(quant)
        expert = what.startswith("experts")
        run = max(runs, key=lambda r: r.expert_bytes if expert else r.dense_bytes)
        flop = run.expert_flop / run.expert_bytes if expert else run.dense_flop / run.dense_bytes
        left = max(s_per_byte - 1.0 / self.read, _LEAST_COMPUTING * s_per_byte)
        if flop > 0:
            self._put(f"{quant}.{what}.flop_per_s", flop / left / self.threads, "FLOP/s", runs)

    def _put_prefill(self) -> None:
        """FLOP/s a thread over a prompt: dense matrices from dense files, experts from the others."""
        self.prompt_head_s = self._prompt_head_s()
        if self.prompt_head_s:
            self._put(PROMPT_HEAD, self.prompt_head_s, "s", self.prefill)
        for routed in (False, True):
            rates: dict[str, list[tuple[float, EngineRun]]] = {}
            for run in self.prefill:
                if bool(run.expert_flop) == routed:
                    rate = self._prefill_rate(run)
                    rates.setdefault(run.quant, []).append((rate, run))
            for quant, known in rates.items():
                # the file with most work is the least disturbed by everything else
                rate, run = max(known, key=lambda pair: pair[1].dense_flop + pair[1].expert_flop)
                name = f"{quant}.{'experts-prefill' if routed else 'prefill'}.flop_per_s"
                if rate > 0:
                    self._put(name, rate, "FLOP/s", [run])

    def _prompt_head_s(self) -> float:
        """What a token takes longer in the longest than in the shortest prompt of the same dense file."""
        for runs in self._files(r for r in self.prefill if not r.expert_flop):
            one, other = min(runs, key=lambda r: r.rows), max(runs, key=lambda r: r.rows)
            more = other.head_tokens / other.rows - one.head_tokens / one.rows
            if more > 0:
                return max(0.0, (other.seconds / other.rows - one.seconds / one.rows) / more)
        return 0.0

    def _prefill_rate(self, run: EngineRun) -> float:
        left = run.seconds - (run.dense_bytes + run.expert_bytes) / self.read
        left -= run.fixed[0] * self.fixed[0] + run.fixed[1] * self.fixed[1]
        left -= run.head_tokens * self.prompt_head_s
        if not run.expert_flop:
            return run.dense_flop / max(left, _NOISE * run.seconds) / self.threads
        dense = self.made.get(f"{run.quant}.prefill.flop_per_s") or self.found.get(
            f"{self.engine}.{run.quant}.prefill.flop_per_s"
        )
        left -= run.dense_flop / (dense.value * self.threads) if dense else 0.0
        return run.expert_flop / max(left, _NOISE * run.seconds) / self.threads

    def _put_others(self) -> None:
        """Types that were not run: as they compare elsewhere with those that were."""
        for what in RATES:
            tail = f".{what}.flop_per_s"
            elsewhere = {
                name.removeprefix(f"{self.engine}.").removesuffix(tail): c.value
                for name, c in self.found.items()
                if name.startswith(f"{self.engine}.") and name.endswith(tail)
            }
            both = [
                math.log(self.made[q + tail].value / value)
                for q, value in elsewhere.items()
                if q + tail in self.made
            ]
            if not both:
                continue
            scale = math.exp(sum(both) / len(both))
            for quant, value in elsewhere.items():
                if quant + tail not in self.made:
                    note = "not run: as it compares with other types on another machine"
                    self.made[quant + tail] = _exact(value * scale, "FLOP/s", 0, note)

    def _assumed(self, name: str) -> float:
        c = self.found.get(f"{self.engine}.{name}")
        return c.value if c else 0.0

    def _of(self, quant: str) -> list[EngineRun]:
        return [r for r in self.decode if r.quant == quant]

    def _put(self, name: str, value: float, unit: str, runs: Sequence[EngineRun]) -> None:
        low, high = min(r.spread[0] for r in runs), max(r.spread[1] for r in runs)
        ends = (value * low, value * high) if unit.endswith("/s") else (value / high, value / low)
        self.made[name] = HostCoefficient(
            value=value, low=ends[0], high=ends[1], unit=unit, n=len(runs), note="from the engine's own runs"
        )


def _exact(value: float, unit: str, n: int, note: str) -> HostCoefficient:
    return HostCoefficient(value=value, low=value, high=value, unit=unit, n=n, note=note)
