"""An encoder runs over the prompt once: a decode step pays nothing for its layers, launches included."""

from __future__ import annotations

import pytest

from moeplan.cost.law import step_ops
from moeplan.cost.ops import Op
from moeplan.cost.timing import step_time
from moeplan.cost.work import Step, running
from moeplan.engines.traits import find_engine
from moeplan.predict.placement import on_gpus
from tests.support.problems import calibration, gpu, graph_of, machine, moe_spec, session, workload

DECODE, PREFILL = Step(1, 1, 100.0, 1), Step(64, 1, 0.0, 1)
ENGINES = ("transformers", "vllm", "llama.cpp")


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
    assert launched_layers(ops_of(engine, DECODE)) == pytest.approx(12 + more)
    assert launched_layers(ops_of(engine, PREFILL)) == pytest.approx(24 + 2 * more)


def test_sums_over_gpus_are_those_of_the_decoder() -> None:
    graph, vllm, box = session().graph("switch-base-8", "bf16", gguf=False), find_engine("vllm"), machine()
    box = machine((gpu(), gpu()))
    placement = on_gpus(graph, box, vllm)
    terms = {
        step: dict(step_time(graph, box, workload(), placement, vllm, calibration(), step).terms)
        for step in (DECODE, PREFILL)
    }
    # two sums a layer, whatever the rows
    assert terms[DECODE]["all-reduce latency"] * 2 == pytest.approx(terms[PREFILL]["all-reduce latency"])


def test_models_without_an_encoder_are_left_alone() -> None:
    graph, box = graph_of(moe_spec()), machine()
    placement = on_gpus(graph, box, find_engine("vllm"))
    assert running(graph, placement, DECODE) == (graph, placement)
    assert running(graph, placement, DECODE)[0] is graph
