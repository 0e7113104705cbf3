"""Terms of servers and of engines that launch from Python: tiles, unpacking, prompts of others, waiting."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moeplan.calibrate.priors import prior
from moeplan.cost.cores import clock_frac, sockets_used
from moeplan.cost.coverage import busiest_rank
from moeplan.cost.host_rates import host_rates
from moeplan.cost.law import step_ops
from moeplan.cost.ops import Op
from moeplan.cost.rates import Rates, gpu_rates
from moeplan.cost.work import Step, main_type
from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import GpuSpec, HardwareSpec
from moeplan.domain.workload import Placement
from moeplan.engines.traits import find_engine
from moeplan.predict.placement import experts_whole, on_cpu, on_gpus
from moeplan.predict.problem import Problem
from moeplan.predict.serving import stall_ops
from tests.support.problems import calibration, dense_spec, gpu, graph_of, machine, moe_spec, workload

VLLM, EAGER = find_engine("vllm"), find_engine("transformers")
ONE = Step(n_tokens=1, n_sequences=1, first_depth=64, n_head_rows=1)


def server_gpu(architecture: str, **peaks: float) -> GpuSpec:
    return replace(gpu(), architecture=architecture, peak_flop_per_s={"fp16": 50e12, "fp32": 10e12} | peaks)


def ops_of(graph: ModelGraph, hardware: HardwareSpec, step: Step = ONE, engine: str = "vllm") -> list[Op]:
    found = find_engine(engine)
    placement = on_gpus(graph, hardware, found)
    return step_ops(graph, hardware, workload(engine=engine), placement, found, step)[0]


def weights(ops: list[Op]) -> Op:
    return next(op for op in ops if op.term == "gpu0 weights" and op.computing_s)


def test_matrix_units_work_on_whole_tiles_of_rows() -> None:
    graph = graph_of(dense_spec())
    elements = sum(layer.dense_elements for layer in graph.layers)
    for architecture, rows, tile in (
        ("Hopper", 1, 64),
        ("Ampere", 1, 16),
        ("Hopper", 64, 64),
        ("Hopper", 100, 100),
    ):
        step = Step(n_tokens=rows, n_sequences=rows, first_depth=64, n_head_rows=rows)
        op = weights(ops_of(graph, machine((server_gpu(architecture),)), step))
        # 2 FLOPs an element and row of the tile at 50 TFLOP/s; reported is the work that was asked for
        assert op.computing_s == pytest.approx(2 * elements * tile / 50e12)
        assert op.flop == pytest.approx(2 * elements * rows)


def test_experts_are_grouped_into_narrow_tiles_and_local_engines_have_none() -> None:
    graph = graph_of(moe_spec(n_layers=4))
    hardware = machine((server_gpu("Hopper"),))
    experts = next(op for op in ops_of(graph, hardware) if op.term == "gpu0 experts")
    # one token meets 2 of 8 experts, a tile of 16 rows each
    touched = 4 * graph.layers[0].expert_elements * 2 / 8
    assert experts.computing_s == pytest.approx(2 * touched * 16 / 50e12)
    local = next(op for op in ops_of(graph, hardware, engine="llama.cpp") if op.term == "gpu0 experts")
    assert local.computing_s == pytest.approx(2 * touched / 10e12)  # matrix-vector kernels, on the FP32 units


def test_packed_weights_are_widened_once_a_step_where_the_units_do_not_take_them() -> None:
    graph = graph_of(dense_spec(), "awq-int4-g128")
    assert main_type(graph) == "awq4"
    elements = sum(layer.dense_elements for layer in graph.layers)
    for rows in (1, 8):
        step = Step(n_tokens=rows, n_sequences=rows, first_depth=64, n_head_rows=rows)
        ops = ops_of(graph, machine((server_gpu("Ampere"),)), step)
        unpack = next(op for op in ops if "server.unpack" in op.moving)
        assert unpack.moving_s == pytest.approx(elements / 10e12)
    # kernels that widen use the narrow tile, on Hopper too
    narrow = weights(ops_of(graph, machine((server_gpu("Hopper"),))))
    assert narrow.computing_s == pytest.approx(2 * elements * 26 / 50e12)
    plain = ops_of(graph_of(dense_spec()), machine((server_gpu("Ampere"),)))
    assert not any("server.unpack" in op.moving for op in plain)


def test_types_that_the_units_multiply_are_not_unpacked() -> None:
    graph = graph_of(dense_spec(), "fp8")
    with_fp8 = ops_of(graph, machine((server_gpu("Hopper", fp8=100e12),)))
    without = ops_of(graph, machine((server_gpu("Ampere"),)))
    assert not any("server.unpack" in op.moving for op in with_fp8)
    assert any("server.unpack" in op.moving for op in without)


def test_a_step_carries_a_share_of_the_prompts_of_the_other_requests() -> None:
    graph = graph_of(dense_spec())
    hardware = machine((server_gpu("Hopper"),))
    placement = on_gpus(graph, hardware, VLLM)

    def stalls(n: int, prompt: int) -> list[Op]:
        work = workload(n_sequences=n, output_tokens=100, prompt_tokens=1, engine="vllm", ubatch_tokens=2048)
        return stall_ops(Problem(graph, hardware, work, VLLM, calibration()), placement, prompt)

    assert stalls(1, 512) == [] and stalls(4, 0) == []
    # three others, each with one prompt of 512 tokens in the 100 steps of an answer
    op = weights([op._replace(term=op.term.removeprefix("prompts of others: ")) for op in stalls(4, 512)])
    elements = sum(layer.dense_elements for layer in graph.layers)
    assert op.computing_s == pytest.approx(2 * elements * 512 / 50e12 * 3 / 100)
    assert op.moving[-2:] == ("server.stall_time", "server.engine.vllm.stall_time")
    twice = weights([op._replace(term=op.term.removeprefix("prompts of others: ")) for op in stalls(7, 512)])
    assert twice.computing_s == pytest.approx(2 * op.computing_s)


def test_an_eager_engine_waits_for_the_longer_of_launches_and_work() -> None:
    graph = graph_of(dense_spec(n_layers=4))
    ops = ops_of(graph, machine((server_gpu("Ampere"),)), engine="transformers")
    assert "layer overhead" not in {op.term for op in ops}
    waiting = [op for op in ops if op.waiting_s]
    assert sum(op.waiting_s for op in waiting) == pytest.approx(4.0) and weights(ops) in waiting
    assert {op.waiting[:2] for op in waiting} == {
        ("local.eager_layer_s", "local.engine.transformers.layer_time")
    }
    llama = next(
        o for o in ops_of(graph, machine((server_gpu("Ampere"),)), engine="llama.cpp") if "KV" in o.term
    )
    eager = next(o for o in ops if "KV" in o.term)
    assert eager.moving_s == pytest.approx(llama.moving_s)  # copies apart: engines/eager.py
    assert eager.n_bytes == llama.n_bytes


def test_a_cores_rate_follows_its_base_clock_and_few_threads_stay_on_one_socket() -> None:
    one = machine(cores=8).host.cpu
    assert clock_frac(one) == 1.0
    assert clock_frac(replace(one, base_hz=5e9)) == 2.0
    assert clock_frac(replace(one, base_hz=None)) == pytest.approx(1.2)  # 3 GHz where it is unknown
    two = replace(one, sockets=2, cores=40)
    assert [sockets_used(two, n) for n in (1, 20, 21, 80, None)] == [1, 1, 2, 2, 2]
    hardware = machine(ram_gbps=200)
    hardware = replace(hardware, host=replace(hardware.host, cpu=two))
    few = host_rates(hardware, 20, find_engine("llama.cpp"), (), "f16", decode=True)
    many = host_rates(hardware, 40, find_engine("llama.cpp"), (), "f16", decode=True)
    assert (few.bytes_per_s, many.bytes_per_s) == (100e9, 200e9)
    assert (few.flop_per_s, many.flop_per_s) == (20.0, 40.0)
    assert (
        "local.ram.sockets.bandwidth" in many.weights[0]
        and "local.ram.sockets.bandwidth" not in few.weights[0]
    )


def test_shards_wait_for_the_slowest_gpu_in_either_order() -> None:
    graph = graph_of(dense_spec())
    fast, slow = server_gpu("Hopper"), replace(server_gpu("Hopper"), bandwidth_bytes_per_s=100e9)
    times = []
    for gpus in ((fast, slow), (slow, fast)):
        hardware = machine(gpus)
        placement = on_gpus(graph, hardware, VLLM)
        assert placement.tensor_parallel == 2
        ops = step_ops(graph, hardware, workload(engine="vllm"), placement, VLLM, ONE)[0]
        times.append(weights(ops).moving_s)
    read = sum(layer.dense_bytes for layer in graph.layers)
    assert times == pytest.approx([read / 200e9] * 2)


def test_the_busiest_gpu_unpacks_its_experts() -> None:
    graph = graph_of(moe_spec(n_layers=2), "awq-int4-g128")
    hardware = machine((server_gpu("Ampere"),) * 2)
    sliced = on_gpus(graph, hardware, VLLM)

    def unpacking(placement: Placement) -> list[float]:
        ops = step_ops(graph, hardware, workload(engine="vllm"), placement, VLLM, ONE)[0]
        return [op.moving_s for op in ops if op.term == "gpu0 unpacking"]

    (dense, experts), (same, whole) = unpacking(sliced), unpacking(experts_whole(sliced))
    most, _ = busiest_rank(8, 2, 1, 2)
    assert same == dense and most > 1
    assert whole == pytest.approx(experts * most)


def test_kernels_of_experts_without_rows_take_their_time() -> None:
    graph, hardware = graph_of(moe_spec(n_layers=2), "gptq-int4-g128"), machine((server_gpu("Ampere"),) * 2)
    sglang = find_engine("sglang")
    sliced = on_gpus(graph, hardware, sglang)

    def idle(placement: Placement, date: str, quant: str = "gptq-int4-g128") -> list[Op]:
        run, work = graph_of(moe_spec(n_layers=2), quant), workload(engine="sglang", engine_date=date)
        ops = step_ops(run, hardware, work, placement, sglang, ONE)[0]
        return [op for op in ops if op.term == "idle experts"]

    # two products of each of 8 experts in two layers; a GPU that holds half of the experts has half of them
    (op,) = idle(sliced, "2025-05")
    assert op.moving_s == 2 * 2 * 8 and op.moving == ("server.idle_expert_s",)
    assert idle(experts_whole(sliced), "2025-05")[0].moving_s == 2 * 2 * 4
    assert idle(sliced, "2025-08") == [] and idle(sliced, "2025-05", "f16") == []


def test_an_eager_engine_launches_from_python_on_a_cpu_too() -> None:
    graph = graph_of(dense_spec(n_layers=4))
    found = find_engine("transformers")
    ops = step_ops(graph, machine(), workload(engine="transformers"), on_cpu(graph), found, ONE)[0]
    fixed = [op for op in ops if op.term == "layer overhead"]
    assert sum(op.moving_s for op in fixed) == 4.0  # two halves of four layers, after each other
    assert {op.moving[:2] for op in fixed} == {
        ("local.eager_layer_s", "local.engine.transformers.layer_time")
    }


def test_a_measured_bandwidth_is_that_of_all_sockets_whatever_the_threads() -> None:
    hardware = machine(ram_gbps=200)
    cpu = replace(hardware.host.cpu, sockets=2, cores=40)
    hardware = replace(hardware, host=replace(hardware.host, cpu=cpu, ram_basis="measured"))
    for threads in (20, 40):
        rates = host_rates(hardware, threads, find_engine("llama.cpp"), (), "f16", decode=True)
        assert rates.bytes_per_s == 200e9
        assert "local.ram.sockets.bandwidth" not in rates.weights[0]


def test_blackwell_ultra_is_blackwell_with_more_of_it() -> None:
    def rates(architecture: str, engine: str) -> Rates:
        return gpu_rates(server_gpu(architecture, fp8=100e12), find_engine(engine), "", "fp8")

    for engine in ("vllm", "llama.cpp"):
        assert rates("Blackwell Ultra", engine) == rates("Blackwell", engine)


def test_products_of_four_bits_have_units_and_an_energy_of_their_own() -> None:
    card = server_gpu("Blackwell", fp8=100e12, fp4=200e12)
    four, eight = (gpu_rates(card, find_engine("vllm"), "", quant) for quant in ("nvfp4", "fp8"))
    assert (four.flop_per_s, eight.flop_per_s) == (200e12, 100e12)
    name = "server.fp4_inputs.flop_per_joule"
    assert name in four.drawing and name not in eight.drawing and prior(name).value > 1
