"""How many GPUs share the attention heads: a divisor, as serving engines demand."""

from __future__ import annotations

from pathlib import Path

import pytest

import moeplan
from moeplan.cost.coverage import busiest_rank
from moeplan.errors import MoeplanError, SpecError
from moeplan.report import words


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


def test_gpus_with_whole_experts_wait_for_the_busiest() -> None:
    asked = {"hardware": "h100-sxm-80gb", "n_gpus": 8, "quant": "fp8", "batch": 8}
    sliced = moeplan.estimate("qwen3-235b-a22b", **asked)
    whole = moeplan.estimate("qwen3-235b-a22b", expert_parallel=8, **asked)
    assert (sliced.placement.expert_parallel, whole.placement.expert_parallel) == (1, 8)
    assert whole.memory == sliced.memory
    experts = [dict(e.decode.terms)["gpu0 experts"] for e in (sliced, whole)]
    # 128 experts, 8 a token, 8 tokens, 8 GPUs: the busiest has about 1.44 times the mean (coverage.py)
    assert experts[1] / experts[0] == pytest.approx(busiest_rank(128, 8, 8, 8)[0], rel=0.02)
    others = [e.decode.seconds - part for e, part in zip((sliced, whole), experts, strict=True)]
    assert others[0] == pytest.approx(others[1], rel=1e-9)
    assert whole.decode.flop == sliced.decode.flop


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("llama-3.1-8b", {}, "has no experts to share"),
        ("mixtral-8x7b", {"engine": "tgi"}, "--ep 4: tgi is not modelled with it"),
        ("mixtral-8x7b", {"tensor_parallel": 8}, "--ep 4 over 8 GPUs"),
        ("qwen2-57b-a14b", {"tensor_parallel": 4}, None),
    ],
)
def test_whole_experts_that_cannot_be(model: str, options: dict[str, object], said: str | None) -> None:
    asked = {"hardware": "h100-sxm-80gb", "n_gpus": 8, "quant": "bf16", "expert_parallel": 4, **options}
    if said is None:
        assert moeplan.estimate(model, **asked).placement.expert_parallel == 4
        return
    with pytest.raises(MoeplanError, match=said):
        moeplan.estimate(model, **asked)


def test_unequal_gpus_are_said_and_the_smaller_one_decides_about_the_cache(tmp_path: Path) -> None:
    node = tmp_path / "two.yaml"
    node.write_text("id: two\nname: Two\ngpus: [rtx-4090, rtx-3060-12gb]\ncpu: ryzen-9-7950x\nram_GiB: 64\n")
    e = moeplan.estimate("llama-3.1-8b", hardware=str(node), engine="vllm", quant="awq", tensor_parallel=2)
    assert "unequal GPUs" in " ".join(e.not_modelled)
    # 0.9 of 12 GiB, not of 24
    assert words.reserved_words(e).startswith("10.8 GiB a GPU")
    large = moeplan.estimate("llama-3.1-70b", hardware=str(node), engine="vllm", tensor_parallel=2)
    assert not large.fits and not words.reserved_words(large)
    equal = moeplan.estimate("llama-3.1-8b", hardware="rtx-4090", n_gpus=2, engine="vllm")
    assert "unequal GPUs" not in " ".join(equal.not_modelled)
