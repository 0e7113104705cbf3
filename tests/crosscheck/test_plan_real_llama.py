"""Planned flags given to a real llama.cpp, on random-weight files; buffers where the plan put them.

Needs a build: MOEPLAN_LLAMA_BIN names the directory with llama-bench and llama-server. With the RPC backend
(-DGGML_RPC=ON, and ggml-rpc-server beside them) two more devices are served on the loopback, so that layers
and experts land on "GPUs" of their own.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moeplan.api.resolve import Session
from moeplan.domain.graph import ModelGraph
from moeplan.domain.workload import Placement
from moeplan.engines.traits import find_engine
from moeplan.memory.report import memory_report
from moeplan.predict.placement import on_cpu
from moeplan.predict.problem import Problem
from moeplan.readers.catalog import Catalog
from moeplan.readers.engine_tables import EngineTables
from moeplan.search.commands import commands
from moeplan.search.layout import hosted_last, one_gpu, several_gpus, to_placement
from tests.support.make_gguf import loadable
from tests.support.problems import calibration, gpu, machine, workload

BIN = Path(os.environ.get("MOEPLAN_LLAMA_BIN", "/nonexistent"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BIN / "llama-bench").exists(), reason="MOEPLAN_LLAMA_BIN names no llama.cpp build"
    ),
]
LLAMA = find_engine("llama.cpp")
N_LAYERS = 6


def planned(path: Path, layout: object, n_gpus: int) -> tuple[Problem, Placement]:
    """The problem of a small machine and the placement of ``layout`` (None: CPU only)."""
    session = Session(Catalog())
    source = session.source(str(path))
    graph: ModelGraph = session.graph(str(path), source.file_quant)
    box = machine(tuple(gpu(8) for _ in range(n_gpus)))
    work = workload(context_tokens=256, prompt_tokens=32, output_tokens=4, ubatch_tokens=64)
    placement = on_cpu(graph) if layout is None else to_placement(layout, graph, LLAMA)  # type: ignore[arg-type]
    return Problem(graph, box, work, LLAMA, calibration()), placement


def words_of(problem: Problem, placement: Placement, path: Path, purpose: str) -> list[str]:
    """The planned command, run from the build."""
    made = commands(problem, placement, EngineTables().get, str(path))
    text = next(c.text for c in made if c.engine == "llama.cpp" and c.purpose == purpose)
    words = shlex.split(text)
    return [str(BIN / words[0]), *words[1:]]


LAYOUTS = {
    "cpu": None,
    "gpu": one_gpu(N_LAYERS, 0, 0),
    "layers": one_gpu(N_LAYERS, 2, 2),
    "experts": one_gpu(N_LAYERS, 0, 4),
    "mixed": one_gpu(N_LAYERS, 1, 4),
    "last experts": hosted_last(N_LAYERS, 4),
}


@pytest.mark.parametrize("name", sorted(LAYOUTS))
@pytest.mark.parametrize("model", ["mixtral", "deepseek2", "gpt-oss"])
def test_llama_bench_takes_the_planned_flags(model: str, name: str, tmp_path: Path) -> None:
    path = loadable(tmp_path / f"{model}.gguf", model, n_layer=N_LAYERS)
    problem, placement = planned(path, LAYOUTS[name], 1)
    words = words_of(problem, placement, path, "measure")
    done = subprocess.run(
        [*words, "-r", "1", "-t", "1"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert "tg4" in done.stdout


def test_llama_server_takes_the_planned_flags(tmp_path: Path) -> None:
    path = loadable(tmp_path / "mixtral.gguf", "mixtral", n_layer=N_LAYERS)
    for layout in (LAYOUTS["mixed"], LAYOUTS["last experts"]):
        problem, placement = planned(path, layout, 1)
        words = [*words_of(problem, placement, path, "serve"), "--port", str(free_port()), "--threads", "1"]
        assert "listening" in said_by(words, "listening")


@contextmanager
def served() -> Iterator[list[str]]:
    """Two RPC servers on the loopback: their addresses."""
    running, addresses = [], []
    try:
        for _ in range(2):
            port = free_port()
            command = [str(BIN / "ggml-rpc-server"), "-H", "127.0.0.1", "-p", str(port), "-t", "1"]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            addresses.append(f"127.0.0.1:{port}")
        time.sleep(1.0)
        yield addresses
    finally:
        for process in running:
            process.terminate()
            process.wait(10)


@pytest.mark.skipif(not (BIN / "ggml-rpc-server").exists(), reason="the build has no RPC server")
@pytest.mark.parametrize("model", ["mixtral", "deepseek2", "gpt-oss"])
def test_buffers_land_where_the_plan_said(model: str, tmp_path: Path) -> None:
    path = loadable(tmp_path / f"{model}.gguf", model, n_layer=N_LAYERS)
    layouts = [
        several_gpus(N_LAYERS, 0, (2, N_LAYERS), (0, 0)),
        several_gpus(N_LAYERS, 0, (4, N_LAYERS), (3, 1)),
        several_gpus(N_LAYERS, 1, (3, N_LAYERS), (1, 2)),
    ]
    for layout in layouts:
        problem, placement = planned(path, layout, 2)
        with served() as addresses:
            words = words_of(problem, placement, path, "measure")
            words += ["--rpc", ",".join(addresses), "-r", "1", "-t", "1", "-v"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-800:]
        logged = buffers(done.stderr, "model buffer size", addresses)
        cache = buffers(done.stderr, "KV buffer size", addresses)
        report = memory_report(problem.graph, problem.hardware, problem.workload, placement, LLAMA)
        for device in report.devices:
            if not device.device.startswith("gpu"):
                continue
            # logged to 0.01 MiB; tensors are aligned to 128 bytes, and there are fewer than 200 of them
            assert logged[device.device] == pytest.approx(device.weights_bytes / 2**20, abs=0.04), placement
            assert cache.get(device.device, 0.0) == pytest.approx(device.kv_bytes / 2**20, abs=0.02)


def buffers(log: str, what: str, addresses: list[str]) -> dict[str, float]:
    """MiB by device up to the first context: a cache with windows is logged as two."""
    found: dict[str, float] = {}
    first = log.split("compute buffer size", 1)[0]
    for address, size in re.findall(rf"\[([\d.:]+)\] {what}\s*=\s*([\d.]+) MiB", first):
        device = f"gpu{addresses.index(address)}"
        found[device] = found.get(device, 0.0) + float(size)
    return found


def said_by(words: list[str], until: str) -> str:
    """What a server says before and with ``until``, or all that it said."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines, end = [], time.monotonic() + 60
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append(line)
            if until in line or time.monotonic() > end:
                break
    finally:
        process.kill()
        process.communicate()
    return "".join(lines)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
