"""Types of weights that a GPU has no units for: refused, or said to be widened, as the engine does it."""

from __future__ import annotations

import pytest

import moeplan
from moeplan.engines.traits import find_engine
from moeplan.engines.weight_types import lacks_type, type_notes
from moeplan.errors import NotModelled
from moeplan.readers.hardware import resolve_hardware
from moeplan.readers.quant_names import quant_in_name
from tests.support.problems import session


@pytest.mark.parametrize(
    ("engine", "quant", "hardware", "least"),
    [
        ("vllm", "fp8", "v100-sxm2-32gb", 7.5),
        ("vllm", "awq-int4-g128", "v100-sxm2-32gb", 7.5),
        ("vllm", "mxfp4", "t4", 8.0),
        ("sglang", "fp8", "t4", 8.0),
        ("tensorrt-llm", "fp8", "a100-sxm-80gb", 8.9),
        ("tensorrt-llm", "nvfp4", "h100-sxm-80gb", 10.0),
    ],
)
def test_a_type_without_kernels_is_refused(engine: str, quant: str, hardware: str, least: float) -> None:
    machine = resolve_hardware(hardware, catalog=session().catalog)
    assert f"needs compute capability {least}" in lacks_type(find_engine(engine), quant, machine)


@pytest.mark.parametrize(
    ("engine", "quant", "hardware"),
    [
        ("vllm", "gptq-int4-g128", "v100-sxm2-32gb"),
        ("vllm", "fp8", "t4"),
        ("tensorrt-llm", "fp8", "h100-sxm-80gb"),
        ("vllm", "fp8", "mi300x"),
        ("llama.cpp", "q4_k_m", "tesla-p40"),
    ],
)
def test_a_type_with_kernels_is_not(engine: str, quant: str, hardware: str) -> None:
    assert lacks_type(find_engine(engine), quant, resolve_hardware(hardware, catalog=session().catalog)) == ""


@pytest.mark.parametrize(
    ("quant", "hardware", "words"),
    [
        ("bf16", "t4", "--dtype half"),
        ("fp8", "t4", "widened"),
        ("fp8", "a100-sxm-80gb", "widened"),
        ("nvfp4", "h100-sxm-80gb", "widened"),
        ("bf16", "a100-sxm-80gb", ""),
        ("fp8", "h100-sxm-80gb", ""),
        ("nvfp4", "b200-sxm-180gb", ""),
    ],
)
def test_a_server_says_what_it_does_without_units(quant: str, hardware: str, words: str) -> None:
    machine = resolve_hardware(hardware, catalog=session().catalog)
    notes = type_notes(find_engine("vllm"), quant, machine)
    assert bool(notes) == bool(words) and all(words in note for note in notes)


def test_an_estimate_refuses_or_says_so() -> None:
    with pytest.raises(NotModelled, match=r"vllm with fp8: it needs compute capability 7\.5"):
        moeplan.estimate("llama-3.2-1b", "v100-sxm2-32gb", engine="vllm", quant="fp8", calibration="none")
    told = moeplan.estimate("llama-3.2-1b", "t4", engine="vllm", quant="bf16", calibration="none")
    assert any("no units for bf16" in line for line in told.assumptions)


def test_a_plan_names_only_engines_that_run_and_the_type_they_ask_for() -> None:
    chosen = moeplan.plan("llama-3.2-1b", "t4", quant="bf16", engine="vllm", calibration="none", context=2048)
    assert chosen.best is not None
    lines = {command.engine: command.text for command in chosen.best.commands}
    assert set(lines) == {"vllm", "sglang"} and all("--dtype half" in line for line in lines.values())


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Qwen/Qwen3-30B-A3B-FP8", "fp8-block"),
        ("RedHatAI/Qwen3-30B-A3B-FP8", "fp8"),
        ("RedHatAI/Qwen3-30B-A3B-FP8-block", "fp8-block"),
        ("Qwen/Qwen3-32B-AWQ", "awq-int4-g128"),
        ("Qwen/Qwen3-32B", None),
    ],
)
def test_a_publishers_fp8_is_the_one_that_it_publishes(name: str, quant: str | None) -> None:
    assert quant_in_name(name, session().quants) == quant
