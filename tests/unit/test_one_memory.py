"""Machines with one memory for CPU and GPU: what is tried, what is asked for, and what is not modelled."""

from __future__ import annotations

import pytest

import moeplan
from moeplan.errors import NotModelled

MACHINES = ("apple-m2-max", "ryzen-ai-max-395", "dgx-spark-gb10")


@pytest.mark.parametrize("machine", MACHINES)
def test_the_processor_computes_where_it_is_asked_to(machine: str) -> None:
    asked = {"hardware": machine, "quant": "q4_k_m"}
    free = moeplan.estimate("qwen3-30b-a3b", **asked)
    cpu = moeplan.estimate("qwen3-30b-a3b", **asked, placement="cpu")
    assert (free.placement.kind, cpu.placement.kind) == ("unified", "cpu")
    assert moeplan.estimate("qwen3-30b-a3b", **asked, gpu_layers=0).placement == cpu.placement
    # one memory: the processor reads it no faster, and has fewer units to compute a prompt with
    assert cpu.decode_step_s.expected > free.decode_step_s.expected
    assert cpu.prefill_s.expected > 2 * free.prefill_s.expected
    plan = moeplan.plan("qwen3-30b-a3b", **asked)
    assert plan.best is not None and plan.best.estimate.placement.kind == "unified"
    assert not [c for c in plan.alternatives if c.estimate.placement.kind != "unified"]


def test_what_the_gpu_may_not_hold_names_the_processor() -> None:
    # 69.8 GiB of weights and 2.5 GiB of cache: the GPU may hold 72 of 96 GiB, RAM has 94
    e = moeplan.estimate("llama-3.3-70b", hardware="apple-m2-max", quant="q8_0")
    assert not e.fits and e.placement.kind == "unified"
    assert e.fix.endswith("or --placement cpu, which RAM has room for")
    asked = moeplan.estimate("llama-3.3-70b", hardware="apple-m2-max", quant="q8_0", placement="cpu")
    assert asked.fits and asked.placement.kind == "cpu"


@pytest.mark.parametrize(
    ("hardware", "options"),
    [
        ("apple-m2-max", {"quant": "f16"}),  # 131 GiB are too many for RAM as well
        (
            "rtx-4090",
            {"quant": "q8_0", "placement": "gpu", "ram_gib": 128},
        ),  # a split helps
        ("dgx-spark-gb10", {"quant": "bf16", "engine": "vllm"}),  # has no such placement
    ],
)
def test_where_the_processor_is_no_way_out_it_is_not_named(hardware: str, options: dict[str, object]) -> None:
    e = moeplan.estimate("llama-3.3-70b", hardware=hardware, **options)
    assert not e.fits and "--placement cpu" not in e.fix


@pytest.mark.parametrize(
    "options",
    [
        {"placement": "layers"},
        {"placement": "experts"},
        {"placement": "mixed"},
        {"placement": "stream"},
        {"gpu_layers": 10},
        {"gpu_layers": 48},
        {"cpu_moe": 5},
        {"cpu_moe": "all"},
    ],
)
def test_a_model_on_both_sides_is_not_modelled(options: dict[str, object]) -> None:
    with pytest.raises(NotModelled, match="divided between GPU and CPU of one memory"):
        moeplan.estimate("qwen3-30b-a3b", hardware="apple-m2-max", quant="q4_k_m", **options)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"placement": "gpu"}, "unified"),
        ({"placement": "unified", "cpu_moe": 0}, "unified"),
        ({"gpu_layers": "all"}, "unified"),
        ({"gpu_layers": 49}, "unified"),  # 48 layers and the output
        ({"placement": "cpu", "cpu_moe": "all"}, "cpu"),
        ({"gpu_layers": 0, "cpu_moe": 3}, "cpu"),
    ],
)
def test_a_model_on_one_side_is(options: dict[str, object], kind: str) -> None:
    e = moeplan.estimate("qwen3-30b-a3b", hardware="apple-m2-max", quant="q4_k_m", **options)
    assert e.placement.kind == kind


@pytest.mark.parametrize(
    ("machine", "told"), [("rtx-4090", True), ("apple-m2-max", False), ("ryzen-9-7950x", False)]
)
def test_a_plan_speaks_of_two_memories_where_there_are_two(machine: str, told: bool) -> None:
    notes = moeplan.plan("qwen3-30b-a3b", hardware=machine, quant="q4_k_m").not_modelled
    assert any("a cache in RAM under layers on a GPU" in note for note in notes) is told
    assert any("hot experts on the GPU" in note for note in notes) is told
