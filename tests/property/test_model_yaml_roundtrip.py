"""Whatever a ModelSpec holds, its YAML gives it back; whatever a file holds, reading it ends cleanly."""

from __future__ import annotations

import contextlib
import math
from typing import Any, get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from moeplan.domain.model import (
    Block,
    CompressedAttention,
    DenseFfn,
    GatedDeltaNet,
    GqaAttention,
    Mamba2,
    Mixer,
    ModelSpec,
    MoeFfn,
    Part,
    Published,
    Stored,
)
from moeplan.errors import SpecError
from moeplan.provenance import Source
from moeplan.readers.layout import format_layout, parse_layout
from moeplan.readers.model_yaml import dump_model_yaml, parse_model_yaml
from moeplan.readers.yaml_doc import parse_document
from moeplan.readers.yaml_write import number, scalar

sizes = st.integers(1, 10**8)
small = st.integers(1, 64)
# Everything a file can hold: all of Unicode but lone surrogates, which have no UTF-8 form.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200) | st.sampled_from(
    [
        "",
        "no",
        "true",
        "~",
        "1e9",
        "-1",
        "0x1F",
        "- a",
        "a: b",
        "a #b",
        "{a}",
        "[a]",
        "'",
        '"',
        "\\",
        "%",
        "---",
        "\n",
    ]
)
words = texts.filter(bool)
names = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_.-]{0,12}", fullmatch=True)


def of_type(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a field: sizes for int, any member for Literal, structs field by field."""
    info = (
        annotation if isinstance(annotation, msgspec.inspect.Type) else msgspec.inspect.type_info(annotation)
    )
    if isinstance(info, msgspec.inspect.UnionType):
        return st.one_of([of_type(part) for part in info.types])
    if isinstance(info, msgspec.inspect.LiteralType):
        return st.sampled_from(sorted(info.values))
    if isinstance(info, msgspec.inspect.StructType):
        return struct(info.cls)
    plain: dict[str, st.SearchStrategy[Any]] = {
        "IntType": sizes,
        "BoolType": st.booleans(),
        "StrType": texts,
        "NoneType": st.none(),
    }
    return plain[type(info).__name__]


def struct(kind: type) -> st.SearchStrategy[Any]:
    """Any value of ``kind`` that a file may state: multiples where heads are shared in groups."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    made = st.fixed_dictionaries({field.name: of_type(field.type) for field in info.fields})
    return made.flatmap(lambda values: small.map(lambda factor: kind(**consistent(kind, values, factor))))


def consistent(kind: type, values: dict[str, Any], factor: int) -> dict[str, Any]:
    """``values`` without what the reader refuses."""
    shared = {
        GqaAttention: ("n_kv_heads", "n_heads"),
        Mamba2: ("n_groups", "n_heads"),
        GatedDeltaNet: ("n_k_heads", "n_v_heads"),
        CompressedAttention: ("n_out_groups", "n_heads"),
    }
    if kind in shared:
        few, many = shared[kind]
        values[few] = values[few] % 10**6 + 1
        values[many] = values[few] * factor
    if kind is GqaAttention and values["value_is_key"]:
        values["v_head_dim"] = values["head_dim"]
    if kind is MoeFfn:
        values["n_active"] = (values["n_active"] - 1) % (values["n_experts"] + values["n_zero_experts"]) + 1
        if factor % 2:
            values |= {"n_shared": 0, "shared_intermediate": 0, "shared_gate": False}
    return values


mixers = st.one_of([struct(kind) for kind in get_args(Mixer)])
ffns = struct(DenseFfn) | struct(MoeFfn)


@st.composite
def blocks(draw: st.DrawFn, name: str) -> Block:
    mixer, ffn = draw(st.none() | mixers), draw(st.none() | ffns)
    extra = draw(st.integers(0, 10**15))
    return Block(
        name=name,
        mixer=mixer,
        ffn=draw(ffns) if mixer is None and ffn is None else ffn,
        n_norms=draw(st.integers(0, 9)),
        cross_attention=draw(st.none() | struct(GqaAttention)),
        encoder=draw(st.booleans()),
        extra_params=extra,
        extra_note=draw(words if extra else texts),
    )


part_kinds = st.sampled_from(["mtp", "vision", "audio", "projector", "other"])


@st.composite
def stored(draw: st.DrawFn, parts: tuple[Part, ...]) -> Stored:
    held = st.lists(st.sampled_from([part.kind for part in parts]), max_size=2) if parts else st.just([])
    extra = draw(st.integers(-(10**15), 10**15))
    return Stored(
        params=draw(st.integers(0, 10**15)),
        repository=draw(texts),
        parts=tuple(draw(held)),
        extra_params=extra,
        extra_note=draw(words if extra else texts),
    )


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    block_names = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    indices = list(range(len(block_names)))
    # every block once, and then whatever order
    layout = draw(st.permutations(indices)) + draw(st.lists(st.sampled_from(indices), max_size=60))
    total = draw(st.none() | st.floats(1, 1e18))
    extra = draw(st.integers(0, 10**15))
    parts = tuple(
        draw(
            st.lists(st.builds(Part, kind=part_kinds, params=st.integers(0, 10**15), note=texts), max_size=3)
        )
    )
    return ModelSpec(
        id=draw(st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,30}", fullmatch=True)),
        name=draw(words),
        architecture=draw(words),
        hidden_size=draw(sizes),
        vocab_size=draw(sizes),
        context_tokens=draw(sizes),
        blocks=tuple(draw(blocks(name)) for name in block_names),
        layout=tuple(layout),
        tied_embeddings=draw(st.booleans()),
        norm_bias=draw(st.booleans()),
        final_norm=draw(st.booleans()),
        embedding_norms=draw(st.integers(0, 5)),
        n_position_embeddings=draw(st.integers(0, 10**6)),
        head_bias=draw(st.booleans()),
        extra_params=extra,
        extra_note=draw(words if extra else texts),
        native_quant=draw(words),
        family=draw(texts),
        hf_ids=tuple(draw(st.lists(words, max_size=4))),
        aliases=tuple(draw(st.lists(words, max_size=4))),
        released=draw(st.sampled_from(["", "2024", "2024-02", "2024-02-29"])),
        license=draw(texts),
        parts=parts,
        published=Published(
            params_total=total,
            params_active=draw(st.none() | st.floats(1e-3, total or 1e18, exclude_min=True)),
            note=draw(texts),
        ),
        stored=draw(st.none() | stored(parts)),
        weak=draw(texts),
        notes=tuple(draw(st.lists(texts, max_size=4))),
        sources=tuple(
            draw(
                st.lists(
                    st.builds(Source, st.sampled_from(["measured", "paper"]), words, texts, texts), max_size=3
                )
            )
        ),
    )


@given(specs())
def test_writing_then_reading_gives_the_same_model(spec: ModelSpec) -> None:
    text = dump_model_yaml(spec)
    assert parse_model_yaml(text) == spec
    assert dump_model_yaml(parse_model_yaml(text)) == text


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200))
def test_a_layout_reads_as_it_was_written(layers: list[int]) -> None:
    names_ = ["a", "x", "b.1", "moe-2"]
    text = format_layout(tuple(layers), names_)
    assert parse_layout(text, names_) == tuple(layers)
    # never longer than naming every layer
    assert len(text) <= len(", ".join(names_[layer] for layer in layers))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(1, 30))
