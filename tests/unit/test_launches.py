"""Terms of how kernels are launched, what they read again and what a step sends between devices."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moeplan.calibrate.priors import prior
from moeplan.cost.hops import hand_over_ops
from moeplan.cost.law import step_ops
from moeplan.cost.ops import Op
from moeplan.cost.rates import gpu_rates
from moeplan.cost.type_groups import unpacking_group
from moeplan.cost.work import Step
from moeplan.domain.hardware import GpuSpec
from moeplan.domain.workload import Workload
from moeplan.engines.blas import widens_weights
from moeplan.engines.launches import cache_reads, launch_marks, scalar_loads
from moeplan.engines.traits import find_engine
from moeplan.predict.placement import on_gpus
from moeplan.units import GIB
from tests.support.problems import dense_spec, gpu, graph_of, machine, moe_spec, workload

LLAMA, VULKAN = find_engine("llama.cpp"), find_engine("llama.cpp (vulkan)")
ONE = Step(1, 1, 0, 1)


def chip(capability: str = "8.9", vendor: str = "nvidia") -> GpuSpec:
    return replace(gpu(), compute_capability=capability, vendor=vendor)


@pytest.mark.parametrize(
    ("engine", "of", "date", "routed", "ungraphed"),
    [
        ("llama.cpp", chip(), "2024-04", False, True),
        ("llama.cpp", chip(), "2024-05-10", False, False),
        ("llama.cpp", chip(), "2025-04", True, True),
        ("llama.cpp", chip(), "2025-05", True, False),
        ("ik_llama.cpp", chip(), "2025-05", True, True),
        ("ik_llama.cpp", chip(), "2025-08", True, False),
        ("llama.cpp", chip("7.5"), "2025-12", False, True),
        ("llama.cpp", chip("7.5"), "2026-07", False, False),
        ("llama.cpp", chip("6.1"), "", False, True),
        ("llama.cpp", chip("", "amd"), "2026-03", False, True),
        ("llama.cpp", chip("", "amd"), "", False, False),
        ("llama.cpp (vulkan)", chip(), "2024-04", True, False),
        ("llama.cpp", chip("", "intel"), "2024-04", False, False),
        ("vllm", chip("7.0"), "2024-04", True, False),
    ],
)
def test_graphs_replay_kernels_where_a_build_has_them(
    engine: str, of: GpuSpec, date: str, routed: bool, ungraphed: bool
) -> None:
    assert ("ungraphed" in launch_marks(find_engine(engine), of, date, routed=routed)) is ungraphed


def test_marks_lengthen_the_halves_of_a_layer() -> None:
    graph, hardware = graph_of(moe_spec()), machine((chip(),))
    old = replace(workload(), engine_date="2025-04")
    ops = _ops(graph, hardware, old)
    halves = [op.moving for op in ops if op.term == "layer overhead"]
    routed = [names for names in halves if "local.moe.layer_time" in names]
    plain = [names for names in halves if "local.moe.layer_time" not in names]
    assert routed and all("local.ungraphed.layer_time" in names for names in routed)
    assert plain and not any("local.ungraphed.layer_time" in names for names in plain)
    assert prior("local.ungraphed.layer_time").value == 1.5


@pytest.mark.parametrize(
    ("engine", "of", "date", "routed", "apart"),
    [
        ("llama.cpp", chip(), "2025-08-19", True, True),
        ("llama.cpp", chip(), "2025-11-02", True, False),
        ("llama.cpp", chip(vendor="amd"), "2025-08-06", True, True),
        ("ik_llama.cpp", chip(), "2025-09-01", True, True),
        ("ik_llama.cpp", chip(), "2025-10-01", True, False),
        ("llama.cpp", chip(), "2025-08-19", False, False),
        ("llama.cpp", chip(), "", True, False),
        ("llama.cpp (vulkan)", chip(), "2025-08-19", True, False),
        ("llama.cpp", chip(vendor="apple"), "2025-08-19", True, False),
        ("vllm", chip(), "2025-08-19", True, False),
    ],
)
def test_choosing_experts_took_more_kernels_before_they_were_merged(
    engine: str, of: GpuSpec, date: str, routed: bool, apart: bool
) -> None:
    marks = launch_marks(find_engine(engine), of, date, routed=routed)
    assert ("separate-routing" in marks) is apart
    # each of the mergers made tokens 1.04 to 1.16 times as fast
    assert 1.3 < prior("local.separate-routing.layer_time").value < 1.5


def test_early_kernels_for_16_bit_weights_are_slower() -> None:
    def loads(quant: str, date: str, engine: str = "llama.cpp") -> bool:
        h100 = replace(chip("9.0"), peak_flop_per_s={"fp16": 1e15, "fp32": 6.7e13})
        rates = gpu_rates(h100, find_engine(engine), date, quant, vector=True)
        return "local.scalar-loads.vector" in rates.weights[1]

    assert loads("f16", "2024-05") and loads("bf16", "2023-11")
    assert not loads("f16", "2024-11") and not loads("f16", "") and not loads("q4_k", "2024-05")
    assert not loads("f16", "2024-05", "exllamav2") and not scalar_loads(VULKAN, chip(), "2024-05")


def test_keys_that_heads_share_were_read_for_each_of_them() -> None:
    radeon = chip("", "amd")
    for of in (radeon, chip("6.1")):
        assert cache_reads(LLAMA, of, "2025-07", 4) == 4
        # then up to 8 together, as many as the largest power of two among their factors
        assert [cache_reads(LLAMA, of, "", heads) for heads in (1, 4, 5, 6, 8, 12, 16)] == [
            1,
            1,
            5,
            3,
            1,
            3,
            2,
        ]
        assert cache_reads(LLAMA, of, "2025-11", 4) == 1
    assert cache_reads(VULKAN, radeon, "2025-07", 4) == cache_reads(LLAMA, chip(), "2025-07", 4) == 1
    assert cache_reads(VULKAN, radeon, "", 6) == cache_reads(LLAMA, chip(), "", 6) == 1
    graph = graph_of(dense_spec())  # 8 query heads, 2 of keys

    def cache(of: GpuSpec, *, fused: bool = True) -> float:
        done = replace(workload(), engine_date="2025-07", flash_attention=fused)
        ops = _ops(graph, machine((of,)), done, Step(1, 1, 4096, 1))
        return sum(op.moving_s for op in ops if op.term.endswith("KV cache"))

    assert cache(radeon) == pytest.approx(4 * cache(chip()))
    assert cache(radeon, fused=False) == cache(chip())


@pytest.mark.parametrize(
    ("engine", "of", "date", "times"),
    [
        ("llama.cpp", chip("8.6"), "2025-01", 4.04),
        ("llama.cpp", chip("7.5"), "2025-03", 1),
        ("ik_llama.cpp", chip("8.6"), "2025-05-02", 4.04),
        ("ik_llama.cpp", chip("8.6"), "2025-05-03", 1),
        ("llama.cpp", chip("8.9"), "2025-01", 1),  # whose L2 caches hold much more
        ("llama.cpp (vulkan)", chip("8.6"), "2025-01", 1),
        ("llama.cpp", chip("", "apple"), "2025-01", 1),
    ],
)
def test_tensor_cores_that_were_not_used_found_shared_keys_in_the_l2_cache(
    engine: str, of: GpuSpec, date: str, times: float
) -> None:
    assert cache_reads(find_engine(engine), of, date, 8) == pytest.approx(times, rel=0.001)


def test_logits_go_to_the_host_over_its_link() -> None:
    graph = graph_of(dense_spec())
    slow = machine((gpu(),), pcie_gbps=0.8)
    (op,) = [op for op in _ops(graph, slow, workload()) if op.term == "logits over PCIe"]
    assert op.moving_s == pytest.approx(graph.spec.vocab_size * 4 / 0.8e9) and op.moving == ()
    others = [
        _ops(graph, machine((gpu(unified=True),)), workload()),
        _ops(graph, slow, workload(), engine="exllamav2"),
        _ops(graph, slow, workload(), Step(512, 1, 0, 0)),
    ]
    assert not any(op.term == "logits over PCIe" for ops in others for op in ops)


def test_gpus_wait_for_each_other_where_layers_are_handed_over() -> None:
    assert hand_over_ops("local", ["gpu0", "ram", "gpu0"]) == ()
    (op,) = hand_over_ops("local", ["gpu0", "gpu0", "gpu1", "ram", "gpu2"])
    assert op.moving_s == pytest.approx(0.4)
    assert op.moving == ("local.step_s", "local.hand_over.step_time")


def test_check_bits_in_gddr_take_a_sixteenth_of_the_bandwidth() -> None:
    l40s = replace(gpu(48, 864), memory_type="GDDR6", visible_bytes=round(44.988 * GIB))
    assert l40s.data_bytes_per_s == pytest.approx(810e9)
    assert gpu_rates(l40s, LLAMA, "", "q4_k").bytes_per_s == l40s.data_bytes_per_s
    for other in (
        replace(l40s, visible_bytes=None),
        replace(l40s, memory_type="HBM2e"),
        replace(l40s, visible_bytes=round(47.5 * GIB)),
    ):
        assert other.data_bytes_per_s == 864e9


def test_pairs_of_halves_are_a_group_of_their_own() -> None:
    assert {unpacking_group(q) for q in ("gptq4", "exl2", "exl3")} == {"half"}
    assert unpacking_group("mxfp4") == "other" and unpacking_group("q4_0") == "nibble"
    assert prior("local.quants.half.vector").value == 2.0


def test_python_launches_at_the_pace_of_its_host() -> None:
    eager = gpu_rates(gpu(), find_engine("transformers"), "", "f16").fixed
    assert eager[0] == "local.eager_layer_s" and not any(n.startswith("local.gpu") for n in eager)
    assert "local.gpu.test.layer_time" in gpu_rates(gpu(), LLAMA, "", "f16").fixed


def _ops(graph, hardware, done: Workload, step: Step = ONE, engine: str = "llama.cpp") -> list[Op]:  # type: ignore[no-untyped-def]
    runs = find_engine(engine)
    return step_ops(graph, hardware, done, on_gpus(graph, hardware, runs), runs, step)[0]


def test_a_capability_that_is_no_number_is_as_of_gpus_sold_now() -> None:
    # a machine file may say anything
    for said in ("", "sm_120"):
        assert launch_marks(LLAMA, chip(said), "2024-06", routed=False) == ()
        assert widens_weights(LLAMA, chip(said), "2024-05", "q4_0", 512)
