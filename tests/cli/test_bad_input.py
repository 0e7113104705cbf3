"""Every kind of nonsense gets one clear error, exit code 2, little time and little memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ON = ("--hardware", "rtx-4090")

MODEL = """\
id: x
name: X
architecture: mixtral
hidden_size: 4096
vocab_size: 32000
context_tokens: 32768
blocks:
  moe:
    mixer: {kind: gqa, n_heads: 32, n_kv_heads: 8, head_dim: 128}
    ffn: {kind: moe, n_experts: 8, topk: 2, expert_intermediate: 14336}
layout: 32x moe
"""


def bomb() -> str:
    """Eleven lines that unfold to 9^11 items."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
    ]
    return "\n".join(lines) + "\n"


FILES: dict[str, str | bytes] = {
    "unknown-key.yaml": MODEL,
    "bomb.yaml": bomb(),
    "ten-megabytes.yaml": "id: x\n" + "# padding of some length\n" * 420_000,
    "empty.yaml": "",
    "binary.yaml": bytes(range(256)) * 40,
    "binary.gguf": bytes(range(256)) * 40,
    "binary.safetensors": bytes(range(256)) * 40,
    "cut-off.gguf": b"GGUF\x03\x00\x00\x00" + b"\xff" * 16,
    "deep.yaml": "a: " + "[" * 5000 + "]" * 5000,
    "list.yaml": "- a\n- b\n",
    "tab.yaml": "id: x\n\tname: y\n",
    "cut-off.json": '{"model_type": "llama", ',
    "not-a-number.yaml": MODEL.replace("topk", "n_active").replace("4096", ".nan"),
    "huge-number.yaml": MODEL.replace("topk", "n_active").replace("4096", "9" * 400),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        data = content.encode() if isinstance(content, str) else content
        (path / name).write_bytes(data)
    (path / "directory").mkdir()
    return path


def assert_one_clear_error(ran: Any) -> str:
    """One block on stderr, nothing else anywhere; returns the block."""
    assert ran.code == 2, ran.err
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert ran.err.count("error: ") == 1
    assert "Traceback" not in ran.err
    assert len(ran.err.splitlines()) <= 5
    assert all(len(line) < 500 for line in ran.err.splitlines())
    assert ran.cpu_s < 2
    assert ran.max_rss_bytes < 300e6
    return str(ran.err)


@pytest.mark.parametrize("name", [*FILES, "directory", "no-such.yaml", "no-such.gguf"])
@pytest.mark.parametrize("role", ["model", "hardware"])
def test_a_bad_file(moeplan: Callable[..., Any], folder: Path, name: str, role: str) -> None:
    if role == "hardware" and not name.endswith(".yaml"):
        pytest.skip("machines come as YAML")
    path = str(folder / name)
    arguments = (path, *ON) if role == "model" else ("mixtral-8x7b", "--hardware", path)
    text = assert_one_clear_error(moeplan("estimate", *arguments))
    place = str(folder) if name.endswith(".safetensors") else name  # the checkpoint is the folder
    assert place in text, "the error names the file"


SNAPSHOTS = {
    "unknown-key.yaml": """\
error: unknown key `topk` in `blocks.moe.ffn`                unknown-key.yaml:10:36
   10 |     ffn: {kind: moe, n_experts: 8, topk: 2, expert_intermediate: 14336}
      |                                    ^^^^ did you mean `n_active`?
 help: moeplan schema model
""",
    "empty.yaml": "error: empty.yaml: is empty\n",
    "bomb.yaml": """\
error: anchors and aliases are not supported; write the value out  bomb.yaml:1:4
    1 | a: &a [x, x, x, x, x, x, x, x, x]
      |    ^^
""",
    "ten-megabytes.yaml": "error: ten-megabytes.yaml: is too large for a specification: "
    "10,500,006 bytes, at most 1,000,000 are read\n",
    "binary.gguf": "error: binary.gguf: is not a GGUF file (it does not begin with the bytes `GGUF`)\n",
    "directory": "error: directory: this directory has no config.json\n help: a model is a catalog id, "
    "a .yaml spec, a config.json or its directory, a .gguf or .safetensors file\n",
}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_what_a_bad_file_prints(moeplan: Callable[..., Any], folder: Path, name: str) -> None:
    argument = f"{name}/" if name == "directory" else name
    ran = moeplan("estimate", argument, *ON, cwd=folder)
    assert squeezed(ran.err) == squeezed(SNAPSHOTS[name])


def squeezed(text: str) -> str:
    """``text`` with the gap in front of a place on the right narrowed to two blanks."""
    head, *rest = text.split("\n")
    return "\n".join([head[:30] + "  ".join(p.strip() for p in head[30:].split("   ") if p.strip()), *rest])


OPTIONS = {
    "negative context": ("--context", "-5"),
    "context that is no number": ("--context", "many"),
    "absurd context": ("--context", "9" * 5000),
    "batch NaN": ("--batch", "nan"),
    "batch zero": ("--batch", "0"),
    "batch with a fraction": ("--batch", "1.5"),
    "prompt zero": ("--prompt", "0"),
    "output tokens negative": ("--output-tokens", "-1"),
    "depth negative": ("--depth", "-1"),
    "ubatch zero": ("--ubatch", "0"),
    "RAM NaN": ("--ram-gib", "nan"),
    "RAM negative": ("--ram-gib", "-1"),
    "RAM infinite": ("--ram-gib", "inf"),
    "RAM zero": ("--ram-gib", "0"),
    "RAM in an unknown unit": ("--ram-gib", "64 parsec"),
    "RAM rate zero": ("--ram-gbs", "0"),
    "disk rate NaN": ("--storage-gbs", "nan"),
    "reserve negative": ("--reserve-vram-gib", "-1"),
    "no GPUs": ("--n-gpus", "0"),
    "level above 1": ("--level", "1.5"),
    "level NaN": ("--level", "nan"),
    "threads zero": ("--threads", "0"),
    "GPU layers negative": ("--gpu-layers", "-1"),
    "expert layers that are no number": ("--cpu-moe", "most"),
    "tensor parallel zero": ("--tp", "0"),
    "pipeline parallel": ("--pp", "2"),
    "plot of unknown kind": ("--plot", "picture.docx"),
    "unknown placement": ("--placement", "moon"),
    "unknown format": ("--format", "xml"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_bad_option_is_named(inside: Callable[..., Any], case: str) -> None:
    option, value = OPTIONS[case]
    text = assert_one_clear_error(inside("estimate", "mixtral-8x7b", *ON, option, value))
    assert option in text


NAMES = {
    "model": (("estimate", "mixtral-8x7", *ON), "mixtral-8x7b"),
    "hardware": (("estimate", "mixtral-8x7b", "--hardware", "rtx-4091"), "rtx-4090"),
    "GPU": (("estimate", "mixtral-8x7b", "--gpu", "rtx-409"), "rtx-4090"),
    "quantisation": (("estimate", "mixtral-8x7b", *ON, "--quant", "q4_k_n"), "q4_k_m"),
    "engine": (("estimate", "mixtral-8x7b", *ON, "--engine", "llama.cp"), "llama.cpp"),
    "KV type": (("estimate", "mixtral-8x7b", *ON, "--kv-type", "q8_1"), "q8_0"),
    "option": (("estimate", "mixtral-8x7b", *ON, "--contxt", "5"), "--context"),
    "command": (("estimat", "mixtral-8x7b"), "estimate"),
    "schema": (("schema", "modell"), "model"),
    "shown model": (("models", "show", "mixtral-8x7"), "mixtral-8x7b"),
    "shown hardware": (("hardware", "show", "rtx-4091"), "rtx-4090"),
    "shown quant": (("quants", "show", "q4_k_n"), "q4_k_m"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_misspelt_name_gets_a_suggestion(inside: Callable[..., Any], kind: str) -> None:
    arguments, meant = NAMES[kind]
    text = assert_one_clear_error(inside(*arguments))
    assert meant in text


def test_a_missing_argument(inside: Callable[..., Any]) -> None:
    assert inside("estimate").err == "error: Missing argument 'MODEL'\n help: moeplan estimate --help\n"


def test_a_directory_of_specifications_that_is_none(inside: Callable[..., Any]) -> None:
    text = assert_one_clear_error(inside("estimate", "mixtral-8x7b", *ON, "--configs", "/no/such"))
    assert "/no/such" in text


def test_the_hub_without_its_package(inside: Callable[..., Any]) -> None:
    from importlib.util import find_spec

    if find_spec("huggingface_hub"):
        pytest.skip("the package is installed")
    assert "moeplan[hub]" in assert_one_clear_error(inside("estimate", "hf:org/name", *ON))


def test_an_option_of_one_value_is_given_once(moeplan: Callable[..., Any]) -> None:
    text = assert_one_clear_error(
        moeplan("estimate", "llama-3.1-8b", "--gpu", "rtx-4090", "--ram-gib=64", "--gpu=rtx-3090")
    )
    assert "--gpu is given twice" in text and "joined by +" in text
    text = assert_one_clear_error(moeplan("plan", "llama-3.1-8b", *ON, "--context", "1", "--context", "2"))
    assert "--context is given twice" in text and "joined by" not in text


def test_what_other_programs_call_it_is_told_by_its_name_here(inside: Callable[..., Any]) -> None:
    assert "--format json" in assert_one_clear_error(inside("estimate", "llama-3.1-8b", *ON, "--json"))
    text = assert_one_clear_error(inside("estimate", "llama-3.1-8b", *ON, "--quant", "q4"))
    assert "did you mean `q4_k_m`" in text and "moeplan quants list" in text
    for option in ("--gpu", "--hardware"):
        text = assert_one_clear_error(
            inside("estimate", "llama-3.1-8b", option, "rtx-3090,rtx-3060-12gb", "--quant", "q4_k_m")
        )
        assert "joined by +" in text
    assert (
        inside("estimate", "llama-3.1-8b", "--gpu", "rtx-3090+rtx-3060-12gb", "--quant", "q4_k_m").code == 0
    )


def test_the_memory_of_a_run_is_its_own(moeplan: Callable[..., Any]) -> None:
    """What the tests before took does not count: a process starts with the peak of the one it came from."""
    taken = bytearray(b"x") * 400_000_000
    assert moeplan("--version").max_rss_bytes < 300e6
    del taken
