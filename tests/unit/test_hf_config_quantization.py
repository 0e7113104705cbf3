"""quantization_config and dtype to one id. The configs are those of the named repositories."""

from __future__ import annotations

from typing import Any

import pytest

from moeplan.errors import NotModelled
from moeplan.readers.hf.quantization import native_quant
from moeplan.readers.hf.view import ConfigView


def _group(bits: int, kind: str, size: int | None, strategy: str = "group", **more: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, "group_size": size, "strategy": strategy}
    group = {"targets": ["Linear"], "weights": weights, **more}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


CASES: list[tuple[dict[str, Any], str]] = [
    # deepseek-ai/DeepSeek-V3, mistralai/Devstral-2, meta-llama/Llama-3.1-405B-Instruct-FP8
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-block"),
    ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8"),
    ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "fp8"),
    # openai/gpt-oss-20b
    ({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, "mxfp4"),
    # Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4 and -Int8, Qwen/Qwen2.5-7B-Instruct-AWQ
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq-int4-g128"),
    ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "gptq-int8-channel"),
    ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}, "awq-int4-g128"),
    ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "awq-int4-g64"),
    # unsloth/*-bnb-4bit
    (
        {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
        },
        "bnb-nf4-dq",
    ),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bnb-nf4"),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bnb-int8"),
    # nvidia/*-FP8, nvidia/*-NVFP4: with and without quant_method
    ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
    ({"quant_algo": "NVFP4", "producer": {"name": "modelopt"}}, "nvfp4"),
    # moonshotai/Kimi-K2-Thinking and Kimi-K2.5: only the routed experts are quantised
    (
        {
            **_group(4, "int", 32),
            "ignore": [
                "lm_head",
                "re:.*self_attn.*",
                "re:.*shared_experts.*",
                "re:.*mlp\\.(gate|up|gate_up|down)_proj.*",
            ],
        },
        "kimi-int4",
    ),
    ({**_group(4, "int", 32), "ignore": ["lm_head", "re:.*self_attn.*"]}, "compressed-int4-g32"),
    # RedHatAI/*-quantized.w4a16, *-FP8-dynamic, *-quantized.w8a8, *-NVFP4
    (_group(4, "int", 128), "compressed-int4-g128"),
    (_group(4, "int", 32), "compressed-int4-g32"),
    (_group(8, "int", 128), "compressed-int8-g128"),
    (_group(8, "int", None, "channel", input_activations={"num_bits": 8}), "w8a8-int8"),
    (_group(8, "float", None, "channel", input_activations={"num_bits": 8}), "fp8"),
    (_group(8, "float", None, "block"), "fp8-block"),
    (_group(4, "float", 16, "tensor_group"), "nvfp4"),
    ({**_group(4, "float", 32), "format": "mxfp4-pack-quantized"}, "mxfp4"),
    # a method without an id here keeps its name: only using it fails
    ({"quant_method": "hqq"}, "hqq"),
    ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "modelopt-mixed_precision"),
]


@pytest.mark.parametrize(("config", "expected"), CASES)
def test_quantization_config(config: dict[str, Any], expected: str) -> None:
    # the dtype beside it is that of the activations
    view = ConfigView({"quantization_config": config, "torch_dtype": "bfloat16"}, "config.json")
    assert native_quant(view) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "bf16"),
        ({"torch_dtype": "bfloat16"}, "bf16"),
        ({"torch_dtype": "float16"}, "f16"),
        ({"dtype": "torch.float32"}, "f32"),
        ({"dtype": "auto"}, "bf16"),
        ({"dtype": "float16", "torch_dtype": "bfloat16"}, "f16"),
    ],
)
def test_dtype(config: dict[str, Any], expected: str) -> None:
    assert native_quant(ConfigView(config, "config.json")) == expected


def test_what_has_no_size_is_not_guessed() -> None:
    with pytest.raises(NotModelled, match="int7"):
        native_quant(ConfigView({"dtype": "int7"}, "config.json"))
    with pytest.raises(NotModelled, match="quant_method"):
        native_quant(ConfigView({"quantization_config": {"bits": 4}}, "config.json"))


def test_fp4_experts_beside_fp8_are_a_type_of_their_own() -> None:
    # deepseek-ai/DeepSeek-V4-Flash: expert_dtype stands outside of quantization_config
    config = {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}
    view = ConfigView({"quantization_config": config, "expert_dtype": "fp4"}, "config.json")
    assert native_quant(view) == "deepseek-v4"
