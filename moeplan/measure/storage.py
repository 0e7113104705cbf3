"""How fast a disk reads: sequential and random, past the page cache where the system allows it."""

from __future__ import annotations

import mmap
import os
import random
import tempfile
import time
from pathlib import Path

from moeplan.domain.profile import Sample
from moeplan.measure.timing import CpuMeter, sample_of
from moeplan.units import MIB

_BLOCK_BYTES = 4 * MIB
_PAGE_BYTES = 4096
# Written through every so often, so that the clock sees what the disk takes.
_SYNC_BLOCKS = 4
# At most this share of what the disk has free is written, and never more than the cap of the mode.
_FREE_SHARE = 0.1


def storage_rates(folder: Path, max_bytes: int, budget_s: float) -> list[Sample]:
    """Rates of a file of at most ``max_bytes`` in ``folder``: written, read, deleted.

    A disk that writes slowly gets a smaller file: writing takes about as long as reading may.
    O_DIRECT where the file system has it; else the page cache is asked to forget the file, and the
    sample says so.
    """
    free = os.statvfs(folder)
    n_bytes = min(max_bytes, int(free.f_bavail * free.f_frsize * _FREE_SHARE)) // _BLOCK_BYTES * _BLOCK_BYTES
    if n_bytes < 4 * _BLOCK_BYTES:
        return []
    with tempfile.NamedTemporaryFile(dir=folder, prefix="moeplan-profile-") as file:
        written = _write(file.fileno(), n_bytes, budget_s / 2)
        return _read(file.name, written, budget_s / 2)


def _write(descriptor: int, n_bytes: int, budget_s: float) -> int:
    block = os.urandom(_BLOCK_BYTES)  # random: some disks and file systems compress
    started = time.perf_counter()
    for done in range(1, n_bytes // _BLOCK_BYTES + 1):
        os.write(descriptor, block)
        if done % _SYNC_BLOCKS == 0:
            os.fsync(descriptor)
            if time.perf_counter() - started > budget_s:
                return done * _BLOCK_BYTES
    os.fsync(descriptor)
    return n_bytes


def _read(path: str, n_bytes: int, budget_s: float) -> list[Sample]:
    descriptor, way = _open(path)
    try:
        buffer = mmap.mmap(-1, _BLOCK_BYTES)  # page-aligned, as O_DIRECT wants it
        meter = CpuMeter()
        blocks = [i * _BLOCK_BYTES for i in range(n_bytes // _BLOCK_BYTES)]
        sequential = _timed(descriptor, buffer, blocks, _BLOCK_BYTES, budget_s / 2)
        dice = random.Random(1)
        pages = [dice.randrange(n_bytes // _PAGE_BYTES) * _PAGE_BYTES for _ in range(4096)]
        page = memoryview(buffer)[:_PAGE_BYTES]
        scattered = _timed(descriptor, page, pages, _PAGE_BYTES, budget_s / 2)
        page.release()
        buffer.close()
    finally:
        os.close(descriptor)
    setup: dict[str, str | int | float] = {"bytes": n_bytes, "way": way}
    load = meter.foreign_cores()
    return [
        sample_of(
            "storage read", setup | {"order": "sequential", "block": _BLOCK_BYTES}, "B/s", sequential, load
        ),
        sample_of("storage read", setup | {"order": "random", "block": _PAGE_BYTES}, "B/s", scattered, load),
    ]


def _open(path: str) -> tuple[int, str]:
    direct = getattr(os, "O_DIRECT", 0)
    if direct:
        try:
            return os.open(path, os.O_RDONLY | direct), "O_DIRECT"
        except OSError:  # tmpfs and some network file systems
            pass
    descriptor = os.open(path, os.O_RDONLY)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return descriptor, "page cache asked to forget"


def _timed(descriptor: int, buffer: object, offsets: list[int], size: int, budget_s: float) -> list[float]:
    """Bytes per second of groups of reads (a group takes a few milliseconds)."""
    per_group = max(1, len(offsets) // 16)
    rates = []
    started = time.perf_counter()
    for first in range(0, len(offsets), per_group):
        group = offsets[first : first + per_group]
        at = time.perf_counter()
        for offset in group:
            os.preadv(descriptor, [buffer], offset)  # type: ignore[list-item]
        rates.append(len(group) * size / (time.perf_counter() - at))
        if time.perf_counter() - started > budget_s:
            break
    return rates
