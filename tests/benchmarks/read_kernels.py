"""Why a STREAM-like program and `moeplan profile` read small pages at different rates: the same memory, with
the loads of each.

    python tests/benchmarks/read_kernels.py

Needs gcc, torch and a CPU with AVX-512. Prints GB/s of one thread by memory: torch's sum (what profile
reports), a loop of 512-bit loads (as in a STREAM-like program built for such a CPU) and one of 256-bit loads.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

from moeplan.measure.pages import large_pages  # noqa: E402

N_BYTES = 512 << 20
ROUNDS = 7
_SOURCE = """
#include <immintrin.h>
#include <stddef.h>
long long wide(const char *p, size_t n) {
  __m512i s[4] = {0};
  for (size_t i = 0; i + 256 <= n; i += 256)
    for (int k = 0; k < 4; k++) s[k] = _mm512_add_epi64(s[k], _mm512_loadu_si512(p + i + 64 * k));
  return _mm512_reduce_add_epi64(s[0] + s[1] + s[2] + s[3]);
}
long long narrow(const char *p, size_t n) {
  __m256i s[4] = {0};
  for (size_t i = 0; i + 128 <= n; i += 128)
    for (int k = 0; k < 4; k++)
      s[k] = _mm256_add_epi64(s[k], _mm256_loadu_si256((const void *)(p + i + 32 * k)));
  __m256i t = s[0] + s[1] + s[2] + s[3];
  return t[0] + t[1] + t[2] + t[3];
}
"""


def kernels(folder: str) -> dict[str, Callable[[int], int]]:
    """The two loops by name, called with an address."""
    source, library = Path(folder) / "kernels.c", Path(folder) / "kernels.so"
    source.write_text(_SOURCE)
    subprocess.run(
        ["gcc", "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o", str(library)], check=True
    )
    loaded, found = ctypes.CDLL(str(library)), {}
    for name, bits in (("wide", "512-bit loads"), ("narrow", "256-bit loads")):
        function = getattr(loaded, name)
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_longlong
        found[bits] = lambda address, function=function: int(function(address, N_BYTES))
    return found


def rates(words: Any, loops: dict[str, Callable[[int], int]]) -> dict[str, float]:
    """GB/s of every way to read ``words``, in turn; the median counts."""
    ways: dict[str, Callable[[], object]] = {"torch sum": words.sum}
    ways |= {name: lambda loop=loop: loop(words.data_ptr()) for name, loop in loops.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - started)
    return {name: round(N_BYTES / median(seconds) / 1e9, 1) for name, seconds in taken.items()}


def main() -> None:
    """A line for each kind of memory."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="moeplan-kernels-") as folder:
        loops = kernels(folder)
        for name in ("an allocation", "another", "a third"):
            held = torch.ones(N_BYTES // 8, dtype=torch.int64)
            print(json.dumps({"memory": name, **rates(held, loops)}))
        buffer: mmap.mmap | None = large_pages(N_BYTES)
        if buffer is not None:
            print(
                json.dumps(
                    {"memory": "large pages", **rates(torch.frombuffer(buffer, dtype=torch.int64), loops)}
                )
            )


if __name__ == "__main__":
    main()
