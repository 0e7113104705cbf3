"""--explain: every number of the table has its term, and the term's own numbers make it."""

from __future__ import annotations

import math

import pytest

import moeplan
from moeplan.domain.result import Estimate
from moeplan.provenance import Term
from moeplan.report.explain import fmt_inputs
from moeplan.report.words import confidence_words

SETUPS = [
    {"model": "mixtral-8x7b", "hardware": "rtx-4090", "quant": "q4_k_m", "ram_gib": 64, "ram_gbs": 80},
    {"model": "mixtral-8x7b", "hardware": "a100-sxm-80gb", "n_gpus": 2, "batch": 8},
    {"model": "granite-4.0-h-tiny", "hardware": "apple-m4-max-40-core", "quant": "q4_k_m"},
    {"model": "llama-3-8b", "hardware": "ryzen-9-7950x", "quant": "q4_k_m"},
    {"model": "deepseek-v2-lite", "hardware": "h100", "n_gpus": 4, "expert_parallel": 4, "quant": "awq"},
    {"model": "gemma-3-27b", "hardware": "h100", "engine": "vllm"},
    {"model": "llama-3-8b", "hardware": "rtx-4090", "engine": "transformers"},
    {
        "model": "deepseek-v2-lite", "hardware": "rtx-4090", "quant": "q4_k_m",
        "engine": "ik_llama.cpp", "mla": 1, "flash_attention": False,
    },
    {"model": "mixtral-8x7b", "hardware": "h200", "engine": "transformers", "quant": "bnb-nf4"},
    {"model": "switch-base-8", "hardware": "rtx-4090", "engine": "transformers", "batch": 2},
]  # fmt: skip


@pytest.fixture(scope="module", params=SETUPS, ids=lambda s: f"{s['model']} on {s['hardware']}")
def answer(request: pytest.FixtureRequest) -> Estimate:
    return moeplan.estimate(**request.param, explain=True)


def terms(e: Estimate) -> dict[str, Term]:
    return {term.name: term for term in e.explain}


def test_every_number_of_the_table_has_a_term(answer: Estimate) -> None:
    e, found = answer, terms(answer)
    n = e.workload.n_sequences
    values = {
        "parameters": e.params.total,
        "active parameters": e.params.active,
        "layers": e.model.n_layers,
        "context": e.workload.context_tokens,
        "prompt": e.workload.prompt_tokens,
        "output": e.workload.output_tokens,
        "sequences": n,
        "decode step": e.decode.seconds,
        "decode step, low": e.decode_step_s.low,
        "decode step, high": e.decode_step_s.high,
        "decode speed": n / e.decode.seconds,
        "prefill": e.prefill.seconds,
        "first token, low": e.prefill_s.low,
        "first token, high": e.prefill_s.high,
        "prefill speed": n * e.workload.prompt_tokens / e.prefill.seconds,
        "decode FLOPs per token": e.flop_decode_per_token,
        "decode bytes read per step": e.decode.bytes_read,
        "prefill FLOPs per prompt": e.flop_prefill,
        "load time": e.load_s,
    }
    for gpu in e.hardware.gpus:
        values[f"memory of a {gpu.name}"] = gpu.memory_bytes
        values[f"bandwidth of a {gpu.name}"] = gpu.bandwidth_bytes_per_s
    if not e.hardware.unified:
        values |= {
            "installed RAM": e.hardware.host.ram_bytes,
            "RAM bandwidth": e.hardware.host.ram_bytes_per_s,
        }
    if n > 1:
        values["decode speed per sequence"] = 1 / e.decode.seconds
    for d in e.memory.devices:
        values[f"memory of {d.device}"] = d.total_bytes
        values[f"capacity of {d.device}"] = d.capacity_bytes
        values[f"headroom of {d.device}"] = d.headroom_bytes
    assert {name for name in values if name not in found} == set()
    assert {name: found[name].value for name in values} == pytest.approx(values)


def test_parts_of_a_device_are_its_children(answer: Estimate) -> None:
    for d in answer.memory.devices:
        parts = {t.name: t.value for t in terms(answer)[f"memory of {d.device}"].children}
        named = {"weights": d.weights_bytes, "KV cache": d.kv_bytes, "state": d.state_bytes}
        named |= {"compute": d.compute_bytes, "output": d.output_bytes, "overhead": d.overhead_bytes}
        assert parts == named
        assert sum(parts.values()) == d.total_bytes


def test_the_parts_of_the_overhead_make_it(answer: Estimate) -> None:
    for d in answer.memory.devices:
        parts = terms(answer)[f"memory of {d.device}"].children
        inputs = next(t.inputs for t in parts if t.name == "overhead")
        values = [float(str(value)) for value in inputs.values()]
        assert not values or (sum(values) == d.overhead_bytes and min(values) > 0)
        assert bool(values) == bool(d.droppable_bytes or d.overhead_bytes > 4 * 2**30)


def test_a_range_follows_from_what_is_shown(answer: Estimate) -> None:
    found = terms(answer)
    for name in ("decode step", "first token"):
        low, high = found[f"{name}, low"].inputs, found[f"{name}, high"].inputs
        q_low, q_high = float(str(low["q at 10%"])), float(str(high["q at 90%"]))
        expected, stretch = float(str(low["expected"])), float(str(low["stretch"]))
        at_best = float(str(low["floor: all at data-sheet rates"]))
        by_hand = min(expected, max(at_best, expected * math.exp(min(0.0, q_low) * stretch)))
        assert found[f"{name}, low"].value == pytest.approx(by_hand)
        by_hand = expected * math.exp(max(0.0, q_high) * stretch)
        assert found[f"{name}, high"].value == pytest.approx(by_hand)


