"""llama.cpp measured on a GGUF file: by its own llama-bench, or through the package xllamacpp."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from moeplan.domain.profile import Sample
from moeplan.errors import MeasurementError
from moeplan.measure.timing import CpuMeter, sample_of

_BINARY = "llama-bench"
PROMPT_TOKENS, OUTPUT_TOKENS = 128, 16
_FACTS = ("bytes", "quant", "arch")


class Engine(NamedTuple):
    """How llama.cpp is run here."""

    kind: str
    """binary or package."""
    path: str
    """Of the binary."""


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
) -> list[Sample]:
    """Tokens per second of prefill and decode. Raises MeasurementError; never longer than ``timeout_s``.

    ``more_decode``: repeats of decode beyond those after a prompt (llama-bench has as many of both).
    """
    meter = CpuMeter()
    run = _with_binary if engine.kind == "binary" else _with_package
    request: dict[str, str | int] = {
        "model": str(model), "threads": threads, "repeats": repeats, "short": more_decode,
        "prompt_tokens": prompt_tokens, "output_tokens": output_tokens, "vocab": vocab,
        "context": prompt_tokens + output_tokens + 64,
    }  # fmt: skip
    prefill, decode = run(engine, request, timeout_s)
    load = meter.foreign_cores()
    setup: dict[str, str | int | float] = {
        "engine": "llama.cpp", "threads": threads, "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens, **(facts or {"model": model.name}),
    }  # fmt: skip
    return [
        sample_of("engine prefill", setup, "tokens/s", prefill, load),
        sample_of("engine decode", setup, "tokens/s", decode, load),
    ]


def _with_package(
    engine: Engine, request: dict[str, str | int], timeout_s: float
) -> tuple[list[float], list[float]]:
    command = [sys.executable, "-m", "moeplan.measure.llama_cpp_child"]
    rows = _json_of(command, json.dumps(request), timeout_s)
    prefill = [row["prompt_n"] / row["prompt_ms"] * 1e3 for row in rows[: int(request["repeats"])]]
    # the first new token comes out of the prompt's own pass
    decode = [row["predicted_n"] / row["predicted_ms"] * 1e3 for row in rows]
    return prefill, decode


def _with_binary(
    engine: Engine, request: dict[str, str | int], timeout_s: float
) -> tuple[list[float], list[float]]:
    options = {
        "-m": "model", "-t": "threads", "-p": "prompt_tokens", "-n": "output_tokens", "-r": "repeats",
    }  # fmt: skip
    command = [engine.path, "-ngl", "0", "-o", "json"]
    for option, name in options.items():
        command += [option, str(request[name])]
    prefill: list[float] = []
    decode: list[float] = []
    for row in _json_of(command, "", timeout_s):
        target = decode if row.get("n_gen") else prefill
        target += [float(rate) for rate in row.get("samples_ts") or [row["avg_ts"]]]
    if not prefill or not decode:
        raise MeasurementError(f"{engine.path} printed no timings of prompt and generation")
    return prefill, decode


def _json_of(command: list[str], text: str, timeout_s: float) -> Any:
    """The JSON that a program prints. Raises MeasurementError when it fails, hangs or prints no JSON."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=timeout_s, check=False,
            env=environment, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"{Path(command[0]).name} did not finish within {timeout_s:.0f} s") from None
    except OSError as error:
        raise MeasurementError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no message"]
        raise MeasurementError(f"llama.cpp ended with code {done.returncode}: {last[0].strip()[:200]}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise MeasurementError("llama.cpp printed something else than JSON") from None
