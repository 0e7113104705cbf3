"""The table of quantisations, finding a scheme by name, and exact storage of the methods."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeplan.errors import NotModelled, SpecError, UnknownName
from moeplan.readers.quants import load_quants, parse_quants, write_cache

TABLE = load_quants(user=Path("none"))


# ── the table ───────────────────────────────────────────────────────────────────────────────────


def test_the_json_copy_is_fresh(repo: Path, tmp_path: Path) -> None:
    """Fails after an edit of quants.yaml until the copy is renewed (the head of the file says how)."""
    shutil.copy(repo / "configs" / "quants.yaml", tmp_path)
    renewed = write_cache(tmp_path)
    assert (repo / "configs" / "quants.json").read_bytes() == renewed.read_bytes()


def test_json_and_yaml_give_the_same_table(repo: Path) -> None:
    assert parse_quants(repo / "configs" / "quants.yaml") == TABLE


@pytest.mark.parametrize("spoil", ["missing", "broken", "stale"])
def test_without_a_good_copy_the_yaml_counts(repo: Path, tmp_path: Path, spoil: str) -> None:
    text = (repo / "configs" / "quants.yaml").read_text(encoding="utf-8")
    (tmp_path / "quants.yaml").write_text(text.replace("bytes: 144, ggml: 12,", "bytes: 145, ggml: 12,"))
    if spoil == "broken":
        (tmp_path / "quants.json").write_text('{"checksum": 1, "table": [')
    elif spoil == "stale":
        shutil.copy(repo / "configs" / "quants.json", tmp_path)
    assert load_quants(tmp_path, user=tmp_path / "none").types["q4_k"].block_bytes == 145


def test_loading_does_not_parse_yaml(repo: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from moeplan.readers.quants import load_quants\n"
        "load_quants(user=Path('none')).find('q4_k_m'); print('yaml' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("ggml_type", list(gguf.GGMLQuantizationType), ids=lambda t: t.name)
def test_types_are_those_of_gguf(ggml_type: gguf.GGMLQuantizationType) -> None:
    layout = TABLE.type_of(ggml_type.value)
    assert layout.id == ggml_type.name.lower()
    assert (layout.block_elements, layout.block_bytes) == gguf.GGML_QUANT_SIZES[ggml_type]


@pytest.mark.parametrize(
    ("name", "n_bytes"),
    [
        # Sums of the members of ik_llama.cpp's block structs, for 256 values; `d` is a half, 2 bytes.
        ("iq2_k", 2 + 2 + 256 // 32 + 256 // 4),  # d, extra, scales, qs
        ("iq3_k", 2 + 2 + 2 + 256 // 32 + 256 // 4 + 256 // 8),  # d, extra, scales_h, scales_l, qs, qh
        ("iq4_k", 2 + 2 + 256 // 64 + 256 // 32 + 256 // 2),  # d, extra, scales_h, scales_l, qs
        ("iq5_k", 2 + 2 + 256 // 64 + 256 // 32 + 256 // 2 + 256 // 8),
        ("iq6_k", 2 + 2 + 256 // 16 + 256 // 2 + 256 // 4),
        ("iq4_ks", 256 // 32 + 256 // 2),  # scales, qs; one float a row
        ("iq2_kl", 2 + 256 // 64 + 256 // 4 + 256 // 16),  # one half a row
    ],
)
def test_types_of_ik_llama(name: str, n_bytes: int) -> None:
    layout = TABLE.type(name.upper())
    assert (layout.block_elements, layout.block_bytes) == (256, n_bytes)
    assert TABLE.type("iq4_ks").row_bytes == 4
    assert TABLE.type("iq2_kl").row_bytes == 2


def test_rows_interleaved_types_take_the_same_bytes() -> None:
    pairs = [(t, TABLE.types.get(t.id.rpartition("_r")[0])) for t in TABLE.types.values()]
    same = [(t.id, base) for t, base in pairs if base and t.id not in ("iq1_s_r4", "iq1_m_r4", "q8_k_r8")]
    assert len(same) > 15
    for name, base in same:
        if not name.startswith(("q8_k", "q8_kv")):
            layout = TABLE.types[name]
            assert (layout.block_bytes, layout.row_bytes) == (base.block_bytes, base.row_bytes), name


def test_every_fallback_needs_smaller_blocks() -> None:
    for layout in TABLE.types.values():
        if layout.fallback:
            assert TABLE.types[layout.fallback].block_elements < layout.block_elements, layout.id


def test_every_entry_has_a_source() -> None:
    assert len(TABLE.schemes) > 100
    for entry in (*TABLE.types.values(), *TABLE.schemes.values()):
        assert entry.source.ref, entry.id
        assert entry.source.retrieved, entry.id


def test_private_recipes_say_that_they_are_assumed() -> None:
    for name in ("ud-q4_k_xl", "iq4_k_r4", "bpw-3.5", "int4"):
        assert TABLE.find(name).source.kind == "assumed"


def test_engines_of_the_kinds() -> None:
    for scheme in TABLE.schemes.values():
        if scheme.kind != "method":
            assert scheme.engine in ("llama.cpp", "ik_llama.cpp"), scheme.id
    assert TABLE.find("gptq-int4-g128").engine == "vllm"


# ── names ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Q4_K_M", "q4_k_m"), ("q4km", "q4_k_m"), ("Q4_K - Medium", "q4_k_m"), ("q4_k", "q4_k_m"),
        ("fp16", "f16"), ("BF16", "bf16"), ("MXFP4", "mxfp4"), ("mxfp4_moe", "mxfp4_moe"),
        ("int4-gptq", "gptq-int4-g128"), ("gptq-int4", "gptq-int4-g128"), ("awq-int4", "awq-int4-g128"),
        ("gptq-int4-g96", "gptq-int4-g96"), ("GPTQ_INT4_G96", "gptq-int4-g96"),
        ("w4a16", "compressed-int4-g128"),
        ("nf4", "bnb-nf4"), ("nf4-dq", "bnb-nf4-dq"), ("fp4", "nvfp4"), ("w8a8-int8", "int8"),
        ("exl2-4.25bpw", "exl2-4.25bpw"), ("EXL2 4.0bpw", "exl2-4.0bpw"), ("exl3-3bpw", "exl3-3bpw"),
        ("mlx-4bit", "mlx-4bit-g64"), ("hqq-2bit-g32", "hqq-2bit-g32"), ("ud-Q4_K_XL", "ud-q4_k_xl"),
        ("bpw-4.83", "bpw-4.83"),
    ],
)  # fmt: skip
def test_names_people_use(name: str, found: str) -> None:
    assert TABLE.find(name).id == found


# Every slug in a collection of published speed measurements (llama.cpp, ik_llama.cpp, vLLM, MLX, ...).
MEASURED = """
    q4_k_m f16 mxfp4 q8_0 q4_0 ud-q4_k_xl mix-iq3_k q2_k iq4_xs iq4_k_r4 fp8 q6_k int4 bf16 mix-iq6_k iq3_k_r4
    mxfp4-f16 iq2_kl ud-iq2_xxs mix-iq4_k hqq-4bit-attn-2bit-experts iq2_k_r4 hqq-4bit-attn-3bit-experts
    ud-q5_k_xl ud-q3_k_s ud-q8_k_xl ud-q3_k_xl ud-iq2_m iq4_ks_r4 iq4_ks mlx-4bit nvfp4 gptq-int4 q5_k_m
    int8-cpu-int4-gpu exl2-4.0bpw ud-q6_k_xl iq3_s w4a16 iq3_xxs iq2_m exl2-3.0bpw exl2-5.0bpw exl2-2.5bpw
    autoround-int4 iq4_nl awq-int4 ud-iq3_s int4-awq int8-gptq int4-gptq nf4-dq nf4 fp16 fp4 mxfp8
