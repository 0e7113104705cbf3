"""What is printed fits a screen of 60 or 80 columns, nothing is lost, and commands paste as they are."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from moeplan.api.plan import run_plan
from moeplan.domain.plan import Plan, PlanRequest
from moeplan.readers.catalog import Catalog

Run = Callable[..., Any]
Narrow = Callable[[int, str], str]

GPT_OSS = "gpt-oss-120b --gpu rtx-3090 --ram-gib 128 --ram-gbs 51 --context 32768"
UNLIKE = "glm-4.5-air --gpu rtx-3090+rtx-3060-12gb --ram-gib 96 --ram-gbs 60"
SERVER = "qwen3-235b-a22b --hardware lambda-8x-h100-sxm --objective throughput"
LONG = "llama-4-maverick-400b-a17b --gpu rtx-3090 --n-gpus 4 --ram-gib 256 --ram-gbs 100"
PLANS = [
    f"plan {GPT_OSS} --what-if vram=+8GiB,ram_gbs=90",
    f"plan {UNLIKE} --no-curves",
    f"plan {SERVER}",
    f"plan {LONG} --no-curves --quant q4_k_m",
    "plan qwen3-30b-a3b --gpu rtx-3060-12gb --ram-gib 8 --ram-gbs 50 --quant q4_k_m",
    "plan gpt-oss-20b --hardware l4,l40s,h100-sxm-80gb --objective cheapest --min-tps 50",
    "plan qwen3-4b --gpu rtx-3060-12gb --ram-gib 64 --engine transformers --quant bf16",
    "plan llama-3.1-8b --gpu rtx-4090 --objective throughput",
]
OTHERS = [
    "estimate deepseek-v3 --hardware rtx-4090 --quant q4_k_m",
    "estimate mixtral-8x7b --hardware rtx-4090 --quant q4_k_m --explain",
    "estimate gpt-oss-120b --gpu rtx-5090 --engine llama.cpp --explain",
    "estimate llama-4-maverick-400b-a17b --gpu rtx-3090 --n-gpus 8 --ram-gib 512",
    "compare qwen3-32b qwen3-30b-a3b llama-4-maverick-400b-a17b --gpu rtx-3090 --ram-gib 64",
    "check tests/data/deployments/k8s-vllm-llama-70b-tp2-near.yaml --hardware a100-sxm-80gb --n-gpus 2",
    "validate --corpus docs/data/sweeps.csv --by gpu,engine",
    "models list --moe",
    "models show llama-4-maverick-400b-a17b",
    "hardware list",
    "hardware show lambda-8x-h100-sxm",
    "quants list",
    "schema",
    "doctor",
]


@cache
def planned(request: PlanRequest) -> Plan:
    """Each plan once: only what is printed of it differs here."""
    return run_plan(request, Catalog())


@pytest.fixture
def narrow(inside: Run, monkeypatch: pytest.MonkeyPatch) -> Narrow:
    """What a command prints on a terminal without colour of that many columns."""
    monkeypatch.setattr("moeplan.cli.output.is_terminal", lambda: True)
    monkeypatch.setattr("moeplan.api.plan.run_plan", lambda request, catalog: planned(request))
    monkeypatch.setenv("NO_COLOR", "1")

    def run(width: int, command: str) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        done = inside(*shlex.split(command))
        assert done.code in (0, 1), done.err
        return str(done.out)

    return run


def prose(text: str) -> list[str]:
    """The lines of ``text`` without commands: what follows a ``# engine, to run it`` up to a blank line."""
    lines, command = [], False
    for line in text.splitlines():
        command = bool(line) and (command or line.startswith("# "))
        if not command or line.startswith("#"):
            lines.append(line)
    return lines


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("command", PLANS + OTHERS)
def test_no_line_is_wider_than_the_screen(narrow: Narrow, command: str, width: int) -> None:
    lines = prose(narrow(width, command))
    assert len(lines) > 5
    # a path is left whole, to be copied; it stands alone, behind a label at most
    wide = [line for line in lines if len(line) > width and len(line.split()) > 3]
    assert not wide


@pytest.mark.parametrize("command", PLANS)
def test_a_narrow_plan_has_every_figure_of_a_wide_one(narrow: Narrow, command: str) -> None:
    def figures(width: int) -> list[str]:
        return sorted(re.findall(r"\d[\d,.]*", "\n".join(prose(narrow(width, command)))))

    assert figures(60) == figures(120)


def test_a_number_keeps_its_unit(narrow: Narrow) -> None:
    for width in range(60, 76):
        text = narrow(width, PLANS[0])
        assert not re.search(r"\d\n +(GiB|MiB|s|ms|tok/s|tokens)\b", text), width


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("command", [PLANS[1], PLANS[2], PLANS[3]])
def test_commands_paste_as_they_are(narrow: Narrow, inside: Run, command: str, width: int) -> None:
    """A shell that is given the whole block, comments and all, runs exactly the commands of the JSON."""
    block = next(part for part in narrow(width, command).split("\n\n") if part.startswith("# "))
    commands = inside(*command.split(), "--format", "json").json["best"]["commands"]
    meant = [shlex.split(c["command"]) for c in commands]
    programs = {words[0] for words in meant}
    shown = "; ".join(f"{name}() {{ printf '%s\\n' {name} \"$@\" END; }}" for name in sorted(programs))
    done = subprocess.run(["bash", "-c", f"{shown}\n{block}"], capture_output=True, text=True, check=True)
    assert [part.split("\n") for part in done.stdout.split("\nEND\n")[:-1]] == meant


LISTS = [
    "models list --moe",
    "hardware list",
    "quants list",
    "schema",
    "validate --corpus docs/data/sweeps.csv --by gpu,engine",
]


@pytest.mark.parametrize("command", LISTS)
def test_a_pipe_gets_whole_rows_unless_columns_says_how_wide(moeplan: Run, command: str) -> None:
    whole = moeplan(*shlex.split(command), env={"COLUMNS": ""}).out
    wide = moeplan(*shlex.split(command), env={"COLUMNS": "200"}).out
    narrow = moeplan(*shlex.split(command), env={"COLUMNS": "60"}).out
    assert "..." not in whole
    # a row for a row of the widest terminal, never more lines
    assert len(whole.splitlines()) <= len(wide.splitlines()) <= len(narrow.splitlines())
    wrapped = [line for line in narrow.splitlines() if len(line) > 60 and len(line.split()) > 3]
    assert not wrapped
    assert max(map(len, whole.splitlines())) > 60


def test_a_file_gets_whole_rows_too(moeplan: Run, tmp_path: Path) -> None:
    moeplan("models", "list", "--output", str(tmp_path / "list"), env={"COLUMNS": ""})
    assert (tmp_path / "list").read_text() == moeplan("models", "list", env={"COLUMNS": ""}).out
