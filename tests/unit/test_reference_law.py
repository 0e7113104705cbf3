"""The law of the reference decoder recovers the coefficients that its samples were made from."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from moeplan.calibrate.reference import ReferenceLaw, fit_reference
from moeplan.domain.profile import Sample
from moeplan.measure.timing import sample_of
from moeplan.measure.work import Work

ELEMENTS = 1e7
TRUE = ReferenceLaw(
    s_per_element={1: 2e-10, 4: 3e-10, 64: 3e-9},
    s_per_layer=2e-4,
    s_per_expert=5e-5,
    s_per_expert_of_many=8e-5,
    s_per_value=1e-9,
    s_per_cache_byte=1 / 10e9,
    s_per_attention_flop=1 / 50e9,
)


def work(**given: float) -> Work:
    none: dict[str, float] = dict.fromkeys(Work._fields, 0.0) | {"rows": 1, "head_rows": 1, "expert_rows": 1}
    return Work(**(none | given))  # type: ignore[arg-type]


WORKS = [
    work(layers=4, dense_elements=8e7, head_elements=2e7, values=4096, cache_bytes=1e6),
    work(layers=8, dense_elements=16e7, head_elements=2e7, values=8192, cache_bytes=1e6),
    work(layers=4, dense_elements=3e7, experts=8, expert_elements=4e7, values=4096),
    work(layers=8, dense_elements=6e7, experts=64, expert_elements=8e7, values=8192),
    work(layers=4, rows=64, dense_elements=8e7, values=4e5, attention_flop=1e9),
    work(layers=4, rows=64, dense_elements=3e7, experts=32, expert_rows=8, expert_elements=4e7, values=3e5),
]


def samples(works: list[Work]) -> list[Sample]:
    found = [
        sample_of(
            "matrix times rows",
            {"rows": n, "elements": ELEMENTS, "threads": 2},
            "s",
            [t * ELEMENTS] * 5,
            best=min,
        )
        for n, t in TRUE.s_per_element.items()
    ]
    for name, per_unit in (
        ("attention, decode", TRUE.s_per_cache_byte),
        ("attention, prompt", TRUE.s_per_attention_flop),
    ):
        found.append(sample_of(name, {"threads": 2}, "1/s", [1 / per_unit] * 5))
    for w in works:
        found.append(
            sample_of("reference decode", {"threads": 2} | w.setup(), "s", [TRUE.seconds(w)] * 5, best=min)
        )
    return found


def test_the_coefficients_come_back() -> None:
    law = fit_reference(samples(WORKS))
    assert law is not None
    assert law.s_per_element == pytest.approx(TRUE.s_per_element)
    assert law.fitted() == pytest.approx(TRUE.fitted(), rel=0.02)
    # 10^8 elements x 0.2 ns: 20 ms; 6 layers of 0.2 ms; 8 experts of 0.05 ms: 1.6 ms; 1 MB of cache: 0.1 ms
    asked = work(layers=6, dense_elements=1e8, experts=8, cache_bytes=1e6)
    assert TRUE.seconds(asked) == pytest.approx(21.7e-3)
    assert law.seconds(asked) == pytest.approx(21.7e-3, rel=0.005)


def test_between_measured_rows_a_power_law_and_beyond_them_the_same_rate() -> None:
    # 4 rows 0.3 ns, 64 rows 3 ns: at 16 rows, halfway on a log scale, sqrt(0.3 x 3)
    assert TRUE.element_s(16) == pytest.approx(math.sqrt(0.9) * 1e-9)
    assert TRUE.element_s(128) == pytest.approx(6e-9)
    assert TRUE.element_s(0.5) == pytest.approx(2e-10)
    assert TRUE.element_s(0) == 0.0


def test_what_would_be_negative_is_left_out() -> None:
    halved = [
        s if not s.name.startswith("reference ") else replace(s, median=s.median / 2, low=s.low / 2)
        for s in samples(WORKS)
    ]
    law = fit_reference(halved)  # the matrices alone already explain more than the time there is
    assert law is not None
    assert law.fitted() == (0.0, 0.0, 0.0, 0.0)


def test_too_few_samples_give_no_law() -> None:
    assert fit_reference(samples([])) is None
    assert fit_reference([]) is None
    assert fit_reference([s for s in samples(WORKS) if s.name.startswith("reference ")]) is None
