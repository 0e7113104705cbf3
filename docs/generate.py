"""Bring the command outputs and tables in README.md and docs/ up to date: no figure is typed by hand.

    python docs/generate.py           rewrite what is stale
    python docs/generate.py --check   exit 1 and name what is stale

A fenced block under ``<!-- output: COMMAND -->`` holds what COMMAND prints; the part from
``<!-- table: NAME -->`` to ``<!-- end -->`` is a table that a function below makes.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import model_accuracy
import yaml

import moeplan
from moeplan.engines.options import OPTIONS, engines_with
from moeplan.readers.corpus import SpeedRow, read_speed

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- (output|table): (.+?) -->\n)(```text\n.*?```|.*?<!-- end -->)", re.DOTALL)


def main() -> int:
    """Rewrite or check every page."""
    check = "--check" in sys.argv[1:]
    stale = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        old = page.read_text(encoding="utf-8")
        new = BLOCK.sub(_renew, old)
        if new != old:
            stale.append(page.relative_to(ROOT))
            if not check:
                page.write_text(new, encoding="utf-8")
    for page in stale:
        print(f"{'stale' if check else 'renewed'}: {page}")
    return 1 if check and stale else 0


def _renew(match: re.Match[str]) -> str:
    marker, kind, what, _ = match.groups()
    if kind == "output":
        return f"{marker}```text\n{_run(what)}```"
    return f"{marker}\n{TABLES[what]()}\n\n<!-- end -->"


def _run(command: str) -> str:
    words = shlex.split(command)
    assert words[0] == "moeplan", command
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "XDG_CONFIG_HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-m", "moeplan", *words[1:]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{command}\n{done.stderr}")
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"


def _scenarios() -> str:
    """What articles say beside what moeplan answers."""
    scenarios = yaml.safe_load((ROOT / "configs/examples/scenarios.yaml").read_text(encoding="utf-8"))[
        "scenarios"
    ]
    lines = [
        "| question | articles say | moeplan: low | expected | high | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for s in scenarios:
        low, high = s["said_tokens_per_s"]
        answer = moeplan.estimate(
            s["model"], str(ROOT / s["hardware"]), quant=s["quant"], context=s["context"]
        )
        speed = answer.decode_step_s.inverse()
        said = f"{low:g}" if low == high else f"{low:g}-{high:g}"
        if low <= speed.expected <= high:
            verdict = "agrees"
        elif speed.low <= high and low <= speed.high:
            verdict = f"within the range; {speed.expected / ((low + high) / 2):.1f}x the figure said"
        else:
            verdict = f"differs: {speed.expected / ((low + high) / 2):.1f}x the figure said"
        lines.append(
            f"| {s['title']} | {said} tok/s | {speed.low:.3g} | {speed.expected:.3g} | {speed.high:.3g} "
            f"| {verdict} |"
        )
    return "\n".join(lines)


def _kv_per_token() -> str:
    """KV bytes per token of the f16 cache, and what llama.cpp and vLLM hold at two contexts."""
    from moeplan.api.resolve import Session
    from moeplan.domain.workload import Workload
    from moeplan.engines.kv import group_padding, kv_token_bytes, window_of
    from moeplan.engines.traits import find_engine
    from moeplan.memory.cache import layer_kv_bytes
    from moeplan.readers.catalog import Catalog

    session = Session(Catalog())
    models = [
        "deepseek-v3", "llama-3.1-70b", "mixtral-8x7b", "qwen3-30b-a3b", "gpt-oss-20b", "gpt-oss-120b",
        "gemma-3-27b",
    ]  # fmt: skip
    lines = [
        "| model | B per token | of them in window layers | llama.cpp at 4,096 | at 131,072 | vLLM at 4,096 "
        "| at 131,072 |",
        "|---" * 7 + "|",
    ]
    for model in models:
        blocks = session.source(model).spec.layer_blocks()
        sizes = [(kv_token_bytes(b, "f16", "f16"), window_of(b) is not None) for b in blocks]
        held = []
        for engine in ("llama.cpp", "vllm"):
            for context in (4096, 131072):
                work = Workload(
                    context_tokens=context, prompt_tokens=1, output_tokens=1, n_sequences=1, kv_type_k="f16",
                    kv_type_v="f16", engine=engine, ubatch_tokens=512, batch_tokens=512, flash_attention=True,
                )  # fmt: skip
                traits = find_engine(engine)
                padding = group_padding(session.source(model).spec, work, traits)
                size = sum(
                    layer_kv_bytes(b, work, traits) * padding.get(window_of(b) is not None, 1) for b in blocks
                )
                held.append(size / 2**20)
        in_windows = sum(size for size, window in sizes if window)
        cells = " | ".join(f"{size:,.1f} MiB" for size in held)
        lines.append(f"| {model} | {sum(size for size, _ in sizes):,.0f} | {in_windows:,.0f} | {cells} |")
    return "\n".join(lines)


def _residuals() -> str:
    """Spread of the shipped calibration by regime."""
    import math

    from moeplan.readers.calibration import read_calibration

    calibration = read_calibration()
    lines = [
        "| regime | setups | sources | 80% of measured / predicted time lies within |",
        "|---|---|---|---|",
    ]
    for regime, r in sorted(calibration.residuals.items()):
        low, high = (math.exp(r.log_ratios[r.levels.index(q)]) for q in (0.1, 0.9))
        lines.append(f"| {regime} | {r.n_setups} | {r.n_sources} | {low:.2f} to {high:.2f} |")
    return "\n".join(lines)


def _sweeps() -> str:
    """Settings that people swept, with the one moeplan ranks first and what that choice costs."""
    from moeplan.api.resolve import Session
    from moeplan.api.validate import score_speed
    from moeplan.readers.catalog import Catalog

    path = ROOT / "docs/data/sweeps.csv"
    with path.open(encoding="utf-8") as file:
        group_of = {line["id"]: line["setup_group"] for line in csv.DictReader(file)}
    rows = {row.id: row for row in read_speed(path)}
    scored, skipped = score_speed(rows.values(), Session(Catalog()), 0.8)
    assert not skipped, skipped
    predicted = {score.id: score.predicted for score in scored}
    sweeps: dict[str, list[SpeedRow]] = {}
    for id, row in rows.items():
        sweeps.setdefault(group_of[id], []).append(row)
    lines = [
        "| model, GPU, phase | settings measured, best first (tok/s) | moeplan's choice | regret | grade |",
        "|---|---|---|---|---|",
    ]
    for group in sweeps.values():
        ranked = sorted(group, key=lambda row: -row.tokens_per_s)
        chosen = max(group, key=lambda row: predicted[row.id])
        shown = ", ".join(f"{_setting(row)} {row.tokens_per_s:.4g}" for row in ranked)
        regret = 1 - chosen.tokens_per_s / ranked[0].tokens_per_s
        first = group[0]
        lines.append(
            f"| {first.model} {first.quant}, {first.gpu}, {first.phase} | {shown} | {_setting(chosen)} "
            f"| {regret:.1%} | {'/'.join(sorted({row.grade for row in group}))} |"
        )
    return "\n".join(lines)


def _setting(row: SpeedRow) -> str:
    """``-ngl 32 -ncmoe 40`` as people write it."""
    layers, moe = row.gpu_layers, row.cpu_moe
    if row.placement in ("gpu", "cpu"):
        return f"all on the {row.placement.upper()}"
    parts = ([f"-ngl {layers}"] if layers is not None else []) + ([f"-ncmoe {moe}"] if moe else [])
    return "`" + " ".join(parts) + "`"


def _engine_options() -> str:
    """Options of `estimate` that not every engine has."""
    lines = ["| option | engines that have it |", "|---|---|"]
    for field, option in OPTIONS.items():
        lines.append(f"| `{option.flag}` | {', '.join(engines_with(field))} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "scenarios": _scenarios,
    "kv-per-token": _kv_per_token,
    "residuals": _residuals,
    "sweeps": _sweeps,
    "engine-options": _engine_options,
    **model_accuracy.TABLES,
}

if __name__ == "__main__":
    sys.exit(main())
