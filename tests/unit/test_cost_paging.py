"""Weights that come back in pages or over PCIe: mapped files, unified memory, whole layers."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moeplan.cost.law import step_ops
from moeplan.cost.ops import Op
from moeplan.cost.paging import PAGING
from moeplan.cost.work import Step
from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.result import PhaseTime
from moeplan.domain.workload import Placement
from moeplan.engines.traits import find_engine
from moeplan.errors import NotModelled, SpecError
from moeplan.predict.interval import PAGED_STRETCH, ideal, stretch_of
from moeplan.predict.placement import requested
from moeplan.report.words import placement_words
from tests.support.problems import calibration, dense_spec, gpu, graph_of, machine, moe_spec, workload

ONE = Step(n_tokens=1, n_sequences=1, first_depth=64, n_head_rows=1)
PROMPT = Step(n_tokens=16, n_sequences=1, first_depth=0, n_head_rows=1)


def asked(
    graph: ModelGraph, hardware: HardwareSpec, engine: str, gpu_layers: int | str | None = None
) -> Placement:
    placement = requested(
        graph,
        hardware,
        find_engine(engine),
        kind="stream",
        gpu_layers=gpu_layers,
        cpu_moe=None,
        ram_for_weights_bytes=1 << 40,
    )
    assert placement is not None
    return placement


def ops_of(
    graph: ModelGraph, hardware: HardwareSpec, engine: str, step: Step = ONE, layers: int | None = None
) -> list[Op]:
    placement = asked(graph, hardware, engine, layers)
    found = find_engine(engine)
    return step_ops(graph, hardware, workload(engine=engine), placement, found, step)[0]


def paged(ops: list[Op]) -> float:
    return sum(op.n_bytes for op in ops if op.term == "pages over PCIe")


def test_unified_memory_moves_all_that_a_token_reads_once_weights_do_not_fit() -> None:
    graph = graph_of(dense_spec())
    weights = graph.file_bytes
    roomy, context = machine((gpu(),)), 512 * 2**20
    # room for the weights and not for the driver's context beside them
    barely = machine((replace(gpu(), memory_bytes=weights + context // 2),))
    tight = machine((replace(gpu(), memory_bytes=weights // 2),))
    assert paged(ops_of(graph, roomy, "llama.cpp")) == 0
    held = sum(w.dense_bytes for w in graph.layers) + graph.head_bytes
    assert paged(ops_of(graph, tight, "llama.cpp")) == paged(ops_of(graph, barely, "llama.cpp")) == held
    # a prompt needs its buffers too: the weights fit, but not beside them
    close = machine((replace(gpu(), memory_bytes=round((weights + context) / 0.95)),))
    assert paged(ops_of(graph, close, "llama.cpp")) == 0
    assert paged(ops_of(graph, close, "llama.cpp", PROMPT)) == held
    assert paged(ops_of(graph, roomy, "llama.cpp", PROMPT)) == 0
    # two of four layers and the head on the GPU: the others are the CPU's, as with -ngl
    half = ops_of(graph, tight, "llama.cpp", layers=3)
    assert any(op.term == "CPU weights" for op in half)
    assert paged(half) in (0, sum(w.dense_bytes for w in graph.layers[2:]) + graph.head_bytes)
    assert not any(op.term == "weights over PCIe" for op in ops_of(graph, tight, "llama.cpp"))


def test_only_cudas_unified_memory_pages() -> None:
    graph, radeon = graph_of(dense_spec()), machine((replace(gpu(), vendor="amd"),))
    for engine, hardware in (("llama.cpp (Vulkan)", machine((gpu(),))), ("llama.cpp", radeon)):
        with pytest.raises(NotModelled, match="CUDA"):
            asked(graph, hardware, engine)
    assert asked(graph, radeon, "transformers").streamed


def test_unified_memory_pages_the_experts_of_a_token_only() -> None:
    graph = graph_of(moe_spec(n_layers=4))
    tight = machine((replace(gpu(), memory_bytes=graph.file_bytes // 2),))
    experts = sum(w.expert_bytes for w in graph.layers) * 2 / 8
    dense = sum(w.dense_bytes for w in graph.layers) + graph.head_bytes
    assert paged(ops_of(graph, tight, "llama.cpp")) == pytest.approx(dense + experts)


def test_layers_on_the_gpu_belong_to_unified_memory_and_to_no_copy() -> None:
    graph, hardware = graph_of(dense_spec()), machine((gpu(),))
    placement = asked(graph, hardware, "llama.cpp", 3)
    assert placement.kind == "stream" and not placement.streamed
    assert placement_words(placement) == "2 of 4 layers on the GPU, paged in from RAM where they do not fit"
    assert asked(graph, hardware, "transformers").streamed
    for engine, layers in (("llama.cpp", 0), ("transformers", 3)):
        with pytest.raises(SpecError, match="contradict"):
            asked(graph, hardware, engine, layers)


def test_transformers_copies_layers_with_all_their_experts() -> None:
    # "naive offloading that loads the entire MoE layer" (arXiv 2312.17238, table 2)
    graph = graph_of(moe_spec(n_layers=4))
    ops = ops_of(graph, machine((gpu(),)), "transformers")
    copied = sum(op.n_bytes for op in ops if op.term == "weights over PCIe")
    whole = sum(w.dense_bytes + w.expert_bytes for w in graph.layers) + graph.head_bytes
    assert whole <= copied < 1.01 * whole  # and the cache
    computed = next(op for op in ops if op.term == "gpu0 experts")
    assert computed.n_bytes == pytest.approx(sum(w.expert_bytes for w in graph.layers) * 2 / 8)


def test_a_range_is_wider_where_weights_come_back_in_pages() -> None:
    time = PhaseTime(
        seconds=1.0,
        bound="disk reads",
        terms=(("disk reads", 0.9), ("CPU weights", 0.1)),
        badge="fitted",
        flop=0.0,
        bytes_read=0.0,
    )
    assert stretch_of(time, n_setups=8) == PAGED_STRETCH
    some = replace(time, terms=(("disk reads", 0.05), ("CPU weights", 0.95)))
    assert stretch_of(some, n_setups=8) == 1.0
    assert {"disk reads", "pages over PCIe"} == PAGING


def test_a_page_cache_may_hold_all_that_a_text_uses() -> None:
    assert ideal(calibration()).coefficients["local.disk.moe_read_time"].value == 0
