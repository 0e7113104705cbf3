"""`moeplan compare` and `moeplan textbook` as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

REPO = Path(__file__).resolve().parents[2]
PAIR = (
    *("compare", "llama-2-70b", "mixtral-8x7b", "--hardware", "a100-sxm-80gb"),
    *("--n-gpus", "2", "--quant", "bf16"),
)
TEXTBOOK = (
    *("textbook", "--dense-b", "70", "--moe-total-b", "47", "--moe-active-b", "13"),
    *("--hbm-gbs", "2000", "--tflops", "312", "--gpus", "64", "--mfu", "0.45"),
)
# The fields that other programs rely on, written down apart from the code.
ROW = {"model", "hardware", "estimate", "by_batch", "textbook", "lora", "quality"}


def schema(name: str) -> Any:
    return json.loads((REPO / f"configs/schema/{name}.json").read_text(encoding="utf-8"))


def test_compare_as_json(inside: Callable[..., Any]) -> None:
    ran = inside(*PAIR, "--format", "json")
    assert (ran.code, ran.err) == (0, "")
    answer = ran.json
    jsonschema.Draft202012Validator(schema("compare")).validate(answer)
    assert answer["schema"] == "moeplan/compare@1"
    assert [row["model"]["id"] for row in answer["rows"]] == ["llama-2-70b", "mixtral-8x7b"]
    assert all(set(row) >= ROW for row in answer["rows"])
    moe = answer["rows"][1]
    assert moe["lora"]["n_expert_ffns"] == 256
    assert moe["lora"]["unfused"]["trainable_params"] == 226_492_416
    assert moe["lora"]["fused"]["trainable_params"] == 209_715_200
    assert [point["batch"] for point in moe["by_batch"]] == [2**i for i in range(11)]
    assert moe["estimate"]["schema"] == "moeplan/estimate@1"
    assert {(s["metric"], s["score"]) for s in moe["quality"]} >= {("MMLU", 70.6)}
    assert [v["axis"] for v in answer["verdicts"]] == [
        "memory", "single-user speed", "batch throughput", "offload", "training compute", "fine-tuning",
    ]  # fmt: skip
    assert all({"axis", "better", "by", "why"} <= set(v) for v in answer["verdicts"])


def test_the_estimate_of_a_row_is_that_of_estimate(inside: Callable[..., Any]) -> None:
    row = inside(*PAIR, "--batches", "1", "--format", "json").json["rows"][1]
    ask = "estimate mixtral-8x7b --hardware a100-sxm-80gb --n-gpus 2 --quant bf16 --context 4096"
    alone = inside(*ask.split(), "--format", "json").json
    for part in ("decode", "prefill", "memory", "placement"):
        assert row["estimate"][part] == alone[part]


@pytest.mark.parametrize("columns", [60, 80])
def test_compare_fits_the_screen(
    inside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = inside(*PAIR).out
    assert max(map(len, out.splitlines())) <= columns
    assert out.isascii(), "a pipe gets plain text"
    for text in ("A Llama 2 70B", "B Mixtral 8x7B", "B/A", "768: 226,492,416", "512: 209,715,200", "70.6 a"):
        assert text in out
    for axis in ("memory", "single user", "batches", "offload", "training", "fine-tuning"):
        assert any(line.startswith(axis) for line in out.splitlines())


def test_many_models_stand_in_several_blocks(inside: Callable[..., Any]) -> None:
    models = ["qwen3-32b", "qwen3-30b-a3b", "gpt-oss-20b", "mixtral-8x7b", "llama-3.1-8b"]
    ran = inside("compare", *models, "--gpu", "rtx-3090", "--quant", "q4_k_m", "--batches", "1,64")
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= 80
    assert all(f"{letter} tok/s" in ran.out for letter in "ABCDE")


def test_compare_as_markdown(inside: Callable[..., Any]) -> None:
    out = inside(*PAIR, "--format", "markdown").out
    assert out.startswith("### A Llama 2 70B, B Mixtral 8x7B at bf16")
    assert "| fine-tuning | Llama 2 70B 1.6x fewer trained parameters:" in out
    assert "| 1,024 |" in out


def test_a_twin(inside: Callable[..., Any]) -> None:
    ask = "compare mixtral-8x7b --twin total --hardware rtx-4090 --quant q4_k_m --batches 1,8"
    out = inside(*ask.split()).out
    assert "B Dense twin" in out
    assert "is made up: mixtral-8x7b with dense FFNs and equal total size, 49 layers of 6,400" in " ".join(
        out.split()
    )
    rows = inside(*ask.split(), "--format", "json").json["rows"]
    assert (rows[1]["twin"], rows[1]["twin_of"], rows[0]["twin"]) == ("total", "mixtral-8x7b", None)


def test_no_model_that_fits_is_exit_code_1(inside: Callable[..., Any]) -> None:
    # 16 bits of neither fit 24 GiB, and vLLM keeps no weights in RAM
    ask = "compare llama-2-70b mixtral-8x7b --hardware rtx-4090 --quant bf16 --batches 1"
    ran = inside(*ask.split())
    assert ran.code == 1
    assert "does not fit" in ran.out
    one = "compare llama-3.1-8b mixtral-8x7b --hardware rtx-4090 --quant bf16 --batches 1"
    assert inside(*one.split()).code == 0


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--batches", "0"], "--batches: expected a whole number, 1 or more"),
        (["--batches", "1," * 600], "--batches: expected a list"),
        (["--batches", ",".join(map(str, range(1, 70)))], "--batches: expected 1 to 64"),
        (["--lora-rank", "many"], "--lora-rank"),
        (["--mfu", "-1"], "--mfu"),
        (["--context", "max"], "--context max"),
        (["--twin", "equal"], "--twin"),
        (["--level", "2"], "--level"),
        (["mixtral-8x7b"], "named twice"),
        (["no-such-model"], "no-such-model"),
    ],
)
def test_bad_input(inside: Callable[..., Any], options: list[str], what: str) -> None:
    ran = inside(*PAIR, *options)
    assert (ran.code, ran.out) == (2, "")
    assert what in ran.err
    assert "Traceback" not in ran.err


def test_textbook_as_json(inside: Callable[..., Any]) -> None:
    ran = inside(*TEXTBOOK, "--format", "json")
    assert (ran.code, ran.err) == (0, "")
    jsonschema.Draft202012Validator(schema("textbook")).validate(ran.json)
    assert ran.json["inference"]["crossover_batch"] == {"dense": 156, "moe": 564}
    dense = [row for row in ran.json["latency"] if row["model"] == "dense"]
    assert [round(row["tokens_per_s"], 1) for row in dense] == [14.3, 114.3, 457.1, 1828.6]


def test_textbook_as_table_and_markdown(inside: Callable[..., Any]) -> None:
    table = inside(*TEXTBOOK).out
    assert max(map(len, table.splitlines())) <= 80
    for text in ("1.848e9", "9.953e9", "130.4 GiB", "87.5 GiB", "13.0 ms", "batch 564"):
        assert text in " ".join(table.split())
    assert (
        "| 32 | 70.0 | memory | 457 | 47.0 | memory | 681 |" in inside(*TEXTBOOK, "--format", "markdown").out
    )


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--hbm-gbs", "nan"], "--hbm-gbs"),
        (["--tflops", "0"], "--tflops"),
        (["--moe-active-b", "48"], "--moe-active-b"),
        (["--gpus", "1.5"], "--gpus"),
        (["--mfu", "45"], "--mfu"),
        (["--batches", "1,,2"], "--batches"),
    ],
)
def test_textbook_refuses_nonsense(inside: Callable[..., Any], options: list[str], what: str) -> None:
    ran = inside(*TEXTBOOK, *options)
    assert (ran.code, ran.out) == (2, "")
    assert what in ran.err


def test_textbook_needs_its_numbers(inside: Callable[..., Any]) -> None:
    ran = inside("textbook", "--dense-b", "70")
    assert ran.code == 2
    assert "--moe-total-b" in ran.err


def test_speeds_with_weights_in_ram_are_marked(inside: Callable[..., Any]) -> None:
    out = inside(
        "compare", "qwen3-32b", "qwen3-30b-a3b", "--gpu", "rtx-4090", "--quant", "q4_k_m", "--batches", "1,64"
    ).out
    first, many = (next(x for x in out.splitlines() if x.split()[:1] == [n]) for n in ("1", "64"))
    assert "+" not in first and many.split()[2].endswith("+") and not many.split()[5].endswith("+")
    assert "+ part of the weights in RAM" in " ".join(out.split())
