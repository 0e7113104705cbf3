"""Reservations, margins, the batch and the context that fit, engine logs and memory corpora."""

from __future__ import annotations

from pathlib import Path

import pytest

import moeplan
from moeplan.api.validate_memory import score_memory
from moeplan.domain.workload import Placement
from moeplan.engines.traits import find_engine
from moeplan.errors import MeasurementError, MissingExtra
from moeplan.graph.loaded import as_loaded
from moeplan.measure import llama_cpp_memory
from moeplan.measure.llama_cpp_memory import LoadSettings, parse_log
from moeplan.memory.notes import counted_notes, uncounted_notes
from moeplan.memory.report import memory_report
from moeplan.predict.capacity import context_curve, largest_batch, with_batch
from moeplan.predict.placement import on_cpu, on_gpus
from moeplan.predict.problem import Problem
from moeplan.readers.corpus_memory import read_memory
from moeplan.units import GIB, MIB
from tests.support.problems import (
    calibration,
    dense_spec,
    gpu,
    graph_of,
    machine,
    moe_spec,
    session,
    workload,
)  # fmt: skip

VLLM, LLAMA = find_engine("vllm"), find_engine("llama.cpp")


def test_a_server_reserves_its_share_and_the_rest_is_cache() -> None:
    graph, hardware = graph_of(dense_spec(), "f16"), machine((gpu(memory_gib=10),))
    work = workload(engine="vllm", context_tokens=1000)
    report = memory_report(graph, hardware, work, on_gpus(graph, hardware, VLLM), VLLM)
    need, (pool,) = report.devices[0], report.reservations
    # 0.9 of 10 GiB, whatever the need
    assert pool.reserved_bytes == need.capacity_bytes == int(9 * GIB)
    # 4 layers x 2 (K, V) x 2 heads x 64 x 2 B = 2048 B a token, 16 tokens a block
    assert pool.n_kv_blocks == pool.kv_pool_bytes // (2048 * 16)
    # 1000 tokens take 63 blocks = 1008 tokens
    assert pool.concurrency == pool.kv_tokens // 1008
    # reasoned: 5% is kept free, and said
    assert need.margin_bytes == round(need.total_bytes * 0.05)
    assert need.headroom_bytes == need.capacity_bytes - need.total_bytes - need.margin_bytes


def test_a_measured_engine_keeps_no_margin_and_reserves_nothing() -> None:
    graph = graph_of(dense_spec())
    report = memory_report(graph, machine(), workload(), on_cpu(graph), LLAMA)
    assert report.devices[0].margin_bytes == 0 and report.reservations == ()


def _problem(memory_gib: float) -> Problem:
    graph = graph_of(moe_spec(), "f16")
    return Problem(graph, machine((gpu(memory_gib=memory_gib),)), workload(), LLAMA, calibration())


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    problem = _problem(1)

    def place(trial: Problem) -> Placement:
        return on_gpus(trial.graph, trial.hardware, trial.engine)

    def fits(n: int) -> bool:
        trial = with_batch(problem, n)
        return memory_report(trial.graph, trial.hardware, trial.workload, place(trial), LLAMA).fits

    n = largest_batch(problem, place)
    assert n > 1 and fits(n) and not fits(n + 1)
    assert largest_batch(_problem(0.5), place) == 0


def test_the_curve_holds_the_asked_context_and_the_models_limit() -> None:
    problem = _problem(1)
    curve = context_curve(problem, on_gpus(problem.graph, problem.hardware, LLAMA))
    contexts = [point.context_tokens for point in curve]
    assert contexts == sorted(contexts) and {4096, 32768} <= set(contexts)
    totals = [dict(point.device_bytes)["gpu0"] for point in curve]
    assert totals == sorted(totals)


LOG = """\
0.1 I load_tensors:   CPU_Mapped model buffer size =   255.82 MiB
0.1 I load_tensors:   CPU_REPACK model buffer size =    10.00 MiB
0.2 I llama_context:        CPU  output buffer size =     0.12 MiB
0.2 I llama_kv_cache:        CPU KV buffer size =    24.00 MiB
0.2 I llama_kv_cache:        CPU KV buffer size =     4.50 MiB
0.3 I sched_reserve:        CPU compute buffer size =    23.52 MiB
0.3 I sched_reserve: reserve took 64.96 ms, sched copies = 1
"""


def test_buffers_are_read_from_a_log() -> None:
    found = parse_log(LOG)
    assert found.kv_bytes == round(28.5 * MIB)  # a full and a window cache
    assert set(found.weights) == {"CPU_Mapped", "CPU_REPACK"}
    assert found.compute == {"CPU": round(23.52 * MIB)}
    with pytest.raises(MeasurementError, match="no such tensor: failed"):
        parse_log("loading\nno such tensor: failed\n")


