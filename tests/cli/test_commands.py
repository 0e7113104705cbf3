"""The other commands: catalog, schemas, doctor, version, help."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from moeplan._version import __version__
from moeplan.report.schemas import SCHEMAS

REPO = Path(__file__).resolve().parents[2]


def test_version(inside: Callable[..., Any]) -> None:
    ran = inside("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"moeplan {__version__}\n", "")


def test_no_command_is_a_wrong_use(inside: Callable[..., Any]) -> None:
    ran = inside()
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: moeplan")


def test_help_is_about_this_program_alone(inside: Callable[..., Any]) -> None:
    ran = inside("--help")
    assert ran.code == 0
    assert "completion" not in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


def test_help_of_estimate_has_sections_and_units(inside: Callable[..., Any]) -> None:
    out = inside("estimate", "--help").out
    assert re.findall(r"^(\w+):$", out, re.MULTILINE) == [
        "Arguments",
        "Machine",
        "Workload",
        "Engine",
        "Placement",
        "Options",
        "Examples",
    ]
    for option, unit in [("--ram-gbs", "GB/s"), ("--ram-gib", "GiB"), ("--prompt", "tokens")]:
        (line,) = re.findall(rf"^  {option} .*$", out, re.MULTILINE)
        assert unit in line


# ── models ──────────────────────────────────────────────────────────────────────────────────────


def test_models_list(inside: Callable[..., Any]) -> None:
    rows = inside("models", "list", "--format", "json").json["models"]
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(list((REPO / "configs/models").glob("*.yaml")))
    mixtral = by_id["mixtral-8x7b"]
    # the published weights hold 46,702,792,704 parameters
    assert mixtral["params_total"] == 46_702_792_704
    assert (mixtral["n_experts"], mixtral["n_experts_active"]) == (8, 2)
    assert by_id["llama-3-8b"]["moe"] is False


def test_counts_of_the_list_are_those_of_the_estimate(inside: Callable[..., Any]) -> None:
    rows = inside("models", "list", "--moe", "--max-params-b", "30", "--format", "json").json["models"]
    assert rows
    for row in rows[:3]:
        shown = inside("models", "show", row["id"], "--format", "json").json["model"]
        assert shown["params_total"] == row["params_total"]
        assert shown["params_active"] == row["params_active"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--moe"], lambda row: row["moe"]),
        (["--dense"], lambda row: not row["moe"]),
        (["--max-params-b", "9"], lambda row: row["params_total"] <= 9e9),
        (["--family", "mixtral"], lambda row: row["family"] == "Mixtral"),
        (["MIXTRAL"], lambda row: "mixtral" in json.dumps(row).lower()),
    ],
)
def test_models_are_filtered(
    inside: Callable[..., Any], options: list[str], wanted: Callable[[Any], bool]
) -> None:
    everything = inside("models", "list", "--format", "json").json["models"]
    found = inside("models", "list", *options, "--format", "json").json["models"]
    assert 0 < len(found) < len(everything)
    assert all(wanted(row) for row in found)


def test_nothing_found_is_an_answer(inside: Callable[..., Any]) -> None:
    ran = inside("models", "list", "no-such-model-anywhere")
    assert (ran.code, ran.out) == (0, "no model matches\n")


def test_a_broken_file_of_the_user_is_a_note(inside: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "broken.yaml").write_text("id: [")
    ran = inside("models", "list", "--configs", tmp_path)
    assert ran.code == 0
    assert ran.err.startswith("skipped: ")
    assert "broken.yaml" in ran.err
    assert "mixtral-8x7b" in ran.out


def test_models_show(inside: Callable[..., Any]) -> None:
    shown = inside("models", "show", "mixtral-8x7b", "--format", "json").json
    # the safetensors form; a GGUF of the same name keeps norms and routers in f32
    ask = "estimate mixtral-8x7b --hardware rtx-4090 --quant bf16 --engine vllm --format json"
    estimated = inside(*ask.split()).json
    assert shown["model"] == estimated["model"]
    assert shown["architecture"]["layout"] == "32x moe"
    assert sum(shown["params_by_role"].values()) == 46_702_792_704
    # 32 layers x (K + V) x 8 heads x 128 x 2 bytes
    assert shown["kv_bytes_per_token"] == 32 * 2 * 8 * 128 * 2
    sizes = {size["quant"]: size["weights_bytes"] for size in shown["sizes"]}
    assert sizes["bf16"] == 93_405_585_408
    assert sizes["q8_0"] > sizes["q4_k_m"] > sizes["q2_k"]
    assert shown["sources"]


def test_models_show_in_words(inside: Callable[..., Any]) -> None:
    out = inside("models", "show", "mixtral-8x7b").out
    assert "32 x moe  GQA 32/8 heads of 128  2 of 8 experts of 14,336" in out
    assert "128.0 KiB per token in f16" in out
    assert max(map(len, out.splitlines())) <= 100


# ── hardware ────────────────────────────────────────────────────────────────────────────────────


def test_hardware_list(inside: Callable[..., Any]) -> None:
    rows = inside("hardware", "list", "--format", "json").json["hardware"]
    kinds = {kind: sum(row["kind"] == kind for row in rows) for kind in ("gpu", "cpu", "link", "storage")}
    for kind, n in kinds.items():
        assert n == len(list((REPO / "configs/hardware" / kind).glob("*.yaml")))


def test_hardware_filters(inside: Callable[..., Any]) -> None:
    rows = inside("hardware", "list", "--kind", "gpu", "--min-memory-gib", "80", "--format", "json").json
    assert rows["hardware"]
    assert all(row["memory_bytes"] >= 80 * 2**30 for row in rows["hardware"])


def test_hardware_show(inside: Callable[..., Any]) -> None:
    shown = inside("hardware", "show", "rtx-4090", "--format", "json").json
    # NVIDIA's data sheet: 24 GB, 1008 GB/s
    assert shown["kind"] == "gpu"
    assert shown["hardware"]["memory_bytes"] == 24 * 2**30
    assert shown["hardware"]["bandwidth_bytes_per_s"] == 1008e9
    machine = inside("hardware", "show", "rtx-4090", "--machine", "--format", "json").json
    assert machine["kind"] == "node"
    assert machine["hardware"]["assumptions"], "the host is an assumption"
    for name in ("ryzen-9-7950x", "nvme-gen4", "pcie-4.0-x16"):
        assert inside("hardware", "show", name).code == 0


def test_hardware_detect_makes_a_machine_that_is_read_again(
    inside: Callable[..., Any], tmp_path: Path
) -> None:
    target = tmp_path / "mine.yaml"
    assert inside("hardware", "detect", "--yaml", "--output", target).code == 0
    found = inside("hardware", "detect", "--format", "json").json["hardware"]
    again = inside("hardware", "show", target, "--format", "json").json["hardware"]
    for key in ("gpus", "host"):
        assert again[key] == found[key]


def test_hardware_detect(inside: Callable[..., Any]) -> None:
    ran = inside("hardware", "detect", "--format", "json")
    assert ran.code == 0
    import psutil

    # a control group may allow less than the machine has
    assert 0 < ran.json["hardware"]["host"]["ram_bytes"] <= psutil.virtual_memory().total


# ── quants, schemas, doctor ─────────────────────────────────────────────────────────────────────


def test_quants(inside: Callable[..., Any]) -> None:
    rows = inside("quants", "list", "--format", "json").json["quants"]
    by_id = {row["id"]: row for row in rows}
    # llama.cpp's block_q4_K: 256 weights in 144 bytes
    assert by_id["q4_k_m"]["bits_per_weight"] == 144 * 8 / 256
    assert {row["id"] for row in inside("quants", "list", "q8", "--format", "json").json["quants"]} < set(
        by_id
    )
    assert "q4_k (256 weights in 144 bytes)" in inside("quants", "show", "Q4_K_M").out


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas(inside: Callable[..., Any], name: str) -> None:
    schema = inside("schema", name).json
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"] == f"moeplan {name}"


def test_schemas_are_listed(inside: Callable[..., Any]) -> None:
    out = inside("schema").out
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(SCHEMAS)


def test_doctor(inside: Callable[..., Any]) -> None:
    ran = inside("doctor", "--format", "json")
    assert ran.code == 0, ran.out
    assert ran.json["self_test"]["ok"] is True
    assert ran.json["catalog"]["models"] > 100
    assert ran.json["packages"]["typer"]
    assert "self-test" in inside("doctor").out


def test_doctor_fails_when_its_answer_is_wrong(inside: Callable[..., Any], tmp_path: Path) -> None:
    text = (REPO / "configs/models/mixtral-8x7b.yaml").read_text(encoding="utf-8")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/mixtral-8x7b.yaml").write_text(text.replace("vocab_size: 32000", "vocab_size: 32001"))
    ran = inside("doctor", "--configs", tmp_path)
    assert ran.code == 1
    assert "self-test    FAILED" in ran.out
