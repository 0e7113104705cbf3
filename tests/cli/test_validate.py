"""`moeplan validate` and `moeplan calibrate fit`: results, limits, files, exit codes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CORPUS = """\
id,setup,model,arch_class,quant,engine,gpu,n_gpus,placement,phase,tokens_per_s,grade,source,batch,gen_tokens,date
a,s1,llama-3-8b,dense,q4_k_m,llama.cpp,rtx-4090,1,gpu,decode,130,A,one,1,128,2025-06
b,s2,llama-3-8b,dense,q8_0,llama.cpp,rtx-3090,1,gpu,decode,85,A,two,1,128,2025-06
c,s3,llama-3-8b,dense,q8_0,warp drive,rtx-3090,1,gpu,decode,85,A,two,1,128,2025-06
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.csv"
    path.write_text(CORPUS, encoding="utf-8")
    return path


def test_json_has_every_row_and_the_reasons_of_others(inside: Callable[..., Any], corpus: Path) -> None:
    ran = inside("validate", "--corpus", corpus, "--format", "json")
    assert ran.code == 0
    assert ran.json["schema"] == "moeplan/validate@1"
    assert {row["id"] for row in ran.json["rows"]} == {"a", "b"}
    (skipped,) = ran.json["skipped"]
    assert skipped["id"] == "c" and "warp drive" in skipped["reason"]
    (summary,) = ran.json["summary"]
    assert (summary["regime"], summary["n_setups"], summary["n_sources"]) == ("decode/gpu/dense", 2, 2)
    for row in ran.json["rows"]:
        ratio = row["predicted"] / row["measured"]
        assert row["signed_error_frac"] == pytest.approx(ratio - 1)
        assert row["factor_error_frac"] == pytest.approx(max(ratio, 1 / ratio) - 1)


def test_table_and_markdown_name_regimes_and_worst_rows(inside: Callable[..., Any], corpus: Path) -> None:
    table = inside("validate", "--corpus", corpus)
    assert "decode/gpu/dense" in table.out and "skipped 1:" in table.err
    assert "| regime" in inside("validate", "--corpus", corpus, "--format", "markdown").out


def test_missed_limits_are_exit_code_1(inside: Callable[..., Any], corpus: Path) -> None:
    assert inside("validate", "--corpus", corpus, "--max-median", "9").code == 0
    missed = inside("validate", "--corpus", corpus, "--max-median", "0.0000001")
    assert missed.code == 1
    assert "decode/gpu/dense: median factor error" in missed.err and "decode/gpu/dense" in missed.out


def test_plot_is_written(inside: Callable[..., Any], corpus: Path, tmp_path: Path) -> None:
    assert inside("validate", "--corpus", corpus, "--plot", tmp_path / "p.svg").code == 0
    assert (tmp_path / "p.svg").read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n"])
def test_a_file_of_another_kind_is_refused(inside: Callable[..., Any], tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text, encoding="utf-8")
    ran = inside("validate", "--corpus", path)
    assert ran.code == 2 and "x.csv" in ran.err
    assert inside("validate", "--corpus", tmp_path / "none.csv").code == 2


def test_a_number_that_cannot_be_read_is_named_with_its_line(
    inside: Callable[..., Any], corpus: Path
) -> None:
    corpus.write_text(CORPUS.replace(",130,", ",fast,"), encoding="utf-8")
    ran = inside("validate", "--corpus", corpus)
    assert ran.code == 2 and "'fast'" in ran.err and ":2" in ran.err


