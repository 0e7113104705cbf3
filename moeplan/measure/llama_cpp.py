"""llama.cpp measured on a GGUF file: by its own llama-bench, or through the package xllamacpp."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from moeplan.domain.profile import Sample
from moeplan.errors import MeasurementError
from moeplan.measure.random_gguf import PROMPT_TOKENS
from moeplan.measure.timing import CpuMeter, sample_of

_BINARY = "llama-bench"
OUTPUT_TOKENS = 16


class Engine(NamedTuple):
    """How llama.cpp is run here."""

    kind: str
    """binary or package."""
    path: str
    """Of the binary."""


_Rates = tuple[list[float], dict[float, list[float]]]
"""Tokens per second of prefill, and of decode by the mean number of cached tokens."""


def find_llama_cpp(binary: str | None = None) -> Engine:
    """The binary given, llama-bench on PATH, or the package xllamacpp. Raises MeasurementError."""
    if binary is not None:
        if not (Path(binary).is_file() and os.access(binary, os.X_OK)):
            raise MeasurementError(f"--binary: {binary} is not a program that can be run")
        return Engine("binary", binary)
    found = shutil.which(_BINARY)
    if found is not None:
        return Engine("binary", found)
    if find_spec("xllamacpp") is not None:
        return Engine("package", "")
    raise MeasurementError(
        f"--engine llama.cpp: neither {_BINARY} on PATH nor the Python package xllamacpp was found; "
        "install one of them or name a binary with --binary"
    )


class Child:
    """A process that has llama.cpp (the package) loaded with one file, for as many runs as are asked for."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.cpu_s = 0.0
        """CPU time that it has used; the system adds it to this process's only when it has ended."""
        self._said = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115 - closed below

    def start(self) -> subprocess.Popen[str]:
        """Let the process begin, so that it is ready when it is asked."""
        if self._process is None:
            self._process = subprocess.Popen(
                # -P: a file of the user's working directory must not stand in for a module
                [sys.executable, "-P", "-m", "moeplan.measure.llama_cpp_child"], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=self._said, text=True, env=_environment(),
            )  # fmt: skip
        return self._process

    def ask(self, request: dict[str, str | int], timeout_s: float) -> Any:
        """The answer to ``request``. Raises MeasurementError when the process ends or takes too long."""
        process = self.start()
        assert process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if line:
            answer = json.loads(line)
            self.cpu_s = float(answer["cpu_s"])
            return answer["runs"]
        code = process.wait()
        if late.is_set():
            raise MeasurementError(f"llama.cpp did not finish within {timeout_s:.0f} s")
        self._said.seek(0)
        raise MeasurementError(f"llama.cpp ended with code {code}: {_last_line(self._said.read())}")

    def close(self) -> None:
        """End the process and free what it holds."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
        self._said.close()


def measure_gguf(
    engine: Engine,
    model: Path,
    threads: int,
    *,
    vocab: int,
    repeats: int = 4,
    more_decode: int = 0,
    prompt_tokens: int = PROMPT_TOKENS,
    output_tokens: int = OUTPUT_TOKENS,
    timeout_s: float = 300.0,
    facts: dict[str, str | int | float] | None = None,
    child: Child | None = None,
) -> list[Sample]:
    """Tokens per second of prefill, of decode after it, and of decode with next to no cache.

    Raises MeasurementError; never longer than ``timeout_s``. ``more_decode``: repeats of the last, 0: none
    (llama-bench has as many of all).
    ``child``: of this file and number of threads, where it is measured more than once (package only).
    """
    meter, used_s = CpuMeter(), child.cpu_s if child else 0.0
    request: dict[str, str | int] = {
        "model": str(model), "threads": threads, "repeats": repeats, "short": more_decode,
        "prompt_tokens": prompt_tokens, "output_tokens": output_tokens, "vocab": vocab,
        "context": prompt_tokens + output_tokens + 64,
    }  # fmt: skip
    if engine.kind == "binary":
        prefill, decode = _with_binary(engine, request, timeout_s)
    else:
        prefill, decode = _with_package(child, request, timeout_s)
    if not prefill or not decode:
        raise MeasurementError("llama.cpp gave no timings of prompt and generation")
    load = meter.foreign_cores(child.cpu_s - used_s if child else 0.0)
    setup: dict[str, str | int | float] = {
        "engine": "llama.cpp", "threads": threads, "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens, **(facts or {"model": model.name}),
    }  # fmt: skip
    samples = [sample_of("engine prefill", setup, "tokens/s", prefill, load)]
    for depth, rates in decode.items():
        samples.append(sample_of("engine decode", setup | {"depth": depth}, "tokens/s", rates, load))
    return samples


def _with_package(child: Child | None, request: dict[str, str | int], timeout_s: float) -> _Rates:
    used = child or Child()
    try:
        rows = used.ask(request, timeout_s)
    finally:
        if child is None:
            used.close()
    prefill = [row["prompt_n"] / row["prompt_ms"] * 1e3 for row in rows[: int(request["repeats"])]]
    decode: dict[float, list[float]] = {}
    for row in rows:
        # the first new token comes out of the prompt's own pass: it is counted and takes no time
        steps = row["predicted_n"] - 1
        if steps > 0:
            rates = decode.setdefault(row["prompt_n"] + row["predicted_n"] / 2, [])
            rates.append(steps / row["predicted_ms"] * 1e3)
    return prefill, decode


def _with_binary(engine: Engine, request: dict[str, str | int], timeout_s: float) -> _Rates:
    options = {
        "-m": "model", "-t": "threads", "-p": "prompt_tokens", "-n": "output_tokens", "-r": "repeats",
    }  # fmt: skip
    command = [engine.path, "-ngl", "0", "-o", "json"]
    for option, name in options.items():
        command += [option, str(request[name])]
    prefill: list[float] = []
    decode: dict[float, list[float]] = {}
    # first with the cache that a prompt leaves, as the package has it
    for row in sorted(_bench(command, request, timeout_s), key=lambda row: -int(row.get("n_depth", 0))):
        rates = [float(rate) for rate in row.get("samples_ts") or [row["avg_ts"]]]
        depth = int(row.get("n_depth", 0))
        if row.get("n_gen"):
            decode.setdefault(depth + row["n_gen"] / 2, []).extend(rates)
        elif not depth:
            prefill += rates
    return prefill, decode


def _bench(command: list[str], request: dict[str, str | int], timeout_s: float) -> Any:
    """What llama-bench prints, after a prompt too where it knows how (``-d``, from April 2025 on)."""
    try:
        return _json_of([*command, "-d", f"0,{request['prompt_tokens']}"], timeout_s)
    except MeasurementError as error:
        if "argument: -d" not in str(error):
            raise
    return _json_of(command, timeout_s)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _last_line(said: str) -> str:
    last = [line for line in said.splitlines() if line.strip()][-1:] or ["no message"]
    return last[0].strip()[:200]


def _json_of(command: list[str], timeout_s: float) -> Any:
    """The JSON that a program prints. Raises MeasurementError when it fails, hangs or prints no JSON."""
    try:
        done = subprocess.run(
            command, input="", capture_output=True, text=True, timeout=timeout_s, check=False,
            env=_environment(), errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"{Path(command[0]).name} did not finish within {timeout_s:.0f} s") from None
    except OSError as error:
        raise MeasurementError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        raise MeasurementError(f"llama.cpp ended with code {done.returncode}: {_last_line(done.stderr)}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise MeasurementError("llama.cpp printed something else than JSON") from None
