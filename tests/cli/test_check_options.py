"""`moeplan check`: options that an engine does not have are named where the file states them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BUDGETS = """\
models:
  chat: {{model: mixtral-8x7b, engine: {engine}, {option}}}
hardware:
  prod: {{gpu: l40s, n_gpus: 2}}
"""


@pytest.mark.parametrize(
    ("engine", "option", "said"),
    [
        (
            "llama.cpp",
            "memory_utilization: 0.8",
            "--gpu-memory-utilization 0.8: llama.cpp has no such option",
        ),
        ("vllm", "cpu_moe: 20", "--cpu-moe 20: vllm has no such option"),
        ("vllm", "mmap: false", "--no-mmap: vllm has no such option"),
        ("llama.cpp", "tp: 2", "--tp 2: llama.cpp is not modelled with it; vllm"),
        ("sglang", "flash_attn: false", "--no-flash-attn: sglang has no such option"),
        ("vllm", "kv_type: q8_0", "--kv-type q8_0: vllm has no such cache; it has bf16"),
        ("vllm", "placement: layers", "vllm has no placement 'layers'"),
    ],
)
def test_at_its_line_and_column(
    moeplan: Callable[..., Any], tmp_path: Path, engine: str, option: str, said: str
) -> None:
    path = tmp_path / "moeplan.check.yaml"
    path.write_text(BUDGETS.format(engine=engine, option=option))
    ran = moeplan("check", str(path))
    line = path.read_text().splitlines()[1]
    assert ran.code == 2
    assert said in ran.err
    assert f"{path}:2:{line.index(option) + 1}" in ran.err


def test_experts_on_the_cpu_under_sglang_are_not_passed_over(
    moeplan: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "serve.sh"
    path.write_text(
        "python -m sglang.launch_server --model deepseek-ai/DeepSeek-V2-Lite \\\n"
        "  --kt-method AMXINT8 --kt-weight-path /weights\n"
    )
    ran = moeplan("check", str(path), "--gpu", "l40s", "--ram-gib", "256")
    assert ran.code == 2
    assert "not modelled: --kt-weight-path" in ran.err
    assert "serve.sh:2" in ran.err
