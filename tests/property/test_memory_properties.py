"""Memory grows with everything that is asked, is conserved by splitting, and shrinks with the cache type."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from moeplan.domain.graph import ModelGraph
from moeplan.domain.workload import Workload
from moeplan.engines.traits import find_engine
from moeplan.memory.report import memory_report, weights_by_tier
from moeplan.predict.placement import on_cpu, on_gpus, split
from tests.support.problems import dense_spec, gpu, graph_of, machine, moe_spec, workload

ENGINES = st.sampled_from(["llama.cpp", "ik_llama.cpp", "vllm", "transformers"])
SIZES = st.integers(1, 6)


@cache
def _graphs() -> tuple[ModelGraph, ...]:
    return graph_of(dense_spec()), graph_of(moe_spec(n_dense=1)), graph_of(moe_spec(), "q4_k_m")


def _totals(graph: ModelGraph, work: Workload, engine: str) -> list[tuple[str, int]]:
    traits = find_engine(engine)
    hardware = machine((gpu(), gpu()))
    placement = on_gpus(graph, hardware, traits)
    report = memory_report(graph, hardware, work, placement, traits)
    return [(d.device, d.total_bytes) for d in report.devices]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2), ENGINES, SIZES, SIZES, SIZES, st.booleans(),
    st.sampled_from(["context_tokens", "n_sequences", "ubatch_tokens"]),
)  # fmt: skip
def test_memory_never_shrinks_with_context_batch_or_micro_batch(
    which: int, engine: str, context: int, batch: int, ubatch: int, flash: bool, grown: str
) -> None:
    sizes = {"context_tokens": 700 * context, "n_sequences": batch, "ubatch_tokens": 96 * ubatch}
    small = workload(flash_attention=flash, **sizes)
    large = workload(flash_attention=flash, **(sizes | {grown: sizes[grown] * 2}))
    graph = _graphs()[which]
    for (_, before), (_, after) in zip(
        _totals(graph, small, engine), _totals(graph, large, engine), strict=True
    ):
        assert after >= before


@given(st.integers(0, 2), st.integers(0, 5), st.integers(0, 4))
def test_splitting_conserves_weights(which: int, gpu_layers: int, cpu_moe: int) -> None:
    graph, hardware = _graphs()[which], machine((gpu(), gpu(), gpu()))
    placement = split(graph, hardware, find_engine("llama.cpp"), gpu_layers, cpu_moe)
    assert sum(weights_by_tier(graph, placement).values()) == graph.weights_bytes


@given(st.integers(0, 2), SIZES, st.sampled_from(["q8_0", "q5_1", "q4_0"]))
def test_a_quantised_cache_is_never_larger(which: int, context: int, kind: str) -> None:
    graph, hardware, engine = _graphs()[which], machine(), find_engine("llama.cpp")

    def cached(kv_type: str) -> int:
        work = workload(context_tokens=512 * context, kv_type_k=kv_type, kv_type_v=kv_type)
        return memory_report(graph, hardware, work, on_cpu(graph), engine).devices[0].kv_bytes

    assert cached(kind) < cached("f16")
