"""Memory by hand: every byte once, caches as llama.cpp allocates them."""

from __future__ import annotations

import pytest

from moeplan.domain.model import Block, DenseFfn, GqaAttention, MlaAttention
from moeplan.engines.kv import KV_BITS, cache_layout, group_padding, kv_token_bytes, kv_type
from moeplan.engines.traits import EngineTraits, find_engine
from moeplan.errors import UnknownName
from moeplan.memory.buffers import compute_bytes
from moeplan.memory.report import memory_report, weights_by_tier
from moeplan.predict.placement import mapped, on_cpu, on_gpus, split
from moeplan.units import GIB, MIB
from tests.support.problems import (
    attention,
    dense_spec,
    gpu,
    graph_of,
    machine,
    moe_spec,
    session,
    spec_of,
    workload,
)  # fmt: skip

LLAMA = find_engine("llama.cpp")
VLLM = find_engine("vllm")


def _gqa(heads: int, kv_heads: int, dim: int, window: int | None = None) -> Block:
    return Block(name="b", mixer=attention(heads, kv_heads, dim, window), ffn=DenseFfn(intermediate=1024))


@pytest.mark.parametrize(
    ("block", "n_layers", "expected"),
    [
        # 2 x 8 heads x 128 x 2 B x 32 layers (Mixtral 8x7B)
        (_gqa(32, 8, 128), 32, 131_072),
        # 2 x 8 x 128 x 2 x 80 (Llama-3.1-70B)
        (_gqa(64, 8, 128), 80, 327_680),
        # 2 x 4 x 128 x 2 x 48 (Qwen3-30B-A3B)
        (_gqa(32, 4, 128), 48, 98_304),
        # (512 + 64) x 2 B x 61, one latent for K and V (DeepSeek-V3)
        (
            Block(
                name="b",
                mixer=MlaAttention(
                    n_heads=128, q_lora_rank=1536, kv_lora_rank=512, nope_head_dim=128,
                    rope_head_dim=64, v_head_dim=128,
                ),
                ffn=None,
            ),
            61,
            70_272,
        ),
    ],
)  # fmt: skip
def test_kv_bytes_per_token_of_well_known_models(block: Block, n_layers: int, expected: int) -> None:
    assert n_layers * kv_token_bytes(block, "bf16", "bf16") == expected


def test_old_deepseek_files_cache_every_head() -> None:
    mla = MlaAttention(
        n_heads=16, q_lora_rank=None, kv_lora_rank=512, nope_head_dim=128, rope_head_dim=64, v_head_dim=128,
        expanded_cache=True,
    )  # fmt: skip
    # 16 heads x (192 + 128) x 2 B instead of (512 + 64) x 2 B
    assert kv_token_bytes(Block(name="b", mixer=mla, ffn=None), "f16", "f16") == 16 * 320 * 2


def test_quantised_cache_includes_its_scales() -> None:
    # q8_0 stores 32 elements in 34 bytes, q4_0 in 18
    assert kv_token_bytes(_gqa(8, 1, 32), "q8_0", "q4_0") == 34 + 18
    assert KV_BITS["q8_0"] < KV_BITS["f16"]
    with pytest.raises(UnknownName, match="q8_0"):
        kv_type("q80")


def test_cells_are_padded_and_windows_keep_the_micro_batch() -> None:
    full, local = _gqa(8, 2, 64), _gqa(8, 2, 64, window=128)

    def cells(block: Block, context: int, engine: EngineTraits) -> int:
        return cache_layout(block, workload(context_tokens=context, ubatch_tokens=512), engine)[0]

    # llama.cpp: 1000 -> 1024; window 128 + micro-batch 512 = 640 -> 768
    assert cells(full, 1000, LLAMA) == 1024
    assert cells(local, 4096, LLAMA) == 768
    assert cells(local, 300, LLAMA) == 512
    # vLLM: 16-token pages; a window holds 127 + 8,192 -> 8,320 tokens and a page, or the context if shorter
    assert cells(local, 1000, VLLM) == 1008
    assert cells(local, 8330, VLLM) == 8336
    assert cells(local, 131072, VLLM) == 8336
    assert cells(full, 131072, VLLM) == 131072
    # SGLang and TensorRT-LLM: the whole context
    assert cells(local, 131072, find_engine("sglang")) == 131072


def test_vllm_shares_pages_among_groups_of_equally_many_layers() -> None:
    gemma = session().source("gemma-3-27b").spec
    # 10 full layers set the size of a group: 52 window layers are six groups of ten
    work = workload(engine="vllm")
    assert group_padding(gemma, work, VLLM) == {True: 60 / 52, False: 1}
    # gpt-oss: as many of each sort; llama.cpp: no groups; a model of one sort needs none
    assert set(group_padding(session().source("gpt-oss-20b").spec, work, VLLM).values()) == {1}
    assert group_padding(gemma, work, LLAMA) == {}
    assert group_padding(session().source("llama-3-8b").spec, work, VLLM) == {}
    # --disable-hybrid-kv-cache-manager: whole contexts and no groups
    off = workload(engine="vllm", context_tokens=131072, swa_full=True)
    assert group_padding(gemma, off, VLLM) == {}
    assert {cache_layout(block, off, VLLM) for block in gemma.blocks} == {(131072, 1)}