def test_a_repeated_pattern_is_written_once(pattern: list[int], repeats: int) -> None:
    names_ = ["a", "b", "c", "d"]
    once = format_layout(tuple(pattern), names_)
    many = format_layout(tuple(pattern * repeats), names_)
    assert len(many) <= len(once) + len(f"{repeats}x ()")


@given(
    texts | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**40), 10**40) | st.booleans()
)
def test_a_scalar_reads_as_it_was_written(value: object) -> None:
    for in_flow in (True, False):
        written = scalar(value, in_flow=in_flow)
        line = f"key: [{written}]" if in_flow else f"key: {written}"
        read = parse_document(line, "spec.yaml").data["key"]
        assert (read[0] if in_flow else read) == value
        if isinstance(value, str):
            assert isinstance(read[0] if in_flow else read, str)


@given(st.floats(1e-300, 1e300))
def test_a_number_is_written_exactly(value: float) -> None:
    assert math.isclose(float(number(value)), value, rel_tol=0, abs_tol=0)


yaml_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "blocks", "moe", "ffn", "mixer", "kind", "layout", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(yaml_like | st.text(max_size=60), st.text(max_size=3))
def test_any_text_is_a_model_or_a_spec_error(data: object, tail: str) -> None:
    """JSON is YAML: random nesting under our own key names, and plain noise."""
    import json

    text = (data if isinstance(data, str) else json.dumps(data)) + tail
    with contextlib.suppress(SpecError):
        parse_model_yaml(text, "noise.yaml")
