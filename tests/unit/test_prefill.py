"""Prompts as steps: full micro-batches and a rest, whole where an engine does not chunk, in turn on GPUs."""

from __future__ import annotations

import pytest

import moeplan
from moeplan.cost.timing import step_time
from moeplan.cost.work import Step
from moeplan.domain.result import PhaseTime
from moeplan.engines.traits import find_engine
from moeplan.predict.phases import decode_step, overlap_frac, prefill_steps, prefill_time
from moeplan.predict.placement import on_gpus
from moeplan.provenance import Ledger
from moeplan.report.plan_words import micro_batch
from tests.support.problems import (
    calibration,
    dense_spec,
    gpu,
    graph_of,
    machine,
    moe_spec,
    workload,
)  # fmt: skip

LLAMA = find_engine("llama.cpp")
SPEC = dense_spec()


def test_prefill_goes_in_full_micro_batches_and_a_rest() -> None:
    ((step, n),) = prefill_steps(SPEC, workload(prompt_tokens=1024, ubatch_tokens=512), LLAMA)
    assert (step.n_tokens, n, step.first_depth) == (512, 2, 256)
    full, rest = prefill_steps(
        dense_spec(), workload(prompt_tokens=1100, n_sequences=2, ubatch_tokens=512), LLAMA
    )
    assert (full[0].n_tokens, full[1], full[0].first_depth) == (512, 4, 256)
    assert (rest[0].n_tokens, rest[1], rest[0].first_depth) == (76, 2, 1024)
    ((step, n),) = prefill_steps(
        dense_spec(), workload(prompt_tokens=100, n_sequences=4, ubatch_tokens=512), LLAMA
    )
    assert (step.n_tokens, step.n_sequences, n) == (400, 4, 1)
    assert decode_step(workload(n_sequences=3), dense_spec()).n_tokens == 3


def test_an_engine_that_does_not_chunk_takes_all_prompts_in_one_pass() -> None:
    eager = find_engine("transformers")
    work = workload(prompt_tokens=5000, n_sequences=3, depth_tokens=7, ubatch_tokens=2048)
    assert prefill_steps(SPEC, work, eager) == ((Step(15000, 3, 7, 3), 1),)
    # weights are read once, not once for each 2,048 tokens
    graph, hardware = graph_of(dense_spec()), machine((gpu(),))
    args = (graph, hardware, work, on_gpus(graph, hardware, eager), eager, calibration())
    held = sum(w.dense_bytes for w in graph.layers) + graph.head_bytes
    # K and V of 2 heads of 64 in f16: 512 B a token and layer
    assert prefill_time(*args).bytes_read == held + 3 * 5007 * 512 * 4


def test_no_micro_batch_is_told_where_there_is_none() -> None:
    for engine, told in (
        ("transformers", "none: a prompt goes through in one pass"),
        ("mlx", "2,048 tokens"),
    ):
        e = moeplan.estimate("llama-3.2-1b", gpu="apple-m4-max-40-core", engine=engine)
        assert micro_batch(e.workload) == told
        assert any("micro-batch" in note for note in e.assumptions) == (engine == "mlx")


def test_a_prefill_computes_no_more_prompts_than_there_are() -> None:
    """Nine prompts, four at a time: two steps of four and one of one, not three of four."""
    full, rest = prefill_steps(
        dense_spec(), workload(prompt_tokens=100, n_sequences=9, ubatch_tokens=400), LLAMA
    )
    assert (full[0].n_tokens, full[0].n_sequences, full[0].n_head_rows, full[1]) == (400, 4, 4, 2)
    assert (rest[0].n_tokens, rest[0].n_sequences, rest[0].n_head_rows, rest[1]) == (100, 1, 1, 1)
    # transformers has no micro-batch: all rows go through at once
    eager = find_engine("transformers")
    ((step, n),) = prefill_steps(
        dense_spec(), workload(prompt_tokens=3000, n_sequences=2, ubatch_tokens=2048), eager
    )
    assert (step.n_tokens, step.n_sequences, n) == (6000, 2, 1)


def test_a_token_beyond_a_micro_batch_costs_one_step_of_one_token() -> None:
    graph, hardware, ledger = graph_of(moe_spec()), machine((gpu(),)), Ledger()
    placement = on_gpus(graph, hardware, LLAMA)

    def told(prompt: int) -> PhaseTime:
        args = (graph, hardware, workload(prompt_tokens=prompt), placement, LLAMA, calibration(), ledger)
        return prefill_time(*args)

    one, more = told(512), told(513)
    alone = step_time(
        graph, hardware, workload(), placement, LLAMA, calibration(), Step(1, 1, 512.0, 1)
    )  # fmt: skip
    assert more.seconds == pytest.approx(one.seconds + alone.seconds)
    assert more.flop == pytest.approx(one.flop + alone.flop)
    assert sum(seconds for _, seconds in more.terms) == pytest.approx(more.seconds)
    parts = ledger.terms[1].children
    assert ledger.terms[1].value == more.seconds and sum(p.value for p in parts) == pytest.approx(
        more.seconds
    )


def test_chunked_prefill_computes_the_same_attention_as_one_chunk() -> None:
    graph = graph_of(dense_spec())
    hardware = machine((gpu(),))
    placement = on_gpus(graph, hardware, LLAMA)
    flops = {
        ubatch: prefill_time(
            graph,
            hardware,
            workload(prompt_tokens=2048, ubatch_tokens=ubatch),
            placement,
            LLAMA,
            calibration(),
        ).flop
        for ubatch in (256, 2048)
    }
    head = 2 * graph.head_elements
    # eight chunks run the head eight times; everything else is the same work
    assert flops[256] - 8 * head == pytest.approx(flops[2048] - head)


def test_micro_batches_of_a_layer_split_overlap_like_a_pipeline() -> None:
    graph = graph_of(dense_spec(n_layers=4))
    hardware = machine((gpu(), gpu()))
    split_over = on_gpus(graph, hardware, LLAMA)
    assert split_over.kind == "layer-split"
    # 4 chunks over 2 stages: 5 half-steps of time, and the work of 4 steps
    alone = on_gpus(graph, machine((gpu(),)), LLAMA)
    assert overlap_frac(SPEC, workload(prompt_tokens=2048), split_over, LLAMA) == 2.5 / 4
    assert overlap_frac(SPEC, workload(prompt_tokens=2048), alone, LLAMA) == 1
    # one token more waits behind the 512 on the other GPU: (513 + 512) / 2 of 513
    assert overlap_frac(SPEC, workload(prompt_tokens=513), split_over, LLAMA) == pytest.approx(1025 / 1026)
    ledger = Ledger()
    work = workload(prompt_tokens=2048)
    piped = prefill_time(graph, hardware, work, split_over, LLAMA, calibration(), ledger)
    single = prefill_time(graph, hardware, workload(prompt_tokens=512), split_over, LLAMA, calibration())
    assert piped.seconds < 4 * single.seconds
    assert piped.flop == pytest.approx(
        prefill_time(
            graph, machine((gpu(),)), work, on_gpus(graph, machine((gpu(),)), LLAMA), LLAMA, calibration()
        ).flop
    )
    (root,) = ledger.terms
    assert sum(child.value for child in root.children) == pytest.approx(root.value)
    assert root.value == piped.seconds
