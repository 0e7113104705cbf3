"""What formats an engine reads, and what is said of one that it does not."""

from __future__ import annotations

from typing import Any

import pytest

import moeplan
from moeplan.engines.formats import unreadable
from moeplan.engines.traits import find_engine
from moeplan.errors import SpecError
from tests.support.problems import session


def answer(hardware: str, **options: Any) -> moeplan.Estimate:
    return moeplan.estimate("llama-3.2-3b", hardware, calibration="none", **options)


@pytest.mark.parametrize(
    ("engine", "quant", "why"),
    [
        ("llama.cpp", "awq", "GGUF files"),
        ("ollama", "fp8", "GGUF files"),
        ("llama.cpp", "iq4_ks", "ik_llama.cpp's"),
        ("vllm", "exl2-4.0bpw", "exllamav2's"),
        ("exllamav3", "exl2-4.0bpw", "exllamav2's"),
        ("tensorrt-llm", "q4_k_m", "no GGUF"),
    ],
)
def test_a_format_that_an_engine_cannot_load_is_refused(engine: str, quant: str, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        answer("rtx-4090", engine=engine, quant=quant)


@pytest.mark.parametrize(
    ("engine", "quant"),
    [
        ("llama.cpp", "bf16"),  # each of these has a GGUF type of its name
        ("llama.cpp", "mxfp4"),
        ("llama.cpp", "nvfp4"),
        ("llama.cpp (Vulkan)", "q4_k_m"),
        ("ik_llama.cpp", "iq4_ks"),
        ("vllm", "q4_k_m"),
        ("ktransformers", "q4_k_m"),
        ("exllamav2", "gptq-int4-g128"),
        ("tensorrt-llm", "bpw-4.5"),  # a width, whatever the format
    ],
)
def test_what_it_loads_is_not(engine: str, quant: str) -> None:
    assert unreadable(find_engine(engine), session().quants.find(quant)) == ""


@pytest.mark.parametrize(
    ("hardware", "quant", "engine"),
    [
        ("rtx-4090", "exl2-4.0bpw", "exllamav2"),
        ("rtx-4090", "iq4_ks", "ik_llama.cpp"),
        ("apple-m4", "mlx-4bit", "mlx"),
        ("apple-m4", "q4_k_m", "llama.cpp"),
        ("rtx-4090", "awq", "vllm"),
    ],
)
def test_a_format_of_one_engine_is_run_by_it(hardware: str, quant: str, engine: str) -> None:
    assert answer(hardware, quant=quant).workload.engine == engine


def test_a_width_that_stands_for_a_type_of_the_engine_is_said() -> None:
    told = answer("apple-m4", quant="fp8")
    assert told.workload.engine == "llama.cpp"
    assert any("files of another format, as wide as fp8" in line for line in told.assumptions)
