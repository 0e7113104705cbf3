"""How many GPUs share the attention heads: a divisor, as serving engines demand."""

from __future__ import annotations

import pytest

import moeplan
from moeplan.errors import SpecError


def test_a_number_that_does_not_divide_the_heads_is_refused() -> None:
    # Qwen2.5 7B has 28 query heads (config.json: num_attention_heads)
    with pytest.raises(SpecError, match="28 attention heads among 3 GPUs") as error:
        moeplan.estimate("qwen2.5-7b", hardware="a100-sxm-80gb", n_gpus=3, tensor_parallel=3)
    assert "--tp 2" in str(error.value.hint)


def test_left_open_the_largest_divisor_is_used() -> None:
    e = moeplan.estimate("qwen2.5-7b", hardware="a100-sxm-80gb", n_gpus=3)
    assert e.placement.tensor_parallel == 2
    assert any("2 of 3 GPUs" in line for line in e.assumptions)
    assert moeplan.estimate("qwen2.5-7b", hardware="a100-sxm-80gb", n_gpus=4).placement.tensor_parallel == 4


def test_llama_cpp_splits_layers_over_any_number() -> None:
    e = moeplan.estimate("qwen2.5-7b", hardware="rtx-3060-12gb", n_gpus=3, quant="f16", engine="llama.cpp")
    assert e.placement.kind == "layer-split"
    assert set(e.placement.dense_tiers) == {"gpu0", "gpu1", "gpu2"}
