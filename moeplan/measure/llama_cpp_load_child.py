"""Loads a GGUF file through xllamacpp in a process of its own; what it logs tells the buffers' sizes.

``python -m moeplan.measure.llama_cpp_load_child`` reads one line of JSON settings on stdin. A dry load
reserves every buffer and reads no tensor (llama.cpp's ``no_alloc``).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

BASE = "moeplan: resident before loading, KiB:"

_FLASH = {True: "LLAMA_FLASH_ATTN_TYPE_ENABLED", False: "LLAMA_FLASH_ATTN_TYPE_DISABLED"}


def parameters(settings: dict[str, Any]) -> Any:
    """``settings`` (the fields of LoadSettings) as xllamacpp's parameters."""
    xllamacpp = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.n_ctx = settings["context_tokens"]
    params.n_batch = settings["batch_tokens"]
    params.n_ubatch = settings["ubatch_tokens"]
    params.n_parallel = settings["n_sequences"]
    params.kv_unified = settings["kv_unified"]
    params.swa_full = settings["swa_full"]
    params.no_extra_bufts = not settings["repack"]
    kinds = xllamacpp.ggml_type
    params.cache_type_k = getattr(kinds, "GGML_TYPE_" + settings["kv_type_k"].upper())
    params.cache_type_v = getattr(kinds, "GGML_TYPE_" + settings["kv_type_v"].upper())
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, _FLASH[settings["flash_attention"]])
    modes = xllamacpp.llama_load_mode
    mapped = settings["mmap"] and not settings["dry"]
    params.load_mode = modes.LLAMA_LOAD_MODE_MMAP if mapped else modes.LLAMA_LOAD_MODE_NONE
    params.no_alloc = settings["dry"]
    # A server of embeddings asks for every row, as the programs that are no server do.
    params.embedding = settings["all_rows"]
    params.n_gpu_layers = settings["gpu_layers"]
    params.verbosity = 5
    params.warmup = False
    params.fit_params = False
    params.cache_ram_mib = 0
    params.port = 0
    return params


def _pause_at_faults() -> None:
    """Let the thread that computes on buffers which were never allocated stand still.

    The server tries a first decode as soon as all is reserved. The log is written by another thread, which
    a crash would cut off.
    """
    os.environ["GGML_NO_BACKTRACE"] = "1"
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    for fault in (signal.SIGSEGV, signal.SIGABRT):
        libc.signal(fault, ctypes.cast(libc.pause, ctypes.c_void_p))


def _resident_kib() -> int:
    """Resident size of this interpreter in KiB; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def main() -> None:
    """Load, then wait to be ended: the parent reads the log and this process's memory meanwhile."""
    settings = json.loads(sys.stdin.readline())
    if settings["dry"]:
        _pause_at_faults()
    wanted = parameters(settings)
    os.write(2, f"{BASE} {_resident_kib()}\n".encode())
    server = import_module("xllamacpp").Server(wanted)
    os.write(2, b"moeplan: loaded\n")
    sys.stdin.read()
    del server
    os._exit(0)


if __name__ == "__main__":
    main()
