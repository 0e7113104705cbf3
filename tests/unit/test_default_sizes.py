"""Context, prompt and answer where they are not said."""

from __future__ import annotations

import pytest

import moeplan
from moeplan.errors import SpecError

# Qwen3 30B takes 40,960 tokens, Switch 512.
CASES = [
    ("qwen3-30b-a3b", {}, (8192, 512, 128)),
    ("qwen3-30b-a3b", {"depth": 7000}, (8192, 512, 128)),
    # Half of what is left is prompt: 512 of 1,024 behind the depth
    ("qwen3-30b-a3b", {"depth": 8100}, (9124, 512, 128)),
    ("qwen3-30b-a3b", {"depth": 8192}, (9216, 512, 128)),
    ("qwen3-30b-a3b", {"depth": 39000}, (40024, 512, 128)),
    ("qwen3-30b-a3b", {"depth": 39000, "output_tokens": 300}, (40024, 512, 300)),
    ("qwen3-30b-a3b", {"depth": 8000, "output_tokens": 2000}, (10512, 512, 2000)),
    ("qwen3-30b-a3b", {"depth": 7000, "output_tokens": 200}, (8192, 512, 200)),
    ("qwen3-30b-a3b", {"depth": 50000}, (51024, 512, 128)),
    ("qwen3-30b-a3b", {"depth": 50000, "prompt": 100}, (50228, 100, 128)),
    ("qwen3-30b-a3b", {"prompt": 9000}, (9128, 9000, 128)),
    ("qwen3-30b-a3b", {"depth": 100, "context": 400}, (400, 150, 128)),
    ("switch-c-2048", {"depth": 100}, (512, 206, 128)),
]


@pytest.mark.parametrize(("model", "options", "sizes"), CASES)
def test_a_depth_leaves_room_for_a_prompt_and_an_answer(
    model: str, options: dict[str, int], sizes: tuple[int, int, int]
) -> None:
    w = moeplan.estimate(model, hardware="b200-sxm-180gb", quant="q4_k_m", **options).workload
    assert (w.context_tokens, w.prompt_tokens, w.output_tokens) == sizes


def test_a_context_that_was_said_is_kept() -> None:
    with pytest.raises(SpecError, match="exceed the context of 8,192 tokens"):
        moeplan.estimate("qwen3-30b-a3b", hardware="b200-sxm-180gb", context=8192, depth=8191, prompt=100)
