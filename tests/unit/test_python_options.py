"""Options from Python are checked as those of the command line are."""

from __future__ import annotations

from typing import Any

import pytest

import moeplan
from moeplan.errors import SpecError

NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"expert_parallel": 0}, "--ep must be at least 1"),
        ({"tensor_parallel": 0}, "--tp must be at least 1"),
        ({"tensor_parallel": -2}, "--tp must be at least 1"),
        ({"output_rows": -1}, "output_rows must be at least 1"),
        ({"slots": 0}, "--slots must be at least 1"),
        ({"gpu_layers": -1}, "--gpu-layers must be at least 0"),
        ({"cpu_moe": -1}, "--cpu-moe must be at least 0"),
        ({"threads": 0}, "--threads must be at least 1"),
        ({"n_gpus": 0}, "--n-gpus must be at least 1"),
        ({"batch": 2.5}, "--batch: expected a whole number or 'max', got 2.5"),
        ({"batch": True}, "--batch: expected a whole number"),
        ({"context": "all"}, "--context: expected a whole number or 'max'"),
        ({"ubatch": 10**12}, "--ubatch must be at most 1,000,000,000"),
        ({"level": NAN}, "--level must lie between 0 and 1"),
        ({"memory_utilization": 0, "engine": "vllm"}, "--gpu-memory-utilization must lie between"),
        ({"ram_gib": [1]}, "ram_gib: expected a number or a size"),
        ({"gpu": 3}, "gpu: expected a name, got 3"),
        ({"quant": ""}, "quant: expected a name"),
        ({"mmap": "yes"}, "mmap: expected True or False"),
        ({"ram_basis": "guessed"}, "ram_basis: expected one of theoretical"),
        ({"configs": "/nonexistent"}, "no such directory"),
        ({"prompts": 2}, "unknown option 'prompts'.*did you mean prompt"),
        ({"tp": 2, "tensor_parallel": 2}, "given twice, under the names tp and tensor_parallel"),
    ],
)
def test_an_estimate(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        moeplan.estimate("llama-3.1-8b", hardware="rtx-4090", **{"quant": "q4_k_m", **options})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_tps": 0}, "--min-tps must be a number above zero"),
        ({"min_context": 0}, "--min-context must be at least 1"),
        ({"max_ttft_ms": -3}, "--max-ttft-ms must be"),
        ({"objective": "speed"}, "--objective: expected one of decode"),
        ({"hardware": ["rtx-4090", 3]}, "hardware: expected a name"),
        ({"batch": 0}, "--batch must be at least 1"),
    ],
)
def test_a_plan(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        moeplan.plan("llama-3.1-8b", **{"hardware": "rtx-4090", **options})


@pytest.mark.parametrize(
    ("models", "options", "said"),
    [
        ([], {}, "compare needs two models"),
        ([3, 4], {}, "model: expected a name"),
        (["llama-3.1-8b", "qwen3-30b-a3b"], {"batches": [1.5]}, "--batches: expected a whole number"),
        (["llama-3.1-8b", "qwen3-30b-a3b"], {"twin": "equal"}, "--twin: expected one of active"),
        (["llama-3.1-8b", "qwen3-30b-a3b"], {"tensor_parallel": 0}, "--tp must be at least 1"),
        (["llama-3.1-8b", "qwen3-30b-a3b"], {"ep": 2}, "compare has no option 'expert_parallel'"),
    ],
)
def test_a_comparison(models: list[Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        moeplan.compare(models, hardware="h100-sxm-80gb", **options)


def test_the_textbook() -> None:
    with pytest.raises(SpecError, match="--dense-b: expected a number"):
        moeplan.textbook("70", 47, 13, hbm_gbs=2000, tflops=312)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("expert_parallel", 2, "it chooses that"),
        ("tp", 2, "it chooses that"),
        ("gpu_memory_utilization", 0.8, "estimate has it"),
        ("kv_offload", False, "estimate has it"),
        ("mla", 1, "estimate has it"),
    ],
)
def test_a_plan_has_no_setting_that_its_commands_would_not_say(option: str, value: object, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        moeplan.plan("deepseek-v2-lite", hardware="rtx-4090", quant="q4_k_m", **{option: value})


def test_names_of_the_command_line_are_taken() -> None:
    asked = {"hardware": "h100-sxm-80gb", "n_gpus": 2, "quant": "fp8"}
    here = moeplan.estimate(
        "mixtral-8x7b", **asked, tp=2, ep=2, prompt=100, depth=50, gpu_memory_utilization=0.8
    )
    there = moeplan.estimate(
        "mixtral-8x7b",
        **asked,
        tensor_parallel=2,
        expert_parallel=2,
        prompt_tokens=100,
        depth_tokens=50,
        memory_utilization=0.8,
    )
    assert here == there
    assert (here.workload.prompt_tokens, here.workload.depth_tokens) == (100, 50)
    plain = moeplan.estimate("llama-3.1-8b", hardware="rtx-4090", quant="q4_k_m", flash_attn=False)
    assert not plain.workload.flash_attention


def test_advice_about_an_engine_without_kernels_is_not_tried() -> None:
    """On chips with no link to a host llama.cpp cannot split a model: the answer is no, not an error."""
    e = moeplan.estimate(
        "llama-3.1-8b", hardware="aws-inf2-48xlarge", quant="fp8-block", context=32768, batch=64
    )
    assert not e.fits and "llama.cpp" not in e.fix
