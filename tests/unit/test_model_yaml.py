"""A model's YAML: reading with its checks, writing, and the schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from moeplan.domain import model as domain
from moeplan.domain.model import Block, DenseFfn, GqaAttention, Mixer, ModelSpec, MoeFfn
from moeplan.errors import SpecError
from moeplan.provenance import Source
from moeplan.readers import model_wire as wire
from moeplan.readers.layout import LayoutError, format_layout, parse_layout
from moeplan.readers.model_yaml import (
    dump_model_yaml,
    parse_model_yaml,
    read_model_yaml,
    with_unique_block_names,
)
from moeplan.readers.paths import shipped_configs
from moeplan.readers.yaml_doc import parse_document

MIXTRAL = """\
id: mixtral-8x7b
name: Mixtral 8x7B
architecture: mixtral
hf_ids: [mistralai/Mixtral-8x7B-v0.1]
released: 2023-12-11
hidden_size: 4096
vocab_size: 32000
context_tokens: 32768
blocks:
  moe:
    mixer: {kind: gqa, n_heads: 32, n_kv_heads: 8, head_dim: 128}
    ffn: {kind: moe, n_experts: 8, n_active: 2, expert_intermediate: 14336}
layout: 32x moe
published: {params_total: 46.7e9, params_active: 12.9e9}
sources:
  - {kind: datasheet, ref: config.json of mistralai/Mixtral-8x7B-v0.1 on Hugging Face, retrieved: 2026-11-22}
