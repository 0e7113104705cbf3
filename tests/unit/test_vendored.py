"""Whose kernels Ollama runs, and when it fused attention."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moeplan.cost.law import step_ops
from moeplan.cost.work import Step
from moeplan.engines.fused import fused_by_default
from moeplan.engines.traits import find_engine
from moeplan.engines.vendored import as_vendored
from moeplan.predict.placement import on_gpus
from tests.support.problems import dense_spec, gpu, graph_of, machine, workload

OLLAMA, LLAMA = find_engine("ollama"), find_engine("llama.cpp")


@pytest.mark.parametrize(
    ("released", "code"),
    [
        ("2024-03", "2024-03"),  # it followed closely then
        ("2024-11-05", "2024-10-14"),
        ("2025-01", "2024-12-14"),
        ("2025-08-05", "2025-05-12"),
        ("2025-09-25", "2025-08-14"),
        ("2025-10-09", "2025-10-01"),
        ("2025-12", "2025-10-24"),  # a month is as old as its first day
        ("2025-12-18", "2025-12-16"),
        ("2026-05-31", "2025-12-16"),
    ],
)
def test_a_release_of_ollama_has_the_kernels_of_an_earlier_day(released: str, code: str) -> None:
    engine, work = as_vendored(OLLAMA, replace(workload(), engine_date=released))
    assert engine is OLLAMA and work.engine_date == code


@pytest.mark.parametrize("date", ["2026-06-01", "2026-08", ""])
def test_llama_server_is_all_of_ollama_since_june_2026(date: str) -> None:
    engine, work = as_vendored(OLLAMA, replace(workload(), engine_date=date))
    assert engine == replace(OLLAMA, id="llama.cpp") and work.engine_date == date


def test_other_engines_are_of_their_own_day() -> None:
    work = replace(workload(), engine_date="2025-09-25")
    assert as_vendored(LLAMA, work) == (LLAMA, work)


def test_steps_have_the_coefficients_of_those_kernels() -> None:
    graph, hardware = graph_of(dense_spec()), machine((gpu(),))
    where = on_gpus(graph, hardware, OLLAMA)

    def names(date: str) -> set[str]:
        done = replace(workload(), engine_date=date)
        ops = step_ops(graph, hardware, done, where, OLLAMA, Step(1, 1, 0, 1))[0]
        return {name for op in ops for name in (*op.moving, *op.computing)}

    assert not any("engine.ollama" in name for name in names(""))
    assert "local.engine.llama.cpp.bandwidth" in names("2026-08-02")
    assert "local.engine.ollama.bandwidth" in names("2025-12-18")
    # code of 2024 is what it shipped until March 2025
    assert "local.engine.ollama.2024.bandwidth" in names("2025-02")


@pytest.mark.parametrize(
    ("date", "architecture", "fused"),
    [
        ("2025-08-27", "gpt_oss", False),
        ("2025-08-28", "gpt_oss", True),
        ("2025-10-09", "qwen3_moe", True),
        ("2025-10-09", "llama", False),
        ("2025-12-14", "qwen2", False),
        ("2025-12-15", "qwen2", True),
        ("", "llama", True),
    ],
)
def test_ollama_asked_for_fused_attention_model_by_model(date: str, architecture: str, fused: bool) -> None:
    assert fused_by_default(OLLAMA, date, architecture) is fused


def test_llama_cpp_fuses_whatever_the_model() -> None:
    assert fused_by_default(LLAMA, "2025-09", "llama") and not fused_by_default(LLAMA, "2025-08", "gpt_oss")
