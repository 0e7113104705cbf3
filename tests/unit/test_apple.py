"""Apple's GPUs: what their cores issue in turn, and what builds of Metal's backend took for a layer."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from moeplan.calibrate.priors import ALWAYS, prior
from moeplan.cost.rates import gpu_rates
from moeplan.cost.type_groups import takes_integers
from moeplan.domain.hardware import GpuSpec
from moeplan.engines.launches import launch_marks
from moeplan.engines.traits import find_engine
from tests.support.problems import gpu

LLAMA, MLX = find_engine("llama.cpp"), find_engine("mlx")
IN_TURN = "local.apple.in-turn.vector"


def apple(id: str) -> GpuSpec:
    peaks = {"fp32": 27.2e12, "fp16": 27.2e12}
    return replace(gpu(unified=True), id=id, vendor="apple", architecture="Apple GPU", peak_flop_per_s=peaks)


@pytest.mark.parametrize(
    ("id", "quant", "in_turn"),
    [
        ("apple-m1", "q4_k", True),
        ("apple-m2-ultra", "q6_k", True),
        ("apple-m1-pro", "iq4_nl", True),
        ("apple-m1-max", "q5_0", True),
        ("apple-m1-max", "q4_0", False),
        ("apple-m1-max", "q4_1", False),
        ("apple-m2", "q8_0", False),
        ("apple-m2", "f16", False),
        ("apple-m3-max-40-core", "q4_k", False),
        ("apple-m4", "q4_k", False),
        ("my-mac", "q4_k", False),
    ],
)
def test_integers_set_the_pace_where_cores_issue_them_in_turn(id: str, quant: str, in_turn: bool) -> None:
    computing = gpu_rates(apple(id), LLAMA, "", quant, vector=True).weights[1]
    assert (IN_TURN in computing) is in_turn
    # what other cores and types reach on FP32 units says nothing of it
    assert ("local.vector" in computing) is not in_turn
    assert IN_TURN not in gpu_rates(apple(id), LLAMA, "", quant).weights[1]  # prompts multiply matrices


def test_experts_unpack_at_the_same_pace() -> None:
    def own(id: str, quant: str) -> bool:
        rates = gpu_rates(apple(id), LLAMA, "", quant, vector=True)
        return "local.experts.vector" in rates.experts[1]

    assert not own("apple-m2-max", "q4_k")  # one kernel body, and integers are all that counts in it
    assert own("apple-m2-max", "mxfp4") and own("apple-m4-pro", "q4_k")


def test_what_other_makers_gpus_unpack_is_not_in_turn() -> None:
    discrete = replace(gpu(), id="apple-m1-look-alike", peak_flop_per_s={"fp32": 1e13, "fp16": 1e13})
    assert IN_TURN not in gpu_rates(discrete, LLAMA, "", "q4_k", vector=True).weights[1]


def test_types_that_take_integers() -> None:
    assert all(takes_integers(quant) for quant in ("q2_k", "q3_k", "q5_k", "iq2_xxs", "iq4_xs", "q5_1"))
    assert not any(takes_integers(quant) for quant in ("q4_0", "q4_1", "q8_0", "bf16", "mxfp4", "mlx-4bit"))


@pytest.mark.parametrize(
    ("cores", "ghz", "weights", "busy_s"),
    [
        # beside reads at 0.9 of the bandwidth, joined by a norm of 4 (llama.cpp PRs 2290, 16074)
        (16, 1.296, 6.6e9, 26.9e-3),  # M1 Pro, LLaMA 7B
        (30, 1.398, 6.6e9, 13.1e-3),  # M2 Max, LLaMA 7B
        (76, 1.398, 14.0e9, 10.95e-3),  # M2 Ultra, Qwen2.5 14B
    ],
)
def test_the_start_of_that_rate_is_what_tables_say(
    cores: int, ghz: float, weights: float, busy_s: float
) -> None:
    peak = 2.0 * 128 * cores * ghz * 1e9
    assert 2.0 * weights / (prior(IN_TURN).value * peak) == pytest.approx(busy_s, rel=0.08)


@pytest.mark.parametrize(
    ("date", "dense", "routed"),
    [
        ("2023-11", {"waiting", "serial", "encoding"}, {"encoding"}),
        ("2024-11-17", {"waiting", "serial"}, set()),
        ("2025-08-31", {"waiting", "serial"}, set()),
        ("2025-09-14", {"waiting"}, set()),
        ("2026-02-13", set(), set()),
        ("", set(), set()),
    ],
)
def test_what_builds_of_metals_backend_lacked(date: str, dense: set[str], routed: set[str]) -> None:
    m4 = apple("apple-m4")
    for chosen, marks in ((False, dense), (True, routed)):
        assert set(launch_marks(LLAMA, m4, date, routed=chosen)) == marks
        assert launch_marks(MLX, m4, date, routed=chosen) == ()
    rates = gpu_rates(m4, LLAMA, date, "q4_k", vector=True)
    for names, marks in ((rates.fixed, dense), (rates.routed, routed)):
        assert {f"local.apple.{mark}.layer_time" for mark in marks} <= set(names)
        assert ("local.apple.waiting.layer_time" in names) is ("waiting" in marks)


def test_a_layer_on_metal_has_a_time_of_its_own() -> None:
    m4 = apple("apple-m4")
    for engine in (LLAMA, MLX):
        names = gpu_rates(m4, engine, "", "q4_k", vector=True).fixed
        assert names[0] == "local.apple.layer_s" and "local.layer_s" not in names
    assert gpu_rates(m4, find_engine("transformers"), "", "f16").fixed[0] == "local.eager_layer_s"
    assert gpu_rates(gpu(), LLAMA, "", "q4_k").fixed[0] == "local.layer_s"


@pytest.mark.parametrize(
    ("marks", "microseconds"),
    [
        ((), 68),  # February 2026 and later
        (("waiting",), 81),
        (("waiting", "serial"), 109),
        (("waiting", "serial", "encoding"), 134),  # before November 2024
    ],
)
def test_layers_start_at_what_an_m2_ultra_took(marks: tuple[str, ...], microseconds: int) -> None:
    factors = (prior(f"local.apple.{mark}.layer_time").value for mark in marks)
    layer_s = prior("local.apple.layer_s").value * math.prod(factors)
    assert layer_s == pytest.approx(microseconds * 1e-6, rel=0.03)


def test_prompts_on_an_m5_use_its_matrix_units() -> None:
    name = "local.apple.m5.compute"
    assert name in gpu_rates(apple("apple-m5-pro"), LLAMA, "", "q4_0").weights[1]
    assert name not in gpu_rates(apple("apple-m5-pro"), LLAMA, "", "q4_0", vector=True).weights[1]
    # no row speaks of it, and predictions need it
    assert name in ALWAYS and prior(name).value == 3.0
    assert prior("local.apple.m4.compute").value == 1.0


def test_prompts_of_types_start_at_what_a_table_says() -> None:
    # M2 Ultra, 7B: F16 1,265 tokens/s, Q4_K_M 1,028, Q6_K 978, Q4_0 1,164, Q8_0 1,143 (llama.cpp PR 3084)
    assert prior("local.quants.super-block.compute").value == pytest.approx(1003 / 1265, rel=0.01)
    assert prior("local.quants.block.compute").value == pytest.approx(1153.5 / 1265, rel=0.01)
    assert prior("local.quants.plain.compute").value == 1.0
