"""The allocator by hand: smallest hole first, neighbours merge, the end grows last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moeplan.memory.arena import Arena


def test_a_tensor_takes_the_smallest_hole_that_holds_it() -> None:
    arena = Arena(1)
    a, b, c, d = (arena.take(n) for n in (100, 10, 40, 10))
    arena.drop(a, c)  # holes of 100 at 0 and of 40 at 110
    assert arena.take(30) == (110, 30)
    assert arena.take(50) == (0, 50)
    assert arena.take(60) == (160, 60)  # 50 left at 50, 10 at 140: neither holds it
    assert arena.peak_bytes == 220
    assert b[0] == 100 and d[0] == 150


def test_neighbouring_holes_become_one_and_the_last_one_shrinks_the_end() -> None:
    arena = Arena(1)
    first, second, third = (arena.take(8) for _ in range(3))
    arena.drop(first, second)
    assert arena.take(16) == (0, 16)
    arena.drop(third)
    assert arena.take(100) == (16, 100)
    assert arena.peak_bytes == 116


def test_sizes_are_rounded_up_to_the_alignment() -> None:
    arena = Arena(32)
    assert arena.take(1) == (0, 32)
    assert arena.take(33) == (32, 64)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.randoms())
def test_live_tensors_never_overlap_and_the_peak_holds_them(sizes: list[int], dice: object) -> None:
    arena, live = Arena(4), []
    for size in sizes:
        slot = arena.take(size)
        for offset, length in live:
            assert slot[0] + slot[1] <= offset or offset + length <= slot[0] or not slot[1] or not length
        live.append(slot)
        assert slot[0] + slot[1] <= arena.peak_bytes
        if dice.random() < 0.4:  # type: ignore[attr-defined]
            arena.drop(live.pop(dice.randrange(len(live))))  # type: ignore[attr-defined]
    arena.drop(*live)
    assert arena.take(arena.peak_bytes) == (0, -(-arena.peak_bytes // 4) * 4)
