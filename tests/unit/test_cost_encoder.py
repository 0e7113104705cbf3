"""An encoder runs over the prompt once, and the decoder over one start token: neither pays for the other."""

from __future__ import annotations

import pytest

import moeplan
from moeplan.cost.law import step_ops
from moeplan.cost.ops import Op
from moeplan.cost.timing import step_time
from moeplan.cost.work import Step, attention_work, cross_work, running
from moeplan.domain.graph import ModelGraph
from moeplan.domain.model import Block, DenseFfn
from moeplan.domain.workload import Placement
from moeplan.engines.eager import SCORE_BYTES
from moeplan.engines.fused import can_fuse
from moeplan.engines.traits import EngineTraits, find_engine
from moeplan.memory.cache import layer_kv_bytes
from moeplan.memory.report import memory_report
from moeplan.predict.phases import decode_step, decode_time, overlap_frac, prefill_steps, prefill_time
from moeplan.predict.placement import on_gpus
from moeplan.predict.problem import Problem
from moeplan.search.layout import one_gpu
from moeplan.search.pricing import Table
from tests.support.problems import (
    attention,
    calibration,
    gpu,
    graph_of,
    machine,
    moe_spec,
    session,
    spec_of,
    workload,
)

ENCODER, DECODER = Step(64, 1, 0.0, 0, stack="encoder"), Step(1, 1, 100.0, 1, "decoder", 64)
ENGINES = ("transformers", "vllm", "llama.cpp")
EAGER = find_engine("transformers")

# Width 512; attention of 8 query heads on 2 cached ones of 64: q and o 512 x 512, k and v 128 x 512 each.
READS = Block(name="reads", mixer=attention(), ffn=DenseFfn(intermediate=1024), encoder=True)
WRITES = Block(
    name="writes",
    mixer=attention(),
    ffn=DenseFfn(intermediate=1024),
    n_norms=3,
    cross_attention=attention(),
)
ATTENTION, CROSSED, FFN = 2 * 512 * 512 + 2 * 128 * 512, 2 * 128 * 512, 3 * 512 * 1024
SCORES = 2 * 8 * (64 + 64)
"""FLOPs of a token and one that it sees."""


def tiny() -> ModelGraph:
    """Two layers of an encoder, three of a decoder."""
    return graph_of(spec_of((READS, WRITES), (0, 0, 1, 1, 1)))


def ops_of(engine: str, step: Step) -> list[Op]:
    graph, found, box = (
        session().graph("switch-base-8", "bf16", gguf=False),
        find_engine(engine),
        machine((gpu(),)),
    )
    return step_ops(graph, box, workload(engine=engine), on_gpus(graph, box, found), found, step)[0]


def launched_layers(ops: list[Op]) -> float:
    """Layers that the fixed time of a step counts: waits of an eager engine, else a term of its own."""
    return sum(op.waiting_s for op in ops) + sum(op.moving_s for op in ops if op.term == "layer overhead")


@pytest.mark.parametrize("engine", ENGINES)
def test_launches(engine: str) -> None:
    # Switch-Base has 12 layers in the encoder and 12 in the decoder, every other one with experts, whose half
    # of a layer is 52 kernels instead of 20 from Python
    more = 6 / 2 * (52 / 20 - 1) if engine == "transformers" else 0.0
    assert launched_layers(ops_of(engine, DECODER)) == pytest.approx(12 + more)
    assert launched_layers(ops_of(engine, ENCODER)) == pytest.approx(12 + more)


def test_sums_over_gpus_are_those_of_the_stack() -> None:
    graph, vllm, box = tiny(), find_engine("vllm"), machine((gpu(), gpu()))
    args = (graph, box, workload(), on_gpus(graph, box, vllm), vllm, calibration())
    # two sums a layer, whatever the rows: the encoder has two layers, the decoder three
    waits = [dict(step_time(*args, step).terms)["all-reduce latency"] for step in (ENCODER, DECODER)]
    assert waits == pytest.approx([2 * 2 * 1e-5, 3 * 2 * 1e-5])