"""

MIXTRAL_SPEC = ModelSpec(
    id="mixtral-8x7b",
    name="Mixtral 8x7B",
    architecture="mixtral",
    hf_ids=("mistralai/Mixtral-8x7B-v0.1",),
    released="2023-12-11",
    hidden_size=4096,
    vocab_size=32000,
    context_tokens=32768,
    blocks=(
        Block(
            name="moe",
            mixer=GqaAttention(n_heads=32, n_kv_heads=8, head_dim=128, v_head_dim=128),
            ffn=MoeFfn(n_experts=8, n_active=2, expert_intermediate=14336),
        ),
    ),
    layout=(0,) * 32,
    published=domain.Published(params_total=46.7e9, params_active=12.9e9),
    sources=(
        Source("datasheet", "config.json of mistralai/Mixtral-8x7B-v0.1 on Hugging Face", "2026-11-22"),
    ),
)


def test_mixtral_reads_as_its_config_says() -> None:
    assert parse_model_yaml(MIXTRAL) == MIXTRAL_SPEC


def test_mixtral_is_written_as_people_would() -> None:
    assert dump_model_yaml(MIXTRAL_SPEC) == MIXTRAL


# ── what may be left out or written differently ─────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("{kind: gqa, n_heads: 32, n_kv_heads: 8,", "{n_heads: 32, n_kv_heads: 8,", {}),
        ("{kind: gqa, n_heads: 32, n_kv_heads: 8,", "{kind: mha, n_heads: 32,", {"n_kv_heads": 32}),
        ("{kind: gqa, n_heads: 32, n_kv_heads: 8,", "{kind: mqa, n_heads: 32,", {"n_kv_heads": 1}),
        ("head_dim: 128}", "head_dim: 128, v_head_dim: 64}", {"v_head_dim": 64}),
    ],
)
def test_mixers_may_be_written_briefly(old: str, new: str, changed: dict[str, int]) -> None:
    mixer = parse_model_yaml(MIXTRAL.replace(old, new)).blocks[0].mixer
    assert isinstance(mixer, GqaAttention)
    expected = {"n_heads": 32, "n_kv_heads": 8, "head_dim": 128, "v_head_dim": 128, **changed}
    assert {name: getattr(mixer, name) for name in expected} == expected


def test_the_kind_of_a_feed_forward_part_follows_from_its_keys() -> None:
    assert parse_model_yaml(MIXTRAL.replace("kind: moe, ", "")) == MIXTRAL_SPEC
    dense = re.sub(r"ffn: .*", "ffn: {intermediate: 11008}", MIXTRAL)
    assert parse_model_yaml(dense).blocks[0].ffn == DenseFfn(intermediate=11008)


# ── what is wrong, and where ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("old", "new", "says", "line", "hint"),
    [
        ("n_active: 2", "topk: 2", "unknown key `topk` in `blocks.moe.ffn`", 12, "did you mean `n_active`?"),
        ("n_active: 2", "n_actve: 2", "unknown key `n_actve`", 12, "did you mean `n_active`?"),
        ("n_active: 2, ", "", "missing key `n_active` in `blocks.moe.ffn` (kind moe)", 12, None),
        ("n_active: 2", "n_active: 9", "n_active is 9, but there are only 8 experts", 12, None),
        ("n_kv_heads: 8", "n_kv_heads: 5", "n_heads (32) must be a multiple of n_kv_heads (5)", 11, None),
        ("kind: gqa", "kind: mha", "mha means n_kv_heads = 32, not 8", 11, "leave it out, or use kind: gqa"),
        ("kind: gqa", "kind: gqb", "'gqb' is not possible here", 11, "did you mean `gqa`?"),
        ("14336}", "14336, n_shared: 1}", "n_shared without shared_intermediate", 12, None),
        ("14336}", "14336, shared_gate: true}", "shared_gate without shared experts", 12, None),
        ("head_dim: 128", "head_dim: 0", "expected a whole number >= 1, got 0", 11, None),
        ("head_dim: 128", "head_dim: -128", "got -128", 11, None),
        ("head_dim: 128", "head_dim: 128.5", "expected a whole number, got 128.5", 11, None),
        ("head_dim: 128", "head_dim: 1e30", "expected a whole number <= 100000000", 11, None),
        ("32x moe", "32x mo", "no block is called `mo`", 13, "did you mean `moe`?"),
        ("32x moe", "32 moe", "expected 'x' after 32 at character 4", 13, None),
        ("32x moe", "2000000x (2000x moe)", "more than 10,000 layers", 13, None),
        ("32x moe", "0x moe", "must be at least 1", 13, None),
        ("layout:", "  other: {n_norms: 1}\nlayout:", "block `other` has neither mixer nor ffn", 13, None),
        ("layout:", "  b: {ffn: {intermediate: 8}}\nlayout:", "block `b` does not appear", 13, None),
        ("  moe:\n", "  8x:\n", "block name '8x' must be a letter", 10, None),
        ("released: 2023-12-11", "released: 2023-13", "a date is YYYY", 5, None),
        ("released: 2023-12-11", "released: 2023", "expected text, got 2023", 5, "put quotes around it"),
        ("id: mixtral-8x7b", "id: a/b", "an id has only letters", 1, None),
        ("12.9e9", "50e9", "more active than total", 14, None),
        ("hidden_size: 4096\n", "", "missing key `hidden_size`", 1, None),
        ("hidden_size", "hiddensize", "unknown key `hiddensize`", 6, "did you mean `hidden_size`?"),
        ("layout: 32x moe", "num_layers: 32", "unknown key `num_layers`", 13, "did you mean `layout`?"),
        ("hidden_size: 4096", "hidden_size: 4096\nextra_params: 5", "needs an extra_note", 7, None),
        ("kind: datasheet", "kind: rumour", "'rumour' is not possible here; one of", 16, None),
    ],
)  # fmt: skip
def test_each_mistake_is_told_with_its_place(
    old: str, new: str, says: str, line: int, hint: str | None
) -> None:
    assert old in MIXTRAL
    with pytest.raises(SpecError) as caught:
        parse_model_yaml(MIXTRAL.replace(old, new, 1), "mine.yaml")
    error = caught.value
    assert says in error.message
    assert (error.path, error.line) == ("mine.yaml", line)
    assert error.column is not None
    assert error.snippet is not None
    if hint is not None:
        assert error.hint == hint
    assert error.help == "moeplan schema model" or "mha means" in error.message


def test_the_column_is_that_of_the_word_at_fault() -> None:
    with pytest.raises(SpecError) as caught:
        parse_model_yaml(MIXTRAL.replace("n_active: 2", "topk: 2"))
    # `    ffn: {kind: moe, n_experts: 8, topk: 2` : the t of topk
    assert caught.value.column == 36
    assert caught.value.snippet is not None
    assert caught.value.snippet[35:39] == "topk"


# ── the layout grammar ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("a", "a"),
        ("3x a", "aaa"),
        ("3xa", "aaa"),
        ("3 x a", "aaa"),
        ("2x a, 3x b", "aabbb"),
        ("2x (2x a, b)", "aabaab"),
        ("a,(b,a),2x(b)", "abab" + "b"),
        ("2x (a, 2x (b, x))", "abxbxabxbx"),
        ("2x x, x", "xxx"),
    ],
)
def test_layouts_read_as_they_look(text: str, layers: str) -> None:
    names = ["a", "b", "x"]
    assert parse_layout(text, names) == tuple(names.index(char) for char in layers)


@pytest.mark.parametrize(
    "text",
    ["", ",", "a,", "a b", "(a", "a)", "3x", "3", "x3", "c", "-1x a", "1.5x a", "()", "²x a", "((((((((((a"],
)
def test_broken_layouts_are_refused(text: str) -> None:
    with pytest.raises(LayoutError):
        parse_layout(text, ["a", "b", "x"])


def test_a_nested_repeat_is_refused_before_it_is_built() -> None:
    with pytest.raises(LayoutError, match="more than 10,000 layers"):
        parse_layout("9999x (9999x (9999x a))", ["a"])
    with pytest.raises(LayoutError, match="nested deeper"):
        parse_layout("(" * 5000 + "a" + ")" * 5000, ["a"])


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ("aaaa", "4x a"),
        ("abbb", "a, 3x b"),
        ("aaaaab" * 10 + "aa", "10x (5x a, b), 2x a"),  # Gemma 3 27B: 5 local, 1 global
        ("aab", "2x a, b"),
        ("ab", "a, b"),
        ("abab", "2x (a, b)"),
    ],
)
def test_layouts_are_written_briefly(layers: str, text: str) -> None:
    assert format_layout(tuple("ab".index(char) for char in layers), ["a", "b"]) == text


# ── wire and domain stay together ───────────────────────────────────────────────────────────────

PAIRS = [
    (domain.Indexer, wire.IndexerWire),
    (DenseFfn, wire.DenseWire),
    (MoeFfn, wire.MoeWire),
    (domain.Part, wire.PartWire),
    (domain.Published, wire.PublishedWire),
    (domain.Stored, wire.StoredWire),
    (ModelSpec, wire.ModelWire),
]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        *PAIRS,
        *(
            next((kind, w) for w in get_args(wire.AnyMixerWire) if _tag(w) == _tag(kind))
            for _tag in [lambda struct: struct.__struct_config__.tag]
            for kind in get_args(Mixer)
        ),
    ],
)
def test_every_field_can_be_written_with_the_same_default(value: type, written: type) -> None:
    ours = {field.name: field for field in msgspec.structs.fields(written)}
    theirs = {field.name: field for field in msgspec.structs.fields(value)}
    assert set(ours) == set(theirs)
    for name, field in theirs.items():
        if not field.required and not isinstance(field.default, (tuple, msgspec.Struct)):
            assert ours[name].default == field.default, name


def test_a_block_has_the_same_fields_on_both_sides() -> None:
    fields = {field.name for field in msgspec.structs.fields(Block)}
    assert {field.name for field in msgspec.structs.fields(wire.BlockWire)} == fields - {"name"}


def test_blocks_of_one_name_are_told_apart_when_written() -> None:
    ffn = DenseFfn(intermediate=8)
    blocks = tuple(Block(name=name, mixer=None, ffn=ffn) for name in ("a", "a", "9 lives", "a-2"))
    spec = msgspec.structs.replace(MIXTRAL_SPEC, blocks=blocks, layout=(0, 1, 2, 3))
    again = parse_model_yaml(dump_model_yaml(spec))
    assert [block.name for block in again.blocks] == ["a", "a-2", "block-3", "a-2-2"]
    assert again == with_unique_block_names(spec)


def test_long_texts_are_folded_and_odd_ones_quoted() -> None:
    notes = (
        "word " * 60 + "end",
        "no",
        "1e9",
        "a: b # c",
        " edge",
        "tab\there",
        "\u2028\x7f\u0085",
        "'q'",
        '"',
        "é",
    )
    spec = msgspec.structs.replace(MIXTRAL_SPEC, notes=notes, weak="x" * 300, license="2024")
    text = dump_model_yaml(spec)
    assert parse_model_yaml(text) == spec
    assert max(len(line) for line in text.splitlines() if "xxx" not in line) <= 110


def test_folding_loses_no_space_wherever_the_line_breaks() -> None:
    notes = tuple("x" * n + "  y  " + "z" * 20 for n in range(80, 115))
    spec = msgspec.structs.replace(MIXTRAL_SPEC, notes=notes)
    assert parse_model_yaml(dump_model_yaml(spec)).notes == notes


# ── JSON Schema ─────────────────────────────────────────────────────────────────────────────────


def test_the_schema_describes_every_key() -> None:
    definitions = wire.model_schema()["$defs"]
    assert isinstance(definitions, dict)
    bare = [
        f"{name}.{key}"
        for name, definition in definitions.items()
        for key, value in definition["properties"].items()
        if key != "kind" and not value.get("description")
    ]
    assert len(definitions) > 15
    assert bare == []


def test_the_schema_accepts_the_catalog_and_refuses_mistakes() -> None:
    from jsonschema import Draft202012Validator

    def data(text: str) -> object:
        return parse_document(text, "spec.yaml").data

    validator = Draft202012Validator(wire.model_schema())
    for id_ in ("mixtral-8x7b", "deepseek-v3.2", "kimi-k3", "switch-base-8"):
        path = shipped_configs() / "models" / f"{id_}.yaml"
        assert list(validator.iter_errors(data(path.read_text(encoding="utf-8")))) == []
    assert list(validator.iter_errors(data(MIXTRAL.replace("n_active", "topk"))))
    assert list(validator.iter_errors(data(MIXTRAL.replace("4096", "0"))))


def test_the_shipped_schema_is_fresh() -> None:
    stored = msgspec.json.decode((shipped_configs() / "schema" / "model.json").read_bytes())
    fresh = msgspec.json.decode(msgspec.json.encode(wire.model_schema()))
    assert {key: value for key, value in stored.items() if key in fresh} == fresh


def test_reading_a_model_costs_milliseconds(tmp_path: Path) -> None:
    import time

    path = tmp_path / "big.yaml"
    path.write_text(MIXTRAL + "notes:\n" + "  - filler text of a line\n" * 30_000)
    started = time.process_time()
    assert len(read_model_yaml(path).notes) == 30_000
    assert time.process_time() - started < 2
