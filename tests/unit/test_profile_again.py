"""Which of an engine's prompts is run again in the time that is left."""

from __future__ import annotations

import pytest

from moeplan.api.profile_engine import neediest


def test_what_is_run_again_is_what_looks_slow() -> None:
    # of twice one core's 100: 190 and 188 are near and alike; 150 is not near; 190 is near, 160 beside it far
    prompts = {
        ("good", 1): [100.0], ("good", 2): [188.0, 190.0], ("slow", 1): [100.0], ("slow", 2): [150.0, 149.0],
        ("apart", 1): [100.0], ("apart", 2): [190.0, 160.0],
    }  # fmt: skip
    assert neediest(prompts, 2) == ("slow", 2)
    prompts["slow", 2].append(189.0)
    assert neediest(prompts, 2) == ("apart", 2), "run twice, the other three times"
    prompts["apart", 2].append(185.0)
    prompts["slow", 2].append(186.0)
    assert neediest(prompts, 2) is None
    prompts["good", 1] = [80.0]
    assert neediest(prompts, 2) == ("good", 1), "two cores together at 190, twice one core is 160"


def test_every_run_on_all_cores_is_made_again_the_slow_ones_first() -> None:
    prompts = {
        ("well", 1): [100.0], ("well", 2): [190.0], ("slow", 1): [100.0], ("slow", 2): [150.0],
    }  # fmt: skip
    assert neediest(prompts, 2) == ("slow", 2)
    prompts["slow", 2].append(151.0)
    assert neediest(prompts, 2) == ("well", 2), "once, the other twice"
    prompts["well", 2].append(191.0)
    assert neediest(prompts, 2) == ("slow", 2)
    prompts["slow", 2].append(192.0)
    prompts["slow", 2].append(191.0)
    assert neediest(prompts, 2) is None


def test_of_runs_made_as_often_the_farthest_is_made_again() -> None:
    slow = {("a", 1): [100.0], ("a", 2): [160.0], ("b", 1): [100.0], ("b", 2): [150.0]}
    assert neediest(slow, 2) == ("b", 2), "0.75 of twice one core beside 0.8"
    # one core of "a" was too slow: 220 together are 1.1 times twice 100; of "b" 240 are 1.2 times
    alone = {("a", 1): [100.0], ("a", 2): [220.0], ("b", 1): [100.0], ("b", 2): [240.0]}
    assert neediest(alone, 2) == ("b", 1)
    alone["b", 1].append(100.0)
    assert neediest(alone, 2) == ("a", 1), "one core ran once there, twice here"
    # 1 / 1.2 is farther than 0.85, and 0.8 farther than that
    both = {("a", 1): [100.0], ("a", 2): [170.0], ("b", 1): [100.0], ("b", 2): [240.0]}
    assert neediest(both, 2) == ("b", 1)
    both["a", 2] = [160.0]
    assert neediest(both, 2) == ("a", 2)
    # of those that look well the farther one first, and of equals the first by name
    well = {("a", 1): [100.0], ("a", 2): [196.0], ("b", 1): [100.0], ("b", 2): [190.0]}
    assert neediest(well, 2) == ("b", 2)
    well["b", 2] = [196.0]
    assert neediest(dict(reversed(well.items())), 2) == ("a", 2)


@pytest.mark.parametrize(
    ("together", "again"),
    [
        ([179.0, 179.0], ("x", 2)),  # below 0.9 of twice one core
        ([180.0, 180.0], None),
        ([204.0, 204.0], None),  # 1.02 of it
        ([204.5, 204.5], ("x", 1)),
        ([200.0, 181.0], ("x", 2)),  # a tenth apart and more
        ([200.0, 182.0], None),
        ([100.0, 200.0, 199.0], None),  # the two best count
    ],
)
def test_what_counts_as_near(together: list[float], again: tuple[str, int] | None) -> None:
    assert neediest({("x", 1): [100.0], ("x", 2): together}, 2) == again


def test_a_tenth_apart_is_alike() -> None:
    assert neediest({("x", 1): [2.75], ("x", 2): [5.5, 5.0]}, 2) is None  # 1.1 x 5 is 5.5 to the last bit
