"""A real llama.cpp (the package xllamacpp): as an engine in a process of its own, and as a server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from moeplan.errors import MeasurementError
from moeplan.measure.endpoint import Endpoint
from moeplan.measure.llama_cpp import Child, Engine, measure_gguf
from moeplan.measure.random_gguf import Shape, write_random_gguf

pytestmark = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs the package xllamacpp")

PACKAGE = Engine("package", "")
MOE = Shape(hidden=256, layers=2, heads=4, kv_heads=2, width=256, vocab=512, n_experts=4, n_active=2)
SERVE = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.port = sys.argv[1], 2048, 2, 0
params.cpuparams.n_threads = 1
params.verbosity = 0
server = xllamacpp.Server(params)
print("at", server.listening_address, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("qtype", ["f16", "q8_0", "q4_k", "q6_k"])
def test_llama_cpp_runs_the_random_files(tmp_path: Path, qtype: str) -> None:
    path = tmp_path / "random.gguf"
    write_random_gguf(path, MOE, qtype)
    prefill, decode = measure_gguf(
        PACKAGE, path, 1, vocab=512, repeats=2, prompt_tokens=16, output_tokens=8, timeout_s=60
    )
    assert prefill.n == decode.n == 2
    assert prefill.low > 0 and decode.low > 0


def test_a_file_that_cannot_be_loaded_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(MeasurementError, match=r"llama\.cpp ended with code"):
        measure_gguf(PACKAGE, path, 1, vocab=512, timeout_s=60)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "random.gguf"
    write_random_gguf(path, MOE, "q8_0")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        address = next((line.split()[1] for line in process.stdout if line.startswith("at ")), "")
        yield address if address.startswith("http") else f"http://{address}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_real_server_is_measured(server: str) -> None:
    samples = Endpoint(server, timeout_s=60).measure(2, prompt_tokens=8, output_tokens=6, rounds=1)
    by_name = {s.name: s for s in samples}
    assert set(by_name) == {"time to first token", "time per output token", "server throughput"}
    assert all(s.low > 0 for s in samples)
    assert by_name["time to first token"].n == 2


def test_a_loaded_file_is_run_again_and_its_time_is_our_own(tmp_path: Path) -> None:
    path = tmp_path / "random.gguf"
    write_random_gguf(path, MOE, "q8_0")
    child = Child()
    try:
        measure_gguf(PACKAGE, path, 1, vocab=512, repeats=1, prompt_tokens=16, child=child, timeout_s=60)
        first_s = child.cpu_s
        path.unlink()  # what is loaded needs it no more
        measure_gguf(PACKAGE, path, 1, vocab=512, repeats=1, prompt_tokens=16, child=child, timeout_s=60)
        assert child.cpu_s > first_s > 0
    finally:
        child.close()


def test_a_child_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "random.gguf"
    write_random_gguf(path, MOE, "q8_0")
    with pytest.raises(MeasurementError, match="did not finish within"):
        measure_gguf(PACKAGE, path, 1, vocab=512, timeout_s=0.01)
