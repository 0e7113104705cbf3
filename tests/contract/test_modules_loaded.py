"""A command loads what it needs and no more: each of these modules costs tens of milliseconds or seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ESTIMATE = "estimate mixtral-8x7b --hardware rtx-4090 --quant q4_k_m --format json"
NEVER = {"gguf", "huggingface_hub", "numpy", "plotille", "psutil", "pynvml", "resvg_py", "rich", "torch"}

PROBE = """
import json, sys
from moeplan.cli.app import main
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
print(json.dumps({"code": code, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


def loaded(repo: Path, arguments: str) -> tuple[int, set[str], str]:
    """Exit code, modules loaded at the end, and stdout of ``moeplan ARGUMENTS`` in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments.split()],
        cwd=repo,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    try:
        answer = json.loads(done.stderr.splitlines()[-1])
    except (IndexError, ValueError):
        pytest.fail(f"moeplan {arguments} did not finish:\n{done.stderr}")
    return answer["code"], set(answer["modules"]), done.stdout


def test_version_loads_nothing_heavy(repo: Path) -> None:
    code, modules, stdout = loaded(repo, "--version")
    assert code == 0
    assert stdout.strip(), "--version printed nothing"
    assert modules & (NEVER | {"yaml"}) == set()


def test_estimate_as_json_loads_nothing_heavy(repo: Path) -> None:
    code, modules, stdout = loaded(repo, ESTIMATE)
    assert code in (0, 1), "1 is an answer too: it does not fit"
    assert json.loads(stdout)["schema"] == "moeplan/estimate@1"
    assert "moeplan.predict" in modules, "the probe did not see the work being done"
    # the catalog is read from configs/parsed.json: a YAML parser costs as much as the interpreter
    assert modules & (NEVER | {"yaml"}) == set()


def test_a_list_as_json_loads_nothing_heavy(repo: Path) -> None:
    code, modules, stdout = loaded(repo, "models list --format json")
    assert code == 0
    assert json.loads(stdout)
    assert modules & NEVER == set()


def test_the_probe_sees_a_heavy_module(repo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import rich\n" + PROBE, "--version"],
        cwd=repo,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "rich" in json.loads(done.stderr.splitlines()[-1])["modules"]
