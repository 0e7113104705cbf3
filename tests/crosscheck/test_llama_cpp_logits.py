"""Compute buffers that hold the logits of every row, against a real llama.cpp binary.

Needs a build: MOEPLAN_LLAMA_BIN names the directory with llama-completion, which reserves logits for a whole
micro-batch (llama-server reserves one row a slot: test_llama_cpp_memory.py).
"""

from __future__ import annotations

import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

from moeplan.api.resolve import Session
from moeplan.engines.traits import find_engine
from moeplan.memory.buffers import compute_bytes
from moeplan.memory.cache import layer_kv_bytes
from moeplan.readers.catalog import Catalog
from moeplan.units import MIB
from tests.support.make_gguf import MODELS, loadable
from tests.support.problems import workload

BIN = Path(os.environ.get("MOEPLAN_LLAMA_BIN", "/nonexistent")) / "llama-completion"
pytestmark = pytest.mark.skipif(not BIN.exists(), reason="MOEPLAN_LLAMA_BIN names no llama.cpp build")

# Builds of October 2026 and later, which are what a fresh build is.
ENGINE = replace(find_engine("llama.cpp"), mixes_inputs=True)


def _allocated(path: Path, context: int, ubatch: int) -> tuple[float, float]:
    """(compute, KV) MiB out of the log of one load."""
    options = ["-c", context, "-ub", ubatch, "-b", 2048, "-n", 0, "-fa", "on", "-p", ""]
    switches = ["-no-cnv", "--no-warmup", "-fit", "off", "-v"]
    command = [str(BIN), "-m", str(path), *map(str, options), *switches]
    for _ in range(5):  # its log is written by a thread that may be cut off at the end
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        log = done.stdout + done.stderr
        compute = re.findall(r"CPU compute buffer size (?:is|=) +([0-9.]+)", log)
        cached = re.findall(r"CPU KV buffer size = +([0-9.]+) MiB", log)
        if compute and cached:
            return float(compute[-1]), sum(map(float, cached))
    raise AssertionError(log[-500:])


def _predicted(path: Path, context: int, ubatch: int) -> tuple[float, float]:
    session = Session(Catalog())
    graph = session.graph(str(path), session.source(str(path)).file_quant)
    work = workload(context_tokens=context, prompt_tokens=1, n_sequences=1, ubatch_tokens=ubatch)
    blocks = graph.spec.layer_blocks()
    compute = compute_bytes(graph, blocks, work, ENGINE, with_head=True)
    return compute / MIB, sum(layer_kv_bytes(block, work, ENGINE) for block in blocks) / MIB


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("context", "ubatch"), [(1280, 96), (3072, 256), (7936, 512)])
def test_a_buffer_with_all_logits_is_what_the_engine_allocates(
    tmp_path: Path, model: str, context: int, ubatch: int
) -> None:
    path = loadable(tmp_path / "model.gguf", model)
    assert _predicted(path, context, ubatch) == pytest.approx(_allocated(path, context, ubatch), abs=0.02)


def test_a_longer_context_can_take_less_memory(tmp_path: Path) -> None:
    """The engine's packing is not monotone: once the mask has room for the logits, they move into it."""
    path = loadable(tmp_path / "model.gguf", "qwen3moe", n_layer=4)
    contexts = range(2560, 4096, 256)
    predicted = [sum(_predicted(path, context, 2048)) for context in contexts]
    falls = [i for i, (a, b) in enumerate(pairwise(predicted)) if b < a]
    assert falls
    for i in (falls[0], falls[0] + 1):
        assert sum(_allocated(path, contexts[i], 2048)) == pytest.approx(predicted[i], abs=0.05)