def test_work_is_the_sum_of_the_terms_of_the_step(answer: Estimate) -> None:
    for name in ("decode FLOPs per step", "decode bytes read per step"):
        term = terms(answer)[name]
        assert term.inputs, "no parts are shown"
        assert sum(float(str(v)) for v in term.inputs.values()) == pytest.approx(term.value)


def test_the_cache_is_the_product_of_its_counts(answer: Estimate) -> None:
    gpu = terms(answer)[f"memory of {answer.memory.devices[0].device}"]
    cache = next(t for t in gpu.children if t.name == "KV cache")
    sorts: dict[str, float] = {}
    for name, value in cache.inputs.items():
        what, _, sort = name.partition(" (")
        factor = 1 / float(str(value)) if what == "shards" else float(str(value))
        sorts[sort] = sorts.get(sort, 1.0) * factor
    assert sum(sorts.values()) == pytest.approx(cache.value)


def test_terms_count_every_layer_and_every_element(answer: Estimate) -> None:
    step = {t.name: t for t in terms(answer)["decode step"].children}
    for name in ("layer overhead", "all-reduce latency"):
        if name in step:
            assert step[name].inputs["layers"] == answer.model.n_layers
    if "gpu0 unpacking" in step:
        t = step["gpu0 unpacking"]
        seconds = float(str(t.inputs["elements"])) / float(str(t.inputs["fp32_flop_per_s"]))
        for name, value in t.inputs.items():
            seconds /= float(str(value)) if "unpack" in name else 1.0
        assert t.value == pytest.approx(seconds)


def test_what_nobody_stated_is_assumed_where_it_counts() -> None:
    e = moeplan.estimate(
        "gpt-oss-120b", gpu="rtx-4090", engine="llama.cpp", cpu="epyc-9654", cpu_moe="all", explain=True
    )
    step = {child.name: child.source for child in terms(e)["decode step"].children}
    assert step["CPU experts"].kind == "assumed" and "--ram-gbs" in step["CPU experts"].ref
    assert step["CPU expert synchronisation"].kind == "fitted"  # a wait reads no RAM


def test_a_norm_that_joins_two_times_is_stated_with_them() -> None:
    e = moeplan.estimate("llama-3-8b", hardware="rtx-4090", quant="q4_k_m", explain=True)
    weights = terms(e)["decode step"].children[0]

    def rate(end: str) -> float:
        named = [
            float(str(v)) for k, v in weights.inputs.items() if k.startswith("local.") and k.endswith(end)
        ]
        return math.prod(named)

    moving = float(str(weights.inputs["bytes"])) / (1008e9 * rate(".bandwidth"))
    computing = float(str(weights.inputs["FLOP"])) / (82.58e12 * rate(".vector"))
    assert "norm 2" in weights.formula
    assert weights.value == pytest.approx(math.hypot(moving, computing), rel=1e-3)


def test_inputs_are_written_in_full() -> None:
    assert fmt_inputs({"bytes": 386_673_004_544.25, "share": 0.123456789, "n": 61}) == (
        "bytes = 386,673,004,544, share = 0.123457, n = 61"
    )


def test_a_prompt_without_a_reference_says_so() -> None:
    server = moeplan.estimate("llama-3.1-8b", hardware="h100-sxm-80gb", quant="fp8").confidence
    assert not server.extrapolated and server.prefill.extrapolated
    assert server.prefill.regime == "prefill/server/dense" and server.prefill.n_reference_setups == 0
    assert "prompts: no reference setup, extrapolated" in confidence_words(server)
    local = moeplan.estimate("llama-3.1-8b", hardware="rtx-4090", quant="q4_k_m").confidence
    assert not local.prefill.extrapolated and "prompts" not in confidence_words(local)


def test_what_no_reference_has_is_named() -> None:
    told = moeplan.estimate("llama-3.1-8b", hardware="rtx-4090", engine="vllm", quant="bf16").confidence
    assert told.unseen == ("ada",) == told.prefill.unseen
    assert f"{told.n_reference_setups} reference setups, none of ada" in confidence_words(told)
    odd = moeplan.estimate("llama-3.1-8b", hardware="rtx-4090", engine="lm-studio", quant="q5_1").confidence
    assert set(odd.unseen) == {"engine lm-studio", "type q5_1"}
    chip = moeplan.estimate("qwen3-30b-a3b", hardware="apple-m5-max-40-core", quant="q4_k_m").confidence
    assert (
        chip.unseen == () and "prompts: " in confidence_words(chip) and "none of m5" in confidence_words(chip)
    )
    known = moeplan.estimate("llama-3.1-8b", hardware="rtx-4090", quant="q4_k_m").confidence
    assert known.unseen == () and "none of" not in confidence_words(known)


def test_a_range_reaches_below_what_is_expected_where_a_factor_stands_for_units_of_its_own() -> None:
    """A range's floor has data-sheet rates: M5's matrix units and copies of several cores exceed them."""
    chip = moeplan.estimate("llama-3.1-8b", hardware="apple-m5-max-40-core", quant="q4_k_m")
    assert chip.prefill_s.low < 0.9 * chip.prefill_s.expected
    hosted = moeplan.estimate(
        "deepseek-r1", cpu="epyc-9355", gpu="rtx-5090", ram_gib=768, quant="q4_k_m", placement="experts",
        engine="llama.cpp",
    )  # fmt: skip
    assert hosted.prefill_s.low < 0.9 * hosted.prefill_s.expected
