"""Repeat, time, and say how far the result can be trusted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from moeplan.domain.profile import Sample

# A rate whose 10% and 90% quantiles lie further apart than this share of the median is not steady
# (pyperf warns at a standard deviation of 10% of the mean: quantiles of a normal law 0.26 apart).
UNSTABLE_SPREAD_FRAC = 0.25
MIN_REPEATS = 5
# Other programs that use more than this many cores disturb what uses all of them.
BUSY_CORES = 0.3
# A first call that took so many times its budget is all that there is time for.
_TOO_LONG = 4.0
# Timer and loop cost about a microsecond: shorter calls are timed in groups.
_MIN_INTERVAL_S = 5e-5


class Span(NamedTuple):
    """Seconds of every repeat, and what other programs did meanwhile."""

    seconds: tuple[float, ...]
    foreign_cores: float


def repeat(
    work: Callable[[], object],
    *,
    budget_s: float,
    sync: Callable[[], object] | None = None,
    min_n: int = MIN_REPEATS,
    max_n: int = 200,
) -> Span:
    """Time ``work`` until ``budget_s`` is spent, at least ``min_n`` times (fewer where one takes as long
    as the whole budget), after one call that does not count unless it took several times the budget."""
    wait = sync or (lambda: None)
    meter = CpuMeter()
    first = _timed(work, wait, 1)
    if first > _TOO_LONG * budget_s:
        return Span((first,), meter.foreign_cores())
    group = max(1, min(1000, int(_MIN_INTERVAL_S / max(first, 1e-8))))
    # what is slow for its budget is repeated less often, rather than taking all the time there is
    least = max(1, min(min_n, int(1.5 * budget_s / max(first, 1e-9))))
    seconds: list[float] = []
    meter = CpuMeter()
    started = time.perf_counter()
    while len(seconds) < least or (len(seconds) < max_n and time.perf_counter() - started < budget_s):
        seconds.append(_timed(work, wait, group))
    return Span(tuple(seconds), meter.foreign_cores())


def _timed(work: Callable[[], object], wait: Callable[[], object], n: int) -> float:
    wait()
    started = time.perf_counter()
    for _ in range(n):
        work()
    wait()
    return (time.perf_counter() - started) / n


def rate_sample(
    name: str, setup: Mapping[str, str | int | float], unit: str, amount: float, span: Span
) -> Sample:
    """``amount`` per second of every repeat as one sample (``unit`` such as ``B/s`` or ``FLOP/s``)."""
    return sample_of(name, setup, unit, [amount / s for s in span.seconds], span.foreign_cores, best=max)


def time_sample(name: str, setup: Mapping[str, str | int | float], span: Span) -> Sample:
    """The seconds of every repeat as one sample."""
    return sample_of(name, setup, "s", list(span.seconds), span.foreign_cores, best=min)


def sample_of(
    name: str,
    setup: Mapping[str, str | int | float],
    unit: str,
    values: list[float],
    foreign_cores: float = 0.0,
    best: Callable[[list[float]], float] = max,
) -> Sample:
    """Median, quantiles and a verdict on ``values``."""
    remedy = _remedy(values, foreign_cores)
    return Sample(
        name=name,
        setup=dict(setup),
        unit=unit,
        median=quantile(values, 0.5),
        low=quantile(values, 0.1),
        high=quantile(values, 0.9),
        best=best(values),
        n=len(values),
        stable=not remedy,
        remedy=remedy,
        load=round(foreign_cores, 2),
    )


def _remedy(values: list[float], foreign_cores: float) -> str:
    if foreign_cores > BUSY_CORES:
        return f"other programs used {foreign_cores:.1f} cores: stop them and run again"
    if len(values) < MIN_REPEATS:
        return f"only {len(values)} repeats: use --full"
    median = quantile(values, 0.5)
    if quantile(values, 0.9) - quantile(values, 0.1) > UNSTABLE_SPREAD_FRAC * median:
        return "repeats differ widely: fix the clock (performance governor), then use --full"
    return ""


def quantile(values: list[float], level: float) -> float:
    """Linear interpolation between the ordered values."""
    ordered = sorted(values)
    position = level * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


class CpuMeter:
    """Cores that other programs kept busy since it was made (Linux: /proc/stat; elsewhere 0)."""

    def __init__(self) -> None:
        self._system, self._own, self._at = _busy_s(), _own_s(), time.perf_counter()

    def foreign_cores(self, children_s: float = 0.0) -> float:
        """Mean number of cores in use beside this process and its finished children.

        ``children_s``: what children that still run have used meanwhile.
        """
        elapsed = time.perf_counter() - self._at
        system = _busy_s()
        if self._system is None or system is None or elapsed <= 0:
            return 0.0
        # /proc/stat counts in hundredths of a second: shorter spans say nothing.
        if elapsed < 0.05:
            return 0.0
        return max(0.0, (system - self._system - (_own_s() - self._own) - children_s) / elapsed)


def _busy_s() -> float | None:
    try:
        with Path("/proc/stat").open("rb") as file:
            fields = file.readline().split()
    except OSError:
        return None
    # proc(5): user nice system idle iowait irq softirq steal guest guest_nice, in clock ticks.
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
