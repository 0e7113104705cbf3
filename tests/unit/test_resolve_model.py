"""What a MODEL argument may be: names, files of every kind, and everything that is neither."""

from __future__ import annotations

import builtins
import json
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from moeplan.errors import MissingExtra, MoeplanError, SpecError, UnknownName
from moeplan.readers.catalog import Catalog
from moeplan.readers.models import resolve_model
from moeplan.readers.paths import shipped_configs
from moeplan.readers.quants import load_quants

QUANTS = load_quants()
YAML = (shipped_configs() / "models" / "llama-3-8b.yaml").read_text(encoding="utf-8")
# The shapes of Llama 3 8B, as its config.json has them.
CONFIG = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 8192, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    monkeypatch.chdir(tmp_path)
    return Catalog(user=tmp_path / "home")


def test_a_catalog_name_gives_the_architecture_alone(catalog: Catalog) -> None:
    source = resolve_model("meta-llama/Meta-Llama-3-8B-Instruct", catalog, QUANTS)
    assert (source.kind, source.spec.id) == ("catalog", "llama-3-8b")
    assert source.path == str(shipped_configs() / "models" / "llama-3-8b.yaml")
    assert (source.tensors, source.file_quant, source.file_bytes) == (None, None, None)


def test_files_are_read_by_what_they_are(catalog: Catalog, tmp_path: Path) -> None:
    known = resolve_model("llama-3-8b", catalog, QUANTS).spec
    (tmp_path / "mine.yaml").write_text(YAML)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "odd-name").write_text(json.dumps(CONFIG))
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name, kind in [
        ("mine.yaml", "yaml"), ("./mine.yaml", "yaml"), (str(tmp_path / "mine.yaml"), "yaml"),
        ("config.json", "config"), ("odd-name", "config"), ("org/name", "config"), (str(folder), "config"),
    ]:  # fmt: skip
        source = resolve_model(name, catalog, QUANTS)
        assert source.kind == kind, name
        assert (source.spec.blocks, source.spec.layout) == (known.blocks, known.layout), name


def test_a_catalog_id_is_not_hidden_by_a_directory_of_that_name(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "llama-3-8b").mkdir()
    assert resolve_model("llama-3-8b", catalog, QUANTS).kind == "catalog"
    with pytest.raises(SpecError, match=r"no config\.json"):
        resolve_model("./llama-3-8b", catalog, QUANTS)


def test_a_home_relative_path_is_expanded(catalog: Catalog, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(YAML)
    assert resolve_model("~/mine.yaml", catalog, QUANTS).spec.id == "llama-3-8b"
    with pytest.raises(SpecError, match="no such file"):
        resolve_model("~nobody-of-that-name/mine.yaml", catalog, QUANTS)


def make_bad_files(folder: Path) -> dict[str, str]:
    """Name -> what its error must say."""
    says = {}
    for name, content, what in [
        ("empty.yaml", b"", "is empty"),
        ("empty.gguf", b"", "is empty"),
        ("binary.yaml", bytes(range(256)) * 100, "not a text file"),
        ("text.gguf", b"not a gguf file at all, but long enough to look at", "GGUF"),
        ("short.gguf", b"GGUF", ""),
        ("list.yaml", b"- 1\n- 2\n", "expected a mapping"),
        ("list.json", b"[1, 2]", "object"),
        ("broken.json", b'{"model_type": "llama", ', "JSON"),
        ("broken.safetensors", b"\xff" * 64, ""),
        ("broken.safetensors.index.json", b"{", ""),
        ("weights.bin", b"PK\x03\x04" + b"\0" * 100, "not a kind of file"),
        ("notes.txt", b"hello", "not a kind of file"),
        ("bomb.yaml", b"a: &a [1]\nb: [*a, *a]\n", "anchors"),
        ("deep.yaml", b"[" * 100_000, "deeper than"),
        ("deep.json", b"[" * 100_000, ""),
    ]:
        (folder / name).write_bytes(content)
        says[name] = what
    for name, limit in [("huge.yaml", "too large"), ("huge.json", "too big")]:
        with (folder / name).open("wb") as file:
            file.truncate(50_000_000_000)
        says[name] = limit
    os.mkfifo(folder / "pipe.yaml")
    (folder / "nothing-in-it").mkdir()
    (folder / "lora").mkdir()
    (folder / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "lora" / "adapter_model.safetensors").write_bytes(b"\x02" + b"\0" * 7 + b"{}")
    (folder / "loop.yaml").symlink_to(folder / "loop.yaml")
    (folder / "dangling.yaml").symlink_to(folder / "absent")
    return says | {
        "pipe.yaml": "not a regular file",
        "./nothing-in-it": "no config.json",
        "./lora": "is a LoRA adapter",
        "lora/adapter_model.safetensors": "is a LoRA adapter",
        "loop.yaml": "",
        "dangling.yaml": "no such file",
        "absent.gguf": "no such file",
        "models/absent.safetensors": "no such file",
        "/dev/zero": "not a regular file",
        "/dev/null": "not a regular file",
        "/proc/self/mem": "",
        "": "no model given",
        "  ": "no model given",
        "a\0b": "not a model name",
        "/": "no config.json",
        "hf:": "expected hf:org/name",
        "hf:just-a-name": "expected hf:org/name",
        "hf:a/b/c": "expected hf:org/name",
        "./" + "x" * 5000: "no such file",
    }


def test_bad_input_ends_in_one_clear_error_at_once(catalog: Catalog, tmp_path: Path) -> None:
    for name, what in make_bad_files(tmp_path).items():
        started = time.process_time()
        with pytest.raises(MoeplanError) as caught:
            resolve_model(name, catalog, QUANTS)
        assert time.process_time() - started < 2, name
        assert what in str(caught.value), name
        assert len(str(caught.value)) < 6000, name


def test_an_unknown_word_is_an_unknown_name(catalog: Catalog) -> None:
    for name in ("mixtrl-8x7b", "org/does-not-exist", "x" * 5000, "-", "\u202e"):
        with pytest.raises(UnknownName):
            resolve_model(name, catalog, QUANTS)


# ── hf:org/name ─────────────────────────────────────────────────────────────────────────────────


def test_the_hub_needs_its_extra(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_hub(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_hub)
    with pytest.raises(MissingExtra, match="huggingface_hub") as caught:
        resolve_model("hf:org/name", catalog, QUANTS)
    assert "moeplan[hub]" in str(caught.value)


def hub(monkeypatch: pytest.MonkeyPatch, download: Any) -> None:
    module = types.ModuleType("huggingface_hub")
    module.hf_hub_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_the_hub_is_asked_for_the_config_alone(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    asked = []

    def download(repo: str, file: str, **_: Any) -> str:
        asked.append((repo, file))
        return str(tmp_path / "config.json")

    hub(monkeypatch, download)
    assert resolve_model("hf:org/name", catalog, QUANTS).spec.hidden_size == 4096
    assert asked == [("org/name", "config.json")]


def test_offline_the_hub_says_so(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route to host\nand a long trace")

    hub(monkeypatch, download)
    with pytest.raises(SpecError, match="no route to host") as caught:
        resolve_model("hf:org/name", catalog, QUANTS)
    assert "offline" in str(caught.value.hint)
    assert "trace" not in caught.value.message
