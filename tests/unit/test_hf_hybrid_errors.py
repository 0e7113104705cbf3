"""Configs of the hybrid, exotic and older families that cannot be right: one clear error each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moeplan.domain.model import ModelSpec
from moeplan.errors import MoeplanError, NotModelled, SpecError
from moeplan.readers.hf import FAMILIES, spec_from_config

DATA = Path(__file__).parents[1] / "data" / "hf"
MODULES = ("families_hybrid", "families_exotic", "families_legacy")


def load(model: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((DATA / f"{model}.json").read_text())
    return data


def spec(data: dict[str, Any]) -> ModelSpec:
    return spec_from_config(data, id="m", name="M", where="config.json")


def of_these_families() -> list[str]:
    """The configs of tests/data/hf whose model_type these modules read."""
    names = sorted(path.stem for path in DATA.glob("*.json"))
    return [name for name in names if FAMILIES[load(name)["model_type"]][0] in MODULES]


@pytest.mark.parametrize(
    ("model", "keys", "told"),
    [
        ("qwen3.5-27b", {"layer_types": ["linear_attention"] * 3}, "must have 64 items, got 3"),
        ("qwen3.5-27b", {"layer_types": ["mumba"] * 64}, "item 0 is 'mumba'"),
        ("nemotron-h-56b", {"hybrid_override_pattern": "MX"}, "unknown layer 'X'"),
        ("nemotron-h-56b", {"hybrid_override_pattern": "M*"}, "pattern has 2 layers"),
        ("granite-4.0-h-tiny", {"mamba_d_head": 63}, "mamba_expand x hidden_size = 3072"),
        ("kimi-linear-48b-a3b", {"linear_attn_config": {"full_attn_layers": [28], "head_dim": 1,
            "num_heads": 1, "short_conv_kernel_size": 4}}, "names layer 28"),
        ("deepseek-v4-flash", {"compress_ratios": [8] * 43}, "0, 4 and 128 only, got 8"),
        ("deepseek-v4-flash", {"o_groups": 7}, "must divide num_attention_heads"),
        ("deepseek-v4-flash", {"qk_rope_head_dim": 513}, "at most head_dim"),
        ("longcat-flash", {"moe_topk": 769}, "at most 768"),
        ("step-3.7-flash-196b-a11b", {"moe_layers_enum": "3,x"}, "layer numbers"),
        ("minimax-text-01", {"layer_types": None, "attn_type_list": [1]}, "must have 80 items, got 1"),
        ("switch-base-8", {"num_sparse_encoder_layers": 13}, "at most 12"),
        ("gpt2", {"n_head": 7}, "multiple of the number of heads (7)"),
        ("qwen3-next-80b-a3b", {"num_experts_per_tok": 513}, "at most the number of experts"),
    ],
)  # fmt: skip
def test_one_clear_error(model: str, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec({**load(model), **keys})
    assert told in str(caught.value)
    assert caught.value.path is not None


@pytest.mark.parametrize(
    ("model", "key", "named"),
    [
        ("kimi-linear-48b-a3b", "kv_lora_rank", "kv_lora_rank"),
        ("dbrx", "ffn_config", "ffn_config.moe_num_experts"),
        ("dbrx", "attn_config", "attn_config.kv_n_heads"),
        ("lfm2-8b-a1b", "layer_types", "layer_types"),
        ("deepseek-v4-flash", "compress_ratios", "compress_ratios or layer_types"),
        ("nemotron-h-56b", "hybrid_override_pattern", "layers_block_type"),
    ],
)
def test_missing_keys_are_named(model: str, key: str, named: str) -> None:
    with pytest.raises(NotModelled) as caught:
        spec({name: value for name, value in load(model).items() if name != key})
    assert any(named in missing for missing in caught.value.missing)


def test_unknown_norm_of_minimax_m3_is_not_guessed() -> None:
    with pytest.raises(NotModelled, match="per_layer"):
        spec({**load("minimax-m3"), "qk_norm_type": "per_layer"})


@pytest.mark.parametrize("model", of_these_families())
def test_no_single_bad_value_escapes_as_a_traceback(model: str) -> None:
    """Every key in turn absent or set to nonsense: a model or one of moeplan's own errors."""
    data = load(model)
    bad: list[object] = [None, 0, -1, True, 1, 7, 10**30, 0.5, "", "x", [], [1], ["x"], {}, {"a": 1}]
    messages = []
    for key in data:
        for value in bad:
            try:
                spec({**data, key: value})
            except MoeplanError as error:
                messages.append(str(error))
    assert messages
    assert max(map(len, messages)) < 500
