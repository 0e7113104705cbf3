"""The cost law on models small enough to add up by hand (tests/support/problems.py has the numbers)."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from moeplan.cost.coverage import busiest_rank, expected_experts, prompt_experts
from moeplan.cost.timing import step_time
from moeplan.cost.work import Step, attention_work, layer_work
from moeplan.domain.model import Block, MlaAttention
from moeplan.domain.result import PhaseTime
from moeplan.domain.workload import Placement
from moeplan.engines.traits import find_engine
from moeplan.predict.phases import decode_step, decode_time, prefill_time
from moeplan.predict.placement import mapped, on_cpu, on_gpus, split, streamed
from moeplan.provenance import Ledger
from tests.support.problems import (
    attention,
    calibration,
    dense_spec,
    gpu,
    graph_of,
    machine,
    moe_spec,
    workload,
)  # fmt: skip

LLAMA = find_engine("llama.cpp")
SPEC = dense_spec()


def test_coverage_is_exact_at_one_token_and_saturates() -> None:
    assert expected_experts(8, 2, 1) == 2.0
    # 8 x (1 - 0.75^2) = 8 x 0.4375
    assert expected_experts(8, 2, 2) == pytest.approx(3.5)
    # measured by llama.cpp on random routers: 49.6 of 128 at batch 8; the formula gives 51.6
    assert expected_experts(128, 8, 8) == pytest.approx(51.6, abs=0.05)
    assert expected_experts(8, 2, 10_000) == pytest.approx(8.0)
    assert expected_experts(4, 4, 1) == 4.0
    assert expected_experts(8, 2, 0) == 0.0


def test_a_prompt_of_gpt_oss_meets_fewer_experts_than_uniform_routing() -> None:
    # llama.cpp PR 15346: 95, 91, 72, 74, 73, 78, 87 and 95 of 128 in 512 tokens of code, 83 on average
    assert prompt_experts("gpt_oss", 128, 4, 512) == pytest.approx(83, abs=1)
    met = [prompt_experts("gpt_oss", 128, 4, n) for n in (1, 2, 8, 64, 512, 8192)]
    assert met == sorted(met)
    assert met[0] == 4.0
    assert all(a <= expected_experts(128, 4, n) for a, n in zip(met, (1, 2, 8, 64, 512, 8192), strict=True))
    assert prompt_experts("qwen3_moe", 128, 8, 512) == expected_experts(128, 8, 512)


def test_only_the_tokens_of_one_text_are_alike() -> None:
    graph = graph_of(moe_spec())
    weights = next(layer for layer in graph.layers if layer.expert_bytes)
    block = graph.spec.blocks[weights.block]

    def read(step: Step, architecture: str) -> float:
        return layer_work(block, weights, step, workload(), architecture).expert_bytes

    prompt, batch = Step(64, 1, 0, 1), Step(64, 64, 0, 64)
    assert read(prompt, "gpt_oss") < 0.9 * read(prompt, "mixtral")
    assert read(batch, "gpt_oss") == read(batch, "mixtral")


def test_the_busiest_of_gpus_with_whole_experts() -> None:
    # One token to one of two experts, an expert a GPU: one GPU has all the work, twice the mean.
    assert busiest_rank(2, 1, 1, 2) == (2.0, 2.0)
    # One token to 2 of 4, two experts a GPU: each GPU has Binomial(2, 1/2). The larger of two is 0, 1 or 2
    # with F^2 = 1/16, 9/16, 1: expected 15/16 + 7/16 = 1.375 against a mean of 1.
    assert busiest_rank(4, 2, 1, 2) == (pytest.approx(1.375), pytest.approx(1.375))
    assert busiest_rank(8, 2, 64, 1) == (1.0, 1.0)
    # every expert is touched: bytes are even, rows are not yet
    experts, rows = busiest_rank(64, 8, 1000, 8)
    assert experts == 1.0
    assert 1.0 < rows < 1.1


@pytest.mark.parametrize(
    ("n_experts", "n_active", "n_tokens", "n_ranks"), [(128, 8, 1, 8), (128, 8, 8, 8), (64, 4, 32, 4)]
)
def test_the_busiest_gpu_of_random_routing(
    n_experts: int, n_active: int, n_tokens: int, n_ranks: int
) -> None:
    rng, runs = random.Random(5), 400
    experts = rows = 0
    for _ in range(runs):
        chosen = [e for _ in range(n_tokens) for e in rng.sample(range(n_experts), n_active)]
        experts += max(Counter(e * n_ranks // n_experts for e in set(chosen)).values())
        rows += max(Counter(e * n_ranks // n_experts for e in chosen).values())
    touched = expected_experts(n_experts, n_active, n_tokens)
    seen = experts / runs / (touched / n_ranks), rows / runs / (n_active * n_tokens / n_ranks)
    assert busiest_rank(n_experts, n_active, n_tokens, n_ranks) == pytest.approx(seen, rel=0.05)


def test_attention_work_of_one_decoded_token() -> None:
    block = Block(name="b", mixer=attention(n_heads=8, n_kv_heads=2, head_dim=64), ffn=None)
    step = Step(n_tokens=1, n_sequences=1, first_depth=999, n_head_rows=1)
    n_bytes, flop = attention_work(block, step, workload())
    # 1000 visible tokens x 2 heads x (64 + 64) elements x 2 B
    assert n_bytes == 1000 * 2 * 128 * 2
    # 2 x 8 heads x (64 + 64) x 1000
    assert flop == 2 * 8 * 128 * 1000


def test_attention_of_a_prompt_is_causal() -> None:
    block = Block(name="b", mixer=attention(), ffn=None)
    step = Step(n_tokens=100, n_sequences=1, first_depth=0, n_head_rows=1)
    # token i sees i + 1 tokens: 1 + 2 + ... + 100 = 5050
    assert attention_work(block, step, workload())[1] == 2 * 8 * 128 * 5050


def test_window_caps_what_is_read_and_computed() -> None:
    block = Block(name="b", mixer=attention(window=10), ffn=None)
    step = Step(n_tokens=100, n_sequences=1, first_depth=0, n_head_rows=1)
    n_bytes, flop = attention_work(block, step, workload())
    assert n_bytes == 10 * 2 * 128 * 2
    # 1 + 2 + ... + 10 = 55 and then 90 tokens that see 10 each: 955; the mean formula is exact to 1/2 token
    assert flop == pytest.approx(2 * 8 * 128 * 955, rel=0.01)


def test_mla_reads_its_latent_and_counts_absorbed_flops_in_decode() -> None:
    mla = MlaAttention(
        n_heads=128, q_lora_rank=1536, kv_lora_rank=512, nope_head_dim=128, rope_head_dim=64, v_head_dim=128
    )
    block = Block(name="b", mixer=mla, ffn=None)
    n_bytes, flop = attention_work(block, Step(1, 1, 99, 1), workload())
    assert n_bytes == 100 * (512 + 64) * 2
    assert flop == 2 * 128 * (576 + 512) * 100
    # prefill: 192-wide keys, 128-wide values
    assert attention_work(block, Step(2, 1, 0, 1), workload())[1] == 2 * 128 * (192 + 128) * 3


def test_moe_layer_reads_active_experts_at_batch_one() -> None:
    graph = graph_of(moe_spec())
    weights, block = graph.layers[0], graph.spec.blocks[1]
    one = layer_work(block, weights, Step(1, 1, 0, 1), workload())
    assert one.expert_bytes == weights.expert_bytes * 2 / 8
    assert one.expert_flop == 2 * weights.expert_elements * 2 / 8
    two = layer_work(block, weights, Step(2, 2, 0, 2), workload())
    assert two.expert_bytes == pytest.approx(weights.expert_bytes * 3.5 / 8)
    assert two.expert_flop == 2 * one.expert_flop
    assert two.dense_bytes == one.dense_bytes


def _decode(graph, hardware, placement, **changes) -> PhaseTime:  # type: ignore[no-untyped-def]
    return decode_time(graph, hardware, workload(**changes), placement, LLAMA, calibration())


def test_decode_on_a_gpu_is_bytes_over_bandwidth_plus_the_fixed_part() -> None:
    graph = graph_of(dense_spec())
    hardware = machine((gpu(bandwidth_gbps=500),))
    time = _decode(graph, hardware, on_gpus(graph, hardware, LLAMA))
    weights = sum(layer.dense_bytes for layer in graph.layers) + graph.head_bytes
    # depth 512 + 64, the new token sees 577: 4 layers x 577 x 2 x 128 x 2 B
    cache = 4 * 577 * 2 * 128 * 2
    logits = graph.spec.vocab_size * 4 / 20e9
    # 1 ms a step, 0.1 ms a layer; the arithmetic is hundreds of times faster and hides behind the reads
    assert time.seconds == pytest.approx(1e-3 + 4e-4 + (weights + cache) / 500e9 + logits, rel=1e-6)
    assert time.bytes_read == pytest.approx(weights + cache)
    # 2 FLOP per matrix element, 2 x 8 x 128 per visible token and layer
    elements = sum(layer.dense_elements for layer in graph.layers) + graph.head_elements
    assert time.flop == pytest.approx(2 * elements + 4 * 2 * 8 * 128 * 577)


def test_cpu_adds_bytes_and_flops() -> None:
    graph = graph_of(dense_spec())
    hardware = machine(ram_gbps=50, cores=8)
    time = _decode(graph, hardware, on_cpu(graph))
    weights = sum(layer.dense_bytes for layer in graph.layers) + graph.head_bytes
    elements = sum(layer.dense_elements for layer in graph.layers) + graph.head_elements
    cache_bytes, attention_flop = 4 * 577 * 2 * 128 * 2, 4 * 2 * 8 * 128 * 577
    # cache at half of RAM bandwidth, 8 cores x 10 GFLOP/s
    expected = 1.4e-3 + weights / 50e9 + 2 * elements / 80e9 + cache_bytes / 25e9 + attention_flop / 80e9
    assert time.seconds == pytest.approx(expected)


def test_experts_in_ram_cost_their_active_bytes_and_a_wait_per_layer() -> None:
    graph = graph_of(moe_spec(n_layers=4))
    hardware = machine((gpu(),), ram_gbps=50, pcie_gbps=20)
    all_gpu = dict(_decode(graph, hardware, on_gpus(graph, hardware, LLAMA)).terms)
    hosted = dict(_decode(graph, hardware, split(graph, hardware, LLAMA, graph.spec.n_layers + 1, 4)).terms)
    active_bytes = 4 * graph.layers[0].expert_bytes * 2 / 8
    active_flop = 4 * 2 * graph.layers[0].expert_elements * 2 / 8
    assert hosted["CPU experts"] == pytest.approx(active_bytes / 50e9 + active_flop / (80e9 * 0.5))
    assert hosted["CPU expert synchronisation"] == pytest.approx(4e-4)
    # 2 ways x 4 layers x 1 token x 512 x 4 B
    assert hosted["activations over PCIe"] == pytest.approx(2 * 4 * 512 * 4 / 20e9)
    assert hosted["gpu0 weights"] == all_gpu["gpu0 weights"]
    assert "gpu0 experts" not in hosted


def test_large_prompts_copy_cpu_experts_to_the_gpu_and_small_ones_do_not() -> None:
    graph = graph_of(moe_spec())
    hardware = machine((gpu(),))
    placement = split(graph, hardware, LLAMA, graph.spec.n_layers + 1, 4)
    small = dict(
        prefill_time(graph, hardware, workload(prompt_tokens=31), placement, LLAMA, calibration()).terms
    )
    large = dict(
        prefill_time(graph, hardware, workload(prompt_tokens=32), placement, LLAMA, calibration()).terms
    )
    assert "weights over PCIe" not in small and "CPU experts" in small
    assert "weights over PCIe" in large and "CPU experts" not in large
    touched = expected_experts(8, 2, 32) / 8
    copied = 4 * graph.layers[0].expert_bytes * touched
    # mapped: one core of the host reads them at 16 GB/s for a link of 20, both going on together
    assert large["weights over PCIe"] == pytest.approx(copied * ((1 / 20e9) ** 4 + (1 / 16e9) ** 4) ** 0.25)


def test_ik_llama_streams_later_for_sparser_models() -> None:
    graph = graph_of(moe_spec(n_experts=8, n_active=2))
    hardware = machine((gpu(),))
    placement = split(graph, hardware, LLAMA, graph.spec.n_layers + 1, 4)
    ik = find_engine("ik_llama.cpp")
    # 32 x 8 / 2 = 128
    for prompt, streams in ((127, False), (128, True)):
        terms = prefill_time(
            graph, hardware, workload(prompt_tokens=prompt), placement, ik, calibration()
        ).terms
        assert ("weights over PCIe" in dict(terms)) is streams


def test_streamed_weights_cross_the_link_every_step() -> None:
    graph = graph_of(dense_spec())
    hardware = machine((gpu(),), pcie_gbps=20)
    terms = dict(_decode(graph, hardware, streamed(graph)).terms)
    weights = sum(layer.dense_bytes for layer in graph.layers) + graph.head_bytes
    cache = 4 * 577 * 2 * 128 * 2
    assert terms["weights over PCIe"] == pytest.approx((weights + cache) / 20e9)


def test_disk_reads_the_whole_dense_file_but_only_missed_experts_times_a_factor() -> None:
    hardware = machine(disk_gbps=5)
    dense = graph_of(dense_spec())
    on_disk = mapped(dense, on_cpu(dense), dense.weights_bytes - 1)
    # of the input embedding only one row is read, and that stays in RAM
    reread = dense.weights_bytes - dense.embedding_bytes
    assert dict(_decode(dense, hardware, on_disk).terms)["disk reads"] == pytest.approx(reread / 5e9)
    moe = graph_of(moe_spec())
    half = moe.weights_bytes - 2 * moe.layers[0].expert_bytes
    terms = dict(_decode(moe, hardware, mapped(moe, on_cpu(moe), half)).terms)
    # two layers' experts missing, 2 of 8 read, times 5
    assert terms["disk reads"] == pytest.approx(2 * moe.layers[0].expert_bytes * 2 / 8 * 5 / 5e9)


def test_layer_split_counts_layers_as_ngl_does() -> None:
    graph = graph_of(dense_spec(n_layers=4))
    hardware = machine((gpu(),))
    assert split(graph, hardware, LLAMA, 5, 0).kind == "gpu"
    four = split(graph, hardware, LLAMA, 4, 0)
    # the output layer counts: 4 = output + the last three layers
    assert four.dense_tiers == ("ram", "gpu0", "gpu0", "gpu0") and four.head_tier == "gpu0"
    one = split(graph, hardware, LLAMA, 1, 0)
    assert set(one.dense_tiers) == {"ram"} and one.head_tier == "gpu0"
    assert split(graph, hardware, LLAMA, 0, 0).kind == "cpu"


def test_terms_sum_to_the_step_and_the_ledger_changes_nothing() -> None:
    graph = graph_of(moe_spec(n_dense=1))
    hardware = machine((gpu(),))
    placement: Placement = split(graph, hardware, LLAMA, 4, 2)
    ledger = Ledger()
    step = decode_step(workload(), graph.spec)
    plain = step_time(graph, hardware, workload(), placement, LLAMA, calibration(), step)
    told = step_time(graph, hardware, workload(), placement, LLAMA, calibration(), step, ledger)
    assert plain == told
    assert sum(seconds for _, seconds in plain.terms) == pytest.approx(plain.seconds)
    (root,) = ledger.terms
    assert root.value == plain.seconds
    assert sum(child.value for child in root.children) == pytest.approx(root.value)
    assert plain.bound in dict(plain.terms)
