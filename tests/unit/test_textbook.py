"""The textbook rules. The figures of the pair 70B dense / 47B-13B MoE at 2 TB/s, 312 TFLOP/s are worked out
by hand beside each assertion."""

from __future__ import annotations

import json
import math
import re

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeplan.api.textbook import textbook
from moeplan.cost.textbook import crossover_batch, latency_step, tokens_per_day
from moeplan.domain.textbook import Textbook
from moeplan.errors import SpecError
from moeplan.report.layout import Screen, plain
from moeplan.report.schemas import json_schema
from moeplan.report.textbook_json import render
from moeplan.report.textbook_table import markdown, power, textbook_lines


@pytest.fixture(scope="module")
def pair() -> Textbook:
    return textbook(70, 47, 13, hbm_gbs=2000, tflops=312, gpus=64, mfu=0.45)


def test_latency_of_the_dense_model(pair: Textbook) -> None:
    # 70e9 x 2 B / 2e12 B/s = 70.0 ms at every batch shown: arithmetic takes 0.45 ms x batch, 57.4 ms at 128
    assert [s.batch for s in pair.dense.steps] == [1, 8, 32, 128]
    assert [s.total_s for s in pair.dense.steps] == pytest.approx([0.070] * 4)
    # 1, 8, 32, 128 / 0.070 s
    assert [round(s.tokens_per_s, 1) for s in pair.dense.steps] == [14.3, 114.3, 457.1, 1828.6]
    assert {s.bound for s in pair.dense.steps} == {"memory"}


def test_latency_of_the_moe(pair: Textbook) -> None:
    # 47e9 x 2 B / 2e12 B/s = 47.0 ms
    assert [s.total_s for s in pair.moe.steps] == pytest.approx([0.047] * 4)
    assert [round(s.tokens_per_s, 1) for s in pair.moe.steps] == [21.3, 170.2, 680.9, 2723.4]


def test_training(pair: Textbook) -> None:
    # 64 x 312e12 x 0.45 x 86,400 / (6 x 70e9) and / (6 x 13e9); 70 / 13 = 5.38
    assert power(pair.dense.train_tokens_per_day) == "1.848e9"
    assert power(pair.moe.train_tokens_per_day) == "9.953e9"
    assert pair.compute_speedup == pytest.approx(70 / 13)
    # 140e9 / 2^30 and 94e9 / 2^30
    assert pair.dense.weights_bytes / 2**30 == pytest.approx(130.385, abs=5e-4)
    assert pair.moe.weights_bytes / 2**30 == pytest.approx(87.544, abs=5e-4)
    assert pair.memory_ratio == pytest.approx(47 / 70)
    assert (pair.dense.train_flop_per_token, pair.dense.decode_flop_per_token) == (420e9, 140e9)


def test_crossover(pair: Textbook) -> None:
    # 0.070 s x 312e12 / 140e9 = 156 and 0.047 s x 312e12 / 26e9 = 564, both exactly
    assert (pair.dense.crossover_batch, pair.moe.crossover_batch) == (156, 564)


def test_caveats_carry_their_numbers(pair: Textbook) -> None:
    text = "\n".join(pair.caveats)
    # 13e9 x 2 B / 2e12 B/s = 13.0 ms
    assert "47.0 ms" in text
    assert "13.0 ms" in text
    assert "batch 156" in text
    assert "batch 564" in text
    assert "batch 32 makes neither compute-bound" in text
    # 0.45 x 13 / 70
    assert "8.4%" in text
    # 16 B x 70e9 / 2^30 and 16 B x 47e9 / 2^30
    assert "1,043.1 GiB" in text
    assert "700.4 GiB" in text


def test_a_batch_that_is_compute_bound_is_not_called_memory_bound() -> None:
    # 100 GFLOP/s: 2 x 1e9 x 1 / 1e11 = 20 ms of arithmetic against 1e9 x 2 / 1e12 = 2 ms of reading
    t = textbook(1, 1, 1, hbm_gbs=1000, tflops=0.1, batches=(1,))
    assert t.dense.steps[0].bound == "compute"
    assert t.dense.crossover_batch == 1
    assert not any("makes neither" in caveat for caveat in t.caveats)
    assert not any("reads all experts" in caveat for caveat in t.caveats), "all parameters are active"


