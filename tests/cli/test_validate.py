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
