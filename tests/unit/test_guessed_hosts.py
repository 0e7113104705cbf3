"""A host that nobody described is a guess, and ranges say by how much."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

import moeplan
from moeplan.cost.ops import Op
from moeplan.cost.timing import time_of
from moeplan.domain.calibration import Residuals
from moeplan.predict.interval import joined_error, time_range
from moeplan.provenance import Source
from moeplan.readers.calibration import read_calibration
from tests.support.matching import match
from tests.support.problems import gpu, machine

# eight of ten setups within 10% either way
NARROW = Residuals(10, 4, (0.1, 0.5, 0.9), (-0.1, 0.0, 0.1), Source("measured", "a test"))
RAM = "RAM bandwidth"


def test_errors_of_law_and_guess_are_independent() -> None:
    span = time_range(1.0, NARROW, 0.8, guess_log=math.log(2.0))
    both = math.hypot(0.1, math.log(2.0))
    assert (math.log(span.high), math.log(span.low)) == (pytest.approx(both), pytest.approx(-both))
    # half of the tail on either side, half of the guess: 0.25 and 0.75 of the quantiles
    inner = time_range(1.0, NARROW, 0.4, guess_log=math.log(2.0))
    assert math.log(inner.high) == pytest.approx(both / 2)
    assert time_range(1.0, NARROW, 0.8) == time_range(1.0, NARROW, 0.8, guess_log=0.0)
    assert joined_error(-0.1, 0.3) == pytest.approx(0.2), "a law that is off to one side is moved"


def test_the_floor_rests_on_the_guess_too() -> None:
    assert time_range(1.0, NARROW, 0.8, floor_s=0.95).low == 0.95
    assert time_range(1.0, NARROW, 0.8, floor_s=0.95, guess_log=math.log(2.0)).low < 0.95 / 1.9


def test_a_processor_that_was_named_is_no_guess() -> None:
    flags = {"gpu": "rtx-3090", "ram_gib": 64, "context": 4096, "engine": "llama.cpp"}
    guessed = moeplan.estimate("gpt-oss-120b", **flags)
    named = moeplan.estimate("gpt-oss-120b", cpu="ryzen-9-7950x", **flags)
    stated = moeplan.estimate("gpt-oss-120b", ram_gbs=80, **flags)
    assert "within a factor of 1.5" in next(line for line in guessed.assumptions if RAM in line)
    assert "factor" not in next(line for line in named.assumptions if RAM in line)
    assert not any(RAM in line for line in stated.assumptions)
    widths = [math.log(e.decode_step_s.high / e.decode_step_s.low) for e in (guessed, named, stated)]
    # the guess is of the part of a step that is the processor's, and independent of the error of the law
    assert widths[0] > 1.2 * widths[1] and widths[2] <= 1.01 * widths[1]


def test_cores_that_fit_no_processor_and_part_of_one() -> None:
    unknown = match([], cpu_name="Fancy 9000", cores=8, threads=16)
    part = match([], cpu_name="AMD EPYC 7763 64-Core Processor", cores=2, threads=4, virtual=True)
    assert (unknown.host.guess_factor, part.host.guess_factor) == (1.5, 2.0)


def test_what_stays_in_vram_does_not_depend_on_it() -> None:
    e = moeplan.estimate("llama-3.1-8b", gpu="rtx-3090", quant="q4_k_m")
    assert e.decode.guess_log == 0.0


def test_rates_that_no_row_speaks_of_are_guesses_too() -> None:
    shipped = read_calibration()
    rate = "local.cpu.flop_per_s_per_core.neon"
    assert shipped.coefficients[rate].n_setups == 0
    asked = {"cpu": "raspberry-pi-5", "quant": "q4_k_m", "engine": "llama.cpp", "context": 2048}
    e = moeplan.estimate("llama-3.2-3b", **asked)
    # three rates (NEON, narrow cores, interleaved rows), each lower by e^0.5, make the computing part of
    # prompts, most of them, as much longer
    assert 0.35 * 3**0.5 < e.prefill.guess_log <= 0.5 * 3**0.5
    assert 0.0 < e.decode.guess_log < e.prefill.guess_log
    named = moeplan.estimate("llama-3.2-3b", **asked | {"cpu": "ryzen-9-7950x"})
    assert named.prefill.guess_log == 0.0
    assert "neon" in e.confidence.prefill.unseen and "neon" not in named.confidence.prefill.unseen


def test_a_guessed_rate_of_widening_weights_widens_ranges_too() -> None:
    """Steps of a few rows are half widening; the rate of it was left out of what is guessed and unseen."""
    op = Op(
        "gpu0 weights", 1.0, ("local.bandwidth",), unpacking_s=1.0,
        unpacking=("local.vector", "local.engine.new.vector"),
    )  # fmt: skip
    shipped = read_calibration()
    guess = replace(
        shipped.coefficients["local.vector"], value=1.0, n_setups=0, source=Source("assumed", "a guess")
    )
    known = replace(guess, n_setups=9, source=Source("fitted", "rows"))
    hardware = machine((gpu(),))
    times = [
        time_of(
            [op], 0, 0, hardware,
            replace(shipped, coefficients={"local.bandwidth": known, "local.vector": rate}),
        )
        for rate in (known, guess)
    ]  # fmt: skip
    assert times[0].unseen == ("local.engine.new.vector",)
    # one of two seconds rests on a rate that may be e^0.5 lower, or rather higher here: 1 + e^-0.5 of 2
    assert times[0].guess_log == 0.0
    assert times[1].guess_log == pytest.approx(-math.log((1 + math.exp(-0.5)) / 2))
