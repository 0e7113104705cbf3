"""The same short work again and again through a run: what else goes on on the machine shows in its speed.

On a shared machine everything is slow for seconds at a time. Some of it the system counts (other programs,
time that the host takes), some not: neighbours on the same memory or core leave no trace but the time that
work takes. On two cores of an EPYC 9004 (a virtual machine, 2026-11-30) the same sum on both cores read
29 GB/s in most moments and 17 in others, 2 to 16 seconds long, with no time counted as taken by the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from moeplan.domain.profile import Sample
from moeplan.hw.pressure import read_pressure
from moeplan.measure.device import Device
from moeplan.measure.looks import SLOW_FRAC, WAITING_FRAC, Kind, Look, speed, usual
from moeplan.measure.micro import last_cache_bytes, torch_threads
from moeplan.measure.timing import quantile, sample_of
from moeplan.units import MIB

# Past the last-level cache, within what takes milliseconds to read.
_CACHES, _LEAST_BYTES, _MOST_BYTES = 4, 128 * MIB, 512 * MIB
# Of a square product: it takes longer than a program holds a core before the system lets another one run.
_SIZE = 1024
_REPEATS = 2
# A look takes some 40 to 60 ms: this far apart they are about a twentieth of the time.
_APART_S = 0.8
_PAUSE_S = 0.15

Canary = Callable[[], dict[Kind, float]]
"""Does the work and says how fast."""


def torch_canary(device: Device, counts: Sequence[int]) -> Canary:
    """Reading with the fewest and the most of ``counts`` threads, and a product with the most."""
    torch = device.torch
    ends = sorted({min(counts), max(counts)})
    n_bytes = min(_MOST_BYTES, max(_LEAST_BYTES, _CACHES * last_cache_bytes()), device.budget_bytes // 4)
    words = torch.ones(max(1, n_bytes // 8), dtype=torch.int64, device=device.name)
    a = torch.randn(_SIZE, _SIZE, device=device.name)
    out = torch.empty_like(a)

    def best_s(work: Callable[[], object]) -> float:
        taken = []
        for _ in range(_REPEATS):
            device.sync()
            started = time.perf_counter()
            work()
            device.sync()
            taken.append(time.perf_counter() - started)
        return min(taken)

    def work() -> dict[Kind, float]:
        rates: dict[Kind, float] = {}
        with torch.inference_mode():
            for threads in ends:
                with torch_threads(torch, threads):
                    rates["read", threads] = words.numel() * 8 / best_s(words.sum)
            with torch_threads(torch, ends[-1]):
                product_s = best_s(lambda: torch.mm(a, a, out=out))
            rates["product", ends[-1]] = 2.0 * _SIZE**3 / product_s
        return rates

    work()  # the first call sets up threads and kernels
    return work


class Watch:
    """Looks at the canary between the measurements of a run."""

    def __init__(self, canary: Canary, clock: Callable[[], float] = time.perf_counter) -> None:
        self._canary, self._clock = canary, clock
        self._pressure, self._counted_s = read_pressure(), clock()
        self.looks: list[Look] = []

    def settle(self, limit_s: float) -> float:
        """A look, unless one was a moment ago; while it is slow, more of them. The seconds spent waiting.

        One busy neighbour slows a loop on all cores several times over: its threads wait for each other.
        """
        if self.looks and self._clock() - self.looks[-1].until_s < _APART_S:
            return 0.0
        self.look()
        started = self._clock()
        while self._is_slow() and self._clock() - started < limit_s:
            time.sleep(min(_PAUSE_S, limit_s))
            self.look()
        return self._clock() - started

    def look(self) -> Look:
        """Do the work once, and keep how fast it was."""
        before, at = read_pressure(), self._clock()
        rates = self._canary()
        after, until = read_pressure(), self._clock()
        stolen = (after.stolen_s - self._pressure.stolen_s) / max(1e-9, until - self._counted_s)
        waiting = (after.waiting_s - before.waiting_s) / max(1e-9, until - at)
        self._pressure, self._counted_s = after, until
        self.looks.append(Look(at, until, rates, min(1.0, waiting), max(0.0, stolen)))
        return self.looks[-1]

    def _is_slow(self) -> bool:
        latest = self.looks[-1]
        return latest.waiting_frac > WAITING_FRAC or speed(latest, usual(self.looks)) < SLOW_FRAC

    def samples(self) -> list[Sample]:
        """Each kind of work over the whole run, and what the system counted."""
        if not self.looks:
            return []
        found = []
        for kind, threads in self.looks[0].rates:
            values = [look.rates[kind, threads] for look in self.looks]
            setup: dict[str, str | int | float] = {"kind": kind, "threads": threads}
            found.append(sample_of("canary", setup, "B/s" if kind == "read" else "FLOP/s", values))
        stolen = [look.stolen_cores for look in self.looks]
        found.append(_counted("time taken by the host", "cores", stolen))
        found.append(_counted("waiting for a core", "1", [look.waiting_frac for look in self.looks]))
        return found


def _counted(name: str, unit: str, values: list[float]) -> Sample:
    """A share of the time: mostly zero, so that its spread says nothing of how steady it is."""
    low, median, high = (quantile(values, level) for level in (0.1, 0.5, 0.9))
    return Sample(
        name=name, setup={}, unit=unit, median=median, low=low, high=high, best=min(values), n=len(values),
        stable=True,
    )  # fmt: skip
