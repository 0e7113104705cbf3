"""What the layers of one GPU add to bytes and times, experts hosted up to one of them and not after."""

from __future__ import annotations

from bisect import bisect_left

from moeplan.search.layout import RAM
from moeplan.search.objective import Aim
from moeplan.search.pricing import Table


class Line:
    """One quantity of one GPU's layers: prefix sums with all experts hosted, and with none."""

    def __init__(self, hosted: list[float], whole: list[float]) -> None:
        self.hosted, self.whole = hosted, whole
        self.change = [h - w for h, w in zip(hosted, whole, strict=True)]

    def of(self, start: int, middle: int, end: int) -> float:
        """Sum over layers ``start`` to ``end``, hosted before ``middle``."""
        return self.change[middle] - self.hosted[start] + self.whole[end]


class Side:
    """One GPU; ``first`` is what the objective counts of its layers."""

    def __init__(self, table: Table, gpu: int, aim: Aim) -> None:
        tier, ram = f"gpu{gpu}", len(table.devices) - 1
        hosted, whole = table.sums(tier, RAM), table.sums(tier, tier)
        self.on_gpu = Line(hosted.bytes_on(gpu), whole.bytes_on(gpu))
        self.in_ram = Line(hosted.bytes_on(ram), whole.bytes_on(ram))
        self.decode = Line(hosted.decode_s, whole.decode_s)
        self.prefill = Line(hosted.prefill_s, whole.prefill_s)
        self.first = Line(
            weighted(aim.first, hosted.decode_s, hosted.prefill_s),
            weighted(aim.first, whole.decode_s, whole.prefill_s),
        )
        self._freed = [-change for change in self.on_gpu.change]

    def least(self, start: int, end: int, room_bytes: float) -> int:
        """The least ``middle`` whose layers take no more than ``room_bytes``; over ``end`` if none does."""
        if start == end:
            return start
        over = self.on_gpu.whole[end] - self.on_gpu.hosted[start] - room_bytes - 1.0
        return bisect_left(self._freed, over, start, end + 1)


def weigh(weights: tuple[float, float], decode_s: float, prefill_s: float) -> float:
    """Weighted sum of both phases."""
    return weights[0] * decode_s + weights[1] * prefill_s


def weighted(weights: tuple[float, float], decode_s: list[float], prefill_s: list[float]) -> list[float]:
    """The same of prefix sums."""
    return [weigh(weights, d, p) for d, p in zip(decode_s, prefill_s, strict=True)]
