"""Prompts on GPUs: what builds left to libraries, how AMD's attention ran, what lies between products."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moeplan.calibrate.priors import prior
from moeplan.cost.activations import activation_bytes
from moeplan.cost.gpu_units import unit_of
from moeplan.cost.law import step_ops
from moeplan.cost.ops import Op
from moeplan.cost.rates import gpu_rates
from moeplan.cost.work import Step, main_type
from moeplan.domain.hardware import GpuSpec, Vendor
from moeplan.domain.model import Block, DenseFfn, MoeFfn
from moeplan.engines.blas import widens_weights
from moeplan.engines.grouped import one_by_one
from moeplan.engines.launches import narrow_attention
from moeplan.engines.traits import EngineTraits, find_engine
from moeplan.predict.placement import on_gpus
from tests.support.problems import attention, dense_spec, gpu, graph_of, machine, moe_spec, workload

LLAMA, IK, VULKAN = (find_engine(name) for name in ("llama.cpp", "ik_llama.cpp", "llama.cpp (vulkan)"))
EARLY = "2024-05"


def chip(capability: str = "8.9", vendor: Vendor = "nvidia", architecture: str = "Ada") -> GpuSpec:
    peaks = {"fp16": 5e13, "fp32": 1e13, "int8": 1e14}
    return replace(
        gpu(), compute_capability=capability, vendor=vendor, architecture=architecture, peak_flop_per_s=peaks
    )


CDNA2 = chip("", "amd", "CDNA2")
RDNA3, HALO = chip("", "amd", "RDNA3"), chip("", "amd", "RDNA3.5")


@pytest.mark.parametrize(
    ("of", "date", "quant", "rows", "widened"),
    [
        (chip(), EARLY, "q4_k", 512, True),
        (chip(), EARLY, "q4_k", 32, False),
        (chip(), EARLY, "f16", 512, False),
        (chip(), "2024-06-24", "q4_k", 512, False),
        (chip(), "2024-07-19", "iq4_xs", 512, True),
        (chip(), "2024-07-20", "iq4_xs", 512, False),
        (chip("6.1"), EARLY, "q4_k", 512, False),
        (chip("6.0"), "", "q4_k", 512, True),
        (chip("7.0"), "", "q4_k", 512, True),
        (chip("7.0"), "", "q4_k", 63, False),
        (RDNA3, "2025-08", "q4_k", 512, True),
        (HALO, "2025-08", "q4_k", 512, True),
        (HALO, "2026", "q4_k", 512, False),
        (chip("", "amd", "RDNA2"), EARLY, "q4_k", 512, False),
        (chip("", "amd", "CDNA3"), "2025-07", "q8_0", 512, True),
        (chip("", "intel", "Xe2-HPG"), EARLY, "q4_k", 512, False),
        # ggml_cuda_should_use_mmq of llama.cpp PRs 14949, 18202, 18537 and 18666
        (CDNA2, "2025-07-29", "q4_0", 512, True),
        (CDNA2, "", "q4_0", 512, False),
        (CDNA2, "", "q8_0", 128, False),
        (CDNA2, "", "q8_0", 129, True),
        (CDNA2, "", "q4_k", 256, False),
        (CDNA2, "", "q4_k", 257, True),
        (RDNA3, "2025-12-07", "q6_k", 512, False),
        (RDNA3, "", "q6_k", 128, False),
        (RDNA3, "", "q6_k", 129, True),
        (RDNA3, "", "iq2_xs", 512, True),
        (RDNA3, "", "q4_k", 512, False),
        (HALO, "", "q6_k", 256, False),
        (HALO, "", "q6_k", 257, True),
        (HALO, "", "iq2_xs", 512, False),
        # no build has such a kernel for it
        (chip(), "", "iq1_m", 512, True),
        (chip(), "", "iq1_m", 32, False),
    ],
)
def test_weights_are_widened_where_no_kernel_multiplies_their_blocks(
    of: GpuSpec, date: str, quant: str, rows: float, widened: bool
) -> None:
    assert widens_weights(LLAMA, of, date, quant, rows) is widened
    assert not widens_weights(VULKAN, of, date, quant, rows)
    assert not widens_weights(find_engine("vllm"), of, date, quant, rows)


def test_ik_llama_has_no_kernels_for_amds_matrix_units() -> None:
    for date in ("2025-07", ""):
        assert widens_weights(IK, RDNA3, date, "q4_k", 64) and not widens_weights(IK, RDNA3, date, "q4_k", 63)
        assert not widens_weights(IK, CDNA2, date, "q8_0", 512)


def test_many_experts_are_multiplied_by_their_blocks() -> None:
    assert widens_weights(LLAMA, CDNA2, "2025-12-27", "q8_0", 512, 128)
    assert not widens_weights(LLAMA, CDNA2, "", "q8_0", 512, 128)
    assert widens_weights(LLAMA, CDNA2, "", "q8_0", 512, 64)
    assert not widens_weights(LLAMA, RDNA3, "", "q6_k", 512, 64)
    assert widens_weights(LLAMA, RDNA3, "", "q6_k", 512, 63)
    # and then one kernel takes them all
    assert one_by_one(LLAMA, RDNA3, "", "q6_k", 512, 8) and not one_by_one(LLAMA, RDNA3, "", "q6_k", 512, 64)


def test_types_of_one_engine_got_kernels_of_their_own_later() -> None:
    assert widens_weights(IK, chip(), "2025-05-03", "iq4_ks", 512)
    assert not widens_weights(IK, chip(), "2025-05-04", "iq4_ks", 512)
    assert widens_weights(IK, chip(), "2025-05-04", "iq4_k", 512)
    # large batches went to cuBLAS again from June to November 2025 (its PRs 559 and 923), experts did not
    for date, widened in (("2025-06-26", False), ("2025-07", True), ("2025-11-09", False), ("", False)):
        assert widens_weights(IK, chip(), date, "q6_k", 1536) is widened
        assert not widens_weights(IK, chip(), date, "q6_k", 1535)
        assert not widens_weights(IK, chip(), date, "q6_k", 2048, 128)
    # PR 1785
    assert [widens_weights(IK, chip("7.0"), date, "q4_k", 512) for date in ("2026-05-14", "")] == [
        True,
        False,
    ]


def test_interleaved_rows_got_kernels_of_their_own_later_still() -> None:
    def widened(date: str, quant: str, rows: float = 512) -> bool:
        return widens_weights(IK, chip(), date, quant, rows)

    # ik_llama.cpp PRs 493, 557 and 492
    for quant, last, first in (
        ("iq4_ks_r4", "2025-06-04", "2025-06-05"), ("iq4_k_r4", "2025-06-25", "2025-06-26"),
    ):  # fmt: skip
        assert [widened(last, quant, 32), widened(last, quant), widened(first, quant)] == [False, True, False]
    assert widened("", "iq1_m_r4") and not widened("", "iq1_s_r4")
    # PR 1785: Volta keeps its kernels, in ik_llama.cpp alone
    assert [widens_weights(IK, chip("7.0"), d, "q4_k", 512) for d in ("2026-05-14", "")] == [True, False]
    assert widens_weights(LLAMA, chip("7.0"), "", "q4_k", 512)


def test_the_law_asks_for_rows_as_stored() -> None:
    graph = graph_of(moe_spec(n_experts=8, n_active=2))
    layers = tuple(
        replace(layer, bytes_by_qtype=(("iq4_k_r4", layer.dense_bytes + layer.expert_bytes),))
        for layer in graph.layers
    )
    graph, hardware = replace(graph, layers=layers), machine((chip(),))
    assert (main_type(graph), main_type(graph, stored=True)) == ("iq4_k", "iq4_k_r4")
    for date, widened in (("2025-06-25", True), ("2025-06-26", False)):
        work = workload(engine_date=date)
        found, *_ = step_ops(graph, hardware, work, on_gpus(graph, hardware, IK), IK, Step(512, 1, 0, 1))
        assert any("widening" in op.term for op in found) is widened


def test_many_rows_went_to_the_library_for_half_a_year() -> None:
    # ik_llama.cpp PRs 559 and 923
    def library(date: str, quant: str, rows: float, engine: EngineTraits = IK) -> bool:
        return widens_weights(engine, chip(), date, quant, rows)

    assert [library(d, "iq4_k", 1024) for d in ("2025-06-26", "2025-06-27", "2025-11-09", "")] == [
        False, True, False, False,
    ]  # fmt: skip
    assert [library("2025-08", "q6_k", n) for n in (1535, 1536)] == [False, True]
    assert library("2025-08", "q2_k", 384) and library("2025-08", "iq3_k_r4", 1024)
    assert not library("2025-08", "q4_k", 4096) and not library("2025-08", "q6_k", 4096, LLAMA)


def ops(of: GpuSpec, date: str, *, rows: int = 512, moe: bool = False, engine: str = "llama.cpp") -> list[Op]:
    graph = graph_of(moe_spec(n_experts=8, n_active=2) if moe else dense_spec(), "q8_0")
    hardware, work = machine((of,)), workload(engine_date=date)
    placement = on_gpus(graph, hardware, LLAMA)
    return step_ops(graph, hardware, work, placement, find_engine(engine), Step(rows, 1, 0, 1))[0]


def test_a_widened_matrix_is_written_and_read_in_16_bits() -> None:
    by_term = {op.term: op for op in ops(chip(), EARLY)}
    product, now = by_term["gpu0 weights"], {op.term: op for op in ops(chip(), "")}["gpu0 weights"]
    n_elements = now.flop / (2 * 512)
    assert product.n_bytes == pytest.approx(2 * n_elements)
    widening = by_term["gpu0 widening"]
    assert widening.n_bytes == pytest.approx(now.n_bytes + 2 * n_elements)
    assert widening.moving[-1] == "local.widening.bandwidth"
    # 16-bit units do the product, and nothing is unpacked on the way
    assert product.computing_s == pytest.approx(2 * now.computing_s)
    assert "local.quant.f16.compute" in product.computing and not product.unpacking_s
    assert now.unpacking == () or now.unpacking_s >= 0
    assert "gpu0 widening" not in {op.term for op in ops(chip(), EARLY, rows=1)}
    # one row of the head
    assert (
        by_term["gpu0 output head"].n_bytes
        == {op.term: op for op in ops(chip(), "")}["gpu0 output head"].n_bytes
    )


def test_a_library_that_is_not_tuned_for_a_gpu_is_slower() -> None:
    def computing(of: GpuSpec, date: str = "2025-08") -> tuple[str, ...]:
        return next(op for op in ops(of, date) if op.term == "gpu0 weights").computing

    assert "local.untuned-library.compute" in computing(HALO)
    assert "local.untuned-library.compute" not in computing(RDNA3)
    assert "local.untuned-library.compute" not in computing(HALO, "2025-10")
    assert prior("local.untuned-library.compute").value < 0.5


def test_experts_have_a_product_each_where_their_weights_are_widened() -> None:
    assert one_by_one(LLAMA, HALO, "2025-08", "q4_k", 512, 128)
    assert not one_by_one(LLAMA, HALO, "2025-08", "q4_k", 63, 128)
    assert not one_by_one(LLAMA, HALO, "", "q4_k", 512, 128)
    assert "expert products" in {op.term for op in ops(HALO, "2025-08", moe=True)}
    assert "expert products" not in {op.term for op in ops(HALO, "", moe=True)}


@pytest.mark.parametrize(
    ("engine", "of", "date", "narrow"),
    [
        ("llama.cpp", HALO, "2025-09-06", True),
        ("llama.cpp", HALO, "2025-09-07", False),
        ("llama.cpp", chip(), EARLY, False),
        ("llama.cpp (vulkan)", HALO, "2025-08", False),
    ],
)
def test_attention_of_many_rows_on_amd(engine: str, of: GpuSpec, date: str, narrow: bool) -> None:
    traits = find_engine(engine)
    assert bool(narrow_attention(traits, of, date)) is narrow
    name = "local.narrow.compute"
    assert (name in gpu_rates(of, traits, date, "q4_k").cache[1]) is narrow
    assert name not in gpu_rates(of, traits, date, "q4_k", fused=False).cache[1]
    assert name not in gpu_rates(of, traits, date, "q4_k", vector=True).cache[1]


def test_activations_grow_with_the_width_and_with_the_experts_of_a_token() -> None:
    plain = Block(name="plain", mixer=attention(), ffn=DenseFfn(intermediate=1000))
    assert activation_bytes(replace(plain, ffn=DenseFfn(intermediate=2000)), 512) - activation_bytes(
        plain, 512
    ) == pytest.approx(4 * 6.25 * 1000)
    routed = Block(name="moe", mixer=None, ffn=MoeFfn(n_experts=8, n_active=1, expert_intermediate=1000))
    two = replace(routed, ffn=MoeFfn(n_experts=8, n_active=2, expert_intermediate=1000))
    assert activation_bytes(two, 512) - activation_bytes(routed, 512) == pytest.approx(
        4 * (6.5 * 512 + 6.25 * 1000)
    )


def test_only_prompts_of_ggml_on_a_gpu_move_activations_through_memory() -> None:
    term = "gpu0 activations"
    found = {op.term: op for op in ops(chip(), "")}
    assert found[term].moving_s == pytest.approx(found[term].n_bytes / chip().bandwidth_bytes_per_s)
    twice = {op.term: op for op in ops(chip(), "", rows=1024)}
    assert twice[term].n_bytes == pytest.approx(2 * found[term].n_bytes)
    assert term not in {op.term for op in ops(chip(), "", rows=1)}
    assert term not in {op.term for op in ops(chip(), "", engine="exllamav2")}


def test_vulkan_computes_bf16_in_fp32_where_matrix_units_do_not_take_it() -> None:
    of = replace(HALO, peak_flop_per_s={"fp32": 3e13, "bf16": 6e13, "fp16": 6e13})
    assert unit_of(of, VULKAN, "bf16", vector=False) == ("compute", 3e13)
    assert unit_of(of, VULKAN, "f16", vector=False) == ("compute", 6e13)
    assert unit_of(of, LLAMA, "bf16", vector=False) == ("compute", 6e13)
    assert unit_of(replace(of, architecture="RDNA4"), VULKAN, "bf16", vector=False) == ("compute", 6e13)


def test_products_of_8_bits_pay_less_for_each() -> None:
    assert prior("local.int8.flop_per_joule").value == pytest.approx(1.5)
    assert prior("local.compute.flop_per_joule").value == 1.0


def test_attention_that_is_not_fused_moves_its_scores() -> None:
    graph = graph_of(dense_spec())
    heads = dense_spec().layer_blocks()[0].mixer.n_heads  # type: ignore[union-attr]
    term = "gpu0 attention scores"

    def found(
        engine: str = "llama.cpp", of: GpuSpec | None = None, rows: int = 256, *, fused: bool = False
    ) -> dict[str, Op]:
        hardware, work = machine((of or chip(),)), workload(flash_attention=fused)
        placement = on_gpus(graph, hardware, LLAMA)
        step = Step(rows, 1, 768, 1)
        return {
            op.term: op for op in step_ops(graph, hardware, work, placement, find_engine(engine), step)[0]
        }

    # 256 rows see up to 1,024 cells, masked ones computed too
    scores = graph.spec.n_layers * heads * 256 * 1024
    assert found()[term].n_bytes == pytest.approx(24 * scores)
    assert found("llama.cpp (vulkan)")[term].n_bytes == pytest.approx(16 * scores)
    assert term not in found(fused=True) and term not in found(rows=1) and term not in found("exllamav2")
    # streamed like weights, computed like two products of whole rectangles
    assert "local.cache.bandwidth" not in found()[term].moving
    mean = 768 + 257 / 2
    masked = found()["gpu0 KV cache"].computing_s / found(fused=True)["gpu0 KV cache"].computing_s
    assert masked == pytest.approx(1024 / mean)
    assert prior("local.unfused.compute").value == 1.0


def test_caches_of_tens_of_megabytes_hold_what_lies_between_products() -> None:
    graph = graph_of(dense_spec())
    held = "local.cached.activations.bandwidth"

    def names(architecture: str) -> tuple[str, ...]:
        card = chip(architecture=architecture)
        step, work = Step(512, 1, 0, 1), workload(prompt_tokens=512)
        hardware = machine((card,))
        ops, *_ = step_ops(graph, hardware, work, on_gpus(graph, hardware, LLAMA), LLAMA, step)
        return next(op.moving for op in ops if op.term == "gpu0 activations")

    assert held in names("Ada") and held in names("Blackwell") and held in names("Blackwell Ultra")
    assert held not in names("Turing") and held not in names("Ampere"), "of 6 MB or less"
    assert prior(held).value > 1.0
