"""What must hold for the catalog's own machines and models: no estimate faster than its machine, no cliff.

A sample of engines, machines, models and types, each at many sizes of the work.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import pytest
from msgspec.structs import replace

from moeplan.api.estimate import solve
from moeplan.domain.model import MoeFfn
from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.domain.result import Estimate
from tests.support.problems import session

# (model, machine, GPUs, quantisation, engine, options that fix the placement)
WHOLE = [
    ("llama-3.1-8b", "rtx-a6000", 1, "q4_k_m", "llama.cpp", {"placement": "gpu"}),
    ("llama-3.1-8b", "titan-rtx", 1, "iq2_xxs", "ollama", {"placement": "gpu"}),
    ("llama-3.1-8b", "h200-sxm-141gb", 1, "gguf-f16", "llama.cpp", {"placement": "gpu"}),
    ("llama-3.1-70b", "2x-rtx-a6000", 1, "q4_k_m", "ik_llama.cpp", {"placement": "layer-split"}),
    ("qwen3-30b-a3b", "rtx-5090", 1, "q4_k_m", "llama.cpp", {"placement": "gpu"}),
    ("gpt-oss-20b", "dgx-spark", 1, "mxfp4", "llama.cpp", {"placement": "unified"}),
    ("gpt-oss-20b", "rx-7900-xtx", 1, "mxfp4", "llama.cpp", {"placement": "gpu"}),
    ("deepseek-v2-lite", "a100-sxm-80gb", 1, "q8_0", "llama.cpp", {"placement": "gpu"}),
    ("kimi-linear-48b-a3b", "h200-sxm-141gb", 1, "exl2-4.0bpw", "exllamav2", {"placement": "gpu"}),
    ("gemma-2-9b", "mac-studio-m4-max-64gb", 1, "mlx-4bit", "mlx", {"placement": "unified"}),
    ("llama-3.1-8b", "rtx-4090", 1, "awq-int4-g128", "ktransformers", {"placement": "gpu"}),
    ("llama-3.1-8b", "rtx-4090", 1, "bf16", "transformers", {"placement": "gpu"}),
    ("llama-3.1-8b", "l4", 1, "fp8", "vllm", {"placement": "gpu"}),
    ("mixtral-8x7b", "h100-sxm-80gb", 4, "bf16", "vllm", {"placement": "tensor-parallel"}),
    ("qwen3-30b-a3b", "mi300x", 1, "bf16", "sglang", {"placement": "gpu"}),
    ("switch-base-32", "h100-sxm-80gb", 1, "bf16", "tensorrt-llm", {"placement": "gpu"}),
    ("jamba-1.5-mini", "h100-sxm-80gb", 2, "fp8", "tensorrt-llm", {"placement": "tensor-parallel"}),
    ("llama-3.1-8b", "ryzen-9-7950x", 1, "q4_k_m", "llama.cpp", {"placement": "cpu"}),
]
SPLIT = [
    ("llama-3.1-70b", "rtx-3090", 1, "q4_k_m", "llama.cpp", {"gpu_layers": 30}),
    ("mixtral-8x7b", "rtx-4070", 1, "q4_k_m", "llama.cpp", {"cpu_moe": "all"}),
    ("qwen3-30b-a3b", "rtx-3060-12gb", 1, "q8_0", "ik_llama.cpp", {"cpu_moe": "all"}),
    ("deepseek-v3", "rtx-5090", 1, "q4_k_m", "ktransformers", {"cpu_moe": "all"}),
]
Case = tuple[str, str, int, str, str, dict[str, object]]
CASES: list[Case] = [*WHOLE, *SPLIT]
IDS = ["-".join(map(str, case[:5])) for case in CASES]
cases = pytest.mark.parametrize("case", CASES, ids=IDS)
whole = pytest.mark.parametrize("case", WHOLE, ids=IDS[: len(WHOLE)])


def told(case: Case, **work: int) -> Estimate:
    return _told(CASES.index(case), tuple(work.items()))


@cache
def _told(index: int, work: tuple[tuple[str, int], ...]) -> Estimate:
    model, hardware, n_gpus, quant, engine, placed = CASES[index]
    request = replace(
        EstimateRequest(model=model, hardware=hardware, quant=quant, engine=engine, context=8192),
        machine=MachineFlags(n_gpus=n_gpus) if n_gpus > 1 else MachineFlags(),
        calibration="none",
        **placed,
        **dict(work),
    )
    return solve(session().problem(request, []), request, [], advise=False)[1]


@cases
def test_numbers_are_numbers_and_parts_are_sums(case: Case) -> None:
    for batch in (1, 9, 64):
        answer = told(case, batch=batch)
        for span in (answer.decode_step_s, answer.prefill_s):
            assert 0 < span.low <= span.expected <= span.high < math.inf
        for time in (answer.decode, answer.prefill):
            assert all(0 <= seconds < math.inf for _, seconds in time.terms)
            assert sum(seconds for _, seconds in time.terms) == pytest.approx(time.seconds)
        assert sum(d.weights_bytes for d in answer.memory.devices) == answer.weights_bytes


@whole
def test_no_step_is_shorter_than_reading_what_it_needs(case: Case) -> None:
    for batch in (1, 2, 8, 9, 16):
        answer = told(case, batch=batch)
        graph, hardware = session().graph(case[0], answer.quant), answer.hardware
        read = float(graph.head_bytes)
        for layer in graph.layers:
            block = graph.spec.blocks[layer.block]
            if not block.encoder:
                active = block.ffn.n_active / block.ffn.n_experts if isinstance(block.ffn, MoeFfn) else 0.0
                read += layer.dense_bytes + layer.expert_bytes * active
        on_cpu = answer.placement.kind == "cpu"
        rate = hardware.host.ram_bytes_per_s if on_cpu else hardware.gpus[0].bandwidth_bytes_per_s
        floor = read / (rate * answer.placement.tensor_parallel)
        assert answer.decode_step_s.expected >= floor
        assert answer.decode_step_s.low >= floor * (1 - 1e-9)


@cases
def test_more_sequences_take_longer_and_give_more(case: Case) -> None:
    """No cliff either: up to 31 sequences, where llama.cpp starts to copy weights to the GPU."""
    steps = {n: told(case, batch=n).decode_step_s.expected for n in (1, 2, 3, 4, 7, 8, 9, 10, 16, 17, 31)}
    for (few, short), (many, long) in pairwise(steps.items()):
        assert short <= long * (1 + 1e-9)
        assert few / short <= many / long * (1 + 1e-9)
        if many == few + 1 and few > 2:
            assert long < 1.35 * short


@whole
def test_a_token_more_never_doubles_a_prompt(case: Case) -> None:
    """Micro-batches (512 and 2048 tokens) and kernels (8 rows) end between these."""
    for tokens in (7, 8, 31, 127, 512, 1000, 2048):
        short, long = (told(case, prompt_tokens=n).prefill_s.expected for n in (tokens, tokens + 1))
        assert short <= long * 1.03, tokens
        assert long < 1.35 * short, tokens


@cases
def test_prompts_of_several_sequences_are_computed_once_each(case: Case) -> None:
    one = told(case, prompt_tokens=300).flop_prefill
    for batch in (2, 5, 9):
        assert told(case, prompt_tokens=300, batch=batch).flop_prefill == pytest.approx(batch * one, rel=1e-6)


@cases
def test_a_longer_cache_is_not_read_faster(case: Case) -> None:
    seconds = [told(case, depth_tokens=depth).decode_step_s.expected for depth in (0, 1000, 6000)]
    assert seconds == sorted(seconds)


def test_a_range_is_wider_where_less_is_known() -> None:
    """The same regime: an architecture that many setups speak of, one that none does."""

    def width(hardware: str) -> float:
        request = EstimateRequest(
            model="llama-3.1-8b", hardware=hardware, quant="q4_k_m", engine="llama.cpp", context=4096,
            placement="gpu", calibration="none",
        )  # fmt: skip
        answer = solve(session().problem(request, []), request, [], advise=False)[1]
        assert bool(answer.decode.unseen) == (hardware == "rx-5700-xt")
        return math.log(answer.decode_step_s.high / answer.decode_step_s.expected)

    assert width("rx-5700-xt") > 1.2 * width("rtx-3090")
