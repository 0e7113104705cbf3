"""Options from Python are checked as those of the command line are."""

from __future__ import annotations

import pytest

import moeplan
from moeplan.errors import SpecError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"expert_parallel": 0}, "--ep must be at least 1"),
        ({"output_rows": -1}, "output_rows must be at least 1"),
        ({"slots": 0}, "--slots must be at least 1"),
        ({"ep": 2}, "did you mean expert_parallel"),
        ({"tp": 2}, "did you mean tensor_parallel"),
    ],
)
def test_an_estimate(options: dict[str, int], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        moeplan.estimate("llama-3.1-8b", hardware="rtx-4090", quant="q4_k_m", **options)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("expert_parallel", 2, "it chooses that"),
        ("kv_offload", False, "estimate has it"),
        ("mla", 1, "estimate has it"),
    ],
)
def test_a_plan_has_no_setting_that_its_commands_would_not_say(option: str, value: object, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        moeplan.plan("deepseek-v2-lite", hardware="rtx-4090", quant="q4_k_m", **{option: value})
