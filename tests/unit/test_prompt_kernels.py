"""Prompts by ggml's kernels: what units they multiply on, how they are launched, what experts have."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moeplan.calibrate.priors import prior
from moeplan.cost.gpu_units import score_flop_per_s, unit_of
from moeplan.cost.law import step_ops
from moeplan.cost.ops import Names
from moeplan.cost.rates import gpu_rates
from moeplan.cost.work import Step
from moeplan.domain.hardware import GpuSpec
from moeplan.engines.launches import launches_prompts
from moeplan.engines.traits import find_engine
from moeplan.predict.placement import on_gpus
from moeplan.readers.hardware_yaml import read_gpu
from moeplan.readers.pages import build_date
from tests.support.problems import dense_spec, gpu, graph_of, machine, moe_spec, session, workload

LLAMA, IK, VULKAN = (find_engine(name) for name in ("llama.cpp", "ik_llama.cpp", "llama.cpp (vulkan)"))
PEAKS = {"fp32": 5e13, "fp16": 1e14, "fp16_acc16": 2e14, "int8": 4e14, "fp4": 8e14}


def chip(capability: str = "8.9", vendor: str = "nvidia", architecture: str = "Ada") -> GpuSpec:
    return replace(
        gpu(), compute_capability=capability, vendor=vendor, architecture=architecture, peak_flop_per_s=PEAKS
    )


def layer_names(of: GpuSpec, engine: str, rows: int, date: str = "") -> list[Names]:
    traits, graph, hardware = find_engine(engine), graph_of(dense_spec()), machine((of,))
    work, step = replace(workload(), engine_date=date), Step(rows, 1, 0, 1)
    ops, *_ = step_ops(graph, hardware, work, on_gpus(graph, hardware, traits), traits, step)
    return [op.moving for op in ops if op.term == "layer overhead"]


def test_scores_are_summed_in_32_bits_and_values_in_16() -> None:
    # half of the FLOPs at each rate: as long as at the harmonic mean of both
    assert score_flop_per_s(chip(), LLAMA) == pytest.approx(2 / (1 / 1e14 + 1 / 2e14))
    assert score_flop_per_s(chip(), VULKAN) == score_flop_per_s(chip(), find_engine("exllamav2")) == 1e14
    assert score_flop_per_s(chip("", "amd", "RDNA3"), LLAMA) == 1e14
    professional = replace(chip(), peak_flop_per_s={**PEAKS, "fp16_acc16": 1e14})
    assert score_flop_per_s(professional, LLAMA) == pytest.approx(1e14)
    assert gpu_rates(chip(), LLAMA, "", "q4_k").score_flop_per_s == pytest.approx(4e14 / 3)
    assert gpu_rates(chip(), LLAMA, "", "q4_k", vector=True).score_flop_per_s == 5e13


@pytest.mark.parametrize(
    ("of", "engine", "quant", "date", "peak"),
    [
        (chip("12.0"), LLAMA, "mxfp4", "", 8e14),
        (chip("12.1"), LLAMA, "mxfp4", "2026-01", 8e14),
        (chip("12.0"), LLAMA, "mxfp4", "2025-12-24", 4e14),
        (chip("12.0"), LLAMA, "q4_k", "", 4e14),
        (chip("12.0"), IK, "mxfp4", "", 4e14),
        (chip("12.0"), VULKAN, "mxfp4", "", 4e14),
        (chip("8.9"), LLAMA, "mxfp4", "", 4e14),
        (chip("", "amd", "RDNA4"), LLAMA, "mxfp4", "", 4e14),
    ],
)
def test_cards_of_blackwell_multiply_mxfp4_in_4_bits(
    of: GpuSpec, engine: object, quant: str, date: str, peak: float
) -> None:
    assert unit_of(of, engine, quant, vector=False, date=date) == ("int8", peak)  # type: ignore[arg-type]


def test_a_prompts_kernels_are_launched_one_by_one_whatever_the_build() -> None:
    more, alone = "local.prompt.layer_time", "local.ungraphed.layer_time"
    for date in ("", "2024-04"):
        for names in layer_names(chip(), "llama.cpp", 512, date):
            assert more in names and alone not in names
    assert all(alone in names for names in layer_names(chip(), "llama.cpp", 1, "2024-04"))
    assert not any(more in names for names in layer_names(chip(), "llama.cpp", 1))
    assert not any(more in names for names in layer_names(chip(), "llama.cpp (vulkan)", 512))
    assert not any(more in names for names in layer_names(chip(), "exllamav2", 512))
    assert launches_prompts(LLAMA, chip("", "amd", "RDNA3"))
    assert not launches_prompts(LLAMA, chip("", "apple"))
    assert 1.5 <= prior(more).value <= 2.5


def test_experts_of_a_prompt_are_slower_by_architecture() -> None:
    own = "local.gpu.ada.experts.int8"
    assert own in gpu_rates(chip(), LLAMA, "", "q4_k").experts[1]
    assert not any(".ada.experts." in name for name in gpu_rates(chip(), LLAMA, "", "q4_k").weights[1])
    assert not any(
        ".ada.experts." in name for name in gpu_rates(chip(), LLAMA, "", "q4_k", vector=True).experts[1]
    )
    assert not any(
        ".ada.experts." in name for name in gpu_rates(chip(), find_engine("vllm"), "", "bf16").experts[1]
    )
    graph, hardware = graph_of(moe_spec(), "q4_0"), machine((chip(),))
    ops, *_ = step_ops(
        graph, hardware, workload(), on_gpus(graph, hardware, LLAMA), LLAMA, Step(512, 1, 0, 1)
    )
    assert own in next(op.computing for op in ops if op.term == "gpu0 experts")
    assert prior(own).value == 1.0 and prior(own).why != prior("local.gpu.ada.compute").why


def test_ada_and_blackwell_reach_the_same_share_of_their_rates() -> None:
    """16,136 tokens/s of an 8B on an RTX 5090, about 12,400 on a 4090: 1.3, as data sheets have it."""
    files = (session().catalog.find("hardware/gpu", name) for name in ("rtx-4090", "rtx-5090"))
    rates = [read_gpu(file).peak_flop_per_s["int8"] for file in files]
    assert rates[1] / rates[0] == pytest.approx(1.27, abs=0.01)
    for architecture in ("ampere", "ada", "blackwell"):
        held = prior(f"local.gpu.{architecture}.int8")
        assert held.value == 1.0 and held.spread <= 0.1
    assert prior("local.int8").value == pytest.approx(0.32) and prior("local.int8").spread <= 0.1
    assert prior("local.gpu.rdna3.int8").spread > 0.1, "no table of AMD's is meant"


@pytest.mark.parametrize("architecture", ["CDNA3", "CDNA4"])
def test_infinity_caches_hold_what_lies_between_products(architecture: str) -> None:
    graph, hardware = graph_of(dense_spec()), machine((chip("", "amd", architecture),))
    ops, *_ = step_ops(
        graph, hardware, workload(), on_gpus(graph, hardware, LLAMA), LLAMA, Step(512, 1, 0, 1)
    )
    found = next(op.moving for op in ops if op.term == "gpu0 activations")
    assert "local.cached.activations.bandwidth" in found


def test_a_table_in_a_pull_request_is_of_its_month() -> None:
    assert build_date("ggml-org/llama.cpp PR #16991 (ORippler)", "", "llama.cpp", "") == "2025-11"
    assert build_date("ggml-org/llama.cpp PR #16992 (ORippler)", "", "llama.cpp", "") == ""
