"""How many GPUs share heads and experts: as many as divide them, as serving engines demand."""

from __future__ import annotations

from pathlib import Path

import pytest

import moeplan
from moeplan.cost.coverage import busiest_rank
from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.errors import MoeplanError, SpecError
from moeplan.readers.calibration import read_calibration
from moeplan.report import words
from tests.support.problems import session


def test_a_number_that_does_not_divide_the_heads_is_refused() -> None:
    # Qwen2.5 7B has 28 query heads (config.json: num_attention_heads)
    with pytest.raises(SpecError, match="28 attention heads evenly among 3 GPUs") as error:
        moeplan.estimate("qwen2.5-7b", hardware="a100-sxm-80gb", n_gpus=3, tensor_parallel=3)
    assert "--tp 2" in str(error.value.hint)


def test_left_open_the_largest_divisor_is_used() -> None:
    e = moeplan.estimate("qwen2.5-7b", hardware="a100-sxm-80gb", n_gpus=3)
    assert e.placement.tensor_parallel == 2
    assert any("2 of 3 GPUs" in line for line in e.assumptions)
    assert moeplan.estimate("qwen2.5-7b", hardware="a100-sxm-80gb", n_gpus=4).placement.tensor_parallel == 4


def test_cached_heads_must_divide_or_be_copied() -> None:
    # 28 query heads divide by 7; 4 cached heads neither divide by 7 nor 7 by 4
    with pytest.raises(SpecError, match="cannot share 4 key-value heads evenly among 7 GPUs"):
        moeplan.estimate("qwen2.5-7b", hardware="a100-sxm-80gb", n_gpus=7, tensor_parallel=7)
    e = moeplan.estimate("qwen2.5-7b", hardware="a100-sxm-80gb", n_gpus=7)
    assert e.placement.tensor_parallel == 4
    assert "4 of 7 GPUs used: 7 cannot share 4 key-value heads evenly" in e.assumptions


# Experts of Qwen3 235B are 1536 wide (config.json: moe_intermediate_size). In 8 slices they are 192 columns,
# one and a half blocks of 128; in 4 slices 384, three of them.
EIGHT = {"model": "qwen3-235b-a22b", "hardware": "h100-sxm-80gb", "n_gpus": 8}


@pytest.mark.parametrize("quant", ["fp8-block", "awq"])
def test_slices_that_cut_groups_are_refused(quant: str) -> None:
    said = "cannot share experts of width 1536 in whole groups of 128 evenly among 8 GPUs"
    for options in ({}, {"expert_parallel": 1}):
        with pytest.raises(SpecError, match=said) as error:
            moeplan.estimate(**EIGHT, quant=quant, tensor_parallel=8, **options)
        assert error.value.hint == "--tp 8 --ep 8 keeps experts whole; or --tp 4"
    with pytest.raises(SpecError, match=said) as error:
        moeplan.estimate(**EIGHT, quant=quant, tensor_parallel=8, engine="tgi")
    assert error.value.hint == "--tp 4"
    for shards, whole in ((8, 8), (4, 4), (4, 1)):
        placement = moeplan.estimate(
            **EIGHT, quant=quant, tensor_parallel=shards, expert_parallel=whole
        ).placement
        assert (placement.tensor_parallel, placement.expert_parallel) == (shards, whole)


@pytest.mark.parametrize(
    ("quant", "options", "shared", "note"),
    [
        ("fp8-block", {}, (8, 8), "experts whole (--ep 8): 8 GPUs cannot share experts of width 1536"),
        ("fp8-block", {"expert_parallel": 1}, (4, 1), "4 of 8 GPUs used: 8 cannot share experts"),
        ("fp8-block", {"engine": "tgi"}, (4, 1), "4 of 8 GPUs used: 8 cannot share experts"),
        ("fp8", {}, (8, 1), ""),
        ("bf16", {}, (8, 1), ""),
    ],
)
def test_left_open_experts_are_whole_or_on_fewer_gpus(
    quant: str, options: dict[str, object], shared: tuple[int, int], note: str
) -> None:
    e = moeplan.estimate(**EIGHT, quant=quant, **options)
    assert (e.placement.tensor_parallel, e.placement.expert_parallel) == shared
    assert any(line.startswith(note) for line in e.assumptions)
    if not note:
        assert "cannot share" not in " ".join(e.assumptions)


@pytest.mark.parametrize("engine", ["vllm", "tgi"])
def test_a_comparison_shares_experts_as_an_estimate_does(engine: str) -> None:
    asked = {"hardware": "h100-sxm-80gb", "n_gpus": 8, "quant": "fp8-block", "engine": engine}
    compared = moeplan.compare(["qwen3-235b-a22b", "deepseek-v3"], **asked)
    one, alone = compared.models[0].estimate, moeplan.estimate(**EIGHT, quant="fp8-block", engine=engine)
    assert one.placement == alone.placement
    assert one.decode_step_s == alone.decode_step_s
    assert any("cannot share experts" in line for line in compared.assumptions)


def test_a_plan_says_which_slices_lost() -> None:
    missed = moeplan.plan(**EIGHT, quant="fp8-block").rejected
    why = "8 GPUs cannot share experts of width 1536 in whole groups of 128 evenly"
    assert ("tensor parallel over 8 GPUs", why) in [(r.placement, r.reason) for r in missed]


def test_what_ran_could_share_its_groups() -> None:
    request = EstimateRequest(
        model="qwen3-235b-a22b",
        machine=MachineFlags(gpu="h100-sxm-80gb", n_gpus=8),
        quant="fp8-block",
        tensor_parallel=8,
    )
    assert session().problem(request, [], measured=True).graph.expert_group == 1
    with pytest.raises(SpecError, match="whole groups of 128"):
        session().problem(request, [])


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
    # 128 experts, 8 a token, 8 tokens, 8 GPUs: the busiest has about 1.44 times the mean (coverage.py), and
    # reads whole experts more slowly than shares of all of them
    slower = read_calibration().coefficients["server.expert_parallel.bandwidth"].value
    assert experts[1] / experts[0] == pytest.approx(busiest_rank(128, 8, 8, 8)[0] / slower, rel=0.02)
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
