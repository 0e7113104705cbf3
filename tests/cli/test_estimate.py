"""`moeplan estimate` as a process: formats, files, terminals, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

REPO = Path(__file__).resolve().parents[2]
ASK = ("estimate", "mixtral-8x7b", "--hardware", "rtx-4090", "--quant", "q4_k_m")
TOO_LARGE = ("estimate", "mixtral-8x7b", "--gpu", "rtx-3060", "--placement", "gpu", "--quant", "q8_0")


def test_json_is_valid_and_its_parts_sum(moeplan: Callable[..., Any]) -> None:
    ran = moeplan(*ASK, "--format", "json", "--explain")
    assert ran.code == 0
    assert ran.err == ""
    schema = json.loads((REPO / "configs/schema/estimate.json").read_text(encoding="utf-8"))
    jsonschema.validate(ran.json, schema)
    # 93,405,585,408 bytes of bfloat16 in the published weights, two bytes a parameter
    assert ran.json["model"]["params_total"] == 46_702_792_704
    devices = ran.json["memory"]["devices"]
    assert sum(d["weights_bytes"] for d in devices) == ran.json["model"]["weights_bytes"]
    assert ran.json["explain"], "--explain fills the tree"
    assert ran.json["workload"]["context_tokens"] == 8192


def test_without_explain_there_is_no_tree(moeplan: Callable[..., Any]) -> None:
    assert moeplan(*ASK, "--format", "json").json["explain"] == []


def test_the_options_arrive(moeplan: Callable[..., Any]) -> None:
    options = "--context 4096 --prompt 100 --output-tokens 50 --batch 3 --kv-type q8_0 --ubatch 256"
    options += " --depth 7 --level 0.5 --no-flash-attn --threads 5 --cpu-moe 9 --gpu-layers all"
    got = moeplan(*ASK, *options.split(), "--format", "json").json
    assert got["interval"] == {"level": 0.5}
    assert got["placement"]["cpu_moe"] == 9
    assert got["workload"] == {
        "context_tokens": 4096,
        "prompt_tokens": 100,
        "output_tokens": 50,
        "depth_tokens": 7,
        "n_sequences": 3,
        "kv_type_k": "q8_0",
        "kv_type_v": "q8_0",
        "ubatch_tokens": 256,
        "batch_tokens": got["workload"]["batch_tokens"],
        "flash_attention": False,
        "n_slots": 0,
        "kv_unified": False,
        "swa_full": False,
        "kv_offload": True,
        "threads": 5,
    }


def test_the_options_of_the_engine_arrive(moeplan: Callable[..., Any]) -> None:
    gemma = ("estimate", "gemma-3-27b", "--gpu", "rtx-6000-ada", "--quant", "q4_k_m", "--context", "32768")

    def cached(*options: str) -> int:
        gpu = moeplan(*gemma, *options, "--format", "json").json["memory"]["devices"][0]
        return int(gpu["kv_bytes"]) // 2**20

    # 10 full layers x 32,768 cells x 8,192 B and 52 windows of round256(1,024 + 512)
    assert cached() == 10 * 32768 * 8192 // 2**20 + 52 * 1536 * 8192 // 2**20
    # four slots, each a cache of its own; on one cache the windows alone grow: round256(4 x 1,024 + 512)
    assert cached("--slots", "4") == 4 * cached()
    assert cached("--slots", "4", "--kv-unified") == 2560 + 52 * 4608 * 8192 // 2**20
    assert cached("--swa-full") == 62 * 32768 * 8192 // 2**20
    assert cached("--no-kv-offload") == 0
    assert "speeds are those of a cache on the GPU" in " ".join(
        moeplan(*gemma, "--no-kv-offload").out.split()
    )
    told = moeplan(*gemma, "--slots", "4", "--kv-unified").out
    assert "in 4 slots, one cache for all" in " ".join(told.split())


def test_a_server_fills_the_share_it_is_given(moeplan: Callable[..., Any]) -> None:
    ask = ("estimate", "llama-3.1-8b", "--gpu", "rtx-4090", "--engine", "vllm", "--format", "json")
    wide, narrow = (
        moeplan(*ask, "--gpu-memory-utilization", share).json["memory"]["reservations"][0]
        for share in ("0.95", "0.9")
    )
    # 5% of 24 GiB more, all of it for the cache
    assert wide["kv_pool_bytes"] - narrow["kv_pool_bytes"] == pytest.approx(0.05 * 24 * 2**30, rel=0.001)
    assert wide["concurrency"] >= narrow["concurrency"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "vllm", "--kv-unified"), "--kv-unified: vllm has no such option"),
        (("--engine", "vllm", "--slots", "4"), "--slots 4: vllm has no such option"),
        (("--engine", "vllm", "--no-kv-offload"), "--no-kv-offload: vllm has no such option"),
        (("--engine", "sglang", "--swa-full"), "--swa-full: sglang has no such option; llama.cpp, ollama"),
        (("--mla", "0"), "--mla 0: vllm has no such option"),
        (("--mla", "5"), "--mla: expected 0, 1, 2 or 3"),
        (("--slots", "0"), "--slots: expected a whole number"),
        (("--context", "32k"), "write 32768"),
        (("--gpu-memory-utilization", "1.2"), "--gpu-memory-utilization: expected a number between"),
    ],
)
def test_an_option_the_engine_has_not(
    moeplan: Callable[..., Any], options: tuple[str, ...], message: str
) -> None:
    ran = moeplan("estimate", "llama-3.1-8b", "--gpu", "rtx-4090", *(options or ()))
    assert ran.code == 2
    assert ran.err.startswith("error: ") and message in ran.err


@pytest.mark.parametrize("screen", ["linux", "windows", "wsl"])
def test_room_for_a_screen(moeplan: Callable[..., Any], screen: str) -> None:
    ask = (*ASK, "--placement", "experts", "--format", "json")
    plain, kept = moeplan(*ask), moeplan(*ask, "--reserve-vram-gib", screen)
    before, after = (ran.json["memory"]["devices"][0]["capacity_bytes"] for ran in (plain, kept))
    assert 1.0 < (before - after) / 2**30 < 2.0
    assert any("kept free" in line for line in kept.json["assumptions"])


def test_the_machine_options_arrive(moeplan: Callable[..., Any]) -> None:
    options = "--gpu rtx-3090 --n-gpus 2 --cpu ryzen-9-7950x --ram-gib 100GB --ram-gbs 70"
    got = moeplan("estimate", "llama-3-8b", *options.split(), "--quant", "q8_0", "--format", "json").json
    assert got["hardware"]["gpus"] == ["rtx-3090", "rtx-3090"]
    assert got["hardware"]["cpu"] == "ryzen-9-7950x"
    assert got["hardware"]["ram_bytes"] == 100_000_000_000
    assert got["hardware"]["ram_bytes_per_s"] == 70e9


def test_context_max_says_how_far_the_gpus_alone_go(moeplan: Callable[..., Any]) -> None:
    asked = ("estimate", "llama-3.1-8b", "--gpu", "rtx-3060-12gb", "--quant", "q4_k_m", "--context", "max")
    (note,) = (
        line for line in moeplan(*asked, "--format", "json").json["assumptions"] if "all in VRAM" in line
    )
    held = int(note.split("context of ")[1].split(" ")[0].replace(",", ""))
    alone = moeplan(*asked, "--placement", "gpu", "--format", "json").json
    assert alone["workload"]["context_tokens"] == held and "--placement gpu" in note
    assert not any("all in VRAM" in line for line in alone["assumptions"])


def test_context_max(moeplan: Callable[..., Any]) -> None:
    got = moeplan("estimate", "llama-3-8b", "--gpu", "rtx-4090", "--context", "max", "--format", "json").json
    # Llama 3 was made for 8192 tokens
    assert got["workload"]["context_tokens"] == 8192


def test_what_does_not_fit_is_printed_and_exits_1(moeplan: Callable[..., Any]) -> None:
    ran = moeplan(*TOO_LARGE)
    assert ran.code == 1
    assert ran.err == ""
    assert "\nfits         no, " in ran.out
    assert "tok/s" not in ran.out
    ran = moeplan(*TOO_LARGE, "--format", "json")
    assert (ran.code, ran.json["fits"]) == (1, False)
    assert ran.json["decode"]["tokens_per_s"]["expected"] is None


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_the_width(moeplan: Callable[..., Any], width: int) -> None:
    out = moeplan(*ASK, env={"COLUMNS": str(width)}).out
    assert max(map(len, out.splitlines())) <= width
    assert out.isascii()
    assert "\x1b" not in out


def test_markdown(moeplan: Callable[..., Any]) -> None:
    out = moeplan(*ASK, "--format", "markdown").out
    assert out.startswith("### Mixtral 8x7B at q4_k_m on ")
    assert "|---|" in out


# ── files ───────────────────────────────────────────────────────────────────────────────────────


def test_output_goes_to_the_file_alone(moeplan: Callable[..., Any], tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    target.chmod(0o640)
    ran = moeplan(*ASK, "--format", "json", "--output", target)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert json.loads(target.read_text())["schema"] == "moeplan/estimate@1"
    assert target.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [target], "nothing is left beside it"


def test_a_failure_leaves_the_old_file(moeplan: Callable[..., Any], tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    assert moeplan("estimate", "no-such-model", "--output", target).code == 2
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_is_followed_and_kept(moeplan: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    assert moeplan(*ASK, "--output", tmp_path / "link.txt").code == 0
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text().startswith("Mixtral")


@pytest.mark.parametrize("target", ["no/such/folder/x.json", ".", ""])
def test_a_file_that_cannot_be_written(moeplan: Callable[..., Any], tmp_path: Path, target: str) -> None:
    ran = moeplan(*ASK, "--output", target, cwd=tmp_path)
    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert "--output" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_device_is_written_as_it_is(moeplan: Callable[..., Any]) -> None:
    assert moeplan(*ASK, "--output", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()


def test_plot(moeplan: Callable[..., Any], tmp_path: Path) -> None:
    ran = moeplan(*ASK, "--plot", tmp_path / "plot.svg")
    assert ran.code == 0
    assert ran.out.startswith("Mixtral")
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")


# ── streams ─────────────────────────────────────────────────────────────────────────────────────

COMMAND = [sys.executable, "-m", "moeplan", *ASK]


def test_a_reader_that_leaves_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        COMMAND, cwd=REPO, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writer)
    assert ran.stderr == ""
    assert ran.returncode == 141, "what a shell reports of SIGPIPE, and never 1: does not fit"


def test_a_full_disk_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            COMMAND, cwd=REPO, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: ")
    assert "No space left" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_closed_stdout_is_an_error() -> None:
    shell = " ".join(f"'{word}'" for word in COMMAND) + " >&-"
    ran = subprocess.run(
        ["sh", "-c", shell], cwd=REPO, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 2
    assert "standard output is closed" in ran.stderr


def test_an_ascii_terminal_gets_ascii(moeplan: Callable[..., Any], tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    text = (REPO / "configs/models/mixtral-8x7b.yaml").read_text(encoding="utf-8")
    name = text.replace("name: Mixtral 8x7B", "name: Größe 8x7B").replace("id: mixtral-8x7b", "id: sized")
    (models / "sized.yaml").write_text(name, encoding="utf-8")
    arguments = ("estimate", "sized", *ASK[2:], "--configs", str(tmp_path))
    ran = moeplan(*arguments, env={"PYTHONIOENCODING": "ascii"})
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("Gr??e 8x7B at q4_k_m")


def on_a_terminal(environment: dict[str, str]) -> str:
    """What the command prints on a pseudo-terminal."""
    import pty

    leader, follower = pty.openpty()
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TERM": "xterm-256color", "COLUMNS": "80"}
    with subprocess.Popen(COMMAND, cwd=REPO, stdout=follower, env=env | environment) as process:
        os.close(follower)
        chunks = []
        while True:
            try:
                chunk = os.read(leader, 65536)
            except OSError:
                break
            if not chunk:
                break
            chunks.append(chunk)
        assert process.wait(timeout=60) == 0
    os.close(leader)
    return b"".join(chunks).decode()


def test_a_terminal_gets_colour_and_blocks() -> None:
    text = on_a_terminal({})
    assert "\x1b[1mMixtral" in text
    assert "█" in text


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colour_can_be_refused(environment: dict[str, str]) -> None:
    text = on_a_terminal(environment)
    assert text.startswith("Mixtral")
    assert "\x1b" not in text