def test_the_encoder_sees_all_of_the_prompt_and_the_decoder_its_start_token() -> None:
    graph, box = tiny(), machine((gpu(),))
    work = workload(prompt_tokens=100, n_sequences=3, output_tokens=10)
    args = (graph, box, work, on_gpus(graph, box, EAGER), EAGER, calibration())
    # 300 rows through the encoder and, for their keys and values, two matrices of each decoder layer; every
    # row sees the 100 of its prompt. Then three start tokens through all else, and the head of 1024 x 512.
    encoder = 2 * (2 * 300 * (ATTENTION + FFN) + SCORES * 300 * 100) + 3 * 2 * 300 * CROSSED
    start = 3 * (2 * 3 * (2 * ATTENTION - CROSSED + FFN) + SCORES * 3 * (1 + 100)) + 2 * 3 * 1024 * 512
    assert prefill_time(*args).flop == encoder + start
    # An answer of ten: tokens 2 to 11 of the decoder, which sees 1 + 5 of its own and itself.
    decode = 3 * (2 * 3 * (2 * ATTENTION - CROSSED + FFN) + SCORES * 3 * (7 + 100)) + 2 * 3 * 1024 * 512
    assert decode_time(*args).flop == decode


def test_every_weight_is_read_once_for_a_prompt() -> None:
    graph, box = tiny(), machine((gpu(),))
    args = (graph, box, workload(prompt_tokens=100), on_gpus(graph, box, EAGER), EAGER, calibration())
    held = sum(w.dense_bytes for w in graph.layers) + graph.head_bytes
    # keys and values in f16, 512 B a token and layer: of 100 tokens in the encoder's two layers and in the
    # decoder's three of cross-attention, and of the start token
    assert prefill_time(*args).bytes_read == held + 512 * (100 * 2 + (100 + 1) * 3)
    assert decode_time(*args).bytes_read < held


def test_prompts_of_a_batch_go_through_whole() -> None:
    graph, box, vllm = tiny(), machine((gpu(),)), find_engine("vllm")
    work = workload(prompt_tokens=1500, n_sequences=5, ubatch_tokens=2048)
    placement = on_gpus(graph, box, vllm)
    one, all_ = (
        prefill_time(graph, box, work, placement, engine, calibration()).bytes_read
        for engine in (vllm, EAGER)
    )
    weights = sum(w.dense_bytes for w in graph.layers[:2])
    crossed = 3 * CROSSED * 2
    assert one - all_ == pytest.approx(4 * (weights + crossed), rel=1e-3)  # five passes, and one


def test_scores_of_an_encoder_and_of_cross_attention_go_through_memory() -> None:
    """Where attention is not fused: those of the encoder's output and of its own layers were left out."""
    graph, box = tiny(), machine((gpu(),))
    placement, llama = on_gpus(graph, box, EAGER), find_engine("llama.cpp")

    def scores(engine: EngineTraits, step: Step, *, fused: bool) -> float:
        work = workload(flash_attention=fused)
        ops = step_ops(graph, box, work, placement, engine, step)[0]
        return sum(op.n_bytes for op in ops if op.term == "gpu0 attention scores")

    # 8 heads; the encoder's two layers score 64 rows on 64, the decoder's three one row on 101 and on 64
    assert scores(EAGER, ENCODER, fused=False) == 2 * 8 * 64 * 64 * SCORE_BYTES
    assert scores(EAGER, DECODER, fused=False) == 3 * 8 * (101 + 64) * SCORE_BYTES
    # f32 written, converted and read twice, once each way: 24 B; of single rows nothing
    assert scores(llama, ENCODER, fused=False) == 2 * 8 * 64 * 64 * 24
    assert scores(llama, DECODER, fused=False) == scores(llama, ENCODER, fused=True) == 0


def test_ggml_fuses_no_attention_with_a_bias_on_its_scores() -> None:
    assert not can_fuse(find_engine("llama.cpp"), "switch_transformers")
    assert can_fuse(find_engine("llama.cpp"), "llama") and can_fuse(EAGER, "switch_transformers")
    terms = {op.term for op in ops_of("llama.cpp", ENCODER)}
    assert "gpu0 attention scores" in terms
    assert "gpu0 attention scores" not in {op.term for op in ops_of("vllm", ENCODER)}


