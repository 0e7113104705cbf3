"""`moeplan check` as a program: every budget can fail, every run is the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.check_budgets import changed, verdicts

REPO = Path(__file__).resolve().parents[2]
SCHEMAS = REPO / "tests/data/schemas"
ENGINE_FILE = REPO / "tests/data/deployments/k8s-vllm-llama-70b-tp2-near.yaml"

# ── every budget can fail ───────────────────────────────────────────────────────────────────────


def test_the_budgets_hold_as_they_are(here: Path, inside: Callable[..., Any]) -> None:
    ran = inside("check", "--format", "json")
    assert ran.code == 0, ran.out
    kinds = ["fits", "memory", "decode", "prefill", "ttft", "context", "concurrency"]
    assert verdicts(ran) == dict.fromkeys(kinds, "pass")
    assert [case["line"] for case in ran.json["cases"]] == [3, 9, 10, 11, 12, 13, 14]


MUTATIONS = [
    # a change of what is deployed ...
    ("memory", "quant: awq", "quant: bf16"),
    ("memory", "context: 8192", "context: 262144"),
    ("fits", "n_gpus: 2", "n_gpus: 1, reserve_vram_gib: 30"),
    ("decode", "gpu: l40s, n_gpus: 2", "gpu: t4, n_gpus: 2"),
    ("prefill", "gpu: l40s, n_gpus: 2", "gpu: t4, n_gpus: 2"),
    ("ttft", "prompt: 512", "prompt: 8000"),
    ("context", "n_gpus: 2", "n_gpus: 1, reserve_vram_gib: 15"),
    ("concurrency", "context: 8192", "context: 1048576"),
    # ... or of the budget itself
    ("memory", "headroom: 10%", "headroom: 70%"),
    ("memory", "max_per_gpu: 30GiB", "max_per_gpu: 10GiB"),
    ("decode", "decode: {min_tokens_per_s: #", "decode: {min_tokens_per_s: 2000"),
    ("prefill", "prefill: {min_tokens_per_s: #", "prefill: {min_tokens_per_s: 100000000"),
    ("ttft", "max_ms: #", "max_ms: 0.001"),
    ("context", "min_tokens: 16384", "min_tokens: 100000000"),
    ("concurrency", "min_sequences: 4", "min_sequences: 4000"),
]


@pytest.mark.parametrize(("budget", "old", "new"), MUTATIONS, ids=[f"{b}: {n}" for b, _, n in MUTATIONS])
def test_a_change_that_breaks_a_budget_is_caught(
    budget: str, old: str, new: str, here: Path, inside: Callable[..., Any]
) -> None:
    if budget in ("decode", "prefill") and "gpu:" in old:
        changed(here, "  memory: {headroom: 10%, max_per_gpu: 30GiB}\n", "")
    changed(here, old, new)
    ran = inside("check", "--format", "json")
    assert ran.code == 1, ran.out
    assert verdicts(ran)[budget] != "pass"
    assert ran.json["verdict"] in ("fail", "unsure")


def test_an_interval_that_straddles_is_unsure_and_the_user_says_what_that_means(
    here: Path, inside: Callable[..., Any]
) -> None:
    span = {c["budget"]: c["interval"] for c in inside("check", "--format", "json").json["cases"]}["prefill"]
    middle = (span["low"] + span["expected"]) / 2
    changed(here, "prefill: {min_tokens_per_s: #", f"prefill: {{min_tokens_per_s: {middle:.1f}")
    ran = inside("check", "--format", "json")
    assert (ran.code, ran.json["verdict"], verdicts(ran)["prefill"]) == (1, "unsure", "unsure")
    ran = inside("check", "--unsure", "warn", "--format", "json")
    assert (ran.code, ran.json["verdict"], verdicts(ran)["prefill"]) == (0, "pass", "unsure")
    changed(here, f"min_tokens_per_s: {middle:.1f}", f"min_tokens_per_s: {middle:.1f}, confidence: 0.8")
    assert verdicts(inside("check", "--unsure", "warn", "--format", "json"))["prefill"] == "fail"
    changed(here, "confidence: 0.8", "confidence: expected")
    assert inside("check").code == 0


def test_a_higher_confidence_lowers_the_low_end(here: Path, inside: Callable[..., Any]) -> None:
    lows = []
    for level in ("0.5", "0.9", "0.95"):
        changed(here, "confidence: #", f"confidence: {level}")
        cases = inside("check", "--format", "json").json["cases"]
        lows.append(next(case["interval"]["low"] for case in cases if case["budget"] == "decode"))
    assert lows == sorted(lows, reverse=True)
    assert lows[0] > lows[2]


def test_a_confidence_beyond_what_was_measured_is_refused(here: Path, inside: Callable[..., Any]) -> None:
    changed(here, "confidence: #", "confidence: 0.9999")
    ran = inside("check")
    assert ran.code == 2
    assert "moeplan.check.yaml:10" in ran.err
    assert "confidence" in ran.err


def test_what_is_not_modelled_is_exit_2_with_the_name_of_the_field(
    here: Path, inside: Callable[..., Any]
) -> None:
    changed(here, "ttft: {max_ms: #}", "cost: {usd_per_hour: 4}")
    ran = inside("check")
    assert (ran.code, ran.out) == (2, "")
    assert "not modelled yet: budget `cost`" in ran.err
    assert "moeplan.check.yaml:12" in ran.err


def test_an_unknown_model_is_told_with_its_line(here: Path, inside: Callable[..., Any]) -> None:
    changed(here, "model: mixtral-8x7b", "model: mixtral-9x7b")
    ran = inside("check")
    assert ran.code == 2
    assert "moeplan.check.yaml:3" in ran.err
    assert "mixtral-8x7b" in ran.err


def test_the_fix_of_a_budget_makes_it_pass(here: Path, inside: Callable[..., Any]) -> None:
    changed(here, "min_sequences: 4", "min_sequences: 60")
    (case,) = [c for c in inside("check", "--format", "json").json["cases"] if c["verdict"] != "pass"]
    assert "kv_type fp8" in case["fix"]
    changed(here, "quant: awq", "quant: awq, kv_type: fp8")
    assert inside("check").code == 0


# ── baseline ────────────────────────────────────────────────────────────────────────────────────


def test_a_baseline_blocks_what_got_worse_alone(here: Path, inside: Callable[..., Any]) -> None:
    changed(here, "max_ms: #", "max_ms: 0.001")
    assert inside("check", "--format", "json", "--output", "main.json").code == 1
    ran = inside("check", "--baseline", "main.json", "--format", "json")
    assert (ran.code, ran.json["verdict"]) == (0, "pass")
    by_budget = {case["budget"]: case for case in ran.json["cases"]}
    assert (by_budget["ttft"]["verdict"], by_budget["ttft"]["change"]) == ("fail", "known")

    changed(here, "quant: awq", "quant: fp8")  # 13.9 -> 24 GiB a card
    changed(here, "max_per_gpu: 30GiB", "max_per_gpu: 20GiB")
    ran = inside("check", "--baseline", "main.json", "--format", "json")
    by_budget = {case["budget"]: case for case in ran.json["cases"]}
    assert ran.code == 1
    assert by_budget["memory"]["change"] == "regression"
    assert by_budget["fits"]["change"] == "drift"
    assert "the deployment changed" in by_budget["fits"]["cause"]
    assert "worse than the baseline" in inside("check", "--baseline", "main.json").out


def test_a_changed_catalog_is_named_as_the_cause(here: Path, inside: Callable[..., Any]) -> None:
    catalog = here / "specs" / "hardware" / "gpu"
    catalog.mkdir(parents=True)
    spec = (REPO / "configs/hardware/gpu/l40s.yaml").read_text(encoding="utf-8")
    (catalog / "l40s.yaml").write_text(spec, encoding="utf-8")
    assert inside("check", "--configs", "specs", "--format", "json", "--output", "main.json").code == 0
    rate = next(line for line in spec.splitlines() if line.startswith("bandwidth_GBps:"))
    (catalog / "l40s.yaml").write_text(spec.replace(rate, "bandwidth_GBps: 10"), encoding="utf-8")
    ran = inside("check", "--configs", "specs", "--baseline", "main.json", "--format", "json")
    assert ran.code == 1
    decode = next(case for case in ran.json["cases"] if case["budget"] == "decode")
    assert (decode["change"], decode["cause"]) == ("regression", "the machine's catalog entry changed")


def test_a_file_that_is_no_baseline_is_refused(here: Path, inside: Callable[..., Any]) -> None:
    (here / "main.json").write_text('{"schema": "moeplan/estimate@1"}', encoding="utf-8")
    ran = inside("check", "--baseline", "main.json")
    assert ran.code == 2
    assert "not the JSON of `moeplan check`" in " ".join(ran.err.split())


def git(folder: Path, *arguments: str) -> None:
    """Run git in ``folder`` as nobody in particular."""
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_base_compares_with_the_files_of_a_commit(here: Path, inside: Callable[..., Any]) -> None:
    deploy = here / "deploy" / "vllm.yaml"
    deploy.parent.mkdir()
    shutil.copy(ENGINE_FILE, deploy)
    changed(here, "workloads:", "deployments:\n  - {file: deploy/vllm.yaml, hardware: prod}\nworkloads:")
    changed(here, "gpu: l40s", "gpu: h200-sxm-141gb")
    changed(here, "max_per_gpu: 30GiB", "max_per_gpu: 80GiB")
    git(here, "init", "-q", "-b", "main")
    git(here, "add", ".")
    git(here, "commit", "-qm", "one")
    ran = inside("check", "--git-base", "main", "--format", "json")
    assert {case["change"] for case in ran.json["cases"]} <= {"same", "known"}
    assert ran.code == 0

    text = deploy.read_text(encoding="utf-8")
    deploy.write_text(text.replace("max-model-len=8192", "max-model-len=131072"), encoding="utf-8")
    ran = inside("check", "--git-base", "main", "--format", "json")
    memory = next(c for c in ran.json["cases"] if c["id"].endswith("vllm/memory"))
    assert ran.code == 1
    assert (memory["change"], memory["cause"]) == ("regression", "the deployment changed")
    assert "deploy/vllm.yaml" in memory["id"]
    assert inside("check", "--git-base", "no-such").code == 2
    assert inside("check", "--git-base", "main", "--baseline", "x").code == 2


# ── the same everywhere ─────────────────────────────────────────────────────────────────────────


def test_the_same_input_gives_the_same_bytes(
    failing: Path, tmp_path_factory: pytest.TempPathFactory, moeplan: Callable[..., Any]
) -> None:
    formats = ("json", "junit", "sarif", "github", "gitlab", "markdown", "table")
    reports = [word for name in formats for word in ("--report", f"{name}=out.{name}")]
    elsewhere = tmp_path_factory.mktemp("other")
    shutil.copy(failing / "moeplan.check.yaml", elsewhere)
    one = moeplan("check", *reports, cwd=failing)
    # another directory, another home with a catalog of its own, another hash seed, another time zone
    home = elsewhere / "home" / ".config" / "moeplan" / "models"
    home.mkdir(parents=True)
    (home / "mixtral-8x7b.yaml").write_text("id: broken\n", encoding="utf-8")
    strange = {"HOME": str(elsewhere / "home"), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    other = moeplan("check", *reports, cwd=elsewhere, env=strange)
    assert one.code == other.code == 1
    assert one.out == other.out
    for name in formats:
        assert (failing / f"out.{name}").read_bytes() == (elsewhere / f"out.{name}").read_bytes(), name


def test_it_needs_no_network(here: Path) -> None:
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run([unshare, "-rn", "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no network namespaces here")
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [unshare, "-rn", sys.executable, "-m", "moeplan", "check"],
        cwd=here, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_fifty_cases_cost_little(here: Path, moeplan: Callable[..., Any]) -> None:
    matrix = """\
