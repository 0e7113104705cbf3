"""Terms that a build, a backend or the size of a chip brings with it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from moeplan import estimate, plan
from moeplan.cost.host_rates import host_rates
from moeplan.cost.launch_waits import add_waits
from moeplan.cost.law import step_ops
from moeplan.cost.ops import OVERLAP, SUM, Op, Scales
from moeplan.cost.rates import gpu_rates
from moeplan.cost.work import Step, unfused_scores
from moeplan.domain.calibration import Coefficient
from moeplan.domain.hardware import GpuSpec
from moeplan.domain.model import Block, DenseFfn
from moeplan.engines.builds import before
from moeplan.engines.eager import CachePasses, cache_passes, ffn_kernels, waits_for_products
from moeplan.engines.fused import flash_by_default
from moeplan.engines.traits import EngineTraits, find_engine
from moeplan.predict.placement import on_gpus
from tests.support.problems import (
    TEST,
    attention,
    dense_spec,
    gpu,
    graph_of,
    machine,
    moe_spec,
    session,
    workload,
)

LLAMA = find_engine("llama.cpp")


def apple(id: str) -> GpuSpec:
    return replace(gpu(unified=True), id=id, vendor="apple", architecture="M4")


@pytest.mark.parametrize(
    ("id", "size"),
    [
        ("apple-m4", "base"),
        ("apple-m4-pro", "pro"),
        ("apple-m3-max-40-core", "max"),
        ("apple-m2-ultra", "ultra"),
    ],
)
def test_each_size_of_apples_chips_has_a_share_of_its_bandwidth(id: str, size: str) -> None:
    moving = gpu_rates(apple(id), LLAMA, "", "q4_k", vector=True).weights[0]
    assert f"local.apple.{size}.bandwidth" in moving
    assert f"local.apple.{id[6:8]}.bandwidth" in moving


def test_vulkan_is_llama_cpp_with_its_own_routing_time() -> None:
    engine = find_engine("llama.cpp (Vulkan)")
    assert (engine.id, engine.backend, LLAMA.backend) == ("llama.cpp", "vulkan", "")
    graph, hardware = graph_of(moe_spec()), machine((gpu(),))
    placement = on_gpus(graph, hardware, engine)
    ops = step_ops(graph, hardware, workload(), placement, engine, Step(1, 1, 0, 1))[0]
    routed = [op for op in ops if "local.moe.layer_time" in op.moving]
    assert routed and all("local.vulkan.moe.layer_time" in op.moving for op in routed)
    dense = graph_of(dense_spec())
    ops = step_ops(dense, hardware, workload(), on_gpus(dense, hardware, engine), engine, Step(1, 1, 0, 1))[0]
    assert not any("vulkan" in name for op in ops for name in op.moving)


def test_attention_that_is_not_fused_writes_its_scores() -> None:
    graph, hardware = graph_of(dense_spec()), machine((gpu(),))
    placement = on_gpus(graph, hardware, LLAMA)

    def cache(fused: bool, tokens: int) -> Op:
        work = workload(flash_attention=fused)
        ops = step_ops(graph, hardware, work, placement, LLAMA, Step(tokens, 1, 0, 1))[0]
        return next(op for op in ops if "KV" in op.term)

    for tokens in (1, 512):
        assert not any("unfused" in name for name in cache(True, tokens).computing)
        assert any(name.startswith("local.unfused.") for name in cache(False, tokens).computing)


def test_when_llama_cpp_fused_attention_by_itself() -> None:
    assert flash_by_default(LLAMA, "") and flash_by_default(LLAMA, "2025-09-02")
    assert not flash_by_default(LLAMA, "2024-05") and not flash_by_default(
        find_engine("ollama"), "2025-08-31"
    )
    assert flash_by_default(find_engine("ik_llama.cpp"), "2025-04") and flash_by_default(
        find_engine("vllm"), "2023-06"
    )


def test_llama_bench_left_attention_apart_until_june_2026() -> None:
    # "The default is still kept as -fa off" (llama.cpp PR 23714 of 2026-05-26)
    dates = ("2025-11", "2026-05-30", "2026-06-01", "")
    assert [flash_by_default(LLAMA, date, bench=True) for date in dates] == [False, False, True, True]
    assert flash_by_default(find_engine("ollama"), "2025-11", bench=True)


def test_how_often_transformers_moves_the_cache() -> None:
    block = dense_spec().blocks[0]
    groups = block.mixer.n_heads / block.mixer.n_kv_heads  # type: ignore[union-attr]
    assert groups > 1
    repeated, shared = CachePasses(3 + groups, 1 + groups, groups), CachePasses(2.0, 1.0, 1.0)
    assert cache_passes(block, "2024-10", host=False) == repeated
    assert cache_passes(block, "2025-08", host=False) == cache_passes(block, "", host=False) == shared
    # no fused kernel shares keys on the host or on a GPU before compute capability 8.0
    assert cache_passes(block, "", host=True) == cache_passes(block, "", host=False, shares=False) == repeated
    assert cache_passes(block, "2025-05", host=False, in_place=True) == CachePasses(0.0, 0.0, 1.0)


def test_copies_of_the_cache_wait_for_the_integer_units_of_the_gpu() -> None:
    def copies(date: str, **changes: Any) -> Op | None:
        engine, graph = find_engine("transformers"), graph_of(dense_spec())
        hardware = machine((replace(gpu(), peak_flop_per_s={"fp16": 50e12, "fp32": 20e12}, **changes),))
        placement = on_gpus(graph, hardware, engine)
        step = Step(1, 1, 4096, 1)
        ops = step_ops(graph, hardware, workload(engine_date=date), placement, engine, step)[0]
        return next((op for op in ops if "copies of the cache" in op.term), None)

    a100 = {"architecture": "Ampere", "compute_capability": "8.0"}
    h20 = {"architecture": "Hopper", "compute_capability": "9.0"}
    whole, half = copies("2024-10", **a100), copies("2024-10", **h20)
    assert whole and half and half.computing_s == pytest.approx(2 * whole.computing_s)
    fast = copies("2024-10", **a100, bandwidth_bytes_per_s=9e12)
    assert fast and fast.computing_s == whole.computing_s and fast.moving_s < whole.moving_s
    later, old = copies("", **h20), copies("", architecture="Turing", compute_capability="7.5")
    assert later and later.computing_s < half.computing_s / 1.5
    assert old and old.inputs["times_bytes_are_moved"] == whole.inputs["times_bytes_are_moved"]
    assert "local.copies.bandwidth" in whole.computing


def test_launches_from_python_go_on_beside_all_of_a_layers_work() -> None:
    names = ("local.eager_layer_s",)
    ops = [
        Op("weights over PCIe", 9.0, ("a",)),
        Op("gpu0 weights", 3.0, ("a",)),
        Op("gpu0 KV cache", 1.0, ("a",)),
    ]
    add_waits(ops, 0, "gpu0", [(2.0, names), (6.0, names)], "bf16", "", 1)
    assert [op.waiting_s for op in ops] == [0.0, 6.0, 2.0]  # as much of it as of the work, none with copies
    assert {op.waiting_norm for op in ops[1:]} == {OVERLAP}
    whole = Op("", 4.0, ("a",), waiting_s=8.0, waiting=names)
    one = Coefficient(value=1.0, unit="1", source=TEST)
    scales = Scales({"a": one, "local.eager_layer_s": one})
    assert sum(op.seconds(scales) for op in ops[1:]) == pytest.approx(whole.seconds(scales))
    first = [Op("gpu0 weights", 3.0, ("a",)), Op("gpu0 KV cache", 1.0, ("a",))]
    add_waits(first, 0, "gpu0", [(8.0, names)], "fp8", "2025-05", 1)
    assert [op.waiting_s for op in first] == [8.0, 0.0] and first[0].waiting_norm == SUM


def test_wrappers_of_matrices_are_more_of_a_turn_than_of_a_layer() -> None:
    # FP8: 2.5 times a dense layer of seven matrices, so 60 kernels more for all of them; three in a turn
    more = 3 * 60 / 7
    turns = 8 * (8 + more) + 120 * (5.5 + more)
    assert ffn_kernels(128, 8, "2025-05", "fp8") == pytest.approx(46 + turns / 2.5)
    plain, fp8, awq = (ffn_kernels(128, 8, "2025-05", kind) for kind in ("bf16", "fp8", "awq4"))
    assert plain < awq < fp8
    # a turn takes as long in the loop over those that a token chose
    assert ffn_kernels(128, 8, "2025-08", "fp8") == pytest.approx(46 + 8 * (8 + more) / 2.5)
    for kind in ("bf16", "fp8", "awq4"):
        assert ffn_kernels(128, 128, "2025-08", kind) == ffn_kernels(128, 128, "2025-05", kind)


def test_fp8_products_are_waited_for_until_a_build_that_does_not() -> None:
    assert waits_for_products("fp8", "2025-05") and waits_for_products("fp8", "2026-01-31")
    assert not waits_for_products("fp8", "2026-02") and not waits_for_products("fp8", "")
    assert not waits_for_products("bf16", "2025-05")
    hardware, engine = machine((gpu(),)), find_engine("transformers")
    graph = graph_of(dense_spec(), "fp8")
    placement = on_gpus(graph, hardware, engine)
    norms = []
    for date in ("2025-05", "2026-02"):
        ops = step_ops(graph, hardware, workload(engine_date=date), placement, engine, Step(1, 1, 0, 1))[0]
        norms.append({op.waiting_norm for op in ops if op.waiting_s})
    assert norms == [{SUM}, {OVERLAP}]


def test_python_starts_the_kernels_of_every_expert_in_turn() -> None:
    # the loop over all: 8 for an expert that a token chose, 5.5 for each of the others
    assert ffn_kernels(128, 8, "2025-05") == 46 + 8 * 8 + 5.5 * 120
    assert ffn_kernels(128, 8, "2025-08") == 46 + 8 * 8
    assert ffn_kernels(128, 8, "") == ffn_kernels(8, 2, "2026-01") == 52
    graph, hardware, engine = graph_of(moe_spec()), machine((gpu(),)), find_engine("transformers")
    placement = on_gpus(graph, hardware, engine)

    def waiting(date: str) -> float:
        work = workload(engine_date=date)
        return sum(
            op.waiting_s for op in step_ops(graph, hardware, work, placement, engine, Step(1, 1, 0, 1))[0]
        )

    assert waiting("2025-05") > waiting("2025-08") > waiting("")


@pytest.mark.parametrize("machine_id", ["l4", "l40s"])
def test_one_layer_in_ram_never_shortens_a_prompt(machine_id: str) -> None:
    """On boards that their power limits (72 W, 350 W): with a rule that lifts the limit it did."""

    def seconds(gpu_layers: int) -> float:
        answer = estimate(
            "llama-3.1-8b", quant="q4_k_m", hardware=machine_id, engine="llama.cpp", prompt_tokens=4096,
            context=8192, ubatch=4096, gpu_layers=gpu_layers,
        )  # fmt: skip
        assert answer.prefill is not None
        return answer.prefill.seconds

    times = [seconds(n) for n in (33, 32, 31, 24)]
    assert times == sorted(times)


def test_the_half_with_more_kernels_names_an_eager_layer() -> None:
    graph = session().graph("deepseek-v2-lite", "bf16", gguf=False)
    engine, hardware = find_engine("transformers"), machine((gpu(memory_gib=80),))
    ops = step_ops(graph, hardware, workload(), on_gpus(graph, hardware, engine), engine, Step(1, 1, 0, 1))[0]
    waits: dict[tuple[str, ...], float] = {}
    for op in ops:
        waits[op.waiting] = waits.get(op.waiting, 0.0) + op.waiting_s
    named = {names for names, n in waits.items() if n > 30}
    assert named and all("local.engine.transformers.moe.layer_time" in names for names in named)


def test_a_backend_is_asked_for_by_the_name_that_finds_it() -> None:
    engine = find_engine("llama.cpp (vulkan)")
    assert find_engine(engine.asked) == engine and LLAMA.asked == "llama.cpp"


@pytest.mark.parametrize(
    ("date", "earlier"),
    [("", False), ("2025", True), ("2025-09-01", False), ("2025-08-31", True), ("2026", False)],
)
def test_which_builds_are_older_than_a_month(date: str, earlier: bool) -> None:
    assert before(date, "2025-09") is earlier


@pytest.mark.parametrize("id", ["my-mac", "macbook-pro"])
def test_an_apple_chip_that_the_id_does_not_name_has_no_size(id: str) -> None:
    rates = gpu_rates(apple(id), LLAMA, "", "q4_k", vector=True)
    assert "local.apple.unknown.bandwidth" in rates.weights[0]
    assert not any(name.split(".")[-2] in ("base", "pro", "max", "ultra") for name in rates.weights[0])


def test_a_change_within_a_bare_year_or_a_span_is_not_certain() -> None:
    for month in ("2025-01", "2025-06", "2025-12"):
        assert before("2025", month)
    assert not before("2025", "2024-12")
    assert before("2025-08-15..2025-10-02", "2025-09") and not before("2025-08-15..2025-10-02", "2025-08")
    # attention of llama.cpp changed in September, experts of transformers in July and in December
    assert not flash_by_default(LLAMA, "2025") and flash_by_default(LLAMA, "2026")
    assert ffn_kernels(64, 8.0, "2025") == ffn_kernels(64, 8.0, "2025-06") > ffn_kernels(64, 8.0, "2026")


def test_a_plan_keeps_the_backend_that_was_asked_for() -> None:
    def seconds(engine: str) -> float:
        best = plan("qwen3-30b-a3b", gpu="rx-7900-xtx", quant="q4_k_m", engine=engine).best
        assert best is not None and best.estimate.decode is not None
        return best.estimate.decode.seconds

    # on this GPU the two are alike to a tenth of a per cent
    assert seconds("llama.cpp (Vulkan)") != pytest.approx(seconds("llama.cpp"), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "weights", "experts"), [("gpu", 2.0, 2.0), ("apple", 4.0, 1.0), ("unified", 1.0, 1.0)]
)
def test_how_much_arithmetic_of_a_decode_step_hides_behind_the_reads(
    kind: str, weights: float, experts: float
) -> None:
    chip = apple("apple-m4-pro") if kind == "apple" else gpu(unified=kind == "unified")
    chip = replace(chip, peak_flop_per_s={**chip.peak_flop_per_s, "fp32": 1e13})
    hardware, graph = machine(gpus=(chip,)), graph_of(moe_spec())

    def norms(n_tokens: int, n_sequences: int) -> dict[str, float]:
        step = Step(n_tokens, n_sequences, 100, n_sequences)
        ops, _, _ = step_ops(graph, hardware, workload(), on_gpus(graph, hardware, LLAMA), LLAMA, step)
        return {op.term.removeprefix("gpu0 "): op.norm for op in ops}

    decode, prompt = norms(1, 1), norms(512, 1)
    assert (decode["weights"], decode["experts"], decode["KV cache"]) == (weights, experts, 1.0)
    assert (prompt["weights"], prompt["experts"], prompt["KV cache"]) == (4.0, 4.0, 4.0)


def test_types_are_grouped_by_what_unpacking_them_takes() -> None:
    chip = replace(gpu(), peak_flop_per_s={"fp16": 5e13, "fp32": 1e13, "int8": 1e14})

    def group(quant: str, *, vector: bool) -> set[str]:
        computing = gpu_rates(chip, LLAMA, "", quant, vector=vector).weights[1]
        return {name for name in computing if ".quants." in name}

    assert group("q4_0", vector=True) == group("q4_k", vector=True) == {"local.quants.nibble.vector"}
    assert group("q8_0", vector=True) == {"local.quants.byte.vector"}
    assert group("q6_k", vector=True) == {"local.quants.super-block.vector"}
    assert group("iq4_xs", vector=True) == {"local.quants.table.vector"}
    # Prompts multiply integers: there the blocks decide.
    assert group("q4_0", vector=False) == {"local.quants.block.int8"}

    def on_cpu(quant: str) -> set[str]:
        computing = host_rates(machine(), 8, LLAMA, (), quant, decode=True).weights[1]
        return {name for name in computing if ".quants." in name}

    def one_row(group: str) -> set[str]:
        return {f"local.quants.{group}.cpu_row_compute"}

    assert on_cpu("q4_0") == on_cpu("q4_k") == on_cpu("q2_k") == one_row("interleaved")
    assert on_cpu("q8_0") == on_cpu("mxfp4") == on_cpu("iq4_nl") == one_row("block")
    assert on_cpu("q6_k") == on_cpu("iq4_xs") == on_cpu("iq4_k") == one_row("super-block")
    assert on_cpu("iq2_xxs") == on_cpu("iq3_s") == one_row("codebook")
    assert on_cpu("iq2_kl") == one_row("super-block")


def test_an_a100_has_other_cores_than_other_amperes() -> None:
    def names(capability: str, *, vector: bool) -> str:
        peaks = {"fp16": 5e13, "fp32": 1e13, "int8": 1e14}
        chip = replace(gpu(), architecture="Ampere", compute_capability=capability, peak_flop_per_s=peaks)
        return " ".join(gpu_rates(chip, LLAMA, "", "q4_k", vector=vector).weights[1])

    assert "local.gpu.ga100.vector" in names("8.0", vector=True)
    assert "local.gpu.ampere.vector" in names("8.6", vector=True)
    assert "local.gpu.ampere.int8" in names("8.0", vector=False)


def test_vulkan_does_not_reach_the_matrix_units_of_intels_gpus() -> None:
    def peak(engine: str, vendor: str) -> float:
        chip = replace(gpu(), vendor=vendor, peak_flop_per_s={"fp16": 5e13, "fp32": 1e13})
        return gpu_rates(chip, find_engine(engine), "", "q4_k").flop_per_s

    assert peak("llama.cpp (Vulkan)", "intel") == 1e13
    assert peak("llama.cpp", "intel") == peak("llama.cpp (Vulkan)", "amd") == 5e13


def test_attention_of_transformers_that_is_not_fused_moves_every_score() -> None:
    graph, box = graph_of(dense_spec(n_layers=3)), machine((gpu(),))
    eager = find_engine("transformers")
    placement = on_gpus(graph, box, eager)

    def ops_of(step: Step, *, flash: bool) -> dict[str, Op]:
        work = workload(flash_attention=flash)
        return {op.term: op for op in step_ops(graph, box, work, placement, eager, step)[0]}

    # 2 prompts of 100 tokens behind 50: 3 layers, 8 heads, 200 rows over 150 tokens, 32 B each at 500 GB/s
    prompt = Step(200, 2, 50, 2)
    apart, fused = (ops_of(prompt, flash=flash) for flash in (False, True))
    assert apart["gpu0 attention scores"].n_bytes == 3 * 8 * 200 * 150 * 32
    assert apart["gpu0 attention scores"].moving_s == pytest.approx(3 * 8 * 200 * 150 * 32 / 500e9)
    # masked ones are computed too: 150 for each row, not the 50 + 101 / 2 that it sees
    computed = fused["gpu0 KV cache"].computing_s * 150 / 100.5
    assert apart["gpu0 KV cache"].computing_s == pytest.approx(computed)
    assert apart["gpu0 KV cache"].flop == fused["gpu0 KV cache"].flop
    assert apart["gpu0 KV cache"].moving_s == fused["gpu0 KV cache"].moving_s
    assert "gpu0 attention scores" not in fused
    # a decode step over 50 tokens and its own
    assert ops_of(Step(1, 1, 50, 1), flash=False)["gpu0 attention scores"].n_bytes == 3 * 8 * 51 * 32
    # and of one row it is a term of its own from Python only
    llama = step_ops(graph, box, workload(flash_attention=False), placement, LLAMA, Step(1, 1, 50, 1))[0]
    assert not any("scores" in op.term for op in llama)


def test_a_window_has_the_scores_of_its_cache_in_decode_and_of_the_prompt_before() -> None:
    block = Block(name="window", mixer=attention(window=64), ffn=DenseFfn(intermediate=1024))
    assert unfused_scores(block, Step(1, 1, 200, 1)) == (8 * 64, 1)
    # the 100 rows see 64 at most: 1 to 64, and 36 times 64
    seen = (64 * 65 / 2 + 36 * 64) / 100
    assert unfused_scores(block, Step(100, 1, 0, 1)) == (8 * 100 * 100, pytest.approx(100 / seen, rel=0.01))
    assert unfused_scores(Block(name="ffn", mixer=None, ffn=None), Step(1, 1, 200, 1))[0] == 0


def test_fused_modules_read_the_cache_in_place_and_start_fewer_kernels() -> None:
    fused, plain = find_engine("HF transformers (AutoAWQ)"), find_engine("transformers")
    assert (fused.id, fused.asked) == ("transformers", "transformers (AutoAWQ)")
    assert find_engine("autoawq") == find_engine(fused.asked) == fused

    def ops(engine: EngineTraits) -> list[Op]:
        graph, hardware = graph_of(dense_spec()), machine((gpu(),))
        placement = on_gpus(graph, hardware, engine)
        return step_ops(graph, hardware, workload(), placement, engine, Step(1, 1, 4096, 1))[0]

    name = "local.fused_modules.layer_time"
    assert any(name in op.waiting for op in ops(fused)) and not any(name in op.waiting for op in ops(plain))
    moved = [sum(op.moving_s for op in ops(e) if "cache" in op.term) for e in (fused, plain)]
    assert 0 < moved[0] <= moved[1] / 3
