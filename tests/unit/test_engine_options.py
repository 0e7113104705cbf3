"""Every option with every engine: known to it, or refused with the engines that have it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

import moeplan
from moeplan.domain.request import EstimateRequest
from moeplan.engines.options import OPTIONS, engines_with, refuse_foreign
from moeplan.engines.traits import ENGINES, find_engine
from moeplan.errors import OptionError
from tests.support.problems import moe_spec

EVERY_ENGINE = {
    "model", "hardware", "machine", "quant", "engine", "context", "prompt_tokens", "output_tokens", "batch",
    "calibration", "level", "depth_tokens",
}  # fmt: skip
CHECKED_ELSEWHERE = {"kv_type", "placement", "output_rows"}
ASKED: dict[str, Any] = {
    "ubatch": 64, "flash_attention": False, "threads": 4, "gpu_layers": 3, "cpu_moe": 4,
    "tensor_parallel": 2, "expert_parallel": 2, "slots": 2, "kv_unified": True, "swa_full": True,
    "mmap": True, "repack": True, "kv_offload": True, "memory_utilization": 0.8, "mla": 1,
}  # fmt: skip
LLAMA = ("llama.cpp", "ik_llama.cpp", "ollama", "lm-studio", "koboldcpp")
SERVERS = ("vllm", "sglang", "tgi", "tensorrt-llm")


def test_the_table_knows_every_field_of_a_request() -> None:
    fields = set(EstimateRequest.__struct_fields__)
    assert fields == EVERY_ENGINE | CHECKED_ELSEWHERE | OPTIONS.keys()
    assert ASKED.keys() == OPTIONS.keys()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("field", OPTIONS)
def test_an_option_is_known_or_refused(field: str, engine: str) -> None:
    request = replace(EstimateRequest(model="m"), **{field: ASKED[field]})
    if engine in engines_with(field):
        refuse_foreign(request, ENGINES[engine], moe_spec())
        return
    with pytest.raises(OptionError) as refused:
        refuse_foreign(request, ENGINES[engine], moe_spec())
    assert refused.value.field == field
    assert all(owner in refused.value.message for owner in engines_with(field))


# Who has what, from the engines' own options (configs/engines/) and documentation.
@pytest.mark.parametrize(
    ("field", "owners"),
    [
        ("memory_utilization", (*SERVERS, "ktransformers")),
        ("mmap", LLAMA),
        ("slots", LLAMA),
        ("cpu_moe", (*LLAMA, "ktransformers")),
        ("gpu_layers", (*LLAMA, "transformers")),
        ("tensor_parallel", SERVERS),
        ("expert_parallel", ("vllm", "sglang", "tensorrt-llm")),
        ("threads", (*LLAMA, "ktransformers", "transformers")),
        ("mla", ("ik_llama.cpp",)),
    ],
)
def test_the_owners(field: str, owners: tuple[str, ...]) -> None:
    assert set(engines_with(field)) == set(owners)


@pytest.mark.parametrize("engine", ENGINES)
def test_values_that_ask_for_nothing_are_taken_by_all(engine: str) -> None:
    request = EstimateRequest(model="m", cpu_moe=0, tensor_parallel=1, expert_parallel=1, gpu_layers="all")
    refuse_foreign(request, ENGINES[engine], moe_spec())


@pytest.mark.parametrize(
    ("engine", "types", "fine"),
    [
        ("vllm", "q8_0", False),
        ("vllm", "fp8", True),
        ("vllm", "fp8_e4m3", True),
        ("llama.cpp", "fp8", False),
        ("llama.cpp", "q8_0,f16", True),
        ("llama.cpp", "q8_0,fp8", False),
        ("transformers", "q4_0", False),
    ],
)
def test_types_of_the_cache(engine: str, types: str, fine: bool) -> None:
    request = EstimateRequest(model="m", kv_type=types)
    if fine:
        refuse_foreign(request, find_engine(engine), moe_spec())
    else:
        with pytest.raises(OptionError, match="no such cache; it has"):
            refuse_foreign(request, find_engine(engine), moe_spec())


def test_ktransformers_hosts_the_experts_of_all_layers_or_of_none() -> None:
    kt = find_engine("ktransformers")
    for hosted in (0, 4, "all"):  # the model has four MoE layers
        refuse_foreign(EstimateRequest(model="m", cpu_moe=hosted), kt, moe_spec())
    with pytest.raises(OptionError, match="all 4 layers in RAM, or of none"):
        refuse_foreign(EstimateRequest(model="m", cpu_moe=3), kt, moe_spec())


def test_from_python_and_for_a_plan() -> None:
    with pytest.raises(OptionError, match=r"--gpu-memory-utilization 0.5: .* has no such option; vllm"):
        moeplan.estimate("llama-3.1-8b", gpu="rtx-4090", engine="llama.cpp", memory_utilization=0.5)
    with pytest.raises(OptionError, match="--threads 8: vllm has no such option"):
        moeplan.plan("llama-3.1-8b", gpu="h100-sxm-80gb", ram_gib=256, engine="vllm", threads=8)
