"""Deployment files in the style that projects publish, each with the verdict that arithmetic gives it.

The sums in the comments are weights + cache against memory; what else a process holds is a few GiB.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DATA = Path(__file__).resolve().parents[1] / "data" / "deployments"


class Known(NamedTuple):
    """A file, its machine, and what must come of it."""

    file: str
    machine: str
    verdict: str
    text: str
    """Found on the line that the result points at."""
    near: bool | None = None
    """None: not far enough from the edge of "near" to be certain."""


A100, L4 = "--hardware a100-sxm-80gb", "--hardware l4"
KNOWN = [
    # 14.5 GB in bf16 + 2 GiB of cache (16,384 tokens x 128 KiB) in 0.9 x 22.5 GiB
    Known("k8s-vllm-mistral-7b.yaml", L4, "pass", "--max-model-len 16384"),
    # 141.1 GB / 4 = 32.9 GiB + 131,072 x 320 KiB / 4 = 10 GiB in 72 GiB
    Known("k8s-vllm-llama-70b-tp4.yaml", A100, "pass", "--max-model-len=131072", near=False),
    # 131.4 GiB in 72 GiB
    Known("k8s-vllm-llama-70b-one-gpu.yaml", A100, "fail", "--max-model-len", near=False),
    # 65.7 GiB + 8,192 x 320 KiB / 2 = 1.25 GiB + 2 GiB of its own = 69 GiB in 72 GiB, and in 75.2 GiB
    Known("k8s-vllm-llama-70b-tp2-near.yaml", A100, "unsure", "--max-model-len=8192", near=True),
    Known("k8s-vllm-llama-70b-tp2-094.yaml", A100, "pass", "--max-model-len=8192", near=True),
    # the same without a limit: 131,072 tokens are 20 GiB a card
    Known("k8s-vllm-llama-70b-no-limit.yaml", A100, "fail", "--model=meta-llama"),
    # a card of 141 GB holds one half of the 70B with all of its context
    Known("k8s-vllm-llama-70b-no-limit.yaml", "--hardware h200-sxm-141gb", "pass", "--model=meta-llama"),
    # MoE: 93.4 GB / 2 = 43.5 GiB + 32,768 x 128 KiB / 2 = 2 GiB in 72 GiB; all experts are resident
    Known("compose-vllm-mixtral.yml", A100, "pass", "--max-model-len 32768"),
    Known("compose-vllm-mixtral.yml", "--hardware l40s", "fail", "--max-model-len 32768"),
    # asks two cards of vLLM and gives it one
    Known("compose-vllm-mixtral-one-gpu.yml", A100, "fail", "--tensor-parallel-size"),
    # 18.6 GB + 32,768 x 96 KiB = 3 GiB in 24 GiB
    Known("compose-llamacpp-qwen3.yml", "--hardware rtx-3090", "pass", "-c 32768"),
    # the same model with 131,072 tokens: 12 GiB of cache
    Known("compose-llamacpp-qwen3-long.yml", "--hardware rtx-3090", "fail", "-c 131072"),
    Known("compose-llamacpp-qwen3-long.yml", "--hardware rtx-3090 --n-gpus 2", "pass", "-c 131072"),
    # 12.1 GB of MXFP4; the options stand in the environment
    Known("compose-llamacpp-env.yml", "--hardware rtx-4090", "pass", "LLAMA_ARG_CTX_SIZE"),
    # 63 GB, of which all experts in 96 GiB of RAM, and in 48 GiB not
    Known("gpt-oss-120b-cpu-moe.sh", "--gpu rtx-4090 --ram-gib 96", "pass", "--ctx-size 65536"),
    # 212 GB from disk under 96 GiB of RAM: mapped it starts, resident it does not
    Known("deepseek-r1-mmap.sh", "--gpu rtx-4090 --ram-gib 96", "pass", "--ctx-size 4096"),
    Known("deepseek-r1-no-mmap.sh", "--gpu rtx-4090 --ram-gib 96", "fail", "--no-mmap"),
    Known("deepseek-r1-no-mmap.sh", "--gpu rtx-4090 --ram-gib 256", "pass", "--no-mmap"),
    # 671 GB in FP8 over eight cards: 78-84 GiB each of 141 GB, and more than 80 GB
    Known("k8s-sglang-deepseek-v3.yaml", "--hardware h200-sxm-141gb", "pass", '"65536"'),
    Known("k8s-sglang-deepseek-v3.yaml", "--hardware h100-sxm-80gb", "fail", '"65536"'),
    # 16.1 GB + 1 GiB in 22.5 GiB
    Known("k8s-tgi-llama-8b.yaml", L4, "pass", "--max-total-tokens"),
    # 46.7B at 4.1-4.5 bits and 16,384 tokens of 128 KiB in 48 GB, in 24 GB not
    Known("tgi-mixtral-nf4.sh", "--hardware l40s", "pass", "--max-total-tokens 16384"),
    Known("tgi-mixtral-nf4.sh", L4, "fail", "--max-total-tokens 16384"),
    # 16.1 GB + 16,384 x 128 KiB = 2 GiB in 0.9 x 22.5 GiB
    Known("helm-production-stack.yaml", L4, "pass", "maxModelLen: 16384"),
    # 41 GB of 4-bit weights over two cards of 48 GB, over two of 16 GB not
    Known("helm-qwen-72b-awq.yaml", "--hardware l40s", "pass", "32768"),
    Known("helm-qwen-72b-awq.yaml", "--hardware t4", "fail", "32768"),
    # 43 GB of Q4_K_M in 24 GB of VRAM and 64 GiB of RAM
    Known("Modelfile.llama3-70b", "--gpu rtx-4090 --ram-gib 64", "pass", "num_ctx 16384"),
    # KServe: 93.4 GB over four cards
    Known("kserve-mixtral.yaml", A100, "pass", "--max-model-len=32768"),
    # MoE, 235 GB in FP8 over four cards: 54.8 GiB + 65,536 x 188 KiB / 4 = 2.9 GiB in 72 GiB
    Known("qwen3-235b-fp8.sh", "--hardware h100-sxm-80gb", "pass", "--max-model-len 65536"),
    # no limit of GPUs: as many as vLLM takes by itself, one
    Known("k8s-no-gpu-limit.yaml", A100, "pass", "--max-model-len, 16k"),
    # a service file: 410 GB over eight cards of 80 GB
    Known("llama-405b-fp8.service", "--hardware h100-sxm-80gb", "pass", "--max-model-len 16384"),
    # the machine has two cards, the file asks for four
    Known("k8s-vllm-llama-70b-tp4.yaml", "--hardware workstation-2x-rtx-4090", "fail", "nvidia.com/gpu: 4"),
]


@pytest.mark.parametrize("known", KNOWN, ids=[f"{k.file} {k.machine.split()[-1]}" for k in KNOWN])
def test_known_verdicts(known: Known, inside: Callable[..., Any]) -> None:
    ran = inside("check", DATA / known.file, *known.machine.split(), "--format", "json")
    assert ran.code == (0 if known.verdict == "pass" else 1), ran.err
    (case,) = ran.json["cases"]
    assert case["verdict"] == known.verdict, case["reason"]
    assert known.near in (None, case["near"]), case["reason"]
    line = (DATA / known.file).read_text(encoding="utf-8").splitlines()[case["line"] - 1]
    assert known.text in line
    assert ran.json["verdict"] == known.verdict


def test_the_files_are_enough_and_of_every_kind() -> None:
    names = {known.file for known in KNOWN}
    assert len(names) >= 20
    assert names == {path.name for path in DATA.iterdir() if path.is_file()}


REFUSED = [
    (
        "unit-context.yaml",
        "--max-model-len: expected a whole number from 1, got '8GB'",
        "--max-model-len=8GB",
    ),
    ("unit-gpus.yaml", "expected a whole number of GPUs, got '160Gi'", '"160Gi"'),
    ("unit-memory.yaml", "'256gb' is not a Kubernetes quantity", "256gb"),
    ("unit-share.yaml", "a share between 0 and 1, got '90'", "utilization=90"),
    ("typo-option.yaml", "unknown option '--max-model-length' of vllm", "--max-model-length"),
    ("unknown-model.yaml", "unknown model 'meta-llama/Llama-9-70B-Instruct'", "Llama-9"),
    ("pipeline.sh", "not modelled: --pipeline-parallel-size", "--pipeline-parallel-size"),
    ("speculative.sh", "not modelled: -md", "-md"),
    ("unknown-variable.sh", "--model-id: expected a value, got '$1'", "--model-id"),
    ("unnamed-quant.yml", "does not tell its quantisation", "qwen3-30b-a3b.gguf"),
    ("slice.yaml", "nvidia.com/mig-3g.40gb, a slice of a GPU", "mig-3g"),
    ("group.yaml", "one server over several pods", "size: 2"),
    ("adapter.Modelfile", "not modelled: --adapter", "ADAPTER"),
    ("template.yaml", "a key must be text", "{{ .Release.Name }}"),
]


@pytest.mark.parametrize(("name", "message", "text"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_what_is_not_understood_is_exit_2_on_its_line(
    name: str, message: str, text: str, inside: Callable[..., Any]
) -> None:
    path = DATA / "refused" / name
    ran = inside("check", path, "--hardware", "a100-sxm-80gb")
    assert (ran.code, ran.out) == (2, "")
    said = " ".join(ran.err.split())
    assert message in said
    n = int(said.partition(f"{name}:")[2].partition(":")[0])
    assert text in path.read_text(encoding="utf-8").splitlines()[n - 1]


def test_a_file_without_engine_is_refused_by_name(inside: Callable[..., Any]) -> None:
    ran = inside("check", DATA / "refused/nothing.yaml", "--hardware", "l4")
    assert ran.code == 2
    assert "no command of an engine that moeplan knows" in " ".join(ran.err.split())


def test_a_mapped_model_says_how_slow_and_a_resident_one_what_is_missing(inside: Callable[..., Any]) -> None:
    machine = ("--gpu", "rtx-4090", "--ram-gib", "96", "--format", "json")
    (mapped,) = inside("check", DATA / "deepseek-r1-mmap.sh", *machine).json["cases"]
    assert "fits only with mmap" in mapped["reason"]
    assert "tokens/s" in mapped["reason"]
    rate = float(mapped["reason"].rpartition("about ")[2].split()[0])
    # 94 GiB of 200 GiB stay in RAM; over a disk of some GB/s, 37B of 671B parameters a token: under 10/s
    assert 0.01 < rate < 10
    (resident,) = inside("check", DATA / "deepseek-r1-no-mmap.sh", *machine).json["cases"]
    assert "short on ram" in resident["reason"]


def test_the_fix_names_the_engines_own_option_and_works(tmp_path: Path, inside: Callable[..., Any]) -> None:
    name = "compose-llamacpp-qwen3-long.yml"
    machine = ("--hardware", "rtx-3090", "--format", "json")
    (case,) = inside("check", DATA / name, *machine).json["cases"]
    fix = case["fix"].split(" or ")[0]
    assert fix.startswith("-c ")
    text = (DATA / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(text.replace("-c 131072", fix), encoding="utf-8")
    assert inside("check", tmp_path / name, *machine).code == 0


def test_a_deployment_needs_a_machine_and_takes_none_from_here(inside: Callable[..., Any]) -> None:
    ran = inside("check", DATA / "qwen3-235b-fp8.sh")
    assert ran.code == 2
    assert "--hardware is needed" in ran.err
    ran = inside("check", DATA / "qwen3-235b-fp8.sh", "--hardware", "local")
    assert ran.code == 2
    assert "names its machine" in " ".join(ran.err.split())


def test_shares_that_cut_blocks_of_scales_are_an_error(tmp_path: Path, inside: Callable[..., Any]) -> None:
    # experts of width 768 on four cards: 192 columns, blocks of 128; whole experts are not cut
    path, machine = tmp_path / "serve.sh", ("--hardware", "h100-sxm-80gb")
    path.write_text("vllm serve Qwen/Qwen3-30B-A3B-FP8 --tensor-parallel-size 4\n", encoding="utf-8")
    ran = inside("check", path, *machine)
    assert ran.code == 2 and "whole groups of 128" in " ".join(ran.err.split())
    path.write_text("vllm serve Qwen/Qwen3-30B-A3B-FP8 -tp 4 --enable-expert-parallel\n", encoding="utf-8")
    assert inside("check", path, *machine).code == 0


def test_an_option_vouched_for_is_passed_over(inside: Callable[..., Any]) -> None:
    path = DATA / "refused/pipeline.sh"
    ran = inside("check", path, "--hardware", "h100-sxm-80gb", "--ignore-flag", "--pipeline-parallel-size")
    assert ran.code == 0


def test_a_container_with_gpus_that_is_not_understood_is_told(
    tmp_path: Path, inside: Callable[..., Any]
) -> None:
    text = (DATA / "k8s-vllm-llama-70b-tp4.yaml").read_text(encoding="utf-8")
    text = text.replace(
        "image: prom/statsd-exporter", "image: triton\n          resources: {limits: {nvidia.com/gpu: 1}}"
    )
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    ran = inside("check", tmp_path / "a.yaml", "--hardware", "a100-sxm-80gb", "--format", "json")
    assert ran.code == 0
    (note,) = ran.json["notes"]
    assert "llama-70b/metrics gets GPUs, but triton is no engine" in note
