"""Kernels of a CPU for one row and for several, and types mixed within a file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from moeplan.calibrate.priors import prior
from moeplan.cost.host_rates import host_rates
from moeplan.cost.law import step_ops
from moeplan.cost.row_kernels import one_row_attention, one_row_kernels
from moeplan.cost.stored_types import type_shares
from moeplan.cost.work import Step
from moeplan.domain.graph import ModelGraph, Tensor
from moeplan.domain.workload import Placement
from moeplan.engines.traits import find_engine
from moeplan.predict.placement import on_cpu
from tests.support.problems import dense_spec, graph_of, machine, workload

LLAMA, IK, TRANSFORMERS = (find_engine(name) for name in ("llama.cpp", "ik_llama.cpp", "transformers"))


@pytest.mark.parametrize(
    ("quant", "fewest"),
    [("f16", 2), ("q8_0", 2), ("q5_0", 2), ("q4_0", 4), ("q4_k", 4), ("q6_k", None), ("iq3_s", None)],
)
def test_how_many_rows_leave_the_kernels_for_one(quant: str, fewest: int | None) -> None:
    several = [n for n in (1, 2, 3, 4, 512) if not one_row_kernels(LLAMA, quant, n, experts=False)]
    assert several == ([n for n in (2, 3, 4, 512) if n >= fewest] if fewest else [])
    assert one_row_kernels(LLAMA, quant, 512, experts=True)


def test_other_engines_have_kernels_for_two_rows() -> None:
    for engine in (IK, TRANSFORMERS):
        assert one_row_kernels(engine, "q6_k", 1, experts=True)
        assert not one_row_kernels(engine, "q6_k", 2, experts=True)


def test_a_batch_of_sequences_decodes_on_kernels_for_several_rows() -> None:
    def weights(rows: float) -> tuple[str, ...]:
        return host_rates(machine(), 8, LLAMA, (), "q8_0", decode=True, rows=rows).weights[1]

    assert {"local.cpu.one_row.compute", "local.quants.block.cpu_row_compute"} <= set(weights(1))
    assert "local.quants.block.cpu_compute" in weights(8)
    assert "local.cpu.one_row.compute" not in weights(8)


def test_experts_of_a_prompt_are_multiplied_a_row_at_a_time() -> None:
    rates = host_rates(machine(), 8, LLAMA, (), "q8_0", decode=False)
    assert "local.quants.block.cpu_compute" in rates.weights[1]
    assert {"local.quants.block.cpu_row_compute", "local.cpu.experts.compute"} <= set(rates.experts[1])


def mixed(name: Callable[[Tensor], str]) -> ModelGraph:
    graph = graph_of(dense_spec())
    return replace(graph, tensors=tuple(replace(t, qtype=name(t)) for t in graph.tensors))


def test_shares_of_types() -> None:
    graph = mixed(lambda t: "q6_k" if t.role == "ffn_down" else "q4_k_r4" if t.layer >= 0 else "q8_0")
    shares = {share.qtype: share for share in type_shares(graph, "weights")}
    assert shares.keys() == {"q4_k_r4", "q6_k"}  # interleaved rows have kernels of their own
    down = sum(t.n_elements for t in graph.tensors if t.role == "ffn_down")
    matrices = [t for t in graph.tensors if t.layer >= 0 and len(t.shape) > 1]
    assert shares["q6_k"].flop_frac == pytest.approx(down / sum(t.n_elements for t in matrices))
    for what in ("bytes_frac", "flop_frac"):
        assert sum(getattr(share, what) for share in shares.values()) == pytest.approx(1)
    assert [share.qtype for share in type_shares(graph, "output head")] == ["q8_0"]
    assert type_shares(replace(graph, tensors=()), "weights")[0][1:] == (1.0, 1.0)


def test_each_type_of_a_file_is_multiplied_at_its_own_rate() -> None:
    graph = mixed(lambda t: "q6_k" if t.role == "ffn_down" else "q4_k")
    hardware, n = machine(), len(graph.layers)
    on_cpu = Placement("cpu", ("ram",) * n, ("ram",) * n, "ram", "ram")
    ops, flop, n_bytes = step_ops(graph, hardware, workload(), on_cpu, LLAMA, Step(1, 1, 0, 1))
    groups = {name for op in ops if op.term == "CPU weights" for name in op.computing if ".quants." in name}
    assert groups == {f"local.quants.{g}.cpu_row_compute" for g in ("interleaved", "super-block")}
    products = [op for op in ops if op.term in ("CPU weights", "CPU output head", "CPU KV cache")]
    assert sum(op.flop for op in products) == pytest.approx(flop)
    assert sum(op.n_bytes for op in products) == pytest.approx(n_bytes)


def test_where_rates_of_types_start() -> None:
    def start(name: str) -> float:
        return prior(f"local.quants.{name}").value

    assert start("codebook.cpu_row_compute") < start("super-block.cpu_row_compute") < 1
    assert start("block.cpu_compute") < start("interleaved.cpu_compute")
    assert prior("local.cpu.tiled.one_row.compute").value > prior("local.cpu.one_row.compute").value > 1


def test_prompts_pass_over_a_cache_row_by_row_in_builds_without_tiles() -> None:
    def rows(**changes: object) -> bool:
        asked = replace(workload(), **{"flash_attention": True, "engine_date": "2025-04-17", **changes})
        return one_row_attention(LLAMA, asked, decode=False)

    assert rows()
    assert not rows(engine_date="2026-07-01") and not rows(engine_date="")
    assert rows(engine_date="2026-07-01", kv_type_k="q8_0", kv_type_v="q8_0")
    assert not rows(flash_attention=False)
    assert not one_row_attention(LLAMA, replace(workload(), flash_attention=True), decode=True)
    assert not one_row_attention(IK, replace(workload(), flash_attention=True), decode=False)
    names = host_rates(
        machine(), 8, LLAMA, (), "q8_0", decode=False, attention=("local.cpu.row_attention.compute",)
    ).cache[1]
    assert "local.cpu.row_attention.compute" in names


def test_rows_fetch_the_keys_of_a_head_again_where_no_cores_cache_holds_them() -> None:
    """Little is lost in a short prompt (llama.cpp PR 19012: 512 tokens of an 8B 0.99 times as fast, 512 after
    8,192 of gpt-oss-20b 2.4 times)."""
    graph, hardware = graph_of(dense_spec()), machine()

    def attention_s(rows: float, depth: float, date: str = "2025-10") -> float:
        work = workload(engine_date=date, flash_attention=True)
        ops = step_ops(graph, hardware, work, on_cpu(graph), LLAMA, Step(rows, 1, depth, 1))[0]
        return next(op.computing_s for op in ops if op.term == "CPU KV cache")

    # a head of 64 keeps 256 B a cell: 1 MiB are 4,096 cells, 2 MiB 8,192
    near, far = (attention_s(2, depth) / attention_s(2, depth, "2026-03") for depth in (4094, 8190))
    assert (near, far) == pytest.approx((1.0, 3.0))
