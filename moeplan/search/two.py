"""Layouts with hosted experts over two GPUs: the best of all of them, few of them priced.

Four counts make a layout: the first ``a`` layers are in RAM, those up to ``e`` on the first GPU, the others
on the second; experts of the layers up to ``i`` (on the first) and ``j`` (on the second) are in RAM. With a
and e fixed, time is a sum of what i adds and of what j adds, and a GPU holds the less the more experts are
hosted. So bisection gives the least i and j that may fit, and the least sum from there on bounds the time of
every layout with this a and e. Only layouts whose own time is below the best known are visited.

The bounds take the buffers of a GPU to be at least those of some short layouts (see ``FLOOR_FRAC``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from moeplan.domain.plan import Limits
from moeplan.domain.workload import PlacementKind
from moeplan.search.layout import RAM, Layout, several_gpus
from moeplan.search.objective import Aim
from moeplan.search.pricing import Table
from moeplan.search.sides import Side, weigh, weighted

FLOOR_FRAC = 0.95
"""Of the least buffers of short layouts, as packing by best fit is not quite monotone."""
SAME = 1e-11
"""Times that differ by this share are equal: prefix sums differ by rounding."""
MOST_VISITS = 4000
"""Layouts priced for one kind of placement, the most promising first: 0.1 s of work."""
MOST_LOOKS = 50_000
"""Layouts whose sums are compared with the best of their kind, priced or not."""

Leader = Callable[[PlacementKind], tuple[float, float] | None]
"""Seconds of (decode, prefill) of the best plan of a kind so far."""


class _Floor(NamedTuple):
    """What layouts of a kind have beside their layers, at least: bytes left for layers, and seconds."""

    room_bytes: list[float]
    decode_s: float
    prefill_s: float


class _Box(NamedTuple):
    """All layouts with these a and e, from these i and j on; none is faster than ``bound``."""

    bound: float
    a: int
    e: int
    i: int
    j: int


class TwoGpus:
    """The search of one problem. ``visit`` prices a layout, ``leader`` tells the best of those visited."""

    def __init__(
        self, table: Table, aim: Aim, limits: Limits, visit: Callable[[Layout], object], leader: Leader
    ) -> None:
        self._table, self._aim, self._visit, self._leader = table, aim, visit, leader
        self._n = table.problem.graph.spec.n_layers
        slowest, latest = limits.min_tokens_per_s, limits.max_ttft_s
        self._most_decode_s = float("inf") if slowest is None else 1 / slowest
        self._most_prefill_s = float("inf") if latest is None else latest
        ram = table.sums(RAM, RAM)
        self._ram_bytes, self._ram_s = ram.bytes_on(2), (ram.decode_s, ram.prefill_s)
        self._ram_first = weighted(aim.first, *self._ram_s)
        self._sides = Side(table, 0, aim), Side(table, 1, aim)
        self._most_first = _weigh_limits(aim.first, self._most_decode_s, self._most_prefill_s)
        self.n_visits = self.n_looks = 0

    def run(self, *, leaves: bool) -> None:
        """Visit all that may be the best of its kind. ``leaves``: whole layers may be in RAM."""
        self._kind("experts", range(1))
        if leaves and self._n > 1:
            self._kind("mixed", range(1, self._n))

    def _kind(self, kind: PlacementKind, starts: range) -> None:
        floor = self._floor(starts)
        self.n_visits = self.n_looks = 0
        for box in sorted(self._boxes(floor, starts)):
            if box.bound > self._bar(kind) or self._enough():
                return
            self._open(box, kind, floor)

    def _enough(self) -> bool:
        return self.n_visits >= MOST_VISITS or self.n_looks >= MOST_LOOKS

    # ── bounds ───────────────────────────────────────────────────────────────────────────────────

    def _floor(self, starts: range) -> _Floor:
        """The least over layouts with one layer, a few or all of them on a GPU, each sort hosted or whole."""
        table, n = self._table, self._n
        bytes_beside, decode_s, prefill_s = [float("inf")] * 3, float("inf"), float("inf")
        for a, e, i, j in _short(n, {starts[0], starts[-1]}):
            layout = several_gpus(n, a, (e, n), (i - a, j - e))
            empty = (e == a, e == n, False)
            bytes_beside = [
                least if nothing else min(least, n_bytes)
                for least, n_bytes, nothing in zip(bytes_beside, table.buffers(layout), empty, strict=True)
            ]
            fixed = table.fixed(layout)
            decode_s, prefill_s = min(decode_s, fixed[0]), min(prefill_s, fixed[1])
        room = [have - FLOOR_FRAC * b for have, b in zip(table.capacity_bytes, bytes_beside, strict=True)]
        return _Floor(room, decode_s, prefill_s)

    def _boxes(self, floor: _Floor, starts: range) -> list[_Box]:
        n, (one, two) = self._n, self._sides
        fixed = weigh(self._aim.first, floor.decode_s, floor.prefill_s)
        behind = []  # of each e: the least j, and the least that the second GPU takes
        for e in range(n + 1):
            j = two.least(e, n, floor.room_bytes[1])
            least = min(two.first.change[j:], default=float("inf"))
            behind.append((j, least - two.first.hosted[e] + two.first.whole[n]))
        boxes = []
        for a in starts:
            before = fixed + self._ram_first[a] - one.first.hosted[a]
            for e in range(a, n + 1):
                i = one.least(a, e, floor.room_bytes[0])
                j, after = behind[e]
                if i <= e and j <= n:
                    bound = before + min(one.first.change[i : e + 1]) + one.first.whole[e] + after
                    boxes.append(_Box(bound, a, e, i, j))
        return boxes

    def _bar(self, kind: PlacementKind) -> float:
        """What a plan of ``kind`` must not exceed to keep the limits and be as good as the best."""
        best = self._leader(kind)
        most = self._most_first if best is None else min(self._most_first, weigh(self._aim.first, *best))
        return most * (1 + SAME)

    # ── inside one box ───────────────────────────────────────────────────────────────────────────

    def _open(self, box: _Box, kind: PlacementKind, floor: _Floor) -> None:
        """Visit what may be better than the best of ``kind``, of each i the most promising j first."""
        n, one, two = self._n, self._sides[0].first.change, self._sides[1].first.change
        bar = self._bar(kind)
        behind = sorted(range(box.j, n + 1), key=two.__getitem__)
        before = sorted(range(box.i, box.e + 1), key=one.__getitem__)
        rest = box.bound - two[behind[0]] - one[before[0]]
        for i in before:
            so_far = rest + one[i]
            if so_far + two[behind[0]] > bar:
                return
            for j in behind:
                if so_far + two[j] > bar:
                    break
                if self._enough():
                    return
                self.n_looks += 1
                if self._better(box, i, j, kind, floor):
                    self.n_visits += 1
                    self._visit(several_gpus(n, box.a, (box.e, n), (i - box.a, j - box.e)))
                    bar = self._bar(kind)

    def _better(self, box: _Box, i: int, j: int, kind: PlacementKind, floor: _Floor) -> bool:
        """Whether a layout keeps all limits and is better than the best, as far as the sums tell."""
        n, (one, two), a, e = self._n, self._sides, box.a, box.e
        if i == a and j == e:
            return False  # no experts hosted: another kind
        if self._ram_bytes[a] + one.in_ram.of(a, i, e) + two.in_ram.of(e, j, n) > floor.room_bytes[2] + 1.0:
            return False
        decode_s = floor.decode_s + self._ram_s[0][a] + one.decode.of(a, i, e) + two.decode.of(e, j, n)
        prefill_s = floor.prefill_s + self._ram_s[1][a] + one.prefill.of(a, i, e) + two.prefill.of(e, j, n)
        if decode_s > self._most_decode_s * (1 + SAME) or prefill_s > self._most_prefill_s * (1 + SAME):
            return False
        best = self._leader(kind)
        if best is None:
            return True
        for weights in self._aim:
            mine, its = weigh(weights, decode_s, prefill_s), weigh(weights, *best)
            if abs(mine - its) > SAME * its:
                return mine < its
        return False


def _weigh_limits(weights: tuple[float, float], most_decode_s: float, most_prefill_s: float) -> float:
    """The largest weighted time that keeps both limits; an unlimited time of no weight does not count."""
    return sum(w * most for w, most in zip(weights, (most_decode_s, most_prefill_s), strict=True) if w)


def _short(n: int, starts: set[int]) -> Iterator[tuple[int, int, int, int]]:
    """Layouts with hosted experts of which a GPU holds one layer, half of the layers or all of them."""
    for a in starts:
        for e in {a, a + 1, (a + n) // 2, n - 1, n}:
            for i in {a, min(a + 1, e), e}:
                for j in {e, min(e + 1, n), n}:
                    if a <= e and (i > a or j > e):
                        yield a, e, i, j