def test_weights_lie_in_one_place_each() -> None:
    graph = graph_of(moe_spec(n_dense=1))
    hardware = machine((gpu(), gpu()))
    for placement in (
        on_cpu(graph),
        on_gpus(graph, hardware, LLAMA),
        split(graph, hardware, LLAMA, 3, 1),
        split(graph, hardware, LLAMA, graph.spec.n_layers + 1, 2),
        mapped(graph, on_cpu(graph), graph.weights_bytes // 2),
    ):
        assert sum(weights_by_tier(graph, placement).values()) == graph.weights_bytes


def test_a_tied_embedding_is_held_twice_when_the_head_is_elsewhere() -> None:
    block = Block(name="b", mixer=attention(), ffn=DenseFfn(intermediate=1024))
    from msgspec.structs import replace

    graph = graph_of(replace(spec_of((block,), (0, 0)), tied_embeddings=True))
    hardware = machine((gpu(),))
    report = memory_report(graph, hardware, workload(), on_gpus(graph, hardware, LLAMA), LLAMA)
    assert sum(d.weights_bytes for d in report.devices) == graph.weights_bytes
    # the copy is overhead, beside the 512 MiB of the driver and libraries
    assert report.devices[0].overhead_bytes == 512 * MIB + graph.embedding_bytes
    on_host = memory_report(graph, machine(), workload(), on_cpu(graph), LLAMA).devices
    assert sum(d.weights_bytes for d in on_host) == graph.weights_bytes
    assert on_host[0].overhead_bytes < 16 * MIB


def test_shards_of_tensor_parallelism_sum_to_the_whole() -> None:
    graph = graph_of(dense_spec())
    hardware = machine((gpu(), gpu(), gpu()))
    report = memory_report(graph, hardware, workload(engine="vllm"), on_gpus(graph, hardware, VLLM), VLLM)
    shards = [d.weights_bytes for d in report.devices if d.device.startswith("gpu")]
    assert len(shards) == 3 and sum(shards) == graph.weights_bytes
    # 2 KV heads over 3 GPUs: two shards, so that one GPU repeats a head
    kv = [d.kv_bytes for d in report.devices if d.device.startswith("gpu")]
    assert kv[0] == 4 * 4096 * 2 * 2 * 64 * 2 // 2


@pytest.mark.parametrize(
    ("model", "flash", "context", "expected_mib"),
    [
        # llama.cpp's own compute buffers at a micro-batch of 512 (allocation logs, ggml 0.25.3)
        ("llama-3-8b", True, 4096, 266.5),
        ("llama-3-8b", False, 4096, 308),
        ("llama-3-8b", False, 32768, 2156),
        ("llama-3-70b", True, 4096, 282.5),
        ("llama-3-70b", False, 4096, 604),
        ("mixtral-8x7b", True, 4096, 204),
        ("mixtral-8x7b", False, 4096, 308),
        ("mixtral-8x7b", False, 32768, 2156),
    ],
)
def test_compute_buffers_of_real_models(model: str, flash: bool, context: int, expected_mib: float) -> None:
    graph = session().graph(model, "q4_k_m")
    work = workload(context_tokens=context, flash_attention=flash)
    size = compute_bytes(graph, graph.spec.blocks, work, LLAMA, with_head=True)
    assert size / MIB == pytest.approx(expected_mib, rel=0.045)


def test_cpu_only_llama_cpp_keeps_a_second_copy_of_4_bit_matrices() -> None:
    graph = graph_of(dense_spec(), "q4_k_m")
    four_bit = sum(n for layer in graph.layers for t, n in layer.bytes_by_qtype if t == "q4_k")
    assert four_bit > 0
    bare = memory_report(graph, machine(), workload(), on_cpu(graph), LLAMA).devices[0]
    beside = memory_report(graph, machine((gpu(),)), workload(), on_cpu(graph), LLAMA).devices[0]
    assert bare.overhead_bytes - beside.overhead_bytes == four_bit


def test_capacity_takes_reserves_off() -> None:
    from msgspec.structs import replace

    graph = graph_of(dense_spec())
    hardware = replace(machine((gpu(memory_gib=8),)), reserve_vram_bytes=GIB)
    report = memory_report(graph, hardware, workload(), on_gpus(graph, hardware, LLAMA), LLAMA)
    assert report.devices[0].capacity_bytes == 7 * GIB
    assert isinstance(graph.spec.blocks[0].mixer, GqaAttention)
