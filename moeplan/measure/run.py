"""Runs measurements within a budget of time: progress, Ctrl-C, out of memory, and no trace left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from moeplan.domain.profile import Sample
from moeplan.errors import MoeplanError
from moeplan.measure.canary import Watch

Job = Callable[[float], list[Sample]]
Progress = Callable[[str, float], None]
"""What starts now, and the share of the budget that is done."""

# Share of the budget that may go into waiting for a quiet moment.
_WAIT_SHARE = 0.08
# What comes late still gets this share of its time, or it would not be worth its while.
_LEAST_SHARE = 0.5


class Outcome(NamedTuple):
    """What was measured, and what was not and why."""

    samples: tuple[Sample, ...]
    spans: tuple[tuple[float, float], ...]
    """Of each sample: when its job started and when it was done."""
    notes: tuple[str, ...]
    interrupted: bool


def run_jobs(
    jobs: Iterable[tuple[str, float, Job]],
    budget_s: float,
    progress: Progress = lambda what, share: None,
    *,
    patience: float = 1.5,
    watch: Watch | None = None,
) -> Outcome:
    """Every job with its share of ``budget_s``; Ctrl-C ends the run and keeps what is there.

    A job that runs out of memory or fails becomes a note, and the next one starts. On a machine that others
    keep busy everything takes longer: after ``patience`` times the budget no other job starts. ``watch``
    has a look before each job, and waits for a better moment where there is time.
    """
    listed = list(jobs)
    total = sum(weight for _, weight, _ in listed) or 1.0
    samples: list[Sample] = []
    spans: list[tuple[float, float]] = []
    notes: list[str] = []
    patience_s = _WAIT_SHARE * budget_s
    left_out: list[str] = []
    done = 0.0
    started = time.perf_counter()
    try:
        for what, weight, job in listed:
            if time.perf_counter() - started > patience * budget_s:
                left_out.append(what)
                continue
            progress(what, done / total)
            if watch is not None:
                patience_s -= watch.settle(max(0.0, patience_s))
            at = time.perf_counter()
            share_s = (budget_s - (at - started)) * weight / max(1e-9, total - done)
            least_s = _LEAST_SHARE * budget_s * weight / total
            found = _attempt(what, job, max(share_s, least_s), notes)
            samples += found
            spans += [(at, time.perf_counter())] * len(found)
            done += weight
    except KeyboardInterrupt:
        notes.append(f"interrupted during {what!r}: what had been measured until then is kept")
        return Outcome(tuple(samples), tuple(spans), tuple(notes), True)
    if left_out:
        notes.append(f"no time was left for {', '.join(left_out)}: run again on a quieter machine, or --full")
    return Outcome(tuple(samples), tuple(spans), tuple(notes), False)


def _attempt(what: str, job: Job, share_s: float, notes: list[str]) -> list[Sample]:
    try:
        return job(share_s)
    except MemoryError:
        notes.append(f"{what}: out of memory, left out")
    except MoeplanError as error:
        notes.append(f"{what}: {error}")
    except (RuntimeError, OSError) as error:
        # torch says "out of memory" in a RuntimeError, and names what a device lacks in others
        first = str(error).strip().splitlines() or [type(error).__name__]
        notes.append(f"{what}: {first[0][:200]}")
    return []
