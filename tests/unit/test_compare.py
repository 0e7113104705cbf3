"""What a comparison is made of, on models small enough to reason about and on Mixtral."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from moeplan.api.compare import compare
from moeplan.domain.comparison import Comparison
from moeplan.engines.traits import find_engine
from moeplan.errors import MoeplanError
from moeplan.predict.choice import choose_placement
from moeplan.predict.compare import (
    batch_points,
    coverage,
    coverage_frac,
    experts_in_ram,
    layers_within,
    textbook_view,
    vram_needed_bytes,
)
from moeplan.predict.estimate import estimate
from moeplan.predict.placement import split
from moeplan.predict.problem import Problem
from tests.support.problems import calibration, dense_spec, gpu, graph_of, machine, moe_spec, workload

REPO = Path(__file__).resolve().parents[2]


def problem(spec=None, gpus=1, memory_gib: float = 8) -> Problem:  # type: ignore[no-untyped-def]
    """A small model on a machine with round numbers."""
    hardware = machine(gpus=tuple(gpu(memory_gib=memory_gib) for _ in range(gpus)))
    return Problem(
        graph_of(spec or moe_spec()), hardware, workload(), find_engine("llama.cpp"), calibration()
    )


# ── coverage ────────────────────────────────────────────────────────────────────────────────────


def test_coverage_of_two_in_eight() -> None:
    graph = graph_of(moe_spec(n_experts=8, n_active=2))
    # 1 - 0.75^T: 0.4375 at 2 and 0.578 at 3; 0.8999 at 8 and 0.925 at 9; 0.98998 at 16 and 0.9925 at 17
    found = coverage(graph)
    assert found is not None
    assert (found.batch_50, found.batch_90, found.batch_99) == (3, 9, 17)
    assert coverage_frac(graph, 1) == 0.25
    assert coverage_frac(graph, 2) == pytest.approx(0.4375)


def test_a_dense_model_has_no_coverage() -> None:
    assert coverage(graph_of(dense_spec())) is None
    assert coverage_frac(graph_of(dense_spec()), 4) is None


# ── batches ─────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_reads_the_experts_it_touches() -> None:
    points = batch_points(problem(), (1, 2, 1024), 0.8)
    # 4 layers x 8 experts x 3 matrices x 512 x 256 x 2 B in f16; the cache of a token: 4 x 2 x 2 x 64 x 2 B
    experts = 4 * 8 * 3 * 512 * 256 * 2
    cache = 4 * 2 * 2 * 64 * 2
    depth = 512 + 128 / 2
    growth = points[1].bytes_per_step - points[0].bytes_per_step
    # from 2 to 3.5 of 8 experts, and the cache of one sequence more (at its depth and the token itself)
    assert growth == pytest.approx(experts * 1.5 / 8 + cache * (depth + 1), rel=1e-6)
    assert [p.coverage_frac for p in points] == pytest.approx([0.25, 0.4375, 1.0])
    assert points[0].flop_per_token == pytest.approx(points[2].flop_per_token)


def test_a_batch_that_does_not_fit_has_no_time_but_bytes() -> None:
    # 4 KiB of cache a token x 640 tokens x 10^5 sequences = 244 GiB
    (point,) = batch_points(problem(), (100_000,), 0.8)
    assert not point.fits
    assert point.step_s is None
    assert point.bytes_per_step > 0


def test_a_batch_of_one_is_the_estimate() -> None:
    p = problem()
    small = p._replace(workload=replace(p.workload, context_tokens=640))
    placement = choose_placement(small, kind=None, gpu_layers=None, cpu_moe=None)
    (point,) = batch_points(p, (1,), 0.8)
    assert point.step_s == estimate(small, placement, level=0.8).decode_step_s


# ── offload ─────────────────────────────────────────────────────────────────────────────────────


def test_all_experts_and_nothing_else_go_to_ram() -> None:
    placement = experts_in_ram(problem())
    assert set(placement.expert_tiers) == {"ram"}
    assert set(placement.dense_tiers) == {"gpu0"}


def test_a_dense_model_gets_the_layers_that_fit_the_vram() -> None:
    p = problem(dense_spec(n_layers=12))
    whole = vram_needed_bytes(p, split(p.graph, p.hardware, p.engine, 13, 0))
    for share in (0.0, 0.3, 0.7, 1.0):
        placement = layers_within(p, round(whole * share))
        assert placement.gpu_layers == 0 or vram_needed_bytes(p, placement) <= whole * share
        if placement.gpu_layers < 13:
            more = split(p.graph, p.hardware, p.engine, placement.gpu_layers + 1, 0)
            assert vram_needed_bytes(p, more) > whole * share
    assert layers_within(p, whole).gpu_layers == 13
    assert layers_within(p, 0).kind == "cpu"


# ── textbook ────────────────────────────────────────────────────────────────────────────────────


def test_the_textbook_uses_all_gpus() -> None:
    p = problem(gpus=2)
    placement = choose_placement(p, kind=None, gpu_layers=None, cpu_moe=None)
    view = textbook_view(estimate(p, placement, level=0.8), 0.5, (1,))
    assert view is not None
    # all bytes over 2 x 500 GB/s; 2 x 50 TFLOP/s x 0.5 x 86,400 / 6 N_active
    assert view.steps[0].memory_s == pytest.approx(p.graph.weights_bytes / 1e12)
    assert view.train_tokens_per_day == pytest.approx(50e12 * 86_400 / (6 * p.graph.params.active))


def test_a_machine_without_gpu_has_no_textbook() -> None:
    p = problem(gpus=0)
    placement = choose_placement(p, kind=None, gpu_layers=None, cpu_moe=None)
    assert textbook_view(estimate(p, placement, level=0.8), 0.5, (1,)) is None


# ── the whole ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def pair() -> Comparison:
    return compare(
        ["llama-2-70b", "mixtral-8x7b"], hardware="a100-sxm-80gb", n_gpus=2, quant="bf16", ram_gib=1024
    )


def test_mixtral_beside_llama_2_70b(pair: Comparison) -> None:
    dense, moe = pair.models
    assert {v.axis: v.better for v in pair.verdicts} == {
        "memory": "mixtral-8x7b",
        "single-user speed": "mixtral-8x7b",
        "batch throughput": "mixtral-8x7b",
        "offload": "mixtral-8x7b",
        "training compute": "mixtral-8x7b",
        "fine-tuning": "llama-2-70b",
    }
    by = {v.axis: v.by for v in pair.verdicts}
    # 68,976,648,192 and 46,702,792,704 parameters of two bytes
    assert by["memory"] == pytest.approx(68_976_648_192 / 46_702_792_704, rel=1e-3)
    # 80 x 3 x 16 x (8,192 + 28,672) = 141,557,760 against 226,492,416
    assert by["fine-tuning"] == pytest.approx(226_492_416 / 141_557_760)
    # one token reads 12.9B of 46.7B parameters: the MoE's lead is largest at batch 1, and coverage eats it
    leads = [
        d.step_s.expected / m.step_s.expected
        for d, m in zip(dense.by_batch, moe.by_batch, strict=True)
        if d.step_s and m.step_s
    ]
    assert leads[0] > 3
    assert min(leads) < 2
    assert leads.index(max(leads)) == 0
    # memory bought by fewer weights and a smaller cache: larger batches fit
    assert sum(p.fits for p in moe.by_batch) > sum(p.fits for p in dense.by_batch)
    assert [p.batch for p in moe.by_batch] == [2**i for i in range(11)]


def test_sizes_and_contexts(pair: Comparison) -> None:
    dense, moe = pair.models
    assert {size.quant: size.weights_bytes for size in moe.sizes}["bf16"] == 93_405_585_408
    assert dense.largest_context_tokens == 4096, "the model's own limit"
    assert moe.largest_context_tokens == 32768
    assert {m.estimate.workload.context_tokens for m in pair.models} == {4096}, "one context for all"


def test_offloaded_forms_share_a_budget_of_vram(pair: Comparison) -> None:
    held = []
    for model in pair.models:
        assert model.offloaded is not None
        devices = model.offloaded.memory.devices
        held.append(sum(d.total_bytes for d in devices if d.device.startswith("gpu")))
    assert held[0] <= held[1], "the dense model takes no more than the MoE"
    assert set(pair.models[1].offloaded.placement.expert_tiers) == {"ram"}  # type: ignore[union-attr]


def test_the_same_model_twice_is_told_apart(tmp_path: Path) -> None:
    copy = tmp_path / "again.yaml"
    copy.write_text((REPO / "configs/models/mixtral-8x7b.yaml").read_text(encoding="utf-8"))
    c = compare(["mixtral-8x7b", str(copy)], hardware="rtx-4090", quant="q4_k_m", batches=[1])
    assert [m.key for m in c.models] == ["mixtral-8x7b", "mixtral-8x7b #2"]
    assert [m.label for m in c.models] == ["Mixtral 8x7B", "Mixtral 8x7B #2"]
    assert {v.better for v in c.verdicts} == {None}


def test_a_twin_stands_behind_its_moe() -> None:
    c = compare(["mixtral-8x7b"], hardware="rtx-4090", twin="active", quant="q4_k_m", batches=[4, 1, 4])
    assert [m.key for m in c.models] == ["mixtral-8x7b", "mixtral-8x7b-twin-active"]
    assert (c.models[1].twin, c.models[1].twin_of) == ("active", "mixtral-8x7b")
    assert [p.batch for p in c.models[1].by_batch] == [1, 4]
    training = next(v for v in c.verdicts if v.axis == "training compute")
    assert (training.better, training.by) == (None, None), "equal active parameters"


def test_a_type_for_experts_alone_is_said_of_the_twin() -> None:
    c = compare(["gpt-oss-20b"], hardware="h100-sxm-80gb", twin="memory", batches=[1])
    assert any("stores experts in few bits" in text for text in c.assumptions)


def test_unified_memory_has_nothing_to_offload() -> None:
    c = compare(["qwen3-8b", "qwen3-30b-a3b"], hardware="apple-m3-max-40-core", quant="q4_k_m", batches=[1])
    assert all(m.offloaded is None for m in c.models)
    assert any("share one memory" in text for text in c.not_modelled)
    assert next(v for v in c.verdicts if v.axis == "offload").better is None


def test_types_that_no_engine_offloads_are_not_modelled() -> None:
    c = compare(["llama-3.1-8b", "mixtral-8x7b"], hardware="h200-sxm-141gb", quant="fp8", batches=[1])
    assert all(m.offloaded is None for m in c.models)
    assert any("does not read fp8" in text for text in c.not_modelled)


@pytest.mark.parametrize(
    ("models", "options", "what"),
    [
        (["mixtral-8x7b"], {}, "two models"),
        (["mixtral-8x7b", "mixtral-8x7b"], {}, "named twice"),
        (["llama-2-70b"], {"twin": "total"}, "none of the models is a MoE"),
        (["llama-2-70b", "mixtral-8x7b"], {"context": "max"}, "--context max"),
        (["llama-2-70b", "mixtral-8x7b"], {"lora_rank": 0}, "--lora-rank"),
        (["llama-2-70b", "mixtral-8x7b"], {"mfu": 2.0}, "--mfu"),
        (["llama-2-70b", "mixtral-8x7b"], {"batches": []}, "--batches"),
        (["llama-2-70b", "mixtral-8x7b"], {"batch": 4}, "batch"),
        (["llama-2-70b", "mixtral-8x7b"], {"quantt": "q8_0"}, "quantt"),
        ([f"model-{i}" for i in range(9)], {}, "at most 8"),
    ],
)
def test_what_cannot_be_compared(models: list[str], options: dict[str, object], what: str) -> None:
    with pytest.raises(MoeplanError, match=what):
        compare(models, hardware="rtx-4090", **options)  # type: ignore[arg-type]
