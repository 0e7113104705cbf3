"""The law of the reference decoder recovers the coefficients that its samples were made from."""

from __future__ import annotations

import pytest

from moeplan.calibrate.reference import ReferenceLaw, fit_reference
from moeplan.domain.profile import Sample
from moeplan.measure.timing import sample_of

TRUE = ReferenceLaw(1 / 20e9, 2e-4, 5e-5, 1 / 100e9, 1 / 60e9)


def sample(phase: str, model: str, layers: int, n_bytes: float, flop: float, experts: float) -> Sample:
    is_step = phase == "decode"
    seconds = TRUE.decode_s(n_bytes, layers, experts)
    if not is_step:
        seconds = TRUE.prefill_s(flop, layers, experts)
    setup: dict[str, str | int | float] = {"model": model, "layers": layers, "batch": 1, "bytes": n_bytes}
    setup |= {"flop": flop, "experts_touched": experts}
    return sample_of(f"reference {phase}", setup, "s", [seconds] * 5, best=min)


def runs() -> list[Sample]:
    return [
        sample("decode", "dense", 4, 3e8, 0, 0),
        sample("decode", "dense", 8, 5e8, 0, 0),
        sample("decode", "moe", 4, 2e8, 0, 4),
        sample("decode", "moe", 8, 3.5e8, 0, 4),
        sample("prefill", "dense", 4, 0, 2e10, 0),
        sample("prefill", "moe", 4, 0, 1e10, 16),
    ]


def test_the_coefficients_come_back() -> None:
    law = fit_reference(runs(), 20e9)
    assert law is not None
    assert list(law) == pytest.approx(list(TRUE), rel=1e-6)
    # 400 MB at 20 GB/s: 20 ms; 6 layers of 0.2 ms and 8 experts of 0.05 ms: 3.6 ms
    assert law.decode_s(4e8, 6, 8) == pytest.approx(23.6e-3)


def test_what_would_be_negative_is_left_out() -> None:
    law = fit_reference(runs(), 10e9)  # half the bandwidth already explains more than the time there is
    assert law is not None
    assert law.s_per_layer == 0.0
    assert law.s_per_expert >= 0.0


def test_too_few_runs_give_no_law() -> None:
    assert fit_reference(runs()[:1], 20e9) is None
    assert fit_reference([], 20e9) is None
