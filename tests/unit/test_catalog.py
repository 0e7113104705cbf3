"""Finding specifications: ids, aliases, Hugging Face names, the three roots, and the shipped index."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from moeplan.errors import SpecError, UnknownName
from moeplan.readers import parsed
from moeplan.readers.catalog import KINDS, Catalog, build_index, fold, live_index
from moeplan.readers.parsed_write import parsed_text
from moeplan.readers.paths import shipped_configs, user_configs
from moeplan.readers.yaml_doc import parse_document


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """The shipped catalog alone, whatever the user running the tests has at home."""
    return Catalog(user=tmp_path_factory.mktemp("home"))


# Names as they stand on Hugging Face, in Ollama, in file names of well-known uploaders.
NAMES = {
    "mixtral-8x7b": [
        "mixtral-8x7b",
        "Mixtral 8x7B",
        "mixtral_8x7b",
        "mixtral:8x7b",
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "TheBloke/Mixtral-8x7B-Instruct-v0.1-GGUF",
        "TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ",
        "https://huggingface.co/mistralai/Mixtral-8x7B-v0.1",
        "mixtral-8x7b-instruct-v0.1.Q4_K_M.gguf",
    ],
    "llama-2-7b": ["meta-llama/Llama-2-7b-chat-hf", "TheBloke/Llama-2-7B-Chat-GGUF", "llama2:7b"],
    "llama-2-70b": ["TheBloke/Llama-2-70B-Chat-AWQ", "LLAMA2-70B", "llama2:70b-chat-q4_K_M"],
    "llama-3-8b": ["unsloth/llama-3-8b-Instruct-bnb-4bit", "Meta-Llama-3-8B-Instruct-Q8_0", "llama3:8b"],
    "llama-3.1-8b": [
        "meta-llama/Llama-3.1-8B-Instruct",
        "Meta_Llama_3.1_8b_it",
        "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4",
        "neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    ],
    "llama-3.1-70b": ["bartowski/Meta-Llama-3.1-70B-Instruct-GGUF"],
    "llama-3.3-70b": ["unsloth/Llama-3.3-70B-Instruct-GGUF", "llama3.3:70b"],
    "llama-4-scout-109b-a17b": ["unsloth/Llama-4-Scout-17B-16E-Instruct-GGUF", "llama-4-scout"],
    "mistral-7b-v0.3": ["mistralai/Mistral-7B-Instruct-v0.3", "unsloth/mistral-7b-instruct-v0.3-bnb-4bit"],
    "qwen2.5-7b": ["Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "mlx-community/Qwen2.5-7B-Instruct-4bit"],
    "qwen2.5-32b": ["Qwen/Qwen2.5-Coder-32B-Instruct-AWQ"],
    "qwen3-30b-a3b-2507": [
        "Qwen/Qwen3-30B-A3B-Instruct-2507",
        "Qwen_Qwen3-30B-A3B-Thinking-2507-Q4_K_M",
        "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF",
    ],
    "qwen3-30b-a3b": [
        "Qwen3-30B-A3B-UD-Q4_K_XL.gguf",
        "qwen3:30b-a3b",
    ],
    "qwen3-235b-a22b-2507": ["Qwen/Qwen3-235B-A22B-Instruct-2507-FP8"],
    "qwen3-235b-a22b": ["unsloth/Qwen3-235B-A22B-128K-GGUF"],
    "phi-3-mini-128k": ["microsoft/Phi-3.5-mini-instruct", "bartowski/Phi-3.5-mini-instruct-GGUF"],
    "mistral-small-3.1-24b": [
        "unsloth/Mistral-Small-3.2-24B-Instruct-2506-GGUF",
        "Devstral-Small-2507-Q4_K_M.gguf",
    ],
    "granite-3.3-8b-instruct": ["ibm-granite/granite-3.3-8b-instruct-GGUF"],
    "qwen3.5-35b-a3b": ["unsloth/Qwen3.6-35B-A3B-GGUF"],
    "deepseek-r1": ["deepseek-ai/DeepSeek-R1-0528", "unsloth/DeepSeek-R1-0528-GGUF", "deepseek-r1:671b"],
    "deepseek-v3": ["deepseek-ai/DeepSeek-V3.1", "unsloth/DeepSeek-V3-0324-GGUF"],
    "gpt-oss-20b": ["openai/gpt-oss-20b", "gpt-oss:20b", "ggml-org/gpt-oss-20b-GGUF", "gpt-oss-20b-MXFP4"],
    "gpt-oss-120b": ["unsloth/gpt-oss-120b-BF16"],
    "gemma-3-27b": ["google/gemma-3-27b-it", "gemma3:27b", "gemma-3-27b-it-qat-q4_0.gguf"],
    "kimi-k2-thinking": ["moonshotai/Kimi-K2-Thinking"],
    "kimi-k2-0905": ["unsloth/Kimi-K2-Instruct-0905-GGUF"],
    "glm-4.5-air": ["zai-org/GLM-4.5-Air-FP8", "cpatonn/GLM-4.5-Air-AWQ-4bit"],
    "minimax-m2": ["MiniMaxAI/MiniMax-M2.1"],
    "phi-4": ["microsoft/phi-4", "phi4", "unsloth/phi-4-unsloth-bnb-4bit"],
}  # fmt: skip


@pytest.mark.parametrize(("id_", "name"), [(id_, name) for id_, names in NAMES.items() for name in names])
def test_the_names_people_use_are_found(shipped: Catalog, id_: str, name: str) -> None:
    assert shipped.find("models", name) == shipped.shipped / "models" / f"{id_}.yaml"


# Near a catalog name, yet other shapes: a wrong answer would be worse than none.
@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen2.5-VL-7B-Instruct", "codellama/CodeLlama-34b-hf", "Llama-2-34B", "google/gemma-7b",
        "meta-llama/Llama-3.2-11B-Vision-Instruct", "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "tiiuae/Falcon3-10B-Base", "LiquidAI/LFM2.5-8B-A1B", "Qwen/Qwen3.5-4B", "google/gemma-3n-E4B-it",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "Qwen/Qwen3-VL-8B-Instruct",
        "THUDM/GLM-Z1-Rumination-32B-0414", "mixtral", "llama-3", "Instruct", "GGUF", "-", "/",
        "../../etc/passwd", "x" * 10_000, "",
    ],
)  # fmt: skip
def test_names_of_other_shapes_are_not_taken_for_ours(shipped: Catalog, name: str) -> None:
    assert shipped.resolve("models", name) is None
    with pytest.raises(UnknownName) as caught:
        shipped.find("models", name)
    assert caught.value.kind == "model"
    assert caught.value.help == "moeplan models list"
    assert len(str(caught.value)) < 500


def test_an_unknown_name_lists_the_nearest(shipped: Catalog) -> None:
    def candidates(kind: str, name: str) -> tuple[str, ...]:
        with pytest.raises(UnknownName) as caught:
            shipped.find(kind, name)
        return caught.value.candidates

    assert candidates("models", "mixtral-8x7") == ("mixtral-8x7b",)
    assert candidates("models", "mistralai/Mixtrl-8x7B-v0.1")[0] == "mixtral-8x7b"
    # an unfinished name: what would complete it, shortest first
    assert set(candidates("models", "mixtral")[:2]) == {"mixtral-8x7b", "mixtral-8x22b"}
    assert set(candidates("models", "llama-3-")) >= {"llama-3-8b", "llama-3-70b"}
    assert "rtx-4090" in candidates("hardware/gpu", "rtx-4099")


def test_other_kinds_are_found_by_alias_too(shipped: Catalog) -> None:
    assert shipped.resolve("hardware/gpu", "RTX 4090") == "rtx-4090"
    assert shipped.resolve("hardware/cpu", "Ryzen_9_7950X") == "ryzen-9-7950x"
    # model name stripping is for models only
    assert shipped.resolve("hardware/gpu", "org/rtx-4090-GGUF") is None


# ── the three roots ─────────────────────────────────────────────────────────────────────────────


def write(root: Path, name: str, text: str) -> Path:
    path = root / "models" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def three(tmp_path: Path) -> tuple[Catalog, dict[str, Path]]:
    roots = {name: tmp_path / name for name in ("extra", "user", "shipped")}
    for root in roots.values():
        root.mkdir()
    return Catalog(roots["extra"], user=roots["user"], shipped=roots["shipped"]), roots


def test_the_first_root_that_has_an_id_wins(three: tuple[Catalog, dict[str, Path]]) -> None:
    catalog, roots = three
    paths = [write(roots[name], "tiny.yaml", "id: tiny\n") for name in ("shipped", "user", "extra")]
    for path in reversed(paths):
        assert catalog.find("models", "tiny") == path
        path.unlink()
    assert catalog.resolve("models", "tiny") is None


def test_an_id_anywhere_comes_before_an_alias(three: tuple[Catalog, dict[str, Path]]) -> None:
    catalog, roots = three
    write(roots["extra"], "mine.yaml", "id: mine\naliases: [tiny]\n")
    theirs = write(roots["shipped"], "tiny.yaml", "id: tiny\n")
    assert catalog.find("models", "tiny") == theirs
    assert catalog.resolve("models", "Mine") == "mine"


def test_users_files_are_found_by_alias_hub_name_and_title(three: tuple[Catalog, dict[str, Path]]) -> None:
    catalog, roots = three
    write(roots["user"], "Big One.yml", 'id: b\nname: "The Big"\nhf_ids: [me/Big-1B]\naliases: [grosse]\n')
    for name in ("GROSSE", "me/Big-1B", "other/big_1b-GGUF", "the big"):
        assert catalog.find("models", name) == roots["user"] / "models" / "Big One.yml"
    assert catalog.ids("models") == ["Big One"]


def test_a_broken_file_hides_nothing_but_itself(three: tuple[Catalog, dict[str, Path]]) -> None:
    catalog, roots = three
    broken = write(roots["user"], "broken.yaml", "id: [")
    write(roots["user"], "good.yaml", "id: good\naliases: [fine]\n")
    assert catalog.resolve("models", "fine") == "good"
    assert catalog.find("models", "broken") == broken  # reading it says what is wrong


def test_a_missing_configs_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such directory"):
        Catalog(tmp_path / "absent")


def test_the_users_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere/else")
    assert user_configs() == Path("/somewhere/else/moeplan")
    monkeypatch.setenv("HOME", "/users/me")
    for ignored in ("relative/path", ""):
        monkeypatch.setenv("XDG_CONFIG_HOME", ignored)
        assert user_configs() == Path("/users/me/.config/moeplan")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert user_configs() == Path("/users/me/.config/moeplan")


# ── the shipped index ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def fresh_index() -> dict[str, dict[str, str]]:
    """Built from the files; raises when two entries claim one name."""
    return build_index(shipped_configs())


def test_the_shipped_index_is_fresh(fresh_index: dict[str, dict[str, str]]) -> None:
    stored = msgspec.json.decode((shipped_configs() / "index.json").read_bytes())
    assert stored == fresh_index, "run: python -m moeplan.readers.catalog --write"


def test_the_parsed_copy_is_fresh_and_says_what_the_yaml_says() -> None:
    root = shipped_configs()
    assert (root / parsed.FILE_NAME).read_text(encoding="utf-8") == parsed_text(root), (
        "run: python -m moeplan.readers.catalog --write"
    )
    path = root / "models" / "mixtral-8x7b.yaml"
    text = path.read_text(encoding="utf-8")
    assert parsed.shipped_data(path, text) == parse_document(text, path).data
    assert parsed.shipped_data(path, text + "\n# edited\n") is None, "an edited file has to be parsed"


def test_every_name_of_the_index_leads_to_a_file(fresh_index: dict[str, dict[str, str]]) -> None:
    assert set(fresh_index) == set(KINDS)
    assert len(fresh_index["models"]) > 400
    for kind, names in fresh_index.items():
        for name, id_ in names.items():
            assert name == fold(name)
            assert (shipped_configs() / kind / f"{id_}.yaml").is_file()


def test_two_entries_may_not_claim_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("id: a\naliases: [same-name]\n")
    (tmp_path / "b.yaml").write_text("id: b\nhf_ids: [Same_Name]\n")
    with pytest.raises(SpecError, match="'Same_Name' is also claimed by a"):
        live_index(tmp_path, strict=True)
    # titles and names without owner are only implied: shared by two, they name neither
    (tmp_path / "a.yaml").write_text("id: a\nname: Title\nhf_ids: [x/base, x/one]\n")
    (tmp_path / "b.yaml").write_text("id: b\nname: title\nhf_ids: [y/base, y/two]\n")
    assert live_index(tmp_path, strict=True) == {
        "a": "a", "b": "b", "one": "a", "two": "b", "x/base": "a", "x/one": "a", "y/base": "b", "y/two": "b",
    }  # fmt: skip