def test_without_an_engine_the_live_check_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp_memory, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"moeplan\[engine\]"):
        llama_cpp_memory.load(LoadSettings("x.gguf", 512))
    with pytest.raises(MeasurementError, match="not a program"):
        llama_cpp_memory.load(LoadSettings("x.gguf", 512), binary="/nonexistent")


CORPUS = """\
id,setup,model,quant,engine,date,device_kind,gpu,n_gpus,n_ctx,n_ubatch,flash_attn,kv_type_k,kv_type_v,\
gpu_layers_raw,model_mib,kv_mib,compute_mib,total_mib,grade,source
a,s1,llama-3-8b,q4_k_m,llama.cpp,2024-05,gpu0,rtx-3070,1,8192,512,0,f16,f16,33/33,4403.49,1024,560,5987.49,A,x:1
b,s2,llama-3-8b,q4_k_m,ollama,2024-05,gpu0,rtx-3070,1,8192,512,0,f16,f16,33/33,4403.49,,,,A,x:1
c,s3,llama-3-70b,q8_0,llama.cpp,2024-05,gpu0,rtx-3070,1,8192,512,0,f16,f16,,4403.49,2560,,,A,x:1
"""


def test_a_corpus_is_scored_buffer_by_buffer(tmp_path: Path) -> None:
    path = tmp_path / "memory.csv"
    path.write_text(CORPUS)
    scored, skipped = score_memory(read_memory(path), session())
    # an RTX 3070's load log: weights without the embedding, cache and compute to 2%
    assert [row.id for row in scored][:4] == ["a:model", "a:kv", "a:compute", "a:total"]
    for row in scored[:4]:
        assert row.factor_error_frac < 0.02
    reasons = {skip.id: skip.reason for skip in skipped}
    assert "ollama" in reasons["b"] and "not stated" in reasons["c:model"]


def test_traps_are_said_aloud() -> None:
    transformers, vllm = find_engine("transformers"), find_engine("vllm")
    mixtral = session().graph("mixtral-8x7b", "bnb-nf4", gguf=False)
    loaded = as_loaded(mixtral, transformers)
    # 32 layers x 8 experts x 3 x 4096 x 14336 elements in 16 bit: 84 GiB, of which NF4 would take 23.6
    said = counted_notes(loaded, workload(), on_cpu(mixtral), transformers)
    assert any("84.0 GiB; transformers 4" in note for note in said)
    assert not any("bitsandbytes" in note for note in uncounted_notes(loaded, transformers))
    # an engine that may or may not do so: not in any figure
    assert any("60.4 GiB more if vllm" in note for note in uncounted_notes(mixtral, vllm))
    assert not any(
        "bitsandbytes" in note for note in counted_notes(mixtral, workload(), on_cpu(mixtral), vllm)
    )
    q4 = graph_of(dense_spec(), "q4_k_m")
    assert any("rearranged" in note for note in counted_notes(q4, workload(), on_cpu(q4), LLAMA))


def test_what_is_counted_does_not_stand_under_what_is_not_modelled() -> None:
    answer = moeplan.estimate("gpt-oss-120b", hardware="h100-sxm-80gb", engine="vllm", quant="mxfp4")
    assert any("pads MXFP4 experts" in text for text in answer.assumptions)
    assert not any("pads MXFP4" in text for text in answer.not_modelled)


def test_a_build_number_decides_about_mixed_batches() -> None:
    assert find_engine("llama.cpp b11549").mixes_inputs
    assert not find_engine("llama.cpp b8125").mixes_inputs
    assert not find_engine("llama.cpp").mixes_inputs
    assert not find_engine("ik_llama.cpp b11549").mixes_inputs


def test_a_dry_log_tells_what_caches_would_take() -> None:
    log = (
        "0.00.001 I srv          init: build_info: b11434-0123abcd\n"
        "0.00.013 I llama_kv_cache:        CPU KV buffer size =     0.00 MiB\n"
        "0.00.013 I llama_kv_cache: size =   96.00 MiB (  4096 cells,  12 layers,  1/1 seqs), K\n"
        "0.00.013 I llama_kv_cache: size =   18.00 MiB (   768 cells,  12 layers,  1/1 seqs), K\n"
        "0.00.014 I llama_memory_recurrent: size =    3.00 MiB (     1 cells,   2 layers,  1 seqs)\n"
        "0.00.017 I sched_reserve:        CPU compute buffer size =   100.40 MiB\n"
    )
    found = parse_log(log, dry=True)
    assert (found.kv_bytes, found.state_bytes, found.build) == (114 * MIB, 3 * MIB, 11434)
    assert parse_log(log).kv_bytes == 0
    # what the hosting interpreter took before it loaded anything is not the engine's
    hosted = parse_log("moeplan: resident before loading, KiB: 1024\n" + log, 10 * MIB)
    assert hosted.peak_rss_bytes == 9 * MIB