def test_the_default_mfu_is_an_assumption(pair: Textbook) -> None:
    t = textbook(70, 47, 13, hbm_gbs=2000, tflops=312)
    assert t.inputs.mfu_frac == 0.4
    assert "arXiv:2407.21783" in t.assumptions[0]
    assert pair.assumptions == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dense_b": 0}, "--dense-b"),
        ({"hbm_gbs": math.nan}, "--hbm-gbs"),
        ({"tflops": math.inf}, "--tflops"),
        ({"moe_active_b": 48}, "--moe-active-b"),
        ({"mfu": 1.5}, "--mfu"),
        ({"gpus": 0}, "--gpus"),
        ({"batches": ()}, "--batches"),
        ({"batches": (0,)}, "--batches"),
        ({"batches": range(1, 100)}, "--batches"),
    ],
)
def test_nonsense_is_refused_by_name(changes: dict[str, object], named: str) -> None:
    values: dict[str, object] = {
        "dense_b": 70, "moe_total_b": 47, "moe_active_b": 13, "hbm_gbs": 2000, "tflops": 312,
    }  # fmt: skip
    with pytest.raises(SpecError, match=re.escape(named)):
        textbook(**(values | changes))  # type: ignore[arg-type]


_SIZE = st.floats(1e6, 1e13)
_RATE = st.floats(1e9, 1e16)


@given(_SIZE, st.floats(0.01, 1), st.integers(1, 10**6), _RATE, _RATE, st.floats(0.25, 4))
def test_a_step_turns_compute_bound_at_the_crossover(
    total: float, share: float, batch: int, bandwidth: float, peak: float, size: float
) -> None:
    active = total * share
    step = latency_step(total, active, batch, bandwidth, peak, size)
    assert step.total_s == max(step.memory_s, step.compute_s)
    crossing = crossover_batch(total, active, bandwidth, peak, size)
    if crossing is not None and batch < crossing * (1 - 1e-6):
        assert step.bound == "memory"
    if crossing is None or batch > crossing * (1 + 1e-6):
        assert step.bound == ("memory" if crossing is None else "compute")


@given(_SIZE, _RATE, st.integers(1, 10**5), st.floats(0.01, 1))
def test_tokens_per_day_scale_with_gpus(active: float, peak: float, n: int, mfu: float) -> None:
    assert tokens_per_day(active, peak, n, mfu) == pytest.approx(n * tokens_per_day(active, peak, 1, mfu))


def test_json_is_what_the_schema_says_and_others_rely_on(pair: Textbook) -> None:
    answer = json.loads(render(pair))
    jsonschema.Draft202012Validator(json_schema("textbook")).validate(answer)
    assert answer["schema"] == "moeplan/textbook@1"
    training = answer["training"]
    assert {*training} >= {
        "flops_per_token",
        "tokens_per_day",
        "memory_GiB",
        "compute_speedup",
        "memory_ratio",
    }
    assert {*training["tokens_per_day"]} == {"dense", "moe"}
    assert [(row["model"], row["batch"]) for row in answer["latency"]] == [
        (model, batch) for model in ("dense", "moe") for batch in (1, 8, 32, 128)
    ]
    assert {*answer["latency"][0]} == {
        "model", "batch", "memory_ms", "compute_ms", "total_ms", "bound", "tokens_per_s",
    }  # fmt: skip
    assert answer["latency"][0]["total_ms"] == pytest.approx(70.0)
    assert len(answer["caveats"]) == len(pair.caveats)


def test_extreme_numbers_stay_numbers() -> None:
    t = textbook(1e9, 1e9, 1e-9, hbm_gbs=1e-9, tflops=1e9, bytes_per_param=1e9, batches=(1, 10**9))
    assert t.moe.crossover_batch is None
    answer = json.loads(render(t), parse_constant=pytest.fail)
    jsonschema.Draft202012Validator(json_schema("textbook")).validate(answer)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_fits_the_screen(pair: Textbook, width: int) -> None:
    text = plain(textbook_lines(pair, Screen(width, False)))
    assert max(map(len, text.splitlines())) <= width
    for figure in ("1.848e9", "9.953e9", "5.4x", "130.4 GiB", "87.5 GiB", "14.3", "1,829", "2,723"):
        assert figure in text


def test_markdown_has_both_tables(pair: Textbook) -> None:
    text = markdown(pair)
    assert text.count("|---") >= 2
    assert "| 128 | 70.0 | memory | 1,829 | 47.0 | memory | 2,723 |" in text
