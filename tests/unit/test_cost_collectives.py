"""Sums over GPUs, and names of what servers' layers wait for."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moeplan.calibrate.priors import prior
from moeplan.cost.collectives import all_reduce_work, joined
from moeplan.cost.law import step_ops
from moeplan.cost.ops import Op
from moeplan.cost.rates import gpu_rates
from moeplan.cost.work import Step
from moeplan.domain.hardware import GpuSpec, LinkSpec
from moeplan.domain.model import Block, DenseFfn, Indexer, MlaAttention, ModelSpec, MoeFfn
from moeplan.domain.workload import Placement
from moeplan.engines.traits import find_engine
from moeplan.predict.placement import experts_whole, on_gpus
from moeplan.readers.hardware import resolve_hardware
from tests.support.problems import (
    dense_spec,
    gpu,
    graph_of,
    machine,
    moe_spec,
    session,
    spec_of,
    workload,
)

KIB = 1024


def test_direct_sums_wait_as_long_for_eight_gpus_as_for_two() -> None:
    for n in (2, 4, 8):
        waits, moved = all_reduce_work(n, 64 * KIB, direct=True)
        assert (waits, moved) == (1.0, (n - 1) * 64 * KIB)  # each reads what all others have
    # two GPUs always read directly; more gather shares of large sums, which takes a second wait
    assert all_reduce_work(2, 64 * KIB * KIB, direct=True) == (1.0, 64 * KIB * KIB)
    assert all_reduce_work(4, 512 * KIB, direct=True) == (2.0, 1.5 * 512 * KIB)
    assert all_reduce_work(8, 256 * KIB, direct=True) == (2.0, 1.75 * 256 * KIB)
    assert all_reduce_work(16, KIB, direct=True)[0] == 2.0


def test_sums_over_pcie_hop_from_gpu_to_gpu() -> None:
    assert [all_reduce_work(n, KIB, direct=False)[0] for n in (2, 4, 8)] == [1.0, 2.0, 3.0]
    assert all_reduce_work(4, 800.0, direct=False)[1] == pytest.approx(1200)


def _server_gpu(architecture: str, **peaks: float) -> GpuSpec:
    return replace(gpu(), architecture=architecture, peak_flop_per_s={"fp16": 50e12, "fp32": 10e12} | peaks)


def test_products_of_narrow_inputs_have_a_fixed_time_and_an_energy_of_their_own() -> None:
    def names(engine: str, quant: str, **peaks: float) -> tuple[bool, bool]:
        rates = gpu_rates(_server_gpu("Hopper", **peaks), find_engine(engine), "", quant)
        return (
            "server.quantised_inputs.layer_time" in rates.fixed,
            "server.quantised_inputs.flop_per_joule" in rates.drawing,
        )

    assert names("vllm", "fp8", fp8=100e12) == (True, True)
    assert names("vllm", "fp8") == (False, False)  # widened to 16 bits
    assert names("vllm", "bf16", fp8=100e12) == (False, False)
    assert names("vllm", "awq4", fp8=100e12) == (False, False)
    assert names("llama.cpp", "fp8", fp8=100e12) == (False, False)
    assert prior("server.quantised_inputs.layer_time").value > 1


def _fixed_names(spec: ModelSpec, engine: str) -> set[str]:
    graph, hardware, found = graph_of(spec), machine((_server_gpu("Hopper"),)), find_engine(engine)
    step = Step(n_tokens=1, n_sequences=1, first_depth=64, n_head_rows=1)
    ops: list[Op] = step_ops(
        graph, hardware, workload(engine=engine), on_gpus(graph, hardware, found), found, step
    )[0]
    return {name for op in ops if op.term == "layer overhead" for name in op.moving}


def test_latent_attention_waits_by_architecture_and_longer_where_an_indexer_scores_first() -> None:
    mixer = MlaAttention(
        n_heads=8, kv_lora_rank=64, q_lora_rank=64, rope_head_dim=16, nope_head_dim=32, v_head_dim=32
    )
    indexer = Indexer(n_heads=4, head_dim=32, top_k_tokens=128)
    ffn = DenseFfn(intermediate=1024)
    plain, scored, reusing = (
        spec_of((Block(name="b", mixer=m, ffn=ffn),), (0,) * 4)
        for m in (
            mixer,
            replace(mixer, indexer=indexer),
            replace(mixer, indexer=replace(indexer, shared=True)),
        )
    )
    assert _fixed_names(reusing, "vllm") == _fixed_names(plain, "vllm")
    latent = {"server.mlaattention.layer_time", "server.gpu.hopper.mlaattention.layer_time"}
    assert latent <= _fixed_names(plain, "vllm") and not latent & _fixed_names(dense_spec(), "vllm")
    assert "server.indexer.layer_time" in _fixed_names(scored, "vllm") - _fixed_names(plain, "vllm")
    assert not any("indexer" in name or "hopper.mla" in name for name in _fixed_names(scored, "llama.cpp"))
    assert prior("server.gpu.hopper.mlaattention.layer_time").value > 1
    assert prior("server.gpu.blackwell.mlaattention.layer_time").value < 1


def test_shared_experts_add_to_the_wait_of_routed_ones_on_servers() -> None:
    routed = moe_spec()
    ffn = routed.blocks[1].ffn
    assert isinstance(ffn, MoeFfn)
    shared = replace(ffn, n_shared=1, shared_intermediate=256)
    spec = replace(routed, blocks=(routed.blocks[0], replace(routed.blocks[1], ffn=shared)))
    assert "server.shared_experts.layer_time" in _fixed_names(spec, "vllm")
    assert "server.shared_experts.layer_time" not in _fixed_names(routed, "vllm")
    assert not any("shared_experts" in name for name in _fixed_names(spec, "llama.cpp"))


def test_waits_for_sums_are_an_architectures_and_an_engines_over_direct_links_only() -> None:
    graph, found = graph_of(dense_spec()), find_engine("vllm")
    boxes = machine((_server_gpu("Hopper"),) * 2), machine((_server_gpu("Hopper"),) * 2)
    linked = replace(boxes[1], peer_link=boxes[1].pcie)
    step = Step(n_tokens=1, n_sequences=1, first_depth=64, n_head_rows=1)
    for hardware, expected in (
        (boxes[0], ("server.all_reduce_s",)),
        (
            linked,
            (
                "server.all_reduce_s",
                "server.gpu.hopper.all_reduce_time",
                "server.engine.vllm.all_reduce_time",
            ),
        ),
    ):
        placement = on_gpus(graph, hardware, found)
        ops = step_ops(graph, hardware, workload(engine="vllm"), placement, found, step)[0]
        wait = next(op for op in ops if op.term == "all-reduce latency")
        assert wait.moving == expected
        assert wait.moving_s == 2 * 4  # two sums in each of four layers
    assert prior("server.gpu.blackwell.all_reduce_time").value > 1
    assert prior("server.engine.tensorrt-llm.all_reduce_time").value < 1


def test_whole_experts_on_each_gpu_read_slower_than_shares_of_all() -> None:
    graph, found = graph_of(moe_spec()), find_engine("vllm")
    hardware = machine((_server_gpu("Hopper"),) * 2)
    shares = on_gpus(graph, hardware, found)
    step = Step(n_tokens=4, n_sequences=4, first_depth=64, n_head_rows=4)

    def experts(placement: Placement) -> Op:
        ops = step_ops(graph, hardware, workload(engine="vllm"), placement, found, step)[0]
        return next(op for op in ops if op.term == "gpu0 experts")

    name = "server.expert_parallel.bandwidth"
    assert name in experts(experts_whole(shares)).moving and name not in experts(shares).moving
    assert prior(name).value < 1


def test_a_mesh_or_a_bridge_joins_only_so_many_gpus_directly() -> None:
    def reach(hardware: str, n_gpus: int) -> tuple[bool, str]:
        direct, link = joined(resolve_hardware(hardware, catalog=session().catalog), n_gpus)
        return direct, link.id if link else ""

    assert reach("dgx-1-v100", 4) == (True, "nvlink-2")
    assert reach("dgx-1-v100", 8) == (False, "nvlink-2")  # a ring over the mesh
    assert reach("dgx-2", 16) == (True, "nvswitch-1")
    assert reach("8x-v100-sxm2-32gb", 8) == (False, "nvlink-2")

    bridge = LinkSpec("b", "b", 50e9, 40e9, kind="nvlink-bridge", direct_gpus=2)
    pair = replace(machine((gpu(),) * 4), peer_link=bridge)
    assert joined(pair, 2)[0] and joined(pair, 4) == (False, pair.pcie)


def test_sums_of_a_dgx_1_wait_longer_than_those_of_a_switch() -> None:
    def waits(hardware: str) -> float:
        machine = resolve_hardware(hardware, catalog=session().catalog)
        graph = graph_of(dense_spec())
        placement = replace(on_gpus(graph, machine, find_engine("vllm")), tensor_parallel=8)
        ops = step_ops(graph, machine, workload(), placement, find_engine("vllm"), Step(1, 1, 0, 1))[0]
        return sum(op.moving_s for op in ops if op.term == "all-reduce latency")

    assert waits("dgx-1-v100") == pytest.approx(3 * waits("dgx-2"))
