"""Memory grows with everything that is asked, is conserved by splitting, and shrinks with the cache type.

With one exception, which is llama.cpp's own: its best fit may pack a larger graph more tightly
(``tests/crosscheck/test_llama_cpp_dry.py`` shows it on the engine). What is alive at once never shrinks.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeplan.domain.graph import ModelGraph
from moeplan.domain.result import DeviceMemory
from moeplan.domain.workload import Workload
from moeplan.engines.traits import find_engine
from moeplan.memory import passes
from moeplan.memory.arena import Arena, Slot
from moeplan.memory.report import memory_report, weights_by_tier
from moeplan.predict.placement import on_cpu, on_gpus, split
from tests.support.problems import dense_spec, gpu, graph_of, machine, moe_spec, workload

ENGINES = st.sampled_from(["llama.cpp", "ik_llama.cpp", "vllm", "transformers"])
SIZES = st.integers(1, 6)


@cache
def _graphs() -> tuple[ModelGraph, ...]:
    return graph_of(dense_spec()), graph_of(moe_spec(n_dense=1)), graph_of(moe_spec(), "q4_k_m")


class Counting(Arena):
    """An arena that packs perfectly: its peak is what is alive at once."""

    def __init__(self, alignment_bytes: int) -> None:
        super().__init__(alignment_bytes)
        self._alive_bytes = 0

    def take(self, n_bytes: float) -> Slot:
        size = -int(-n_bytes // self._alignment) * self._alignment
        self._alive_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._alive_bytes)
        return 0, size

    def drop(self, *slots: Slot) -> None:
        self._alive_bytes -= sum(size for _, size in slots)


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


AXES = st.sampled_from(["context_tokens", "n_sequences", "ubatch_tokens"])
PARTS = ("weights_bytes", "kv_bytes", "state_bytes", "output_bytes", "overhead_bytes")


def _devices(
    which: int, engine: str, split_at: tuple[int, int] | None, sizes: dict[str, int], **more: bool
) -> tuple[DeviceMemory, ...]:
    graph, hardware, traits = _graphs()[which], machine((gpu(), gpu())), find_engine(engine)
    placement = on_cpu(graph) if split_at is None else split(graph, hardware, traits, *split_at)
    rows = sizes["n_sequences"] if more.pop("server") else None
    work = workload(output_rows=rows, prompt_tokens=1, **sizes, **more)
    return memory_report(graph, hardware, work, placement, traits).devices


@settings(deadline=None)
@given(
    st.integers(0, 2), st.sampled_from(["llama.cpp", "ik_llama.cpp"]),
    st.none() | st.tuples(st.integers(1, 5), st.integers(0, 4)), st.booleans(), st.booleans(), st.booleans(),
    st.integers(1, 40_000), st.integers(1, 9), st.integers(160, 3000), AXES, st.integers(1, 2000),
)  # fmt: skip
def test_what_is_alive_never_shrinks(
    which: int, engine: str, split_at: tuple[int, int] | None, flash: bool, unified: bool, server: bool,
    context: int, batch: int, ubatch: int, grown: str, by: int,
) -> None:  # fmt: skip
    """Any step of any size, over any split: every part but the packing, and what the packing has to hold.

    Micro-batches are large enough that matrices in RAM are copied to the GPU whatever the step: where that
    begins, at 32 rows, the CPU's own buffer goes.
    """
    sizes = {"context_tokens": context, "n_sequences": batch, "ubatch_tokens": ubatch}
    more = {"flash_attention": flash, "kv_unified": unified, "server": server}
    # Rows of a micro-batch are filled up to whole sequences, 518 for 7 and 512 for 8: compare multiples.
    larger = sizes | {grown: sizes[grown] + by if grown != "n_sequences" else batch * (2 + by % 3)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "Arena", Counting)
        passes.buffer_bytes.cache_clear()
        alive = [_devices(which, engine, split_at, s, **more) for s in (sizes, larger)]
        passes.buffer_bytes.cache_clear()
    packed = [_devices(which, engine, split_at, s, **more) for s in (sizes, larger)]
    for small, large in zip(*alive, strict=True):
        assert large.compute_bytes >= small.compute_bytes
    for small, large in zip(*packed, strict=True):
        assert all(getattr(large, part) >= getattr(small, part) for part in PARTS)
    for held, real in zip(alive[1], packed[1], strict=True):
        assert real.compute_bytes >= held.compute_bytes


@settings(deadline=None)
@given(
    st.integers(0, 2), st.booleans(), st.integers(1, 160), st.integers(1, 6), st.integers(1, 40), AXES,
    st.integers(1, 64),
)  # fmt: skip
def test_a_server_on_one_device_never_takes_less_for_more(
    which: int, flash: bool, context: int, batch: int, ubatch: int, grown: str, by: int
) -> None:
    """llama-server, which reserves one row of logits a slot: totals never fall at all."""
    steps = {"context_tokens": 256, "n_sequences": 1, "ubatch_tokens": 32}
    sizes = {"context_tokens": 256 * context, "n_sequences": batch, "ubatch_tokens": 32 * ubatch}
    larger = sizes | {grown: sizes[grown] + by * steps[grown]}
    more = {"flash_attention": flash, "server": True}
    small, large = (_devices(which, "llama.cpp", None, s, **more)[0] for s in (sizes, larger))
    assert large.total_bytes >= small.total_bytes


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
