"""Read bandwidth of each memory node, from its own cores and from those of another node.

Memory lies beside the core that touches it first (Linux' default policy): each buffer is filled by threads
pinned to cores of the node that is to hold it, and read by threads pinned to those of the node that reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from moeplan.domain.profile import Sample
from moeplan.hw.numa import NumaNode, numa_nodes
from moeplan.measure.device import Device
from moeplan.measure.micro import Job, read_bytes, torch_threads
from moeplan.measure.timing import rate_sample, repeat


def jobs(device: Device, nodes: tuple[NumaNode, ...] | None = None) -> Iterator[tuple[str, float, Job]]:
    """Every node from its own cores; the others from those of the first. Nothing where there is one node."""
    found = numa_nodes() if nodes is None else nodes
    if not device.is_cpu or len(found) < 2:
        return
    for reader, holder in [(n, n) for n in found] + [(found[0], n) for n in found[1:]]:
        what = f"memory of node {holder.number} from cores of node {reader.number}"
        yield what, 0.5, partial(_job, device, reader, holder)


def _job(device: Device, reader: NumaNode, holder: NumaNode, budget_s: float) -> list[Sample]:
    return [node_bandwidth(device, reader, holder, budget_s)]


def node_bandwidth(device: Device, reader: NumaNode, holder: NumaNode, budget_s: float) -> Sample:
    """Bytes per second that all cores of ``reader`` read of memory of ``holder``, each its own part."""
    torch = device.torch
    n_words = read_bytes(device) // 8 // len(reader.cpus)
    with torch_threads(torch, 1), pinned(reader.cpus) as read_by, pinned(holder.cpus) as filled_by:
        parts = filled_by([partial(torch.ones, n_words, dtype=torch.int64) for _ in reader.cpus])
        sums: list[Callable[[], Any]] = [part.sum for part in parts]
        span = repeat(partial(read_by, sums), budget_s=budget_s)
    setup: dict[str, str | int | float] = {
        "device": device.name, "threads": len(reader.cpus), "node": reader.number, "memory": holder.number,
        "bytes": n_words * 8 * len(reader.cpus),
    }  # fmt: skip
    return rate_sample("node read bandwidth", setup, "B/s", float(setup["bytes"]), span)


class pinned:  # noqa: N801 - used like a function
    """Threads on ``cpus``, one each: called with work for them, it returns what came out, in order."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self._threads = [
            ThreadPoolExecutor(1, initializer=os.sched_setaffinity, initargs=(0, {c})) for c in cpus
        ]

    def __enter__(self) -> Callable[[Sequence[Callable[[], Any]]], list[Any]]:
        return self._run

    def _run(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        waiting = [self._threads[i % len(self._threads)].submit(one) for i, one in enumerate(work)]
        return [one.result() for one in waiting]

    def __exit__(self, *details: object) -> None:
        for thread in self._threads:
            thread.shutdown()
