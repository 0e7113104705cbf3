"""Steps of several rows: what kernels share, fetch and widen, beside published series."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from msgspec.structs import replace

from moeplan import estimate
from moeplan.calibrate.system import Sample, System
from moeplan.cost.law import step_ops
from moeplan.cost.ops import Op, Scales
from moeplan.cost.rates import gpu_rates
from moeplan.cost.work import Step
from moeplan.engines.traits import find_engine
from moeplan.predict.placement import on_gpus
from tests.support.problems import (
    gpu,
    graph_of,
    machine,
    moe_spec,
    session,
    workload,
)

LLAMA = find_engine("llama.cpp")


def test_tiles_for_several_rows_are_fetched_while_others_are_widened() -> None:
    peaks = {"fp16": 5e13, "fp32": 1e13, "int8": 1e14}
    kinds = [replace(gpu(unified=unified), peak_flop_per_s=peaks) for unified in (False, True)]
    m5 = replace(kinds[1], vendor="apple", architecture="M5")
    norms = {}
    for name, chip in (("gpu", kinds[0]), ("unified", kinds[1]), ("apple", m5)):
        graph, hardware = graph_of(moe_spec(), "q4_k_m"), machine((chip,))
        ops = step_ops(graph, hardware, workload(), on_gpus(graph, hardware, LLAMA), LLAMA, Step(9, 9, 0, 9))
        norms[name] = {op.term.removeprefix("gpu0 "): op.unpacking_norm for op in ops[0] if op.unpacking_s}
        assert {"weights", "experts"} <= set(norms[name])
    # one row's kernels add the two on other unified memory and in Apple's experts, as rates.py has it
    assert set(norms["gpu"].values()) == set(norms["unified"].values()) == {2.0}
    assert (norms["apple"]["weights"], norms["apple"]["experts"]) == (4.0, 2.0)


def test_a_row_more_shares_the_widening_of_quantised_weights() -> None:
    quantised = gpu_rates(gpu(), LLAMA, "", "q4_k", vector=True)
    # three tenths of one row's work for each further one, up to 8 rows
    times = [quantised.widenings(n, 8) for n in (0.5, 1, 2, 8, 9, 512)]
    assert times == pytest.approx([1.0, 1.0, 1.3, 3.1, 3.1, 3.1])
    assert gpu_rates(gpu(), LLAMA, "", "bf16", vector=True).widenings(8, 8) == 1.0
    # the rest of a micro-batch hides ever more of it, a full one all
    hidden = [quantised.widenings(8, n) for n in (8, 9, 260, 512, 2048)]
    assert hidden == pytest.approx([3.1, 3.1 * 503 / 504, 3.1 / 2, 0.0, 0.0])


@pytest.mark.parametrize(
    ("machine_id", "model", "quant", "times"),
    [
        ("rtx-3090", "llama-2-7b", "q2_k", 406.71 / 105.29),  # llama.cpp PR 5434
        ("rtx-3090", "llama-3-8b", "iq1_m", 577.37 / 167.03),  # PR 8215
        ("v100-pcie-32gb", "llama-3-8b", "q2_k", 419.26 / 113.65),  # PR 28912
        ("rx-6800", "llama-2-7b", "q5_0", 257.96 / 58.68),  # PR 5351; its Q4_K_S is off by 40%
        ("mi100", "llama-3-8b", "iq1_s", 450.97 / 126.69),  # PR 23227
        ("rtx-4090", "llama-3-8b", "gguf-bf16", 485.16 / 65.2),  # PR 15131
    ],
)
def test_eight_rows_take_as_long_as_published(machine_id: str, model: str, quant: str, times: float) -> None:
    """Tokens a second of prompts in passes of 8 rows over those of 1: no fit has seen them."""

    def rate(rows: int) -> float:
        answer = estimate(
            model, machine_id, quant=quant, engine="llama.cpp", context=1024, prompt_tokens=512, ubatch=rows,
            placement="gpu", calibration="none",
        )  # fmt: skip
        return 512 / answer.prefill_s.expected

    assert rate(8) / rate(1) == pytest.approx(times, rel=0.25)


@pytest.mark.parametrize("quant", ["iq2_xxs", "q4_k_m", "q8_0", "gguf-f16"])
@pytest.mark.parametrize("machine_id", ["rtx-a6000", "dgx-spark", "ryzen-ai-max-395", "apple-m4-max"])
def test_a_sequence_more_never_shortens_a_step(quant: str, machine_id: str) -> None:
    """Between 8 and 9 rows the engine changes kernels: a step became up to six times shorter. On unified
    memory two rows of 16 bits took 5 to 7% less than one."""

    def step_s(batch: int) -> float:
        answer = estimate(
            "llama-3.1-8b", machine_id, quant=quant, engine="llama.cpp", context=1024, batch=batch,
            calibration="none",
        )  # fmt: skip
        return answer.decode_step_s.expected

    times = [step_s(batch) for batch in (1, 2, 4, 8, 9, 16, 32)]
    assert times == sorted(times)
    assert times[4] < 1.1 * times[3]


def test_several_rows_are_not_read_faster_than_the_data_sheet_says() -> None:
    """Ampere's coefficient of bandwidth is above one: what kernels do beside reading is not in it."""
    answer = estimate(
        "llama-3.1-70b", "a100-pcie-80gb", quant="q4_k_m", engine="llama.cpp", context=512, batch=9,
        placement="gpu", calibration="none",
    )  # fmt: skip
    graph = session().graph("llama-3.1-70b", "q4_k_m")
    read = sum(layer.dense_bytes for layer in graph.layers) + graph.head_bytes
    assert answer.decode_step_s.expected > read / answer.hardware.gpus[0].bandwidth_bytes_per_s


