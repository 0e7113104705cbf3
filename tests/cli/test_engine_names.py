"""An answer names the engine that was asked for, its backend included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]
VULKAN = "llama.cpp (Vulkan)"
CARD = ("--gpu", "rx-7900-xtx", "--ram-gib", "64", "--ram-gbs", "80", "--quant", "q4_k_m")


@pytest.mark.parametrize("spelled", [VULKAN, "llama.cpp (vulkan)", "llama-cpp-vulkan", "llamacpp Vulkan"])
def test_an_estimate_names_the_backend(inside: Run, spelled: str) -> None:
    asked = ("estimate", "qwen3-8b", *CARD, "--engine", spelled)
    assert inside(*asked).out.splitlines()[0].endswith("with llama.cpp (Vulkan)")
    assert inside(*asked, "--format", "json").json["engine"] == VULKAN


def test_a_plan_tells_two_backends_apart(inside: Run) -> None:
    asked = ("plan", "qwen3-30b-a3b", *CARD, "--engine", f"{VULKAN},llama.cpp", "--no-curves")
    got = inside(*asked, "--format", "json").json
    assert got["best"]["engine"] == "llama.cpp"
    assert VULKAN in {other["engine"] for other in got["alternatives"]}
    named = [line for line in inside(*asked).out.splitlines() if line.startswith("q4_k_m gpu, ")]
    assert [line.split("  ")[0] for line in named] == ["q4_k_m gpu, llama.cpp (Vulkan)"]
    assert "| q4_k_m, llama.cpp (Vulkan) |" in inside(*asked, "--format", "markdown").out


def test_runners_up_of_one_engine_do_not_repeat_it(inside: Run) -> None:
    out = inside("plan", "qwen3-30b-a3b", *CARD, "--no-curves").out
    assert any(line.split("  ")[0] == "q4_k_m experts" for line in out.splitlines())


def test_runners_up_name_the_cache_where_it_differs(inside: Run) -> None:
    asked = ("plan", "qwen3-30b-a3b", *CARD, "--kv-type", "any", "--no-curves")
    assert any(line.startswith("q4_k_m gpu, KV ") for line in inside(*asked).out.splitlines())


def test_a_near_miss_names_the_backend(inside: Run) -> None:
    asked = ("plan", "qwen3-30b-a3b", *CARD, "--engine", VULKAN, "--min-tps", "100000", "--no-curves")
    got = inside(*asked, "--format", "json").json
    assert {missed["engine"] for missed in got["rejected"]} == {VULKAN}


def test_a_comparison_names_the_backend(inside: Run) -> None:
    asked = ("compare", "qwen3-30b-a3b", "qwen3-8b", *CARD, "--engine", VULKAN)
    assert "with llama.cpp (Vulkan)" in " ".join(inside(*asked).out.split("\n")[:2])
    rows = inside(*asked, "--format", "json").json["rows"]
    assert {row["estimate"]["engine"] for row in rows} == {VULKAN}


@pytest.mark.parametrize("engine", ["vllm (Vulkan)", "transformers (vulkan)", "mlx vulkan"])
def test_only_engines_on_ggml_have_kernels_in_vulkan(inside: Run, engine: str) -> None:
    done = inside("estimate", "qwen3-8b", *CARD[:-2], "--engine", engine)
    assert done.code == 2
    assert f"unknown engine '{engine}'" in done.err
