"""Compute buffers that a real llama.cpp logged (CPU, ggml 0.25.3, November 2026), to 1%.

Official sizes opened without their weights, micro-batch 512: all logits reserved, or one row as a server.
"""

from __future__ import annotations

import pytest

from moeplan.engines.kv import cache_layout
from moeplan.engines.traits import find_engine
from moeplan.memory.buffers import compute_bytes
from moeplan.memory.cache import layer_kv_bytes
from moeplan.units import MIB
from tests.support.problems import session, workload

LLAMA = find_engine("llama.cpp")

# model, context, flash attention, rows of logits (None: all), cache types, compute MiB, KV MiB
LOGGED = [
    ("llama-3-8b", 4096, True, None, "f16", 266.5, 512),
    ("llama-3-8b", 4096, False, None, "f16", 308, 512),
    ("llama-3-8b", 32768, False, None, "f16", 2156, 4096),
    ("llama-3-8b", 4096, True, 1, "f16", 120, 512),
    ("llama-3-8b", 131072, True, 1, "q8_0", 236.09, 8704),
    ("llama-3-70b", 4096, True, 1, "f16", 236.01, 1280),
    ("llama-3-70b", 4096, False, None, "f16", 604.01, 1280),
    ("llama-3-70b", 131072, True, 1, "q8_0", 344.09, 21760),
    ("mixtral-8x7b", 4096, True, 1, "f16", 204, 512),
    ("mixtral-8x7b", 131072, True, 1, "q8_0", 320.12, 8704),
    ("qwen3-30b-a3b", 4096, True, 1, "f16", 92.01, 384),
    ("qwen3-30b-a3b", 32768, False, None, "f16", 2142, 3072),
    ("qwen3-30b-a3b", 131072, True, 1, "q8_0", 216.09, 6528),
    ("deepseek-v3", 4096, True, 1, "f16", 412.01, 274.5),
    ("deepseek-v3", 4096, False, 1, "f16", 1440.01, 274.5),
    ("deepseek-v3", 131072, True, 1, "q8_0", 536.01, 4666.5),
    ("gpt-oss-20b", 4096, True, 1, "f16", 97.14, 114),
    ("gpt-oss-20b", 131072, True, 1, "q8_0", 221.21, 1641.56),
    ("gemma-3-27b", 4096, True, 1, "f16", 171.02, 944),
    ("gemma-3-27b", 4096, False, 1, "f16", 330.51, 944),
    ("gemma-3-27b", 131072, True, 1, "q8_0", 303.18, 5771.5),
]


@pytest.mark.parametrize(("model", "context", "flash", "rows", "kind", "compute", "kv"), LOGGED)
def test_buffers_of_official_models(
    model: str, context: int, flash: bool, rows: int | None, kind: str, compute: float, kv: float
) -> None:
    graph = session().graph(model, "f16")
    work = workload(
        context_tokens=context, flash_attention=flash, output_rows=rows, kv_type_k=kind, kv_type_v=kind
    )
    blocks = graph.spec.layer_blocks()
    size = compute_bytes(graph, blocks, work, LLAMA, with_head=True)
    assert size / MIB == pytest.approx(compute, rel=0.01)
    cache = sum(layer_kv_bytes(block, work, LLAMA) for block in blocks)
    assert cache / MIB == pytest.approx(kv, abs=0.05)


def test_a_unified_cache_reserves_windows_for_every_sequence() -> None:
    # Gemma-3-27B, 32k in 4 slots: 4432 MiB unified (logged); windows hold pad256(1024 x 4 + 512) = 4608
    graph = session().graph("gemma-3-27b", "f16")
    work = workload(context_tokens=8192, n_sequences=4, kv_unified=True)
    blocks = graph.spec.layer_blocks()
    windowed = next(b for b in blocks if getattr(b.mixer, "window_tokens", None))
    assert cache_layout(windowed, work, LLAMA) == (4608, 1)
    assert sum(layer_kv_bytes(b, work, LLAMA) for b in blocks) / MIB == pytest.approx(4432, abs=0.05)
    full = workload(context_tokens=8192, swa_full=True)
    assert cache_layout(windowed, full, LLAMA) == (8192, 1)