def test_a_step_of_few_rows_holds_the_work_of_one() -> None:
    op = Op("w", 1.0, (), unpacking_s=0.26, unpacking=(), unpacking_norm=8 / 7, least_unpacking_s=0.2)
    scales = Scales({})
    # (1 + 0.26^(8/7))^(7/8) = 1.185 would be less than what one row takes, 1 + 0.2
    assert op.seconds(scales) == pytest.approx(1.2)
    assert op.times(3).seconds(scales) == pytest.approx(3.6)
    assert op._replace(unpacking_s=2.0).seconds(scales) > 2.7
    sample = Sample("a", "a", "s", "d", "r", "", "", 1.0, (op,))
    assert System([sample], []).log_times(np.zeros(0))[0] == pytest.approx(math.log(1.2))


def test_a_longer_prompt_is_no_shorter_where_there_is_little_to_compute() -> None:
    """What widening hides behind arithmetic takes its time all the same: 256 tokens of a 36B model took a
    GB200 less than 128 did."""

    def prompt_s(tokens: int) -> float:
        answer = estimate(
            "seed-oss-36b", "gb200", quant="q8_0", engine="llama.cpp", context=1024, prompt_tokens=tokens,
            output_tokens=1, placement="gpu", calibration="none",
        )  # fmt: skip
        return answer.prefill_s.expected

    times = [prompt_s(n) for n in (8, 9, 16, 64, 128, 256, 384, 512)]
    assert all(short <= long * (1 + 1e-6) for short, long in pairwise(times))


def test_the_fit_knows_how_a_step_of_few_rows_changes() -> None:
    """Slopes of the arrays are those of the formula, whichever of the two is longer."""
    names = ["local.bandwidth", "local.vector"]
    for unpacking_s in (0.26, 2.0):
        op = Op(
            "w", 1.0, names[:1], 0.5, (), unpacking_s=unpacking_s, unpacking=names[1:],
            unpacking_norm=8 / 7, least_unpacking_s=0.2, norm=4.0,
        )  # fmt: skip
        op = op._replace(moving=(names[0],), unpacking=(names[1],))
        system = System([Sample("a", "a", "s", "d", "r", "", "", 1.0, (op,))], names)
        at, (_, slopes) = np.array([0.1, -0.2]), system.with_slopes(np.array([0.1, -0.2]))
        for i in range(2):
            ahead = at.copy()
            ahead[i] += 1e-6
            slope = (system.log_times(ahead)[0] - system.log_times(at)[0]) / 1e-6
            assert slopes[0, i] == pytest.approx(slope, rel=1e-3)


def test_a_cache_is_read_for_one_row_however_many_sequences_decode() -> None:
    def cache_s(batch: int) -> float:
        answer = estimate(
            "llama-3.1-8b", "rtx-4090", quant="q4_k_m", engine="llama.cpp", context=1024, batch=batch,
            placement="gpu", calibration="none",
        )  # fmt: skip
        return dict(answer.decode.terms)["gpu0 KV cache"]

    assert cache_s(9) == pytest.approx(9 * cache_s(1))
