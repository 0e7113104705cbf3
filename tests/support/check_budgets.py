"""A budget file that holds, and what tests of `moeplan check` do with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# Mixtral in 4 bits (26.4 GB) on two cards of 48 GB: roomy, so that each budget below can be met and broken.
BUDGETS = """\
schema: moeplan/budget@1
models:
  chat: {model: mixtral-8x7b, quant: awq, engine: vllm}
hardware:
  prod: {gpu: l40s, n_gpus: 2}
workloads:
  short: {context: 8192, prompt: 512, output: 128}
budgets:
  memory: {headroom: 10%, max_per_gpu: 30GiB}
  decode: {min_tokens_per_s: DECODE, confidence: 0.9}
  prefill: {min_tokens_per_s: PREFILL}
  ttft: {max_ms: TTFT}
  context: {min_tokens: 16384}
  concurrency: {min_sequences: 4}
"""


def changed(here: Path, old: str, new: str) -> None:
    """Replace text of the budget file; ``#`` in ``old`` stands for any number."""
    path = here / "moeplan.check.yaml"
    pattern = re.escape(old).replace(r"\#", r"[\d.]+")
    text, n = re.subn(pattern, lambda _: new, path.read_text(encoding="utf-8"))
    assert n == 1, old
    path.write_text(text, encoding="utf-8")


def verdicts(ran: Any) -> dict[str, str]:
    """Budget -> verdict of a run with one case."""
    return {case["budget"]: case["verdict"] for case in ran.json["cases"]}