def test_cross_attention_is_a_term_of_its_own_and_no_copied_cache() -> None:
    ops = {op.term: op for op in ops_of("transformers", DECODER)}
    assert ops["gpu0 cross-attention"].inputs.get("times_bytes_are_moved", 1) == 1
    # 12 heads of their own: the old cache read, the longer one written, then read by attention
    assert ops["gpu0 copies of the cache"].inputs["times_bytes_are_moved"] == 2
    assert ops["gpu0 KV cache"].inputs.get("times_bytes_are_moved", 1) == 1
    assert ops["gpu0 KV cache"].n_bytes == pytest.approx(ops["gpu0 cross-attention"].n_bytes * 101 / 64)
    assert (
        "times_bytes_are_moved"
        not in next(op for op in ops_of("transformers", ENCODER) if op.term == "gpu0 KV cache").inputs
    )
    assert cross_work(READS, DECODER, workload()) == (0.0, 0.0)
    assert attention_work(WRITES, DECODER, workload())[1] == SCORES * 101


def test_the_cache_of_cross_attention_holds_a_context_too() -> None:
    work = workload(context_tokens=1000, n_sequences=3)
    # 512 B a token, for what the decoder wrote and for what the encoder read
    assert layer_kv_bytes(WRITES, work, EAGER) == 2 * 3 * 1000 * 512
    assert layer_kv_bytes(READS, work, EAGER) == 0
    e = moeplan.estimate("switch-base-8", gpu="rtx-4090", engine="transformers")
    # 12 decoder layers, 12 heads of 64, K and V in 2 B, 512 tokens, twice
    assert e.memory.devices[0].kv_bytes == 12 * 12 * 64 * 2 * 2 * 512 * 2
    assert not any("cross-attention" in note for note in e.not_modelled)


def test_a_search_prices_what_an_estimate_does() -> None:
    graph, box = tiny(), machine((gpu(),))
    problem = Problem(graph, box, workload(prompt_tokens=100), EAGER, calibration())
    table = Table(problem)
    for in_ram in range(5):
        layout = one_gpu(5, in_ram, in_ram)
        placement: Placement = table.placement(layout)
        args = (graph, box, problem.workload, placement, EAGER, calibration())
        exact = decode_time(*args).seconds, prefill_time(*args).seconds
        assert table.seconds(layout) == pytest.approx(exact)


def test_passes_of_an_encoder_do_not_overlap() -> None:
    llama, two = find_engine("llama.cpp"), machine((gpu(), gpu()))
    work = workload(prompt_tokens=512, n_sequences=4)
    for graph, share in ((tiny(), 1), (graph_of(moe_spec()), 5 / 8)):  # 4 of a pipeline of 2 stages: 2.5
        assert overlap_frac(graph.spec, work, on_gpus(graph, two, llama), llama) == share


def test_memory_holds_a_prompt_that_is_encoded_whole() -> None:
    box, vllm = machine((gpu(),)), find_engine("vllm")
    graph = tiny()
    need = [
        memory_report(graph, box, workload(prompt_tokens=n), on_gpus(graph, box, vllm), vllm).devices[0]
        for n in (2048, 4096)
    ]
    # twice the rows of 3 x 1024 + 4 x 512 elements in 2 B, beside 64 MiB
    assert need[1].compute_bytes - need[0].compute_bytes == 2048 * (3 * 1024 + 4 * 512) * 2


def test_models_without_an_encoder_are_left_alone() -> None:
    graph, box = graph_of(moe_spec()), machine()
    placement = on_gpus(graph, box, find_engine("vllm"))
    step = decode_step(workload(), graph.spec)
    assert running(graph, placement, step)[0] is graph
    assert step.stack == "whole"


def test_an_encoder_takes_prompts_whole_and_no_more_than_there_are() -> None:
    # 1,000 tokens each, two in a micro-batch of 2,048: of five prompts two passes of two and one of one
    work = workload(prompt_tokens=1000, n_sequences=5, ubatch_tokens=2048)
    *encoder, (start, once) = prefill_steps(tiny().spec, work, find_engine("vllm"))
    assert [(step.n_tokens, step.n_sequences, step.n_head_rows, n) for step, n in encoder] == [
        (2000, 2, 0, 2),
        (1000, 1, 0, 1),
    ]
    assert (start.n_tokens, start.first_depth, start.encoded_tokens, once) == (5, 0, 1000, 1)
    # and a prompt above it is not cut
    ((step, n), _) = prefill_steps(tiny().spec, workload(prompt_tokens=3000), find_engine("vllm"))
    assert (step.n_tokens, n) == (3000, 1)