"""


@pytest.mark.parametrize("name", MEASURED.split())
def test_every_measured_slug_resolves(name: str) -> None:
    assert TABLE.find(name).source.ref


@pytest.mark.parametrize("name", ["mix-iq4_xs-iq3_s-q8_0", "iq1_s_r4", "modelopt-w4a8_awq"])
def test_known_schemes_without_data_say_why(name: str) -> None:
    with pytest.raises(NotModelled) as caught:
        TABLE.find(name)
    assert len(caught.value.why) > 20


@pytest.mark.parametrize(
    ("name", "near"),
    [("q4_k_mm", "q4_k_m"), ("gptq-int5-g128", "gptq-int8-g128"), ("exl2-9bpw", "exl2-8.0bpw")],
)
def test_unknown_names_list_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownName) as caught:
        TABLE.find(name)
    assert near in caught.value.candidates


@pytest.mark.parametrize(
    "name", ["", " ", "q" * 100_000, "exl2-1..2bpw", "gptq-int4-g0", "gptq-int4-g1e3", "\0"]
)
def test_hostile_names_are_unknown(name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        TABLE.find(name)
    assert len(str(caught.value)) < 400


@given(st.text(max_size=40))
def test_any_text_is_found_or_refused(name: str) -> None:
    with contextlib.suppress(UnknownName, NotModelled):
        assert TABLE.find(name).id


def test_unknown_type() -> None:
    with pytest.raises(UnknownName) as caught:
        TABLE.type("q4_kk")
    assert "q4_k" in caught.value.candidates
    with pytest.raises(NotModelled):
        TABLE.type_of(9999)


# ── a user's own file ───────────────────────────────────────────────────────────────────────────


def test_a_users_file_lies_over_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "quants.yaml").write_text(
        "sources:\n"
        "  me: {kind: assumed, ref: my own recipe}\n"
        "gguf:\n"
        "  - {id: mine, base: q4_k, rules: q4_k_m, moe: {ffn_down_exps: q3_k},"
        " aliases: [my-mix], source: me}\n"
    )
    table = load_quants(user=tmp_path)
    assert table.find("My_Mix").moe_recipe == {"ffn_down_exps": "q3_k"}
    assert table.find("q4km").id == "q4_k_m"
    assert table.find("exl2-3.3bpw").id == "exl2-3.3bpw"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("gguf:\n  - {id: x, base: q4_q, source: s}\n", 3, "no tensor type or storage `q4_q`"),
        ("gguf:\n  - {id: x, base: q4_k, source: t}\n", 3, "no source `t`"),
        ("gguf:\n  - {id: x, base: q4_k, sauce: s, source: s}\n", 3, "sauce"),
        ("types:\n  - {id: x, elements: 0, bytes: 1, source: s}\n", 3, "elements"),
        ("methods:\n  - {id: x, weights: {default: bf16}, as_gguf: y, source: s}\n", 3, "no scheme `y`"),
        ("methods:\n  - {id: x, weights: {head: bf16}, source: s}\n", 3, "default"),
        ("methods:\n  - {id: x, weights: {default: a}, storages: {a: {}}, source: s}\n", 3, "needs `bits`"),
    ],
)
def test_errors_name_the_place(tmp_path: Path, text: str, line: int, message: str) -> None:
    (tmp_path / "quants.yaml").write_text("sources: {s: {kind: assumed, ref: me}}\n" + text)
    with pytest.raises(SpecError) as caught:
        load_quants(user=tmp_path)
    assert caught.value.line == line
    assert message in str(caught.value)
