"""Memory on large pages: what a core reads of it does not depend on which pages happened to be free.

Fresh memory of 4 KiB pages reads as fast as its pages lie one behind the other in the machine: on one core
of an EPYC 9004 16.6 GB/s where none did, 19.7 where 44% did, 24.8 at 78%, 27.5 at 92% and 29 at 99% (five
allocations of 512 MiB in one process, 2026-11-30). A file that is mapped lies in order, and so does a large
model; the first allocation on a busy machine does not. What loads it counts too: 256-bit
loads, torch's, read the same small pages 7 to 13% faster than 512-bit ones, large pages 6%
(tests/benchmarks/read_kernels.py).
"""

from __future__ import annotations

import mmap
from pathlib import Path

# Less than this share on large pages is not memory on large pages.
_ENOUGH = 0.9


def large_pages(n_bytes: int) -> mmap.mmap | None:
    """``n_bytes`` of memory on pages of 2 MiB, filled; None where the system gives none (Linux only).

    It is given back when the last that refers to it is gone.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    before = _on_large_pages()
    held = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        held.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without them
        return None
    # one byte brings its page, large or small
    for at in range(0, n_bytes, mmap.PAGESIZE):
        held[at] = 1
    return held if _on_large_pages() - before >= _ENOUGH * n_bytes else None


def _on_large_pages() -> int:
    """Bytes of this process on large anonymous pages."""
    try:
        text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    sizes = [line.split()[1] for line in text.splitlines() if line.startswith("AnonHugePages:")]
    return int(sizes[0]) * 1024 if sizes else 0
