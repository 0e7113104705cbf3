"""Weights in RAM under a prompt: what is copied to the GPU, and how experts are multiplied there."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moeplan.cost.cores import tiled_isa, tiled_names
from moeplan.cost.host_rates import host_rates
from moeplan.cost.law import step_ops
from moeplan.cost.ops import Op
from moeplan.domain.hardware import Vendor
from moeplan.domain.workload import Placement
from moeplan.engines.grouped import one_by_one, product_times, started_for_each
from moeplan.engines.offload import Batch, copies_experts, copies_weights
from moeplan.engines.traits import EngineTraits, find_engine
from moeplan.predict.phases import prefill_steps, prefill_time
from moeplan.predict.placement import on_gpus, split
from tests.support.problems import calibration, dense_spec, gpu, graph_of, machine, moe_spec, workload

LLAMA, IK, KT = (find_engine(name) for name in ("llama.cpp", "ik_llama.cpp", "ktransformers"))


def _terms(prompt: int = 512, engine: str = "llama.cpp", date: str = "") -> dict[str, float]:
    """Of a prompt with all experts in RAM."""
    graph, hardware = graph_of(moe_spec(n_experts=8, n_active=2)), machine((gpu(),))
    placement = split(graph, hardware, LLAMA, graph.spec.n_layers + 1, 4)
    work = workload(prompt_tokens=prompt, engine_date=date)
    return dict(prefill_time(graph, hardware, work, placement, find_engine(engine), calibration()).terms)


def _batch(engine: EngineTraits, n: float, date: str = "", backend: str = "cuda", model: str = "x") -> Batch:
    return Batch(engine, date, backend, model, n)


def test_llama_copies_from_32_tokens_whatever_the_number_of_experts() -> None:
    assert [copies_weights(_batch(LLAMA, n)) for n in (31, 32)] == [False, True]
    assert [copies_experts(_batch(LLAMA, n), "q4_k", 32.0) for n in (31, 32)] == [False, True]
    # "mul_mat_id always on GPU for batches >= 32", PR 4553
    assert not copies_experts(_batch(LLAMA, 512, "2023-12-16"), "q4_k", 4.0)
    assert not copies_weights(_batch(KT, 4096)) and not copies_experts(_batch(KT, 4096), "q4_k", 32.0)


@pytest.mark.parametrize(
    ("date", "least"),
    [("2025-05-03", None), ("2025-05-12", 32), ("2025-06-11", 32), ("2025-06-12", 1024), ("", 1024)],
)
def test_ik_llama_copied_no_fused_experts_then_all_then_scaled(date: str, least: int | None) -> None:
    # PRs 405 and 520; 256 experts of which 8 compute
    for n in (31, 32, 1023, 1024, 8192):
        assert copies_experts(_batch(IK, n, date), "iq4_k", 32.0) is (least is not None and n >= least)


@pytest.mark.parametrize(
    ("qtype", "date", "copied"),
    [
        ("iq4_k_r4", "2025-05-25", False),
        ("iq4_k_r4", "2025-05-26", True),  # PR 461
        ("iq4_ks_r4", "2025-06-09", True),
        ("iq1_s_r4", "2025-06-04", False),
        ("q4_k_r4", "", False),  # no kernel on CUDA to this day
        ("q8_0_r8", "", False),
    ],
)
def test_interleaved_rows_are_copied_once_the_gpu_has_kernels(qtype: str, date: str, copied: bool) -> None:
    assert copies_experts(_batch(IK, 8192, date), qtype, 32.0) is copied


def test_repacking_at_load_keeps_what_has_no_kernel_on_the_cpu() -> None:
    # README of ik_llama.cpp: k-quants have no interleaved implementation on CUDA
    rtr = find_engine("ik_llama.cpp (rtr)")
    assert (rtr.id, rtr.asked) == ("ik_llama.cpp", "ik_llama.cpp (rtr)")
    assert not find_engine("llama.cpp (rtr)").interleaves_at_load
    for qtype, copied in (("q8_0", False), ("q4_k", False), ("iq3_k", True), ("iq6_k", True)):
        assert copies_experts(_batch(rtr, 8192), qtype, 32.0) is copied
        assert copies_experts(_batch(IK, 8192), qtype, 32.0)


@pytest.mark.parametrize(
    ("backend", "before", "since"),
    [
        ("cuda", "2023-12-20", "2023-12-21"),  # PR 4553
        ("vulkan", "2024-06-02", "2024-06-03"),  # PR 7628
        ("sycl", "2024-11-06", "2024-11-07"),  # PR 10133
    ],
)
def test_backends_copy_experts_since_builds_of_their_own(backend: str, before: str, since: str) -> None:
    for date, copied in ((before, False), (since, True), ("", True)):
        assert copies_experts(_batch(LLAMA, 512, date, backend), "q4_k", 4.0) is copied
        assert copies_weights(_batch(LLAMA, 512, date, backend))
    # ik_llama.cpp's other backends ask for MUL_MAT_ID, which its fused products are not
    assert copies_experts(_batch(IK, 8192, "", backend), "q4_k", 4.0) is (backend == "cuda")


def test_dates_of_ggml_are_not_those_of_accelerate() -> None:
    eager = find_engine("transformers")
    assert copies_experts(_batch(eager, 1, "2023-10"), "bf16", 4.0) and copies_weights(
        _batch(eager, 1, "2023-10")
    )


def test_ollamas_own_engine_kept_weights_on_the_cpu_for_half_a_year() -> None:
    ollama = find_engine("ollama")

    def copies(date: str, model: str) -> bool:
        batch = _batch(ollama, 512, date, model=model)
        assert copies_weights(batch) is copies_experts(batch, "q4_k", 4.0)
        return copies_weights(batch)

    # commits 0cefd46 (2025-05-12) and afaf7ce (2025-10-27)
    assert [copies(date, "gemma3_text") for date in ("2025-05-11", "2025-08", "2025-10-27", "")] == [
        True, False, True, True,
    ]  # fmt: skip
    # llama.cpp's code ran these, and Qwen3 until September
    assert copies("2025-08", "llama") and copies("2025-08", "qwen3") and not copies("2025-10", "qwen3")


def test_the_law_asks_for_the_date() -> None:
    assert "weights over PCIe" in _terms(128, "ik_llama.cpp")
    assert "weights over PCIe" not in _terms(127, "ik_llama.cpp")
    assert "weights over PCIe" in _terms(127, "ik_llama.cpp", "2025-06-01")
    assert "CPU experts" in _terms(512, "ik_llama.cpp", "2025-05-01")


def test_attention_of_layers_in_ram_goes_where_their_weights_are_copied() -> None:
    graph, hardware = graph_of(dense_spec()), machine((gpu(),))
    half = split(graph, hardware, LLAMA, graph.spec.n_layers // 2 + 1, 0)

    def terms(prompt: int, placement: Placement = half) -> dict[str, float]:
        work = workload(prompt_tokens=prompt)
        return dict(prefill_time(graph, hardware, work, placement, LLAMA, calibration()).terms)

    assert "CPU KV cache" in terms(31) and "weights over PCIe" not in terms(31)
    assert "CPU KV cache" not in terms(32) and "weights over PCIe" in terms(32)


def test_experts_are_multiplied_one_by_one_where_no_kernel_takes_all() -> None:
    def apart(engine: str, maker: Vendor, date: str, n: float, *, plain: bool = False) -> bool:
        of = replace(gpu(), vendor=maker, architecture="", compute_capability="8.9")
        return one_by_one(find_engine(engine), of, date, "f16" if plain else "q4_k", n, 128)

    # PR 13199
    assert apart("llama.cpp", "nvidia", "2025-04-29", 512) and not apart(
        "llama.cpp", "nvidia", "2025-05", 512
    )
    # "refactor bs>1 MoE code": one token had kernels of its own before, two were sorted by the host
    assert [apart("llama.cpp", "nvidia", "2025-04-29", n) for n in (1, 2, 8)] == [False, True, True]
    assert not any(apart("llama.cpp", "nvidia", "2025-05", n) for n in (1, 2, 8))
    # src1->ne[2] == 1 in its ggml_cuda_mul_mat_id too, and ggml_is_quantized
    assert [apart("ik_llama.cpp", "nvidia", "2025-07", n) for n in (1, 2, 8, 9)] == [False, True, True, True]
    assert all(apart("ik_llama.cpp", "nvidia", date, 1, plain=True) for date in ("2025-07", ""))
    # PR 728 of ik_llama.cpp, up to 32 tokens an expert
    assert apart("ik_llama.cpp", "nvidia", "2025-07", 512)
    assert [apart("ik_llama.cpp", "nvidia", "", n) for n in (4096, 4097)] == [False, True]
    # 16 bit: PR 16277
    assert [apart("llama.cpp", "amd", "", n, plain=True) for n in (64, 65)] == [False, True]
    assert [apart("llama.cpp", "amd", "2025-09", n, plain=True) for n in (1, 2, 64)] == [False, True, True]
    assert not apart("llama.cpp", "apple", "", 512, plain=True)
    assert not apart("llama.cpp (Vulkan)", "amd", "", 512, plain=True)
    assert not apart("vllm", "nvidia", "", 512, plain=True)
    # SYCL: PRs 21920 and 29245
    assert [apart("llama.cpp", "intel", "", n) for n in (1, 2, 512)] == [False, True, True]
    assert apart("llama.cpp", "intel", "2026-03", 1) and not apart("llama.cpp (Vulkan)", "intel", "", 512)
    # PR 23142
    assert [product_times("intel", date, 512) for date in ("2026-04", "2026-06", "")] == [2.7, 1.0, 1.0]
    assert product_times("nvidia", "2026-04", 512) == product_times("intel", "2026-04", 1) == 1.0


def test_a_product_for_each_expert_costs_its_launch() -> None:
    graph, hardware = graph_of(moe_spec(n_experts=8, n_active=2)), machine((gpu(),))
    placement = on_gpus(graph, hardware, LLAMA)
    work = workload(prompt_tokens=512)
    terms = dict(prefill_time(graph, hardware, work, placement, LLAMA, calibration()).terms)
    n_moe = sum(layer.expert_bytes > 0 for layer in graph.layers)
    # 512 tokens meet all 8 experts; gate, up and down of each, 10 us a product
    assert terms["expert products"] == pytest.approx(n_moe * 3 * 8 * 1e-5)


def test_few_rows_an_expert_hide_little_of_the_unpacking() -> None:
    """Of a long prompt each expert sees a part: as many unpacked weights for fewer rows."""
    chip = replace(gpu(), peak_flop_per_s={"fp16": 5e13, "fp32": 1e13})
    graph, hardware = graph_of(moe_spec(n_experts=64, n_active=2)), machine((chip,))

    def experts(n: int) -> Op:
        work = workload(prompt_tokens=n, ubatch_tokens=n)
        (step, _), *_ = prefill_steps(graph.spec, work, LLAMA)
        ops, _, _ = step_ops(graph, hardware, work, on_gpus(graph, hardware, LLAMA), LLAMA, step)
        return next(op for op in ops if op.term == "gpu0 experts")

    # 16 rows an expert of 512 tokens, 512 rows an expert of 16,384
    assert experts(512).unpacking_s > 0.0
    assert experts(16384).unpacking_s == pytest.approx(0.0)


def test_tiled_kernels_multiply_all_types_at_one_rate_and_use_no_amx() -> None:
    hardware = machine((gpu(),))
    names = {
        quant: host_rates(hardware, None, IK, (), quant, decode=False).weights[1]
        for quant in ("q4_0", "q8_0", "q6_k", "iq4_xs")
    }
    assert len(set(names.values())) == 1
    assert "local.cpu.tiled.avx2.compute" in names["q4_0"]
    decode = host_rates(hardware, None, IK, (), "q8_0", decode=True)
    assert "local.cpu.tiled.one_row.compute" in decode.weights[1]
    assert not any("quant" in name for name in decode.weights[1])
    gathered = host_rates(hardware, None, IK, (), "iq3_xxs", decode=True).weights[1]
    assert "local.quants.codebook.cpu_row_compute" in gathered
    assert "local.cpu.tiled.avx2.compute" in decode.cache[1]  # heads that share keys fill a tile
    llama = host_rates(hardware, None, LLAMA, (), "q8_0", decode=False)
    assert not any("tiled" in name for name in (*llama.weights[1], *llama.cache[1]))


def test_the_instruction_set_of_tiled_kernels() -> None:
    cpu = machine((gpu(),)).host.cpu
    sapphire = replace(cpu, isa=("avx2", "avx512", "amx"), microarchitecture="Golden Cove")
    skylake = replace(cpu, isa=("avx2", "avx512"), microarchitecture="Skylake-SP")
    assert tiled_isa(sapphire, IK, "q8_0") == "avx512"
    assert tiled_isa(skylake, IK, "q8_0") == "avx2"  # no VNNI
    assert (tiled_isa(sapphire, KT, "int8"), tiled_isa(sapphire, KT, "q4_k")) == ("amx", "avx512")
    assert tiled_isa(sapphire, LLAMA, "q8_0") == ""


def test_only_some_zen_5_computes_512_bits_at_once() -> None:
    cpu = replace(machine((gpu(),)).host.cpu, isa=("avx2", "avx512"), microarchitecture="Zen 5")
    narrow = ("local.cpu.tiled.avx512.compute",)
    wide = (*narrow, "local.cpu.tiled.wide.compute")
    assert tiled_names(replace(cpu, segment="desktop"), "avx512") == wide
    assert tiled_names(replace(cpu, segment="server", microarchitecture="Zen 5c"), "avx512") == wide
    assert tiled_names(replace(cpu, segment="laptop"), "avx512") == narrow
    assert tiled_names(replace(cpu, microarchitecture="Zen 4"), "avx512") == narrow
    assert tiled_names(cpu, "") == ()


def test_marlins_first_kernel_was_started_for_every_expert() -> None:
    def each(engine: str, date: str, n_experts: int = 128, quant: str = "gptq4") -> bool:
        return started_for_each(find_engine(engine), date, quant, n_experts)

    # vLLM: many experts until PR 13236 of February 2025, few until PR 14447 of April
    assert each("vllm", "2025-02") and not each("vllm", "2025-03")
    assert each("vllm", "2025-04", 8) and not each("vllm", "2025-05", 8)
    # SGLang had vLLM 0.7.2's until July
    assert each("sglang", "2025-05") and not each("sglang", "2025-08") and not each("sglang", "")
    assert each("vllm", "2024-10", quant="awq4") and not each("vllm", "2024-10", quant="fp8")
    assert not each("llama.cpp", "2024-10") and not each("transformers", "2024-10")


def test_copies_go_by_ollamas_release_not_by_the_code_that_it_vendored() -> None:
    """A release of November 2025 has kernels of October and copies as its engine does since 0.12.8."""
    spec, hardware, ollama = (
        replace(dense_spec(), architecture="qwen3"),
        machine((gpu(),)),
        find_engine("ollama"),
    )
    graph = graph_of(spec)
    half = split(graph, hardware, ollama, graph.spec.n_layers // 2 + 1, 0)

    def copied(date: str) -> bool:
        work = workload(prompt_tokens=128, engine_date=date)
        terms = dict(prefill_time(graph, hardware, work, half, ollama, calibration()).terms)
        return "weights over PCIe" in terms

    assert [copied(date) for date in ("2025-10-20", "2025-11-20")] == [False, True]
