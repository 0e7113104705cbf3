"""Neighbours of a step: a row more never shortens it, a newer build of a server is not slower."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moeplan.cost.law import step_ops
from moeplan.cost.ops import scales_of
from moeplan.cost.work import Step, attention_work, unfused_scores
from moeplan.engines.kv import kv_elements
from moeplan.engines.traits import find_engine
from moeplan.predict.placement import on_gpus
from tests.support.problems import dense_spec, gpu, graph_of, machine, session, workload

LLAMA = find_engine("llama.cpp")


def test_a_second_row_does_not_shorten_a_step_where_one_reads_and_widens_in_turn() -> None:
    scales = scales_of(session().calibration)
    graph = graph_of(dense_spec(), "q4_k_m")
    shared = replace(gpu(unified=True), peak_flop_per_s={"fp16": 5e13, "fp32": 1e13, "int8": 1e14})
    hardware = machine((shared,))
    times, norms = [], []
    for n in (1, 2, 3, 5, 8, 9):
        ops, *_ = step_ops(
            graph, hardware, workload(), on_gpus(graph, hardware, LLAMA), LLAMA, Step(n, n, 0, n)
        )
        weights = next(op for op in ops if op.term == "gpu0 weights")
        times.append(weights.seconds(scales))
        norms.append(weights.unpacking_norm)
    # one after the other for one row, half apart from 8 on, where kernels keep tiles
    assert norms[1:] == pytest.approx([8 / 7, 9 / 7, 11 / 7, 2.0, 2.0])
    assert times[1] > 0.99 * times[0]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_servers_of_2023_are_no_faster_than_those_of_2024(engine: str) -> None:
    found, graph, hardware = find_engine(engine), graph_of(dense_spec(), "bf16"), machine((gpu(),))
    placement = on_gpus(graph, hardware, found)

    def names(date: str) -> set[str]:
        work = workload(engine_date=date)
        ops, *_ = step_ops(graph, hardware, work, placement, found, Step(1, 1, 64, 1))
        return {name for op in ops for name in (*op.moving, *op.computing, *op.waiting)}

    assert f"server.engine.{engine}.2024.step_time" in names("2023-10")
    assert names("2023-10") == names("2024-05") != names("2025-02")


def test_only_causal_rows_multiply_more_without_fused_attention() -> None:
    spec = dense_spec()
    encoder = replace(spec.blocks[0], encoder=True)
    step = Step(512, 1, 0, 1)
    n_heads = spec.blocks[0].mixer.n_heads  # type: ignore[union-attr]
    # an encoder's rows see all there is: every score counts, and none is masked
    assert unfused_scores(encoder, step) == (n_heads * 512 * 512, 1.0)
    # causal rows see 256.5 cells on average, and all 512 are multiplied
    assert unfused_scores(spec.blocks[0], step) == (n_heads * 512 * 512, pytest.approx(512 / 256.5))


def test_a_layer_that_shares_keys_and_values_reads_them_all_the_same() -> None:
    own = dense_spec().blocks[0]
    shared = replace(own, mixer=replace(own.mixer, shares_kv=True))
    for step in (Step(1, 1, 4096, 1), Step(512, 1, 0, 1)):
        assert attention_work(shared, step, workload()) == attention_work(own, step, workload())
        assert unfused_scores(shared, step) == unfused_scores(own, step)
    assert not any(kv_elements(shared)), "and keeps none of its own"