def test_a_fitted_calibration_predicts_with_its_own_coefficients(
    inside: Callable[..., Any], corpus: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    options = (
        "--corpus",
        corpus,
        "--output",
        mine,
        "--report",
        tmp_path / "accuracy.md",
        "--date",
        "2026-11-22",
    )
    ran = inside("calibrate", "fit", *options)
    assert ran.code == 0, ran.err
    assert "decode/gpu/dense" in (tmp_path / "accuracy.md").read_text(encoding="utf-8")
    told = inside("validate", "--corpus", corpus, "--calibration", mine, "--format", "json").json
    assert told["calibration"] == "fitted"
    answer = inside("estimate", "llama-3-8b", "--gpu", "rtx-4090", "--quant", "q4_k_m", "--calibration", mine)
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("options", [("validate", "--corpus"), ("estimate", "mixtral-8x7b", "--calibration")])
def test_a_pipe_or_a_directory_is_no_file_of_measurements(
    moeplan: Callable[..., Any], tmp_path: Path, options: tuple[str, ...]
) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path, why in ((tmp_path / "pipe.csv", "is not a regular file"), (tmp_path, "is a directory")):
        ran = moeplan(*options, path)
        assert ran.code == 2
        assert ran.err.startswith(f"error: {path}: {why}")


def test_a_report_without_rows_left_out_is_refused(
    inside: Callable[..., Any], corpus: Path, tmp_path: Path
) -> None:
    files = "--output", tmp_path / "c.yaml", "--report", tmp_path / "r.md"
    ran = inside("calibrate", "fit", "--corpus", corpus, "--no-held-out", *files)
    assert ran.code == 2 and "--report" in ran.err
    assert not list(tmp_path.glob("*.md"))


# ── files as people have them, limits that cannot be kept ───────────────────────────────────────

OWN = """\
model,quant,engine,gpu,placement,phase,tokens_per_s
llama-3-8b,q4_k_m,llama.cpp,rtx-4090,gpu,decode,130
llama-3-8b,q8_0,llama.cpp,rtx-3090,gpu,decode,85
mixtral-8x7b,q3_k_m,llama.cpp,rtx-3090,layer-split,decode,60
"""


def _own(corpus: Path, text: str, encoding: str = "utf-8") -> Path:
    corpus.write_text(text, encoding=encoding)
    return corpus


def test_own_runs_need_neither_ids_nor_setups_nor_grades(inside: Callable[..., Any], corpus: Path) -> None:
    told = inside("validate", "--corpus", _own(corpus, OWN), "--by", "gpu", "--format", "json").json
    assert {r["id"]: r["regime"] for r in told["rows"]} == {
        "line 2": "decode/gpu/dense/rtx-4090",
        "line 3": "decode/gpu/dense/rtx-3090",
    }
    assert [s["n_setups"] for s in told["summary"]] == [1, 1]
    (skipped,) = told["skipped"]  # on how many GPUs is not stated, and no default is taken
    assert skipped["id"] == "line 4" and "number of GPUs" in skipped["reason"]


def test_own_runs_can_be_fitted(inside: Callable[..., Any], corpus: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    ran = inside("calibrate", "fit", "--corpus", _own(corpus, OWN), "--output", mine, "--no-held-out")
    assert ran.code == 0 and "from 2 rows of 2 setups" in ran.err
    assert "skipped 1: placement layer-split" in ran.err and "ranges come from the fitted rows" in ran.err
    asked = (
        "llama-3-8b",
        "--gpu",
        "rtx-4090",
        "--quant",
        "q4_k_m",
        "--calibration",
        mine,
        "--format",
        "json",
    )
    speed = inside("estimate", *asked).json["decode"]["tokens_per_s"]
    assert speed["expected"] / speed["low"] > 2 and speed["high"] / speed["expected"] > 1.2


def test_a_date_is_a_day(inside: Callable[..., Any], corpus: Path, tmp_path: Path) -> None:
    files = "--corpus", corpus, "--output", tmp_path / "c.yaml"
    ran = inside("calibrate", "fit", *files, "--date", "tomorrow")
    assert ran.code == 2 and "--date" in ran.err and not (tmp_path / "c.yaml").exists()


def test_a_byte_order_mark_is_no_part_of_a_name(inside: Callable[..., Any], corpus: Path) -> None:
    ran = inside("validate", "--corpus", _own(corpus, CORPUS, "utf-8-sig"), "--format", "json")
    assert {row["id"] for row in ran.json["rows"]} == {"a", "b"}


def test_other_separators_and_missing_columns_are_named(inside: Callable[..., Any], corpus: Path) -> None:
    ran = inside("validate", "--corpus", _own(corpus, CORPUS.replace(",", ";")))
    assert ran.code == 2 and "separated by ';'" in ran.err
    ran = inside("validate", "--corpus", _own(corpus, "phase,placement,quant\ndecode,gpu,q8_0\n"))
    assert ran.code == 2 and "'model', 'engine', 'tokens_per_s'" in ran.err


@pytest.mark.parametrize("cell", ["", "0", "-3"])
@pytest.mark.parametrize("kind", ["speed", "serving"])
def test_a_row_without_a_speed_is_skipped(
    inside: Callable[..., Any], corpus: Path, kind: str, cell: str
) -> None:
    serving = (
        "model,precision,engine,gpu,concurrency,metric,value\n"
        "llama-3-8b,fp8,vLLM,h100-sxm-80gb,4,tpot_ms,130\nllama-3-8b,fp8,vLLM,h100-sxm-80gb,4,tpot_ms,7\n"
    )
    text = {"speed": CORPUS, "serving": serving}[kind].replace("130", cell)
    ran = inside("validate", "--corpus", _own(corpus, text), "--format", "json")
    assert ran.code == 0, ran.err
    assert len(ran.json["rows"]) == 1
    assert "no value above zero" in ran.json["skipped"][0]["reason"]


@pytest.mark.parametrize("column", ["tokens_per_s", "batch", "n_gpus"])
@pytest.mark.parametrize("cell", ["nan", "inf", "1e999"])
def test_a_cell_that_is_no_finite_number_is_named(
    inside: Callable[..., Any], corpus: Path, column: str, cell: str
) -> None:
    head, first, *rest = CORPUS.splitlines()
    cells = dict(zip(head.split(","), first.split(","), strict=True)) | {column: cell}
    ran = inside("validate", "--corpus", _own(corpus, "\n".join([head, ",".join(cells.values()), *rest])))
    assert ran.code == 2 and f"{column}: '{cell}'" in ran.err and ":2" in ran.err


def test_limits_are_not_kept_by_a_file_without_rows(inside: Callable[..., Any], corpus: Path) -> None:
    _own(corpus, CORPUS.splitlines()[0] + "\n")
    ran = inside("validate", "--corpus", corpus)
    assert ran.code == 0 and ran.out == "no row could be predicted\n"
    assert inside("validate", "--corpus", corpus, "--max-median", "0.1").code == 1
    assert inside("validate", "--corpus", corpus, "--min-coverage", "0.1").code == 1


def test_a_share_above_one_is_no_coverage(inside: Callable[..., Any], corpus: Path) -> None:
    ran = inside("validate", "--corpus", corpus, "--min-coverage", "75")
    assert ran.code == 2 and "--min-coverage" in ran.err


def test_a_missed_limit_shows_by_how_little(inside: Callable[..., Any], corpus: Path) -> None:
    told = inside("validate", "--corpus", corpus, "--format", "json").json
    median = told["summary"][0]["median_factor_error_frac"]
    ran = inside("validate", "--corpus", corpus, "--max-median", f"{median * 0.999:.6f}")
    (line,) = (line for line in ran.err.splitlines() if "median factor error" in line)
    shown = [word for word in line.split() if word.endswith("%")]
    assert ran.code == 1 and len(set(shown)) == 2


def test_the_worst_rows_say_what_they_were_and_which_way(inside: Callable[..., Any], corpus: Path) -> None:
    ran = inside("validate", "--corpus", _own(corpus, CORPUS.replace(",130,", ",13,")))
    worst = ran.out.split("\n\n")[1]
    first, second = (worst.index(f"{row} decode/gpu/dense llama-3-8b") for row in "ab")
    assert "q4_k_m, llama.cpp, rtx-4090" in worst[first:second] and "+" in worst[first:second].split()[-1]
    assert "[c]" in ran.err and "docs/accuracy.md" in ran.err


def test_memory_has_no_range_to_lie_in(inside: Callable[..., Any], repo: Path, tmp_path: Path) -> None:
    path = tmp_path / "memory.csv"
    path.write_text(
        "id,setup,model,quant,engine,device_kind,gpu,n_gpus,n_ctx,model_mib,kv_mib,compute_mib,total_mib,grade\n"
        "a,s,llama-3-8b,q8_0,llama.cpp,gpu0,rtx-3090,1,8192,7605,1024,560,,A\n",
        encoding="utf-8",
    )
    ran = inside("validate", "--corpus", path)
    assert ran.code == 0 and "kv/gpu" in ran.out and "in range" not in ran.out
    assert inside("validate", "--corpus", path, "--min-coverage", "0.5").code == 2
