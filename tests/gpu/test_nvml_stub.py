"""The real `pynvml` against a stub of NVIDIA's library, compiled here: no GPU is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
PROBE = """
import json, os
import msgspec
from moeplan.hw.facts import nvidia_driver
from moeplan.hw.nvml import find_nvidia_gpus, find_throttling
gpus, notes = find_nvidia_gpus(dict(os.environ))
print(json.dumps({"gpus": [msgspec.to_builtins(g) for g in gpus], "notes": notes,
                  "throttling": find_throttling(), "driver": nvidia_driver()}))
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler on Linux")
    folder = tmp_path_factory.mktemp("nvml")
    source = REPO / "tests" / "support" / "nvml_stub.c"
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(source)], check=True)
    return folder


@pytest.fixture
def ask(library: Path) -> Callable[..., Any]:
    def run(mode: str, **environment: str) -> Any:
        env = os.environ | {"LD_LIBRARY_PATH": str(library), "STUB_MODE": mode, "PYTHONPATH": python_path()}
        env.pop("CUDA_VISIBLE_DEVICES", None)
        done = subprocess.run(
            [sys.executable, "-c", PROBE], env=env | environment, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    return run


def python_path() -> str:
    return os.pathsep.join([str(REPO), *filter(None, sys.path)])


def test_two_gpus_with_a_power_limit(ask: Callable[..., Any]) -> None:
    found = ask("two")
    first, second = found["gpus"]
    assert [first["name"], second["name"]] == ["NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3090"]
    assert first["memory_bytes"] == 25_757_220_864
    assert first["used_bytes"] == 2**30
    assert first["power_limit_w"] == 300.0
    assert second["power_limit_w"] is None, "not supported is not zero"
    # 10501 MHz x 2 transfers x 384 bits / 8 = 1008.096 GB/s, the data sheet's 1008
    assert first["bandwidth_bytes_per_s"] == 1_008_096_000_000
    assert first["compute_capability"] == "8.9"
    assert found["driver"] == "999.42"
    assert found["throttling"] == ["GPU 0 is throttled by the power cap"]


def test_mig_slices_stand_for_their_board(ask: Callable[..., Any]) -> None:
    slices = ask("mig")["gpus"]
    assert [s["name"] for s in slices] == ["NVIDIA H100 80GB HBM3 MIG 3g.40gb"] * 2
    assert [s["mig_slices"] for s in slices] == [3, 3]
    assert [s["memory_bytes"] for s in slices] == [42_949_672_960] * 2


def test_a_mismatched_driver_is_said(ask: Callable[..., Any]) -> None:
    found = ask("mismatch")
    assert found["gpus"] == []
    assert len(found["notes"]) == 1
    assert "could not be read" in found["notes"][0] and "version mismatch" in found["notes"][0]
    assert found["driver"] == ""


def test_a_lost_gpu_is_left_out_and_said(ask: Callable[..., Any]) -> None:
    found = ask("lost")
    assert [g["name"] for g in found["gpus"]] == ["NVIDIA GeForce RTX 4090"]
    assert found["notes"] == ["GPU 1 does not answer and is left out: GPU is lost"]


def test_the_environment_chooses(ask: Callable[..., Any]) -> None:
    found = ask("two", CUDA_VISIBLE_DEVICES="GPU-00000002")
    assert [g["name"] for g in found["gpus"]] == ["NVIDIA GeForce RTX 3090"]


def test_profile_gpu_says_what_it_looked_for(library: Path) -> None:
    """Drivers show two GPUs, torch (where installed) is built for the CPU: exit code 2, both are named."""
    env = os.environ | {"LD_LIBRARY_PATH": str(library), "STUB_MODE": "two", "PYTHONPATH": python_path()}
    done = subprocess.run(
        [sys.executable, "-m", "moeplan", "profile", "--gpu", "--quick"],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    expected = (
        ["RTX 4090", "RTX 3090", "torch"]
        if "torch.accelerator" in done.stderr
        else ["torch", "moeplan[profile]"]
    )
    assert [word for word in expected if word not in done.stderr] == []
