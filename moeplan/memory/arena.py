"""A best-fit allocator of addresses: how large a buffer gets in which a graph's tensors come and go.

llama.cpp sizes a compute buffer by playing through the graph once: a tensor takes the smallest hole that
holds it, or grows the end; it gives its bytes back when its last reader has run (ggml/src/ggml-alloc.c,
November 2026). The peak is therefore above the sum of what is alive whenever holes are too small.
"""

from __future__ import annotations

from bisect import insort

Slot = tuple[int, int]
"""(offset, size) of a tensor in bytes."""
NOTHING: Slot = (0, 0)


class Arena:
    """Holes sorted by offset; everything from ``end`` on is free. ``peak_bytes`` is the buffer's size."""

    def __init__(self, alignment_bytes: int) -> None:
        self._alignment = alignment_bytes
        self._holes: list[Slot] = []
        self._end = 0
        self.peak_bytes = 0

    def take(self, n_bytes: float) -> Slot:
        """A place for ``n_bytes``: the smallest hole that is large enough, else at the end."""
        size = -int(-n_bytes // self._alignment) * self._alignment
        fitting = [hole for hole in self._holes if hole[1] >= size]
        if not fitting:
            offset, self._end = self._end, self._end + size
            self.peak_bytes = max(self.peak_bytes, self._end)
            return offset, size
        # Of equal holes the last one wins, as in ggml.
        offset, length = min(reversed(fitting), key=lambda hole: hole[1])
        self._holes.remove((offset, length))
        if length > size:
            insort(self._holes, (offset + size, length - size))
        return offset, size

    def drop(self, *slots: Slot) -> None:
        """Give places back; neighbouring holes become one."""
        for offset, size in slots:
            if size:
                insort(self._holes, (offset, size))
                self._merge()

    def _merge(self) -> None:
        merged: list[Slot] = []
        for offset, size in self._holes:
            if merged and sum(merged[-1]) == offset:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((offset, size))
        if merged and sum(merged[-1]) == self._end:
            self._end = merged.pop()[0]
        self._holes = merged
