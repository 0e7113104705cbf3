"""ik_llama.cpp's -mla modes against caches that it logged (2025)."""

from __future__ import annotations

import pytest

from moeplan.engines.latent import with_latent_mode
from moeplan.engines.traits import find_engine
from moeplan.errors import SpecError
from moeplan.memory.buffers import compute_bytes
from moeplan.memory.cache import layer_kv_bytes
from moeplan.units import MIB
from tests.support.problems import session, workload

IK = find_engine("ik_llama.cpp")


@pytest.mark.parametrize(
    ("model", "mode", "context", "kinds", "logged_mib"),
    [
        # 61 layers x 512 x 128 heads x (192 + 128) x 2 B
        ("deepseek-r1", 0, 512, ("f16", "f16"), 2440.0),
        # 61 layers x 8,192 x 128 heads x (192 x 34 / 32 + 128 x 2) B
        ("deepseek-r1", 0, 8192, ("q8_0", "f16"), 28060.0),
        # 64 heads
        ("kimi-k2", 0, 512, ("f16", "f16"), 1220.0),
        # 61 layers x 512 x (512 + 64 + 512) x 2 B
        ("kimi-k2", 1, 512, ("f16", "f16"), 64.81),
    ],
)
def test_caches_that_were_logged(
    model: str, mode: int, context: int, kinds: tuple[str, str], logged_mib: float
) -> None:
    graph, engine = with_latent_mode(session().graph(model, "q8_0"), IK, mode)
    work = workload(
        context_tokens=context, flash_attention=False, kv_type_k=kinds[0], kv_type_v=kinds[1], prompt_tokens=1
    )
    size = sum(layer_kv_bytes(block, work, engine) for block in graph.spec.layer_blocks())
    assert size / MIB == pytest.approx(logged_mib, abs=0.01)


def test_scores_of_the_latent_on_a_gpu() -> None:
    """DeepSeek-R1 at 32,768 tokens, q8_0 cache, -mla 1 -fa on CUDA: 8,470 MiB of compute buffer."""
    plain = session().graph("deepseek-r1", "q4_k_m")
    graph, engine = with_latent_mode(plain, IK, 1)
    work = workload(context_tokens=32768, kv_type_k="q8_0", kv_type_v="q8_0", prompt_tokens=1)
    blocks = graph.spec.layer_blocks()
    size = compute_bytes(graph, blocks, work, engine, with_head=True, on_host=False)
    assert size / MIB == pytest.approx(8470, rel=0.03)
    assert sum(layer_kv_bytes(b, work, engine) for b in blocks) / MIB == pytest.approx(1166.65, abs=0.05)


def test_only_where_there_is_such_an_option() -> None:
    with pytest.raises(SpecError, match="0, 1, 2 or 3; got 4"):
        with_latent_mode(session().graph("deepseek-r1", "q8_0"), IK, 4)
    with pytest.raises(SpecError, match="latent"):
        with_latent_mode(session().graph("llama-3-8b", "q8_0"), IK, 0)
