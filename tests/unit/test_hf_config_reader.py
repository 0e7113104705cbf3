"""Reading config.json: look-ups, wrappers, files, and one clear error for everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moeplan.domain.model import GqaAttention, MlaAttention, MoeFfn
from moeplan.errors import MoeplanError, NotModelled, SpecError
from moeplan.graph.inventory import block_tensors
from moeplan.readers.hf import FAMILIES, read_config, spec_from_config
from moeplan.readers.hf.closed_form import block_params
from moeplan.readers.hf.view import MAX_LAYERS, ConfigView

DATA = Path(__file__).parents[1] / "data" / "hf"

MIXTRAL: dict[str, Any] = {
    "model_type": "mixtral",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 128,
    "max_position_embeddings": 512,
}


def spec(config: dict[str, Any]) -> Any:
    return spec_from_config(config, id="m", name="M", where="config.json")


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in MIXTRAL.items() if key not in keys}


# ── the view ────────────────────────────────────────────────────────────────────────────────────


def test_the_first_key_that_is_present_counts_and_null_is_absent() -> None:
    view = ConfigView({"a": None, "b": 3, "c": 4}, "f")
    assert view.int("a", "b", "c") == 3
    assert view.int("a", default=7) == 7
    assert view.get("a") is None
    assert view.has("a", "b")
    assert not view.has("a", "z")


def test_missing_keys_are_collected_and_named_together() -> None:
    view = ConfigView({"model_type": "x"}, "f")
    view.int("alpha")
    view.str("beta", "gamma")
    view.int("alpha")
    with pytest.raises(NotModelled) as caught:
        view.finish()
    assert caught.value.missing == ("alpha", "beta or gamma")
    assert "'x'" in str(caught.value)


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("int", "4"), ("int", 4.0), ("int", True), ("int", 0), ("int", -1), ("int", 10**8), ("int", 10**400),
        ("layers", MAX_LAYERS + 1), ("count", -1), ("tokens", 0), ("bool", 1), ("bool", "true"), ("str", 3),
        ("list", "abc"), ("float", "1"), ("float", float("nan")), ("float", float("inf")), ("sub", [1]),
    ],
)  # fmt: skip
def test_values_that_make_no_sense_name_file_and_key(method: str, value: object) -> None:
    view = ConfigView({"width": value}, "dir/config.json")
    with pytest.raises(SpecError) as caught:
        getattr(view, method)("width")
    assert caught.value.path == "dir/config.json"
    assert "`width`" in caught.value.message
    assert len(caught.value.message) < 200


def test_lists_are_checked_item_by_item() -> None:
    view = ConfigView({"kinds": ["a", 1]}, "f")
    with pytest.raises(SpecError, match="item 1"):
        view.list("kinds", of=str)
    with pytest.raises(SpecError, match="must have 3 items, got 2"):
        view.list("kinds", length=3)


# ── specs ───────────────────────────────────────────────────────────────────────────────────────


def test_a_mixtral_reads_as_written() -> None:
    result = spec(MIXTRAL)
    assert (result.architecture, result.n_layers, result.hidden_size) == ("mixtral", 2, 64)
    assert (result.vocab_size, result.context_tokens, result.tied_embeddings) == (128, 512, False)
    (block,) = result.blocks
    assert block.mixer == GqaAttention(n_heads=4, n_kv_heads=2, head_dim=16, v_head_dim=16)
    assert block.ffn == MoeFfn(n_experts=4, n_active=2, expert_intermediate=96)


def test_all_missing_keys_in_one_error() -> None:
    with pytest.raises(NotModelled) as caught:
        spec(without("hidden_size", "num_local_experts", "vocab_size"))
    missing = " ".join(caught.value.missing)
    assert "hidden_size" in missing
    assert "num_local_experts" in missing
    assert "vocab_size" in missing


def test_an_unknown_type_is_refused_with_the_nearest_known_ones() -> None:
    with pytest.raises(NotModelled, match="mixtral"):
        spec({**MIXTRAL, "model_type": "mixtrel"})


def test_an_unknown_type_names_what_the_config_does_not_say() -> None:
    with pytest.raises(NotModelled) as caught:
        spec({"model_type": "zzz", "d_model": 64, "n_layer": 2})
    assert caught.value.missing == ("num_attention_heads", "intermediate_size", "vocab_size")


def test_a_config_without_type_is_refused_even_if_it_looks_like_a_llama() -> None:
    with pytest.raises(NotModelled, match="model_type"):
        spec(without("model_type"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"num_experts_per_tok": 5}, "num_experts_per_tok"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"hidden_size": 66}, "hidden_size"),
        ({"num_hidden_layers": 2_000_000}, "num_hidden_layers"),
        ({"intermediate_size": 10**9}, "intermediate_size"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"quantization_config": "fp8"}, "quantization_config"),
    ],
)
def test_contradictions_name_the_key(change: dict[str, Any], word: str) -> None:
    with pytest.raises(SpecError, match=word):
        spec({**MIXTRAL, **change})


@pytest.mark.parametrize("key", ["text_config", "language_config", "llm_config"])
def test_multimodal_wrappers_are_entered(key: str) -> None:
    wrapper = {"model_type": "some_vlm", "torch_dtype": "float16", "tie_word_embeddings": True, key: MIXTRAL}
    result = spec(wrapper)
    assert result.architecture == "mixtral"
    assert result.native_quant == "f16"  # from the wrapper, since the text config has none
    assert result.tied_embeddings


def test_nested_wrappers_and_their_own_values_win() -> None:
    inner = {**MIXTRAL, "torch_dtype": "float32"}
    wrapper = {"model_type": "omni", "dtype": None, "thinker_config": {"text_config": inner}}
    assert spec(wrapper).native_quant == "f32"


def test_a_text_config_without_type_takes_the_wrappers() -> None:
    # Gemma 3 4B as Google publishes it: everything that equals the class's default is left out.
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
        "num_hidden_layers": 27, "patch_size": 14, "image_size": 896,
    }  # fmt: skip
    result = spec({"model_type": "gemma3", "text_config": text, "vision_config": vision})
    mixer = result.blocks[0].mixer
    assert (mixer.n_heads, mixer.n_kv_heads, mixer.head_dim) == (8, 4, 256)
    assert (result.vocab_size, result.context_tokens) == (262_208, 131_072)
    # The hub counts 4,300,079,472 for the repository and the text model is 3,880,263,168.
    (tower,) = result.parts
    assert tower.params == 4_300_079_472 - 3_880_263_168


def test_gemma_4_with_per_layer_embeddings_is_not_guessed() -> None:
    with pytest.raises(NotModelled, match="per-layer"):
        spec({"model_type": "gemma4_text", "hidden_size": 64, "num_hidden_layers": 6, "vocab_size": 8})


def test_indexer_pattern_of_glm_from_period_and_offset() -> None:
    config = json.loads((DATA / "glm-5.2.json").read_text())
    listed = [kind == "full" for kind in config.pop("indexer_types")]
    mixers = [block.mixer for block in spec(config).layer_blocks()]
    own = [isinstance(m, MlaAttention) and m.indexer is not None and not m.indexer.shared for m in mixers]
    assert own == listed  # index_topk_freq 4 and index_skip_topk_offset 3 say the same as the list


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_family_exists_and_asks_for_what_it_needs(model_type: str) -> None:
    with pytest.raises(NotModelled, match=model_type):
        spec({"model_type": model_type, "hidden_size_per_layer_input": 0})


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json")), ids=lambda p: p.stem)
def test_closed_form_equals_the_inventory(path: Path) -> None:
    # Two countings of the same layer: arithmetic in the reader, a list of tensors in graph.
    result = read_config(path)
    for block in result.blocks:
        if block.cross_attention is not None:
            continue
        try:
            params = block_params(block, result.hidden_size)
        except NotModelled:
            continue
        if result.norm_bias:
            params += block.n_norms * result.hidden_size
        assert params == sum(t.n_elements for t in block_tensors(result, block))


# ── files ───────────────────────────────────────────────────────────────────────────────────────


def test_a_directory_is_named_for_itself(tmp_path: Path) -> None:
    folder = tmp_path / "My-Mixtral"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MIXTRAL))
    assert read_config(folder) == read_config(folder / "config.json")
    assert (read_config(folder).id, read_config(folder).name) == ("my-mixtral", "My-Mixtral")


def test_a_hub_cache_is_named_for_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--mistralai--Mixtral-8x7B" / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(MIXTRAL))
    assert read_config(folder).name == "mistralai/Mixtral-8x7B"
    assert read_config(folder).id == "mixtral-8x7b"


def test_bad_json_says_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{\n  "model_type": "llama",\n  "hidden_size": 64 "x": 1\n}')
    with pytest.raises(SpecError) as caught:
        read_config(file)
    assert (caught.value.line, caught.value.column) == (3, 21)
    assert caught.value.snippet == '  "hidden_size": 64 "x": 1'


def test_a_bad_value_says_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**MIXTRAL, "vocab_size": -5}, indent=2))
    with pytest.raises(SpecError) as caught:
        read_config(file)
    line = file.read_text().splitlines()[caught.value.line - 1]  # type: ignore[operator]
    assert line.startswith('"vocab_size"', caught.value.column - 1)  # type: ignore[operator]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"3", b"\xff\xfe\x00", b"[" * 100_000, b'{"model_type": "llama", "hidden_size": '
     + b"9" * 50_000 + b"}", b'{"model_type": {}}', b'{"model_type": "mixtral", "text_config": 4}',
     b'{"model_type": "llama", "hidden_size": NaN}', b'{"model_type": "llama", "hidden_size": 1e999}'],
)  # fmt: skip
def test_broken_files_give_one_error_not_a_traceback(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(MoeplanError) as caught:
        read_config(file)
    assert len(str(caught.value)) < 500


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    with file.open("wb") as stream:
        stream.truncate(6_000_000)
    with pytest.raises(SpecError, match="too big"):
        read_config(file)


def test_absent_files_and_empty_directories(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        read_config(tmp_path / "nothing")
    with pytest.raises(SpecError, match=r"no config\.json"):
        read_config(tmp_path)
