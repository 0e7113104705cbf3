"""What does not fit: the placement that is least short, and the memory that the fix names is enough."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.result import Estimate
from moeplan.engines.traits import find_engine
from moeplan.predict.choice import choose_placement
from moeplan.predict.estimate import estimate
from moeplan.predict.problem import Problem
from moeplan.units import GIB, KIB, MIB
from tests.support.problems import calibration, gpu, graph_of, machine, moe_spec, workload

# 24 x 128 experts of 3 x 512 x 256 numbers in f16: 2.25 GiB; everything else has 0.04
GRAPH = graph_of(moe_spec(n_layers=24, n_experts=128, n_active=4, expert=256))
UNITS = {"KiB": KIB, "MiB": MIB, "GiB": GIB}


def told(engine: str, box: HardwareSpec, kind: str | None = None, context: int = 4096) -> Estimate:
    problem = Problem(
        GRAPH, box, workload(engine=engine, context_tokens=context), find_engine(engine), calibration()
    )
    placement = choose_placement(problem, kind=kind, gpu_layers=None, cpu_moe=None)
    return estimate(problem, placement, level=0.8)


def with_more(box: HardwareSpec, fix: str) -> HardwareSpec:
    """``box`` with the memory that ``fix`` names, rounded up to what its figures show."""
    for amount, unit, where in re.findall(r"([\d.,]+) (\wiB) more on (ram|gpu0|each of \d GPUs)", fix):
        more = round((float(amount.replace(",", "")) + 0.06) * UNITS[unit])
        if where == "ram":
            box = replace(box, host=replace(box.host, ram_bytes=box.host.ram_bytes + more))
        else:
            gpus = tuple(replace(g, memory_bytes=g.memory_bytes + more) for g in box.gpus)
            box = replace(box, gpus=gpus)
    return box


@pytest.mark.parametrize(
    ("engine", "kind", "context", "lacking"),
    [
        # Experts in RAM lack less than the whole model does on a GPU of 1 GiB.
        ("ktransformers", "experts", 4096, "ram"),
        ("transformers", "layers", 4096, "ram"),
        ("exllamav2", "gpu", 4096, "gpu0"),  # has no place for weights but GPUs
        ("vllm", "gpu", 4096, "gpu0"),
        ("llama.cpp", "disk", 4_000_000, "ram"),  # the file is mapped, the cache is not
    ],
)
def test_the_least_short_placement_is_shown_and_its_fix_is_enough(
    engine: str, kind: str, context: int, lacking: str
) -> None:
    box = machine((gpu(memory_gib=1.5),), ram_gib=3)
    short = told(engine, box, context=context)
    assert not short.fits
    assert short.placement.kind == kind
    assert [d.device for d in short.memory.devices if d.headroom_bytes < 0] == [lacking]
    assert f"more on {lacking}" in short.fix
    if engine != "vllm":  # which takes 90% of what there is
        assert told(engine, with_more(box, short.fix), context=context).fits


def test_a_gpu_that_lacks_little_is_what_is_named() -> None:
    # The whole model lacks less on the GPU than its experts do in almost no RAM.
    box = machine((gpu(memory_gib=2.8),), ram_gib=2.1)
    assert told("ktransformers", machine((gpu(memory_gib=4),), ram_gib=2.1)).fits
    short = told("ktransformers", box)
    assert short.placement.kind == "gpu" and "more on gpu0" in short.fix


def test_a_kind_that_was_asked_for_is_kept() -> None:
    box = machine((gpu(memory_gib=2.8),), ram_gib=2.1)
    assert told("ktransformers", box, kind="experts").placement.kind == "experts"


def test_all_that_is_short_is_in_the_fix() -> None:
    # Even with all experts in RAM the GPU is too small, and so is RAM.
    box = machine((gpu(memory_gib=0.6),), ram_gib=3)
    short = told("ktransformers", box, kind="experts")
    assert re.search(r"more on gpu0 and .* more on ram", short.fix)
    two = machine((gpu(memory_gib=1), gpu(memory_gib=1)))
    assert "more on each of 2 GPUs" in told("exllamav2", two).fix


def test_wide_weights_that_would_do_in_four_bits_are_told_so() -> None:
    # 16 bits of 2.29 GiB are 4.9 bits of 0.70: too many for 1.5 GiB of VRAM, few beside 3 GiB of RAM
    short = told("vllm", machine((gpu(memory_gib=1.5),), ram_gib=3))
    assert "--quant q4_k_m with llama.cpp: weights of about 71" in short.fix and "MiB" in short.fix
    # nor where nothing holds even those, nor to a file as it is
    assert "q4_k_m" not in told("vllm", machine((gpu(memory_gib=0.4),), ram_gib=2.1)).fix
