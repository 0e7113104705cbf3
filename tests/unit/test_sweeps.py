"""What a sweep's scripts say of its rows: lengths, caches, ranks; and what its load makes of a step."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from moeplan.api.calibrate import read_corpus
from moeplan.api.validate import trace_row
from moeplan.cost.ops import Op
from moeplan.engines.traits import find_engine
from moeplan.predict.placement import on_gpus
from moeplan.predict.problem import Problem
from moeplan.predict.serving import stall_ops
from moeplan.readers.corpus import SpeedRow, read_serving
from moeplan.readers.sweeps import cache_type, is_speculative, mean_tokens, unrecorded_ranks
from tests.support.problems import calibration, dense_spec, gpu, graph_of, machine, session, workload

HEAD = (
    "id,setup,model,arch_class,precision,engine,gpu,n_gpus,tp,ep,concurrency,input_len,output_len,metric,"
    "value,grade,source_family,date"
)
AWQ = "qwen3-8b,dense,int4-awq,HF transformers"
ROWS = f"""\
{HEAD}
old,s1,deepseek-v3,moe,fp8,TensorRT-LLM,h200-sxm-141gb,8,8,1,4,1024,8192,tpot_ms,14,B,inferencex,2025-11-02
new,s2,deepseek-v3,moe,fp8,TensorRT-LLM,h200-sxm-141gb,8,8,1,4,1024,8192,tpot_ms,14,B,inferencex,2025-12-15
own,s3,deepseek-v3,moe,fp8,TensorRT-LLM,h200-sxm-141gb,8,8,1,4,1024,8192,tpot_ms,14,B,elsewhere,2025-11-02
awq,s5,{AWQ},h20-96gb,1,1,1,1,1,99,bs1_output_tok_s,51,A,qwen-docs,2025-05
2024,s6,{AWQ},a100-sxm-80gb,1,1,1,1,1,9,bs1_output_tok_s,19,A,qwen-docs,2024-10
full,s4,qwen3-32b,dense,bf16,SGLang,h100-sxm-80gb,1,1,1,16,2048,512,tpot_ms,26,A,aic-gap-analysis,
"""


def _rows(tmp_path: Path) -> dict[str, SpeedRow]:
    path = tmp_path / "serving.csv"
    path.write_text(ROWS, encoding="utf-8")
    return {row.id: row for row in read_serving(path)}


def test_a_sweep_of_drawn_lengths_is_read_at_their_mean(tmp_path: Path) -> None:
    rows = _rows(tmp_path)
    # from 0.8 of the nominal length to all of it
    assert (rows["old"].prompt_tokens, rows["old"].depth_tokens, rows["old"].gen_tokens) == (922, 922, 7373)
    assert (rows["own"].prompt_tokens, rows["own"].gen_tokens) == (1024, 8192)
    assert mean_tokens("inferencex", 1) == 1
    assert [rows[i].equal_lengths for i in ("old", "own", "full")] == [False, False, True]


def test_ranks_and_caches_are_those_of_the_launch_while_it_was_so(tmp_path: Path) -> None:
    rows = _rows(tmp_path)
    # expert parallelism was set by the script and not recorded; later rows say what they had
    assert [rows[i].ep for i in ("old", "new", "own")] == [8, 1, 1]
    assert [rows[i].kv_type for i in ("old", "new", "own")] == ["fp8", "fp8", ""]
    fp4 = ("TensorRT-LLM", "b200-sxm-180gb", "deepseek-v3", "fp4", "2025-11-02")
    told = [unrecorded_ranks("inferencex", fp4, 4, n, (1024, 1024)) for n in (32, 64)]
    assert told == [False, True]
    eight = [unrecorded_ranks("inferencex", fp4, 8, 16, (1024, answer)) for answer in (1024, 8192)]
    assert eight == [True, False]
    assert not unrecorded_ranks("inferencex", fp4, 8, 16, (8192, 1024))
    for date, known in (("2025-11-02", ""), ("2025-12-05", "fp8"), ("2026-02-25", "fp8")):
        launch = ("vLLM", "b200-sxm-180gb", "gpt-oss-120b", "mxfp4", date)
        assert cache_type("inferencex", launch) == known


def test_rows_of_layouts_that_only_ran_with_drafts_are_kept_out_of_fits(tmp_path: Path) -> None:
    base = "moe,fp8,SGLang,b200-sxm-180gb,4,4,{ep},8,1024,1024,tpot_ms,8,A,inferencex,{date}"
    layouts = ((1, "2026-03-20"), (4, "2026-03-20"), (1, "2026-05-01"))
    rows = [
        f"{i},s{i},qwen3.5-397b-a17b," + base.format(ep=ep, date=date) for i, (ep, date) in enumerate(layouts)
    ]
    path = tmp_path / "serving.csv"
    path.write_text("\n".join([HEAD, *rows, ""]), encoding="utf-8")
    assert [row.speculative for row in read_serving(path)] == [True, False, False]
    assert [t.row.id for t in read_corpus([path], session()).traced] == ["1", "2"]
    fp4 = ("TensorRT-LLM", "b200-sxm-180gb", "deepseek-v3", "fp4", "2026-01-14")
    asked = (((4, 4), 16, 1024), ((4, 4), 16, 8192), ((4, 4), 64, 1024), ((4, 1), 16, 1024))
    told = [is_speculative("inferencex", fp4, *setup) for setup in asked]
    assert told == [True, False, False, False]


def test_only_requests_with_room_for_their_cache_run_at_once(tmp_path: Path) -> None:
    row = _rows(tmp_path)["full"]  # 61 GiB of weights on 80 GB: the cache holds a few of 16 requests
    traced = trace_row(row, session())
    assert 1 < traced.problem.workload.n_sequences < 16
    # the row's speed was worked out from all of them
    assert traced.measured_s == pytest.approx(0.026)
    two = trace_row(replace(row, n_gpus=2, tp=2, placement="tensor-parallel"), session())
    assert two.problem.workload.n_sequences == 16


def _stalled_s(engine: str, n: int, prompt: int, *, equal: bool) -> float:
    graph, found = graph_of(dense_spec()), find_engine(engine)
    hardware = machine((replace(gpu(), peak_flop_per_s={"fp16": 50e12, "fp32": 10e12}),))
    work = workload(n_sequences=n, output_tokens=100, prompt_tokens=1, engine=engine, ubatch_tokens=2048)
    problem = Problem(graph, hardware, work, found, calibration())
    ops: list[Op] = stall_ops(problem, on_gpus(graph, hardware, found), prompt, equal_lengths=equal)
    return sum(op.computing_s for op in ops)


def test_answers_of_equal_requests_wait_only_for_prompts_behind_their_own() -> None:
    drawn = _stalled_s("sglang", 16, 1024, equal=False)
    # 16 prompts go through in two batches of eight: half of the answers wait for eight, the others for none
    assert _stalled_s("sglang", 16, 1024, equal=True) == pytest.approx(drawn * 4 / 15)
    assert _stalled_s("sglang", 64, 4096, equal=True) == pytest.approx(
        _stalled_s("sglang", 64, 4096, equal=False) * 31 / 63
    )
    assert _stalled_s("sglang", 4, 1024, equal=True) == 0.0  # one batch
    # engines that mix prompts into steps do so whatever the lengths
    assert _stalled_s("vllm", 16, 1024, equal=True) == pytest.approx(
        _stalled_s("vllm", 16, 1024, equal=False)
    )


def test_awq_ran_in_autoawqs_fused_modules_where_its_memory_says_so(tmp_path: Path) -> None:
    rows = _rows(tmp_path)
    assert rows["awq"].engine == "HF transformers (AutoAWQ)"
    assert rows["2024"].engine == "HF transformers"
