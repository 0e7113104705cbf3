"""Layouts over several GPUs: consecutive layers on each, experts of some in RAM.

Enumerating them all is out of reach (61 layers on 4 GPUs: 10^9), so the search climbs. A state says how many
layers are in RAM, and on each GPU how many are whole and how many have their experts in RAM. From several
starts it moves layers from one such slot to another, a few at a time, as long as that helps; then it tries
two moves at once, the second making room for the first. Checked against a MILP in tests/crosscheck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from moeplan.engines.traits import EngineTraits
from moeplan.search.layout import Layout, Shape, several_gpus

Rank = tuple[float, ...]
"""Smaller is better: plans come first, then layouts that break a limit, then those that are too large."""

State = tuple[int, ...]
"""Layers in RAM, then for each GPU the layers with hosted experts and the whole ones."""

ALL = 0
STEPS = (ALL, 8, 4, 2, 1)
"""How many layers move at once: all of a slot (one GPU needs smaller buffers than several), or a few."""


BEST_GIVEN = 6
"""Given starts that are climbed from: the best of them."""


class Climber:
    """The climb of one problem. ``visit`` ranks a layout; ``room`` is (bytes a GPU has for layers, bytes of
    it that one average layer takes whole, and with hosted experts)."""

    def __init__(
        self,
        shape: Shape,
        engine: EngineTraits,
        visit: Callable[[Layout], Rank],
        room: Sequence[tuple[float, float, float]],
        starts: Iterable[State] = (),
    ) -> None:
        self._n, self._n_gpus = shape.n_layers, len(room)
        self._room, self._visit, self._given = room, visit, starts
        hosts = bool(shape.moe) and "experts" in engine.splits
        self._slots = [
            slot
            for slot in range(1 + 2 * self._n_gpus)
            if (slot == 0 and "layers" in engine.splits) or (slot and (hosts or slot % 2 == 0))
        ]
        self._hosts, self._leaves = hosts, "layers" in engine.splits
        self._seen: dict[State, Rank] = {}

    def run(self) -> None:
        """Climb from every start, then on with pairs of moves from the best places found."""
        ends = sorted({self._climb(state) for state in dict.fromkeys(self._starts())}, key=self._rank)
        self._climb_on(ends[0])

    def _climb_on(self, best: State) -> None:
        while True:
            paired = min(self._pairs(best), key=self._rank, default=best)
            if self._rank(paired) >= self._rank(best):
                return
            best = self._climb(paired)

    def _rank(self, state: State) -> Rank:
        rank = self._seen.get(state)
        if rank is None:
            rank = self._seen[state] = self._visit(self._layout(state))
        return rank

    def _layout(self, state: State) -> Layout:
        ends, end = [], state[0]
        for hosted, whole in zip(state[1::2], state[2::2], strict=True):
            end += hosted + whole
            ends.append(end)
        return several_gpus(self._n, state[0], ends, state[1::2])

    def _climb(self, state: State) -> State:
        """Each move as long as it helps, until a round of all moves brings nothing."""
        moves = [(a, b, n) for a in self._slots for b in self._slots if a != b for n in STEPS]
        since_better, i = 0, 0
        while since_better < len(moves):
            source, target, step = moves[i % len(moves)]
            i, since_better = i + 1, since_better + 1
            while state[source] and step <= state[source]:
                n = step or state[source]
                if not target and self._n - state[0] <= n:
                    break  # a layer must stay on a GPU
                moved = _moved(state, source, target, n)
                if self._rank(moved) >= self._rank(state):
                    break
                state, since_better = moved, 0
        return state

    def _pairs(self, state: State) -> Iterator[State]:
        """One layer into a GPU, and one of that GPU out of it or to its cheaper slot."""
        for source in self._slots:
            for target in self._slots:
                if not target or source == target or not state[source]:
                    continue
                first = _moved(state, source, target, 1)
                gpu = (target - 1) // 2
                for leaving in (2 * gpu + 1, 2 * gpu + 2):
                    if leaving not in self._slots or not first[leaving]:
                        continue
                    yield from (
                        _moved(first, leaving, home, 1)
                        for home in self._slots
                        if home != leaving and (home or self._n - first[0] > 1)
                    )

    # ── where to start ───────────────────────────────────────────────────────────────────────────

    def _starts(self) -> Iterator[State]:
        """Shares in proportion to memory, the GPUs filled one after the other from either end, each alone;
        of two GPUs the best of all splits into whole layers."""
        yield from sorted(dict.fromkeys(self._given), key=self._rank)[:BEST_GIVEN]
        free = [max(0.0, room[0]) for room in self._room]
        total = sum(free) or 1.0
        yield self._fitted([self._n * f / total for f in free])
        if self._hosts:
            yield self._filled(range(self._n_gpus), whole=False)
        for order in (range(self._n_gpus), range(self._n_gpus - 1, -1, -1)):
            yield self._filled(order, whole=True)
        if self._n_gpus == 2:  # few enough to try them all
            ram = range(self._n if self._leaves else 1)
            pairs = ((a, b) for a in ram for b in range(a, self._n + 1))
            yield min(((a, 0, b - a, 0, self._n - b) for a, b in pairs), key=self._rank)
        for g in range(self._n_gpus):  # one GPU alone needs smaller buffers than several
            yield self._fitted([self._n if g == other else 0 for other in range(self._n_gpus)])
            if self._leaves:
                yield self._filled((g,), whole=True)

    def _fitted(self, shares: Sequence[float]) -> State:
        """``shares`` of the layers, as many whole as fit, the others with hosted experts."""
        ends = [round(sum(shares[: g + 1])) for g in range(self._n_gpus)]
        ends[-1] = self._n
        state, start = [0], 0
        for (free, whole, hosted), end in zip(self._room, ends, strict=True):
            n = end - start
            fit = n if not self._hosts else int(max(0.0, free - n * hosted) / max(1.0, whole - hosted))
            state += [n - min(n, fit), min(n, fit)]
            start = end
        return tuple(state)

    def _filled(self, order: Sequence[int], *, whole: bool) -> State:
        """GPU after GPU in ``order`` filled to its brim; what is left over goes to RAM or the last one."""
        slots, left = [0] * (1 + 2 * self._n_gpus), self._n
        for g in order:
            free, bytes_whole, bytes_hosted = self._room[g]
            n = min(left, int(max(0.0, free) / max(1.0, bytes_whole if whole else bytes_hosted)))
            slots[2 + 2 * g if whole else 1 + 2 * g] += n
            left -= n
        if left and (not self._leaves or left == self._n):
            slots[2 + 2 * order[-1]] += left
        else:
            slots[0] = left
        return tuple(slots)


def _moved(state: State, source: int, target: int, step: int) -> State:
    slots = list(state)
    slots[source] -= step
    slots[target] += step
    return tuple(slots)
