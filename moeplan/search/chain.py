"""Splits over any number of GPUs one after the other: where to start a climb.

A GPU's time is a sum over its layers and does not depend on the others, so the best split of the first ``e``
layers over the first GPUs follows from the best splits of fewer layers over one GPU less. That is exact but
for two things: buffers are taken from a layout like the one sought, and RAM is taken to hold the rest. As
few GPUs need smaller buffers than many, each choice of GPUs is tried, alike ones once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, product

from moeplan.domain.hardware import GpuSpec
from moeplan.search.layout import RAM, several_gpus
from moeplan.search.objective import Aim
from moeplan.search.pricing import Table
from moeplan.search.sides import Side, weighted

ROUNDS = 3
"""Times that buffers are taken from the split just found."""
MOST_CHOICES = 15
"""Choices of GPUs that are tried, those of the most GPUs first: all there are of four."""


def chained(table: Table, aim: Aim, *, leaves: bool, hosts: bool) -> Iterator[tuple[int, ...]]:
    """Best splits with and without whole layers in RAM (``leaves``) and hosted experts (``hosts``)."""
    chain = _Chain(table, aim)
    for used in choices(table.problem.hardware.gpus):
        for leave, host in product(
            (False, True) if leaves else (False,), (False, True) if hosts else (False,)
        ):
            split = chain.split(used, leaves=leave, hosts=host)
            if split is not None:
                yield split


def choices(gpus: Sequence[GpuSpec]) -> list[tuple[int, ...]]:
    """Indices of GPUs that may hold layers, most GPUs first; of choices with the same GPUs the first."""
    alike = [next(i for i, other in enumerate(gpus) if other == gpu) for gpu in gpus]
    every = (used for size in range(len(gpus), 0, -1) for used in _unlike(alike, size, 0))
    return list(islice(every, MOST_CHOICES))


def _unlike(alike: list[int], size: int, start: int) -> Iterator[tuple[int, ...]]:
    """Choices of ``size`` GPUs from ``start`` on that differ in what they are, each by its first GPUs."""
    if len(set(alike[start:])) == 1 or size == 0:  # racks of equal ones are not looked through one by one
        yield tuple(range(start, start + size))
        return
    seen: set[int] = set()
    for i in range(start, len(alike) - size + 1):
        if alike[i] not in seen:
            seen.add(alike[i])
            yield from ((i, *rest) for rest in _unlike(alike, size - 1, i + 1))


class _Chain:
    def __init__(self, table: Table, aim: Aim) -> None:
        self._table, self._n = table, table.problem.graph.spec.n_layers
        self._sides = [Side(table, g, aim) for g in range(len(table.devices) - 1)]
        ram = table.sums(RAM, RAM)
        self._ram = weighted(aim.first, ram.decode_s, ram.prefill_s)

    def split(self, used: tuple[int, ...], *, leaves: bool, hosts: bool) -> tuple[int, ...] | None:
        """Layers in RAM, then of each GPU those with hosted experts and the whole ones. None: too large.

        ``used``: the GPUs that may hold layers.
        """
        n, table, n_gpus = self._n, self._table, len(self._sides)
        in_ram = int(leaves and n > 1)
        shares = [sum(u <= g for u in used) for g in range(n_gpus)]
        ends = [in_ram + (n - in_ram) * share // len(used) for share in shares]
        layout, found = several_gpus(n, in_ram, ends, [n * hosts] * n_gpus), None
        room = list(table.capacity_bytes)
        for _ in range(ROUNDS):
            left = [
                have - beside
                for have, beside in zip(table.capacity_bytes, table.buffers(layout), strict=True)
            ]
            if found is not None and all(b >= a for a, b in zip(room, left, strict=True)):
                break
            room = left if found is None else [min(pair) for pair in zip(room, left, strict=True)]
            cuts = self._cuts(used, room, leaves=leaves, hosts=hosts)
            if cuts is None:
                return found
            found = _state(cuts)
            layout = several_gpus(n, cuts[0][0], [end for _, _, end in cuts], [m - s for s, m, _ in cuts])
        return found

    def _cuts(
        self, used: tuple[int, ...], room: list[float], *, leaves: bool, hosts: bool
    ) -> list[tuple[int, int, int]] | None:
        """Of each GPU (first layer, first whole layer, end)."""
        n, infinite = self._n, float("inf")
        best = list(self._ram) if leaves else [0.0]
        best += [infinite] * (n + 1 - len(best))
        best[n] = infinite
        chosen: list[list[tuple[int, int, int]]] = []
        for g, (side, most) in enumerate(zip(self._sides, room[:-1], strict=True)):
            before, best, cuts = best, list(best), [(e, e, e) for e in range(n + 1)]
            if g not in used:
                chosen.append(cuts)
                continue
            hosted, whole, change = side.first.hosted, side.first.whole, side.first.change
            for start in range(n):
                if before[start] == infinite:
                    continue
                base = before[start] - hosted[start]
                for end in range(start + 1, n + 1):
                    middle = side.least(start, end, most)
                    if middle > end or (middle > start and not hosts):
                        break
                    least = min(change[middle : end + 1]) if hosts else change[start]
                    if base + least + whole[end] < best[end]:
                        best[end] = base + least + whole[end]
                        cuts[end] = (start, change.index(least, middle, end + 1) if hosts else start, end)
            chosen.append(cuts)
        if best[n] == infinite:
            return None
        path, end = [], n
        for cuts in reversed(chosen):
            path.append(cuts[end])
            end = cuts[end][0]
        return path[::-1]


def _state(cuts: list[tuple[int, int, int]]) -> tuple[int, ...]:
    counts = [cuts[0][0]]
    for start, middle, end in cuts:
        counts += [middle - start, end - middle]
    return tuple(counts)
