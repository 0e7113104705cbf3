"""What a real llama.cpp allocates for a GGUF file: it is loaded, its log is read, and it is ended.

Either through the Python package xllamacpp or with a llama-server binary. Nothing is decoded.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from moeplan.errors import MeasurementError, MissingExtra
from moeplan.measure.llama_cpp_load_child import BASE
from moeplan.units import MIB

_DONE = "sched_reserve: reserve took"
_PAUSE_S = 0.1
# After the last buffer is logged the process still faults pages in; its peak settles within this.
_SETTLE_S = 0.3


class LoadSettings(NamedTuple):
    """One load. ``context_tokens`` is the engine's n_ctx, all sequences together."""

    model: str
    context_tokens: int
    ubatch_tokens: int = 512
    batch_tokens: int = 2048
    n_sequences: int = 1
    kv_unified: bool = False
    swa_full: bool = False
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    flash_attention: bool = True
    repack: bool = True
    mmap: bool = True
    gpu_layers: int = 0
    dry: bool = False
    """Reserve everything and read no tensor (xllamacpp): weights and resident size are then 0 and None."""
    all_rows: bool = False
    """Reserve logits for every row of a micro-batch (xllamacpp), which is then as large as a batch."""


class Allocated(NamedTuple):
    """Bytes as logged, summed over the buffers of each kind; ``peak_rss_bytes`` None where unknown.

    The peak is the engine's own: what a Python that hosts it took before it loaded anything is off.
    """

    weights: Mapping[str, int]
    """By buffer: ``CPU_Mapped``, ``CPU_REPACK``, ``CUDA0`` ..."""
    kv_bytes: int
    state_bytes: int
    compute: Mapping[str, int]
    output_bytes: int
    peak_rss_bytes: int | None
    build: int = 0
    """Number of the build, 0 where it does not say."""


def load(settings: LoadSettings, *, binary: str | None = None, timeout_s: float = 120.0) -> Allocated:
    """Load the file and read back what was allocated.

    Raises MissingExtra without an engine, MeasurementError when it fails or takes longer than
    ``timeout_s``.
    """
    command, text = _command(settings, binary)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        try:
            with path.open("w") as log:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, env=environment
                )
        except OSError as error:
            raise MeasurementError(f"cannot start {command[0]}: {error}") from error
        try:
            _tell(process, text)
            peak = _wait(process, path, timeout_s)
        finally:
            process.kill()
            process.communicate()
        return parse_log(_read(path), None if settings.dry else peak, dry=settings.dry)


def parse_log(log: str, peak_rss_bytes: int | None = None, *, dry: bool = False) -> Allocated:
    """Buffers out of an engine's log. Raises MeasurementError when the compute buffer is not in it.

    The buffers of a dry load's caches are empty; what they would take is logged apart.
    """
    weights: dict[str, int] = {}
    compute: dict[str, int] = {}
    kv = state = output = 0
    for line in log.splitlines():
        if line.startswith(BASE) and peak_rss_bytes is not None:
            peak_rss_bytes -= int(line.removeprefix(BASE)) * 1024
        if dry and (planned := _planned(line)):
            kv, state = kv + planned[0], state + planned[1]
        found = _buffer(line)
        if found is None:
            continue
        device, kind, size = found
        if kind == "model":
            weights[device] = weights.get(device, 0) + size
        elif kind == "compute":
            compute[device] = size
        elif kind == "KV":
            kv += size
        elif kind == "RS":
            state += size
        elif kind == "output":
            output += size
    said = re.search(r"build_info: b(\d+)", log)
    build = int(said.group(1)) if said else 0
    if not compute:
        raise MeasurementError("llama.cpp did not get as far as its compute buffer: " + _last_words(log))
    return Allocated(weights, kv, state, compute, output, peak_rss_bytes, build)


def _buffer(line: str) -> tuple[str, str, int] | None:
    """(device, kind, bytes) of a line such as ``...:  CPU KV buffer size =  144.00 MiB``."""
    head, mark, tail = line.partition(" buffer size = ")
    words = head.split()
    if not mark or len(words) < 2:
        return None
    try:
        return words[-2], words[-1], round(float(tail.split()[0]) * MIB)
    except (ValueError, IndexError):
        return None


def _planned(line: str) -> tuple[int, int] | None:
    """(KV, state) bytes of a line such as ``... llama_kv_cache: size =   96.00 MiB (  4096 cells, ...``."""
    head, mark, tail = line.partition(": size = ")
    if not mark or " MiB (" not in tail:
        return None
    size = round(float(tail.split()[0]) * MIB)
    if head.endswith("llama_kv_cache"):
        return size, 0
    return (0, size) if head.endswith("llama_memory_recurrent") else None


def _command(settings: LoadSettings, binary: str | None) -> tuple[list[str], str]:
    if binary is None:
        if find_spec("xllamacpp") is None:
            raise MissingExtra("xllamacpp", "engine")
        module = "moeplan.measure.llama_cpp_load_child"
        return [sys.executable, "-m", module], json.dumps(settings._asdict()) + "\n"
    if settings.dry or settings.all_rows:
        raise MeasurementError("a llama-server binary has no option to reserve without loading")
    if not (Path(binary).is_file() and os.access(binary, os.X_OK)):
        raise MeasurementError(f"{binary} is not a program that can be run")
    s = settings
    options = [
        "-m", s.model, "-c", s.context_tokens, "-b", s.batch_tokens, "-ub", s.ubatch_tokens,
        "-np", s.n_sequences, "-ctk", s.kv_type_k, "-ctv", s.kv_type_v, "-ngl", s.gpu_layers,
        "-fa", "on" if s.flash_attention else "off", "--no-warmup", "--port", 0, "-v",
        *(["--kv-unified"] if s.kv_unified else []), *(["--swa-full"] if s.swa_full else []),
        *([] if s.repack else ["--no-repack"]), *([] if s.mmap else ["--no-mmap"]),
    ]  # fmt: skip
    return [binary, *map(str, options)], ""


def _tell(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(text)
        process.stdin.flush()
    except OSError:
        pass  # it has ended already; its log says why


def _wait(process: subprocess.Popen[str], log: Path, timeout_s: float) -> int | None:
    """Until all buffers are logged; the peak resident size by then."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if _DONE in _read(log):
            time.sleep(_SETTLE_S)
            return _peak_rss_bytes(process.pid)
        if process.poll() is not None:
            raise MeasurementError("llama.cpp ended early: " + _last_words(_read(log)))
        time.sleep(_PAUSE_S)
    raise MeasurementError(f"llama.cpp did not load the file within {timeout_s:.0f} s")


def _read(log: Path) -> str:
    return log.read_text(errors="replace")


def _peak_rss_bytes(pid: int) -> int | None:
    """VmHWM of a Linux process; None elsewhere."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _last_words(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower() or "failed" in line.lower()]
    return (told or lines or ["it said nothing"])[-1][:200]
