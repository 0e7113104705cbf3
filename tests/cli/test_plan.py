"""`moeplan plan` as users and scripts call it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from moeplan.report.schemas import json_schema

Run = Callable[..., Any]
GPT_OSS = ["gpt-oss-20b", "--gpu", "rtx-3060-12gb", "--ram-gib", "32", "--ram-gbs", "50"]


def test_the_first_line_says_what_was_sought(inside: Run) -> None:
    done = inside("plan", *GPT_OSS, "--no-curves")
    assert done.code == 0
    assert done.out.splitlines()[0].startswith("gpt-oss 20B on ")
    assert "llama-server --model gpt-oss-20b-mxfp4_moe.gguf" in done.out
    assert "llama-bench" in done.out


def test_json_follows_its_schema_and_agrees_with_estimate(inside: Run) -> None:
    asked = [*GPT_OSS, "--reserve-vram-gib", "0"]  # `estimate` keeps nothing free unless told to
    done = inside("plan", *asked, "--format", "json")
    assert done.code == 0
    jsonschema.validate(done.json, json_schema("plan"))
    best = done.json["best"]
    options = ["--quant", best["quant"], "--engine", best["engine"], "--ubatch", best["ubatch"]]
    placed = ["--cpu-moe", best["placement"]["cpu_moe"], "--gpu-layers", best["placement"]["gpu_layers"]]
    same = inside("estimate", *asked, *options, *placed, "--format", "json").json
    assert same["decode"]["tokens_per_s"] == best["decode"]["tokens_per_s"]
    assert same["memory"] == best["memory"]
    speeds = [best["decode"]["tokens_per_s"]["expected"]]
    speeds += [a["decode"]["tokens_per_s"]["expected"] for a in done.json["alternatives"]]
    assert speeds == sorted(speeds, reverse=True)
    assert set(done.json["curves"]) == {"cpu_moe", "context", "batch", "ubatch"}


def test_markdown_and_svg(inside: Run, tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"
    done = inside("plan", *GPT_OSS, "--format", "markdown", "--plot", picture)
    assert done.code == 0
    assert done.out.startswith("### gpt-oss 20B")
    assert picture.read_text(encoding="utf-8").startswith("<svg")
    assert "knee" in picture.read_text(encoding="utf-8")


def test_a_png_needs_its_package(inside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    done = inside("plan", *GPT_OSS, "--plot", tmp_path / "plan.png")
    assert done.code == 2
    assert "pip install 'moeplan[plot]'" in done.err
    assert not done.out
    assert not list(tmp_path.iterdir())


def test_a_png_where_it_is(inside: Run, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    assert inside("plan", *GPT_OSS, "--plot", tmp_path / "plan.PNG").code == 0
    assert (tmp_path / "plan.PNG").read_bytes().startswith(b"\x89PNG")


def test_nothing_fits_is_exit_1_with_three_changes_that_help(inside: Run) -> None:
    machine = ["--gpu", "rtx-3060-12gb", "--ram-gib", "24", "--ram-gbs", "50"]
    done = inside("plan", "gpt-oss-120b", *machine, "--format", "json")
    assert done.code == 1
    assert done.json["best"] is None
    changes = [change["what"] for change in done.json["changes"]]
    assert len(changes) == 3
    # each is tried: the one about RAM is taken at its word
    more = next(int(change.split()[0]) for change in changes if change.endswith("GiB more RAM"))
    enough = inside("plan", "gpt-oss-120b", *machine[:3], 24 + more, *machine[4:], "--no-curves")
    less = inside("plan", "gpt-oss-120b", *machine[:3], 23 + more, *machine[4:], "--no-curves")
    assert (enough.code, less.code) == (0, 1)
    assert "no: every way to place it needs more memory" in less.out


def test_limits_that_no_plan_keeps(inside: Run) -> None:
    done = inside("plan", *GPT_OSS, "--min-tps", "5000", "--format", "json")
    assert done.code == 1
    assert done.json["changes"][0]["what"].startswith("--min-tps ")
    assert "--min-tps asks for 5e+03" in done.json["rejected"][0]["reason"]


def test_a_plan_keeps_some_vram_free_unless_told_otherwise(inside: Run) -> None:
    """On this card a whole gpt-oss-20b fits, to within 256 MiB: a near miss, with the option that does it."""

    def gpu0(*options: str) -> dict[str, Any]:
        best = inside("plan", *GPT_OSS, *options, "--format", "json").json["best"]
        return next(d for d in best["memory"]["devices"] if d["device"] == "gpu0")

    room = 2**28
    assert gpu0()["total_bytes"] <= 12 * 2**30 - room
    full = gpu0("--reserve-vram-gib", "0")["total_bytes"]
    assert 12 * 2**30 - room < full <= 12 * 2**30
    shown = inside("plan", *GPT_OSS, "--no-curves").out
    assert "--reserve-vram-gib 0 would do" in " ".join(shown.split())
    assert "256.0 MiB of VRAM kept free" in " ".join(shown.split())
    # 1 GiB of RAM beside the system is too little for a layer of experts: the room goes before the plan does
    last = inside("plan", "gpt-oss-20b", "--gpu", "rtx-3060-12gb", "--ram-gib", "3")
    assert last.code == 0
    assert "tight: 187.0 MiB left on gpu0" in " ".join(last.out.split())
    assert "kept free" not in last.out


def test_limits_are_kept(inside: Run) -> None:
    free = inside("plan", *GPT_OSS, "--format", "json").json["best"]
    held = inside("plan", *GPT_OSS, "--max-vram-gib", "8", "--min-context", "16384", "--format", "json").json
    gpu = next(d for d in held["best"]["memory"]["devices"] if d["device"] == "gpu0")
    assert gpu["total_bytes"] <= 8 * 2**30
    assert held["best"]["context"] == 16384
    slower = held["best"]["decode"]["tokens_per_s"]["expected"]
    assert slower < free["decode"]["tokens_per_s"]["expected"]


@pytest.mark.parametrize(
    ("options", "field"),
    [("--objective context", "context"), ("--objective quality --min-tps 5", "bits_per_weight")],
)
def test_objectives_beat_the_default_at_their_own_game(inside: Run, options: str, field: str) -> None:
    base = ["qwen3-30b-a3b", "--gpu", "rtx-3060-12gb", "--ram-gib", "48", "--no-curves", "--format", "json"]
    default = inside("plan", *base).json["best"][field]
    assert inside("plan", *base, *options.split()).json["best"][field] > default


def test_throughput_chooses_a_batch(inside: Run) -> None:
    base = ["llama-3.1-8b", "--gpu", "rtx-4090", "--no-curves", "--format", "json"]
    one = inside("plan", *base).json["best"]
    many = inside("plan", *base, "--objective", "throughput").json["best"]
    assert many["batch"] > 8 > one["batch"]
    assert many["decode"]["tokens_per_s"]["expected"] > one["decode"]["tokens_per_s"]["expected"]


def test_the_cheapest_machine(inside: Run) -> None:
    options = [
        "gpt-oss-20b",
        "--hardware",
        "l40s,l4,h100-sxm-80gb",
        "--format",
        "json",
        "--objective",
        "cheapest",
    ]
    done = inside("plan", *options)
    prices = {m["hardware"]: m["usd_per_hour"] for m in done.json["machines"]}
    assert done.json["hardware"]["gpus"] == ["l4"]
    assert prices["l4"] == min(prices.values())
    # the L4 is too slow for this: the next cheapest
    fast = inside("plan", *options, "--min-tps", "100").json
    assert fast["hardware"]["gpus"] == ["l40s"]
    assert next(m["why_not"] for m in fast["machines"] if m["hardware"] == "l4")


def test_of_several_machines_the_one_that_serves_the_objective_best(inside: Run) -> None:
    # much bandwidth and little arithmetic, the other way round, and so little that a part is in RAM
    machines = ["apple-m2-ultra", "t4", "gtx-1050-ti"]

    def offers(objective: str) -> tuple[int, list[dict[str, Any]]]:
        options = ["--quant", "q4_k_m", "--engine", "llama.cpp", "--objective", objective, "--format", "json"]
        got = inside("plan", "qwen3-8b", "--hardware", ",".join(machines), *options).json
        return machines.index(got["hardware"]["gpus"][0]), [m["best"] for m in got["machines"]]

    def ttft(best: dict[str, Any]) -> float:
        return float(best["prefill"]["ttft_ms"]["expected"])

    def step(best: dict[str, Any]) -> float:
        return float(best["decode"]["step_ms"]["expected"])

    def memory(best: dict[str, Any]) -> float:
        return float(sum(device["total_bytes"] for device in best["memory"]["devices"]))

    winners = set()
    for objective, worth in (("decode", step), ("ttft", ttft), ("memory", memory)):
        winner, found = offers(objective)
        assert worth(found[winner]) == min(map(worth, found)), objective
        winners.add(winner)
    assert len(winners) > 1, "one machine is the best for all: the test says nothing"


def test_what_if(inside: Run) -> None:
    machine = ["gpt-oss-120b", "--gpu", "rtx-3090", "--ram-gib", "128", "--ram-gbs", "50", "--format", "json"]
    done = inside("plan", *machine, "--what-if", "vram=+8GiB,ram_gbs=100,pcie=gen5x16")
    gains = {c["what"]: c["gain_frac"] for c in done.json["what_if"]}
    assert list(gains) == ["vram=+8GiB", "ram_gbs=100", "pcie=gen5x16", "all of these"]
    assert gains["vram=+8GiB"] > 0
    assert all(gain >= 0 for gain in gains.values())


def test_data_centre_gpus_are_planned_for_vllm(inside: Run) -> None:
    done = inside("plan", "qwen3-235b-a22b", "--hardware", "lambda-8x-h100-sxm", "--format", "json")
    best = done.json["best"]
    assert (best["engine"], best["placement"]["kind"]) == ("vllm", "tensor-parallel")
    commands = {c["engine"]: shlex.split(c["command"]) for c in best["commands"]}
    assert commands["vllm"][:3] == ["vllm", "serve", "Qwen/Qwen3-235B-A22B"]
    tp = str(best["placement"]["tp"])
    assert commands["vllm"][commands["vllm"].index("--tensor-parallel-size") + 1] == tp
    assert commands["sglang"][commands["sglang"].index("--tp-size") + 1] == tp
    assert commands["tensorrt-llm"][commands["tensorrt-llm"].index("--tp_size") + 1] == tp


def test_device_map_of_transformers(inside: Run) -> None:
    options = "--gpu rtx-3060-12gb --ram-gib 64 --engine transformers --quant bf16 --format json"
    done = inside("plan", "qwen3-4b", *options.split())
    command = next(c for c in done.json["best"]["commands"] if c["file"] == "device_map.json")
    homes = json.loads(command["command"])
    assert set(homes.values()) == {0}
    assert len([name for name in homes if name.startswith("model.layers.")]) == 36


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("gpt-oss-20b --objective quality", "--objective quality needs a floor of speed"),
        ("gpt-oss-20b --objective cheapest", "needs machines to choose among"),
        ("gpt-oss-20b --objective request", "needs --prompt and --output-tokens"),
        ("gpt-oss-20b --what-if speed=9", "unknown key 'speed'"),
        ("gpt-oss-20b --what-if vram", "expected KEY=VALUE"),
        ("gpt-oss-20b --ram-gbs 50 --what-if ram_gbs=-50", "-50 leaves nothing of 50.0 GB/s"),
        ("gpt-oss-20b --what-if vram_gbs=-5000", "-5000 leaves nothing of 360 GB/s"),
        ("gpt-oss-20b --what-if storage_gbs=-99", "-99 leaves nothing of 7.30 GB/s"),
        ("gpt-oss-20b --min-tps fast", "--min-tps: expected a number above zero"),
        ("gpt-oss-20b --max-vram-gib -3", "must not be negative"),
        ("gpt-oss-20b --quant q4_k_m,,", "--quant: expected names separated by commas"),
        ("gpt-oss-20b --quant q9_z", "unknown quantisation 'q9_z'"),
        ("gpt-oss-20b --engine lama", "unknown engine 'lama'"),
        ("gpt-oss-20b --min-quant q9_z", "unknown quantisation 'q9_z'"),
        ("gpt-oss-20b --plot x.gif", "--plot: expected a file name that ends in .svg or .png"),
    ],
)
def test_bad_input_is_one_clear_error(inside: Run, arguments: str, said: str) -> None:
    done = inside("plan", *arguments.split(), "--gpu", "rtx-3060-12gb", "--ram-gib", "32")
    assert done.code == 2
    assert said in done.err
    assert not done.out


def test_a_floor_that_no_type_reaches_is_said(inside: Run) -> None:
    """gpt-oss was trained in MXFP4: wider types would only unpack it, so that none is tried."""
    done = inside("plan", *GPT_OSS, "--min-quant", "f16")
    assert done.code == 1
    said = " ".join(done.out.split())
    assert "no type of weights that there is to try is as wide as --min-quant f16" in said
    assert "--min-quant mxfp4_moe (4.6 bits per weight):" in said
    assert "and 1 GiB more RAM" not in said  # the type alone is enough


def test_a_context_beyond_the_model_is_cut_to_what_it_was_made_for(inside: Run) -> None:
    done = inside("plan", *GPT_OSS, "--context", "999999999", "--format", "json")
    assert done.code == 1
    assert done.json["changes"][0]["what"] == "--context 131072 instead of 999999999"


def test_what_if_says_where_there_would_be_no_plan(inside: Run) -> None:
    asked = [*GPT_OSS, "--what-if", "vram=0,ram=3", "--no-curves"]
    done = inside("plan", *asked, "--format", "json")
    jsonschema.validate(done.json, json_schema("plan"))
    both = done.json["what_if"][-1]
    assert (both["what"], both["decode_tokens_per_s"], both["gain_frac"]) == ("all of these", None, None)
    assert "all of these: -, -, no plan" in inside("plan", *asked).out


def test_slices_that_cut_quantisation_groups_are_no_plan(inside: Run) -> None:
    """Experts 1536 wide over 8 GPUs are 192 wide slices, not whole FP8 blocks of 128: vLLM refuses them."""
    machine = ["qwen3-235b-a22b", "--hardware", "lambda-8x-h100-sxm", "--batch", "64", "--no-curves"]
    done = inside("plan", *machine, "--quant", "fp8-block", "--format", "json")
    best = done.json["best"]
    assert (best["placement"]["tp"], best["placement"]["ep"]) == (8, 8)
    serve = next(c["command"] for c in best["commands"] if c["engine"] == "vllm")
    assert serve.endswith("--enable-expert-parallel")
    assert any("whole groups of 128" in r["reason"] for r in done.json["rejected"])
    whole = ["--quant", "fp8-block", "--engine", "vllm", "--ep", "8", "--batch", "64", "--format", "json"]
    same = inside("estimate", *machine[:3], *whole).json
    assert same["decode"]["tokens_per_s"] == best["decode"]["tokens_per_s"]
    assert same["placement"]["expert_parallel"] == 8


def test_of_several_formats_those_that_an_engine_loads_are_planned(moeplan: Callable[..., Any]) -> None:
    on = ("plan", "llama-3.2-3b", "--hardware", "rtx-4090", "--format", "json", "--no-curves")
    told = moeplan(*on, "--quant", "awq,q4_k_m", "--engine", "llama.cpp,vllm").json
    assert told["best"] is not None
    assert any("awq with llama.cpp" in line for line in told["not_modelled"])
    alone = moeplan(*on, "--quant", "q4_k_m", "--engine", "tensorrt-llm")
    assert alone.code == 2 and "no GGUF" in alone.err
