"""Corpus rows to requests, predictions to scores, and the published formulas of other tools."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import pytest
from msgspec.structs import replace

from moeplan.api.calibrate import fit_calibration, save_fit
from moeplan.api.resolve import Session
from moeplan.api.validate import score_speed, trace_row
from moeplan.api.validation import run_validation
from moeplan.engines.traits import find_engine
from moeplan.errors import NotModelled, SpecError, UnknownName
from moeplan.predict.estimate import estimate
from moeplan.predict.interval import closest, quantile, stretch_of
from moeplan.readers.calibration import read_calibration
from moeplan.readers.catalog import Catalog
from moeplan.readers.corpus import SpeedRow, read_serving, read_speed, source_family
from moeplan.report.validate_json import render
from moeplan.report.validate_svg import render as draw
from moeplan.validate.baselines import BASELINES, Facts
from moeplan.validate.rows import Unpredictable, quant_of, regime_of, request_of
from moeplan.validate.score import Scored, summarise
from tests.support.problems import session

SPEED = """\
id,setup,model,arch_class,quant,file_gib,engine,gpu,n_gpus,cpu,cpu_raw,placement,phase,tokens_per_s,grade,source,batch,gen_tokens,date
a,s1,llama-3-8b,dense,q4_k_m,,llama.cpp,rtx-4090,1,,,gpu,decode,130,A,site:page1,1,128,2025-06
b,s1,llama-3-8b,dense,q4_k_m,,llama.cpp,rtx-4090,1,,,gpu,decode,140,A,site:page2,1,128,2025-06
c,s2,llama-3-8b,dense,q8_0,,llama.cpp,rtx-3090,1,,,gpu,decode,90,B,other,1,128,2025-06
d,s3,no-such-model,dense,q8_0,,llama.cpp,rtx-3090,1,,,gpu,decode,90,A,other,1,128,
e,s4,llama-3-8b,dense,q8_0,,llama.cpp,rtx-3090,1,,,gpu,decode,900,C,other,1,128,
f,s5,llama-3-8b,dense,q8_0,,llama.cpp,,0,,EPYC 9355 (32C),cpu,decode,20,A,other,1,128,
"""
SERVING = """\
id,setup,model,arch_class,precision,engine,gpu,n_gpus,tp,concurrency,input_len,output_len,metric,value,grade,source_family,date
t,s1,llama-3.1-70b,dense,fp8,vLLM,h100-sxm-80gb,4,4,8,1024,1024,tpot_ms,12,A,x,2025-06
r,s2,llama-3.1-70b,dense,fp8,vLLM,h100-sxm-80gb,4,4,1,6144,2048,bs1_output_tok_s,80,A,x,2025-06
u,s3,llama-3.1-70b,dense,fp8,vLLM,h100-sxm-80gb,4,4,8,1024,1024,ttft_ms,200,A,x,2025-06
"""


def _write(tmp_path: Path, text: str, name: str = "speed.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def _rows(tmp_path: Path) -> dict[str, SpeedRow]:
    return {row.id: row for row in read_speed(_write(tmp_path, SPEED))}


def test_families_of_sources() -> None:
    assert source_family("org/repo:path/file.md L1") == "org/repo"
    assert source_family("site submission 12") == "site"
    assert source_family("https://blog.example/page?x=1") == "blog.example"


def test_a_page_that_prescribes_a_build_dates_its_rows(tmp_path: Path) -> None:
    page = "https://github.com/ggml-org/llama.cpp/discussions/4167 via a copy"
    lines = SPEED.splitlines()
    cells = lines[4].split(",")  # the row without a date
    assert cells[-1] == ""
    cells[lines[0].split(",").index("source")] = page
    path = tmp_path / "speed.csv"
    path.write_text("\n".join([lines[0], lines[4], ",".join(cells), lines[1]]) + "\n")
    assert [row.date for row in read_speed(path)] == ["", "2023-11", "2025-06"]


def test_a_page_of_one_backend_names_the_engine_of_its_rows(tmp_path: Path) -> None:
    page = "https://github.com/ggml-org/llama.cpp/discussions/10879 via a copy"
    lines = SPEED.splitlines()
    cells = lines[1].split(",")
    cells[lines[0].split(",").index("source")] = page
    path = tmp_path / "speed.csv"
    path.write_text("\n".join([lines[0], lines[1], ",".join(cells)]) + "\n")
    assert [row.engine for row in read_speed(path)] == ["llama.cpp", "llama.cpp (Vulkan)"]


def test_pages_that_state_their_memory_elsewhere_or_paged(tmp_path: Path) -> None:
    lines = SPEED.splitlines()
    names, cells = lines[0].split(","), lines[1].split(",")

    def read(source: str) -> SpeedRow:
        cells[names.index("source")] = source
        path = tmp_path / "speed.csv"
        path.write_text("\n".join([lines[0], ",".join(cells)]) + "\n")
        return read_speed(path)[0]

    page = "ikawrakow/ik_llama.cpp:github-data/issues/296 - a title L1"
    assert (read(page).ram_gbps, read(page).ram_basis) == (549.8, "measured")
    other = read("ikawrakow/ik_llama.cpp:github-data/issues/2961 - a title L1")
    assert other.ram_gbps != 549.8 and other.grade == read(page).grade != "C"
    assert read("FedericoTs/quantprobe:MACHINE_LADDER.md (context depth)").grade == "C"


def _reread(tmp_path: Path, **changes: str) -> SpeedRow:
    """The first row with other cells, and a column of notes."""
    names = [*SPEED.splitlines()[0].split(","), "notes"]
    cells = dict(zip(names, [*SPEED.splitlines()[1].split(","), ""], strict=True)) | changes
    text = ",".join(names) + "\n" + ",".join(cells[name] for name in names) + "\n"
    return read_speed(_write(tmp_path, text))[0]


def test_pages_that_measure_an_older_build_too_date_the_rows_of_that_one(tmp_path: Path) -> None:
    page = "ikawrakow/ik_llama.cpp:github-data/issues/490 - Bug.md L109"
    old = _reread(tmp_path, source=page, notes="llama-bench; build 24c010b3 (prompt experts on CPU)")
    new = _reread(tmp_path, source=page, notes="llama-bench; main (prompt experts streamed to GPU)")
    assert (old.date, new.date) == ("2025-05-25", "2025-06")
    assert _reread(tmp_path, notes="build 24c010b3").date == "2025-06"


def test_pages_of_commands_with_fa_say_it_for_their_rows_on_gpus(tmp_path: Path) -> None:
    page = "ikawrakow/ik_llama.cpp:github-data/discussions/357 - Qwen3.md L174"
    assert _reread(tmp_path, source=page).flash_attn is True
    assert _reread(tmp_path, source=page, gpu="").flash_attn is None
    assert _reread(tmp_path).flash_attn is None


def test_pages_of_commands_with_one_micro_batch_say_it_for_their_rows(tmp_path: Path) -> None:
    page = "https://github.com/ggml-org/llama.cpp/discussions/15396 via o/r:file.json[11]"
    row = _reread(tmp_path, source=page)
    assert (row.flash_attn, row.ubatch) == (True, 2048)
    assert _reread(tmp_path).ubatch is None


def test_rows_of_repacked_tensors_say_so_with_their_engine(tmp_path: Path) -> None:
    page = "ikawrakow/ik_llama.cpp:github-data/issues/629 - Multi-GPU.md L789"
    for changes in ({"source": page}, {"notes": "llama-sweep-bench; -rtr -fmoe"}):
        assert _reread(tmp_path, engine="ik_llama.cpp", **changes).engine == "ik_llama.cpp (rtr)"
        assert _reread(tmp_path, engine="llama.cpp", **changes).engine == "llama.cpp"


def test_a_table_of_another_engine_than_its_row_says(tmp_path: Path) -> None:
    page = "o/r:github-data/issues/437 - support intel amx for further accelerate.md L"
    rows = [_reread(tmp_path, source=page + line, engine="ik_llama.cpp") for line in ("235", "8532")]
    assert [row.engine for row in rows] == ["llama.cpp", "ik_llama.cpp"]


def test_rows_say_or_their_build_tells_whether_attention_was_fused(tmp_path: Path) -> None:
    row = replace(_rows(tmp_path)["a"], date="2024-05")

    def fused(**changes: object) -> bool:
        return trace_row(replace(row, **changes), session()).problem.workload.flash_attention

    assert not fused() and fused(flash_attn=True) and fused(date="2026-07") and fused(kv_type="q8_0")
    assert not fused(date="2026-01", flash_attn=False)
    # values in blocks need it, keys alone do not
    assert fused(kv_type="f16,q8_0") and not fused(kv_type="q8_0,f16")


def test_a_power_limit_holds_and_one_above_the_boards_own_does_not(tmp_path: Path) -> None:
    row = _rows(tmp_path)["c"]

    def watts(limit: float | None) -> float | None:
        return trace_row(replace(row, power_limit_w=limit), session()).problem.hardware.gpus[0].tdp_w

    assert (watts(None), watts(250.0), watts(600.0)) == (350.0, 250.0, 350.0)


def test_engines_are_found_with_a_version_behind_the_name() -> None:
    assert find_engine("vLLM 0.21").id == "vllm"
    assert find_engine("llama.cpp b8125").id == "llama.cpp"
    with pytest.raises(UnknownName):
        find_engine("llama.cpp fork")


def test_a_private_mix_needs_its_file_and_takes_the_type_of_most_weights(tmp_path: Path) -> None:
    row = replace(_rows(tmp_path)["a"], quant="mix-iq4_xs-iq3_s-q8_0")
    with pytest.raises(Unpredictable, match="size of its file"):
        quant_of(row)
    assert quant_of(replace(row, file_gib=300.0)) == "iq4_xs"


def test_a_stated_file_size_scales_the_bytes_and_an_absurd_one_does_not(tmp_path: Path) -> None:
    row = _rows(tmp_path)["a"]
    plain = trace_row(row, session()).problem.graph
    gib = plain.weights_bytes / 2**30
    larger = trace_row(replace(row, file_gib=gib * 1.2), session()).problem.graph
    assert larger.weights_bytes == pytest.approx(1.2 * plain.weights_bytes)
    assert larger.layers[0].dense_bytes == pytest.approx(1.2 * plain.layers[0].dense_bytes, rel=1e-6)
    assert larger.layers[0].dense_elements == plain.layers[0].dense_elements
    assert trace_row(replace(row, file_gib=gib * 3), session()).problem.graph is plain


def test_a_processor_is_found_by_what_the_source_calls_it(tmp_path: Path) -> None:
    item = trace_row(_rows(tmp_path)["f"], session())
    assert item.problem.hardware.host.cpu.id == "epyc-9355"
    assert item.placement.kind == "cpu"


def test_rows_without_what_a_request_needs_say_so(tmp_path: Path) -> None:
    row = _rows(tmp_path)["a"]
    for change, message in (
        ({"model": ""}, "no model"),
        ({"gpu": "", "cpu_raw": "a toaster"}, "a toaster"),
        ({"placement": "layers"}, "layers on the GPU"),
        ({"phase": "idle"}, "idle"),
    ):
        with pytest.raises(Unpredictable, match=message):
            request_of(replace(row, **change), "")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stated", "meant"),
    [
        ("gen4", "gen4x16"),
        ("gen5 x8", "gen5x8"),
        ("gen3x4", "gen3x4"),
        ("x1", None),
        ("x16/x4/x1", "x16"),  # the first GPU's: weights in RAM are copied there
        ("", None),
    ],
)
def test_a_stated_link_is_read_where_it_names_a_generation(
    tmp_path: Path, stated: str, meant: str | None
) -> None:
    row = replace(_rows(tmp_path)["a"], pcie=stated)
    assert request_of(row, "").machine.pcie == meant


def test_serving_rows_are_steps_or_whole_requests(tmp_path: Path) -> None:
    rows = {row.id: row for row in read_serving(_write(tmp_path, SERVING, "serving.csv"))}
    assert set(rows) == {"t", "r"}
    # 8 sequences, one token each every 12 ms
    assert rows["t"].tokens_per_s == pytest.approx(8 / 0.012)
    assert (rows["t"].phase, regime_of(rows["t"])) == ("decode", "tpot_ms/<=16/dense")
    assert (rows["r"].phase, regime_of(rows["r"])) == ("request", "bs1_output_tok_s/<=1/dense")
    whole, step = trace_row(rows["r"], session()), trace_row(rows["t"], session())
    assert whole.n_tokens == 2048 and step.n_tokens == 8
    terms = {op.term for op in step.ops}
    assert {"gpu0 weights", "all-reduce latency"} <= terms


def test_scores_are_in_the_unit_of_the_metric(tmp_path: Path) -> None:
    rows = read_serving(_write(tmp_path, SERVING, "serving.csv"))
    scored, skipped = score_speed(rows, session(), 0.8)
    assert not skipped
    for row in scored:
        assert row.low <= row.predicted <= row.high
        assert row.measured / 5 < row.predicted < row.measured * 5
    assert next(r for r in scored if r.id == "t").measured == 12


def test_summaries_count_setups_once_and_errors_both_ways() -> None:
    def row(id: str, setup: str, predicted: float) -> Scored:
        return Scored(id=id, setup=setup, source_family="x", regime="r", measured=100, predicted=predicted,
                      low=predicted * 0.9, high=predicted * 1.1)  # fmt: skip

    (summary,) = summarise([row("1", "a", 50), row("2", "a", 50), row("3", "a", 100), row("4", "b", 200)])
    # setup a: median ratio 0.5 -> factor 2; setup b: factor 2
    assert summary.median_factor_error_frac == pytest.approx(1.0)
    assert (summary.n, summary.n_setups) == (4, 2)
    assert summary.bias_frac == pytest.approx(0.0)
    assert summary.coverage_frac == 0.0
    assert row("5", "c", 50).factor_error_frac == pytest.approx(row("6", "c", 200).factor_error_frac)


def test_validation_lists_every_row_once_with_reasons(tmp_path: Path) -> None:
    result = run_validation(_write(tmp_path, SPEED), Catalog())
    assert {r.id for r in result.rows} | {s.id for s in result.skipped} == set("abcdef")
    reasons = {s.id: s.reason for s in result.skipped}
    assert "no-such-model" in reasons["d"] and "grade C" in reasons["e"]
    text = render(result.kind, result.calibration, result.level, result.rows,
                  [(s.id, s.reason) for s in result.skipped], result.summary)  # fmt: skip
    schema = Path(__file__).parents[2] / "configs" / "schema" / "validate.json"
    jsonschema.validate(json.loads(text), json.loads(schema.read_text(encoding="utf-8")))
    assert draw(result.rows, "a & b").count("<circle") >= len(result.rows)
    split = run_validation(_write(tmp_path, SPEED), Catalog(), by=("gpu", "engine"))
    assert "decode/gpu/dense/rtx-4090/llama.cpp" in {s.regime for s in split.summary}


def test_validation_of_unknown_columns_and_kinds(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no kind of corpus"):
        run_validation(_write(tmp_path, "a,b\n1,2\n"), Catalog())
    with pytest.raises(NotModelled):
        run_validation(_write(tmp_path, "id,mfu\n1,2\n"), Catalog())
    with pytest.raises(SpecError, match="no column 'colour'"):
        run_validation(_write(tmp_path, SPEED), Catalog(), by=("colour",))


def test_serving_lists_metrics_that_are_not_speeds_as_skipped(tmp_path: Path) -> None:
    result = run_validation(_write(tmp_path, SERVING, "serving.csv"), Catalog())
    assert [s.id for s in result.skipped] == ["u"]


def test_a_fit_of_a_corpus_is_the_same_file_twice_and_predicts_its_rows(tmp_path: Path) -> None:
    corpus = _write(tmp_path, SPEED)
    texts = []
    for name in ("one.yaml", "two.yaml"):
        fit = fit_calibration([corpus], Session(Catalog()), id="mine", date="2026-11-22", held_out=False)
        save_fit(fit, tmp_path / name)
        texts.append((tmp_path / name).read_bytes())
    assert texts[0] == texts[1]
    assert {s.id for s in fit.samples} == set("abcf")  # grade C and unknown models are not fitted
    mine = read_calibration(tmp_path / "one.yaml")
    assert mine.coefficients["local.bandwidth"].n_setups == 2
    assert mine.coefficients["server.bandwidth"].source.kind == "assumed"
    rows = run_validation(corpus, Catalog(), calibration=str(tmp_path / "one.yaml")).rows
    assert all(row.factor_error_frac < 0.5 for row in rows)


def test_rows_of_llama_benchs_own_sizes_were_run_with_its_switches(tmp_path: Path) -> None:
    def fused(row: SpeedRow) -> bool:
        return trace_row(row, session()).problem.workload.flash_attention

    row = replace(_rows(tmp_path)["a"], date="2025-11")
    assert row.gen_tokens == 128 and not fused(row)
    assert fused(replace(row, gen_tokens=200)) and fused(replace(row, flash_attn=True))
    prompt = replace(row, phase="prefill", gen_tokens=None)
    assert not fused(replace(prompt, prompt_tokens=512)) and fused(replace(prompt, prompt_tokens=1000))


def test_unseen_engines_and_assumed_ram_widen_the_range(tmp_path: Path) -> None:
    from moeplan.cost.timing import time_of

    calibration = session().calibration
    known = trace_row(_rows(tmp_path)["a"], session())
    time = time_of(known.ops, 0, 0, known.problem.hardware, calibration)
    assert time.unseen == () and stretch_of(time, n_setups=8) == 1.0
    assert stretch_of(replace(time, unseen=("local.engine.new.bandwidth",)), n_setups=8) > 1.0
    on_cpu = trace_row(_rows(tmp_path)["f"], session())
    assumed = time_of(on_cpu.ops, 0, 0, on_cpu.problem.hardware, calibration)
    assert (
        assumed.assumed_s > 0
        and stretch_of(assumed, n_setups=8) > 1.0
        and stretch_of(time, n_setups=1) > stretch_of(time, n_setups=7) > 1.0
    )
    _, residuals, stand_in = closest(calibration, "decode/unheard/dense")
    assert stand_in and quantile(residuals, 0.1) < 0 < quantile(residuals, 0.9)


@pytest.mark.parametrize(("n_setups", "extrapolated"), [(7, True), (8, False)])
def test_a_regime_of_few_setups_has_its_own_range_and_is_called_extrapolated(
    tmp_path: Path, n_setups: int, extrapolated: bool
) -> None:
    known = trace_row(_rows(tmp_path)["a"], session())
    residuals = dict(known.problem.calibration.residuals)
    residuals["decode/gpu/dense"] = replace(residuals["decode/gpu/dense"], n_setups=n_setups)
    problem = known.problem._replace(calibration=replace(known.problem.calibration, residuals=residuals))
    told = estimate(problem, known.placement, level=0.8)
    assert (told.confidence.extrapolated, told.confidence.n_reference_setups) == (extrapolated, n_setups)
    wide, many = told.decode_step_s, estimate(known.problem, known.placement, level=0.8).decode_step_s
    assert wide == many if n_setups == 8 else wide.high > many.high  # the fewer, the wider
    del residuals["decode/gpu/dense"]
    none = estimate(
        problem._replace(calibration=replace(problem.calibration, residuals=residuals)),
        known.placement,
        level=0.8,
    )
    assert (none.confidence.extrapolated, none.confidence.n_reference_setups) == (True, 0)
    assert none.decode_step_s.high > told.decode_step_s.high


def test_published_formulas_on_round_numbers() -> None:
    facts = Facts(
        params=10e9, active_params=2e9, weights_bytes=10e9, active_bytes=2e9, kv_bytes=0.0,
        gpu_bytes_per_s=1000e9, ram_bytes_per_s=100e9, gpu_share=0.5, moe=True, n_gpus=1, n_layers=40,
        cpu_moe_layers=40, quant="q4_k_m", vendor="nvidia", unified=False, peak_flop_per_s=1e14,
    )  # fmt: skip
    speeds = {name: formula(facts) for name, formula in BASELINES.items()}
    # half of 2 GB at 1000 GB/s and half at 100 GB/s: 1 ms + 10 ms
    assert speeds["active"] == pytest.approx(1 / 11e-3)
    assert speeds["ggufit"] == pytest.approx(1 / (1e-3 / 0.8 + 10e-3 / 0.85))
    # 1.25 ms + 13.33 ms + 3 ms + 40 x 0.1 ms
    assert speeds["simple law"] == pytest.approx(1 / (1.25e-3 + 10e-3 / 0.75 + 7e-3))
    # all active bytes at RAM speed and again at 0.55 of the GPU's: 20 ms + 3.64 ms
    assert speeds["llmfit"] == pytest.approx(0.8 / (20e-3 + 2 / 550))
    # max(0.2, 0.05 x 1000 / 256 = 0.195) of 10 GB, 0.55, offload 0.45
    assert speeds["whichllm"] == pytest.approx(1000 / 2 * 0.55 * 0.45)
    assert all(speed is None or math.isfinite(speed) for speed in speeds.values())