models: {a: {model: mixtral-8x7b, engine: vllm}, b: {model: llama-3.1-70b, quant: fp8, engine: vllm},
         c: {model: qwen3-30b-a3b, quant: q4_k_m}, d: gpt-oss-120b, e: {model: llama-3.1-8b, quant: q8_0}}
hardware: {a: {gpu: h100-sxm-80gb, n_gpus: 8}, b: {gpu: a100-sxm-80gb, n_gpus: 2}, c: {gpu: l40s, n_gpus: 4},
           d: {gpu: rtx-4090, ram_gib: 128}, e: {gpu: h200-sxm-141gb, n_gpus: 2}}
workloads: {s: {context: 8192}, l: {context: 32768, prompt: 16384}}
budgets: {memory: {headroom: 5%}, decode: {min_tokens_per_s: 5, confidence: 0.9}, ttft: {max_ms: 60000}}
"""
    (here / "moeplan.check.yaml").write_text(matrix, encoding="utf-8")
    ran = moeplan("check", "--format", "json", cwd=here)
    assert len(ran.json["cases"]) == 50 * 4
    # 3 s where `moeplan --version` takes 26 ms: a ratio in one run, since machines differ and are shared
    assert ran.cpu_s <= 115 * moeplan("--version", cwd=here).cpu_s


# ── init, explain ───────────────────────────────────────────────────────────────────────────────


def test_init_writes_budgets_that_hold(here: Path, inside: Callable[..., Any]) -> None:
    (here / "moeplan.check.yaml").unlink()
    (here / "k8s").mkdir()
    roomy = ENGINE_FILE.read_text(encoding="utf-8").replace("70B", "8B")
    (here / "k8s" / "llama.yaml").write_text(roomy, encoding="utf-8")
    (here / "other.yaml").write_text("a: 1\n", encoding="utf-8")
    (here / "bad.sh").write_text("vllm serve no-such-model\n", encoding="utf-8")
    assert inside("check", "--init").code == 2
    ran = inside("check", "--init", "--hardware", "a100-sxm-80gb")
    assert ran.code == 0
    assert "left out: bad.sh:1" in ran.err
    text = (here / "moeplan.check.yaml").read_text(encoding="utf-8")
    assert "file: k8s/llama.yaml" in text
    ran = inside("check", "--format", "json")
    assert (ran.code, {case["verdict"] for case in ran.json["cases"]}) == (0, {"pass"})
    again = inside("check", "--init", "--hardware", "a100-sxm-80gb")
    assert again.code == 2
    assert "exists already" in again.err


def test_init_without_deployments_writes_an_example_that_runs(here: Path, inside: Callable[..., Any]) -> None:
    (here / "moeplan.check.yaml").unlink()
    assert inside("check", "--init", "--hardware", "h100-sxm-80gb").code == 0
    assert inside("check").code == 0


def test_explain_tells_what_a_figure_rests_on(here: Path, inside: Callable[..., Any]) -> None:
    out = " ".join(inside("check", "--explain").out.split())
    for text in ("placement:", "confidence:", "assumed:", "not modelled:"):
        assert text in out


def test_a_missing_file_is_exit_2(here: Path, inside: Callable[..., Any]) -> None:
    (here / "moeplan.check.yaml").unlink()
    ran = inside("check")
    assert ran.code == 2
    assert "no such file" in ran.err
