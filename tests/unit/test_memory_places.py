"""What counts where: droppable pages, one memory for CPU and GPU, streamed layers, and what is advised."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

import moeplan
from moeplan.domain.result import DeviceMemory
from moeplan.engines.traits import EngineTraits, find_engine
from moeplan.errors import SpecError
from moeplan.memory.capacity import HOST_RESERVE_BYTES
from moeplan.memory.report import memory_by_tier, memory_report
from moeplan.predict.choice import choose_placement
from moeplan.predict.estimate import estimate
from moeplan.predict.phases import decode_time
from moeplan.predict.placement import mapped, on_cpu, on_gpus, split, streamed
from moeplan.predict.problem import Problem
from moeplan.provenance import Ledger
from moeplan.units import GIB, MIB
from tests.support.problems import calibration, dense_spec, gpu, graph_of, machine, moe_spec, workload

LLAMA, VLLM, HF = (find_engine(name) for name in ("llama.cpp", "vllm", "transformers"))


def _row(devices: tuple[DeviceMemory, ...], name: str) -> DeviceMemory:
    return next(d for d in devices if d.device == name)


# ── pages of the file behind a repacked copy ─────────────────────────────────────────────────────


def test_the_file_behind_a_repacked_copy_does_not_count_against_ram() -> None:
    graph = graph_of(dense_spec(n_layers=8), "q4_k_m")
    four_bit = sum(n for layer in graph.layers for t, n in layer.bytes_by_qtype if t == "q4_k")
    plain = memory_report(graph, machine(), replace(workload(), repack=False), on_cpu(graph), LLAMA).devices[
        0
    ]
    both = memory_report(graph, machine(), workload(), on_cpu(graph), LLAMA).devices[0]
    assert both.droppable_bytes == four_bit > 0
    assert both.total_bytes == plain.total_bytes + four_bit
    assert both.resident_bytes == plain.total_bytes
    assert both.headroom_bytes == plain.headroom_bytes


def test_a_machine_with_room_for_one_copy_computes_from_ram() -> None:
    graph = graph_of(dense_spec(n_layers=8), "q4_k_m")
    need = memory_report(graph, machine(), workload(), on_cpu(graph), LLAMA).devices[0].resident_bytes
    box = machine()
    box = replace(box, host=replace(box.host, ram_bytes=HOST_RESERVE_BYTES + need))
    problem = Problem(graph, box, workload(), LLAMA, calibration())
    assert choose_placement(problem, kind=None, gpu_layers=None, cpu_moe=None).kind == "cpu"
    less = problem._replace(hardware=replace(box, reserve_ram_bytes=1))
    assert choose_placement(less, kind=None, gpu_layers=None, cpu_moe=None).kind == "disk"


def test_an_8_gib_board_holds_an_8b_model_in_4_bit() -> None:
    # 4.6 GiB of weights and 1 GiB of cache in 6 GiB: nothing is read from the card
    e = moeplan.estimate("llama-3-8b", hardware="raspberry-pi-5", quant="q4_k_m")
    assert e.fits and e.placement.kind == "cpu"
    assert "disk reads" not in dict(e.decode.terms)


def test_nothing_spilled_is_no_disk_placement_and_costs_no_reads() -> None:
    graph = graph_of(moe_spec())
    assert mapped(graph, on_cpu(graph), graph.weights_bytes) == on_cpu(graph)
    # even where a placement is named so
    named = replace(on_cpu(graph), kind="disk")
    time = decode_time(graph, machine(), workload(), named, LLAMA, calibration())
    assert "disk reads" not in dict(time.terms)


def test_an_engine_that_keeps_a_margin_spills_enough_to_fit() -> None:
    graph = graph_of(dense_spec(n_layers=60, hidden=1024, vocab=4096))
    ollama = find_engine("ollama")
    need = memory_report(graph, machine(), workload(), on_cpu(graph), ollama).devices[0].resident_bytes
    box = machine()
    box = replace(box, host=replace(box.host, ram_bytes=HOST_RESERVE_BYTES + need - 64 * MIB))
    problem = Problem(graph, box, workload(), ollama, calibration())
    placement = choose_placement(problem, kind=None, gpu_layers=None, cpu_moe=None)
    assert placement.kind == "disk"
    assert memory_report(graph, box, workload(), placement, ollama).fits


# ── one memory ───────────────────────────────────────────────────────────────────────────────────


def test_a_shared_memory_is_one_row_with_the_hosts_part_in_it() -> None:
    graph = graph_of(dense_spec())
    box = machine((gpu(memory_gib=64, unified=True),), ram_gib=64)
    placement = on_gpus(graph, box, LLAMA)
    apart = memory_by_tier(graph, box, workload(), placement, LLAMA)
    (one,) = memory_report(graph, box, workload(), placement, LLAMA).devices
    assert [d.device for d in apart] == ["gpu0", "ram"] and one.device == "gpu0"
    assert one.total_bytes == sum(d.total_bytes for d in apart)
    assert one.output_bytes == 1024 * 4
    # computed by the CPU alone it is RAM
    (ram,) = memory_report(graph, box, workload(), on_cpu(graph), LLAMA).devices
    assert ram.device == "ram"


def test_a_shared_memory_is_bounded_by_what_is_installed() -> None:
    graph = graph_of(dense_spec())
    # the driver offers 64 GiB, of which 2 GiB are the system's and 10 GiB are to be kept free
    shared = replace(gpu(memory_gib=64, unified=True), visible_bytes=64 * GIB)
    box = replace(machine((shared,), ram_gib=64), reserve_ram_bytes=10 * GIB)
    (one,) = memory_report(graph, box, workload(), on_gpus(graph, box, LLAMA), LLAMA).devices
    assert one.capacity_bytes == 52 * GIB
    spread = split(graph, box, LLAMA, 3, 0)  # layers on both sides are in it together
    (one,) = memory_report(graph, box, workload(), spread, LLAMA).devices
    assert one.weights_bytes == graph.weights_bytes


def test_a_server_takes_its_overhead_of_a_shared_memory_too() -> None:
    graph = graph_of(dense_spec())
    box = machine((gpu(memory_gib=64, unified=True),), ram_gib=64)
    (one,) = memory_report(graph, box, workload(engine="vllm"), on_gpus(graph, box, VLLM), VLLM).devices
    assert one.overhead_bytes > 1536 * MIB


# ── streamed layers ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("engine", [LLAMA, HF], ids=lambda e: e.id)
def test_a_streaming_gpu_needs_room_for_a_layer_and_buffers(engine: EngineTraits) -> None:
    graph = graph_of(moe_spec())
    report = memory_report(graph, machine((gpu(),)), workload(engine=engine.id), streamed(graph), engine)
    card, ram = _row(report.devices, "gpu0"), _row(report.devices, "ram")
    assert (card.weights_bytes, ram.weights_bytes) == (0, graph.weights_bytes)
    layer = graph.layers[0]
    assert card.overhead_bytes == 512 * MIB + layer.dense_bytes + layer.expert_bytes
    assert card.compute_bytes > ram.compute_bytes
    # llama.cpp keeps the cache of layers in RAM there, transformers makes it on the GPU
    assert bool(card.kv_bytes) is (engine is HF) and bool(ram.kv_bytes) is (engine is LLAMA)
    small = machine((gpu(memory_gib=0.5),))
    assert not memory_report(graph, small, workload(engine=engine.id), streamed(graph), engine).fits


# ── what is said ─────────────────────────────────────────────────────────────────────────────────


def test_a_large_batch_that_does_not_fit_is_told_to_shrink() -> None:
    graph = graph_of(dense_spec())
    # 8 MiB of cache a sequence: 400 of them are above 2 GiB, one is not
    problem = Problem(graph, machine((gpu(memory_gib=2),)), workload(n_sequences=400), LLAMA, calibration())
    whole = on_gpus(graph, problem.hardware, LLAMA)
    assert "smaller batch" in estimate(problem, whole, level=0.8).fix
    few = problem._replace(workload=workload(n_sequences=2), hardware=machine((gpu(memory_gib=0.4),)))
    assert "smaller batch" not in estimate(few, whole, level=0.8).fix


def test_threads_beyond_any_machine_are_refused() -> None:
    with pytest.raises(SpecError, match="at most 4,096"):
        moeplan.estimate("llama-3-8b", hardware="ryzen-9-7950x", quant="q4_k_m", threads=100_000)


def test_counts_behind_cache_state_and_output_make_their_terms() -> None:
    ledger = Ledger()
    graph, box = graph_of(dense_spec()), machine((gpu(), gpu(), gpu()))
    work = workload(engine="vllm", n_sequences=3)
    memory_report(graph, box, work, on_gpus(graph, box, VLLM), VLLM, ledger)
    device = next(t for t in ledger.terms if t.name == "memory of gpu1")
    parts = {t.name: t for t in device.children}
    # 4 layers, 4096 cells, 3 sequences, 2 (K, V) x 2 heads x 64 x 2 B, 2 heads over 3 GPUs: halves
    counts = {"layers": 4, "cells": 4096, "sequences": 3, "B per token": 512, "shards": 2}
    assert parts["KV cache"].inputs == counts
    assert parts["KV cache"].value == 4 * 4096 * 3 * 512 / 2
    assert parts["compute"].inputs["micro-batch"] == 2048 and parts["compute"].inputs["hidden"] == 512
    assert parts["state"].inputs == {} and parts["state"].value == 0
    ram = {t.name: t for t in ledger.terms[-1].children}
    assert ram["output"].inputs == {"vocabulary": 1024, "sequences": 3}
    assert ram["output"].value == 1024 * 3 * 4


def test_a_hybrid_shows_its_cache_and_its_state() -> None:
    e = moeplan.estimate("granite-4.0-h-tiny", hardware="apple-m4-max-40-core", quant="q4_k_m", explain=True)
    term = next(t for t in e.explain if t.name == "memory of gpu0")
    parts = {t.name: t for t in term.children}
    n = {name: float(str(value)) for name, value in parts["KV cache"].inputs.items()}
    assert (
        parts["KV cache"].value == n["layers"] * n["cells"] * n["sequences"] * n["B per token"] / n["shards"]
    )
    n = {name: float(str(value)) for name, value in parts["state"].inputs.items()}
    assert parts["state"].value == n["layers"] * n["elements"] * n["sequences"] * 4 > 0


def test_a_log_counts_the_copy_of_a_tied_embedding_once_and_among_the_weights() -> None:
    from moeplan.api.validate_memory import _as_logged

    graph = graph_of(replace(dense_spec(), tied_embeddings=True))
    box = machine((gpu(),))
    held = _row(memory_by_tier(graph, box, workload(), on_gpus(graph, box, LLAMA), LLAMA), "gpu0")
    logged = _as_logged(held, graph.embedding_bytes)
    assert logged.total_bytes == held.total_bytes
    # all but the looked-up embedding, and its copy
    assert logged.weights_bytes == graph.weights_bytes
