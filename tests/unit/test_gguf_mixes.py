"""llama.cpp's type rules against its own quantizer, published files and hand-derived cases.

tests/data/quants: llamacpp_quant_sizes.csv and llamacpp_type_counts.csv are printed by real builds of
llama.cpp; llamacpp_models.json has the hyperparameters of the models they were asked about.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from moeplan.domain.graph import Role, Tensor
from moeplan.domain.model import (
    Block,
    DenseFfn,
    GqaAttention,
    MlaAttention,
    ModelSpec,
    MoeFfn,
)
from moeplan.domain.quant import QuantTable
from moeplan.errors import NotModelled
from moeplan.graph.gguf_mixes import (
    category_of,
    kept_type,
    layer_of,
    mix_model,
    mix_types,
    published_experts,
    use_more_bits,
)
from moeplan.graph.quantise import assign_types, bits_per_weight, bytes_by_type
from moeplan.readers.quants import load_quants

MIB = 2**20
DATA = Path(__file__).resolve().parents[1] / "data" / "quants"
MODELS: dict[str, dict[str, Any]] = json.loads((DATA / "llamacpp_models.json").read_text(encoding="utf-8"))


def rows(name: str) -> list[dict[str, str]]:
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


SIZES = rows("llamacpp_quant_sizes.csv")
COUNTS = rows("llamacpp_type_counts.csv")
PUBLISHED = rows("published_gguf.csv")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> QuantTable:
    return load_quants(user=tmp_path_factory.mktemp("none"))


# ── the models, as their GGUF files list the tensors ────────────────────────────────────────────


def spec_of(c: dict[str, Any]) -> ModelSpec:
    head_dim = c.get("head_dim", c["n_embd"] // c["n_head"])
    mixer: GqaAttention | MlaAttention = GqaAttention(
        n_heads=c["n_head"], n_kv_heads=c["n_head_kv"], head_dim=head_dim, v_head_dim=head_dim
    )
    if c["arch"] == "deepseek2":
        mixer = MlaAttention(
            n_heads=c["n_head"],
            q_lora_rank=c["q_lora"],
            kv_lora_rank=c["kv_lora"],
            nope_head_dim=c["qk_nope"],
            rope_head_dim=c["qk_rope"],
            v_head_dim=c["v_dim"],
        )
    ffn: DenseFfn | MoeFfn = DenseFfn(intermediate=c["n_ff"])
    if "n_expert" in c:
        width = c.get("n_ff_exp", c["n_ff"])
        ffn = MoeFfn(n_experts=c["n_expert"], n_active=c["n_used"], expert_intermediate=width)
    return ModelSpec(
        id="m",
        name="m",
        architecture=c["arch"],
        hidden_size=c["n_embd"],
        vocab_size=c["n_vocab"],
        context_tokens=1,
        blocks=(Block(name="b", mixer=mixer, ffn=ffn),),
        layout=(0,) * c["n_layer"],
    )


def attention_of(c: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    embd, heads, kv = c["n_embd"], c["n_head"], c["n_head_kv"]
    head_dim = c.get("head_dim", embd // heads)
    if c["arch"] == "deepseek2":
        q, latent, nope, rope, v = (c[k] for k in ("q_lora", "kv_lora", "qk_nope", "qk_rope", "v_dim"))
        yield from (("attn_q_a_norm.weight", (q,)), ("attn_kv_a_norm.weight", (latent,)))
        yield from (("attn_q_a.weight", (q, embd)), ("attn_q_b.weight", (heads * (nope + rope), q)))
        yield "attn_kv_a_mqa.weight", (latent + rope, embd)
        yield from (("attn_k_b.weight", (heads, latent, nope)), ("attn_v_b.weight", (heads, v, latent)))
        yield "attn_output.weight", (embd, heads * v)
        return
    if c.get("qkv"):
        yield "attn_qkv.weight", ((heads + 2 * kv) * head_dim, embd)
    else:
        yield "attn_q.weight", (heads * head_dim, embd)
        yield from ((f"attn_{part}.weight", (kv * head_dim, embd)) for part in "kv")
    yield "attn_output.weight", (embd, heads * head_dim)
    if c["arch"] in ("qwen3moe", "gemma3"):
        yield from ((f"attn_{part}_norm.weight", (head_dim,)) for part in "qk")
    if c["arch"] == "gpt-oss":
        yield from (("attn_q.bias", (heads * head_dim,)), ("attn_output.bias", (embd,)))
        yield from ((f"attn_{part}.bias", (kv * head_dim,)) for part in "kv")
        yield "attn_sinks.weight", (heads,)


def ffn_of(c: dict[str, Any], layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    embd = c["n_embd"]
    if "n_expert" not in c or layer < c.get("n_dense_lead", 0):
        width = c["n_ff"]
        if not (c.get("nogate") or c.get("fused")):
            yield "ffn_gate.weight", (width, embd)
        yield "ffn_up.weight", (2 * width if c.get("fused") else width, embd)
        yield "ffn_down.weight", (embd, width)
        return
    n, width = c["n_expert"], c.get("n_ff_exp", c["n_ff"])
    yield "ffn_gate_inp.weight", (n, embd)
    yield from ((f"ffn_{part}_exps.weight", (n, width, embd)) for part in ("gate", "up"))
    yield "ffn_down_exps.weight", (n, embd, width)
    if "n_shared" in c:
        shared = width * c["n_shared"]
        yield from ((f"ffn_{part}_shexp.weight", (shared, embd)) for part in ("gate", "up"))
        yield from (("ffn_down_shexp.weight", (embd, shared)), ("exp_probs_b.bias", (n,)))
    if c["arch"] == "gpt-oss":
        yield from (("ffn_gate_inp.bias", (n,)), ("ffn_down_exps.bias", (n, embd)))
        yield from ((f"ffn_{part}_exps.bias", (n, width)) for part in ("gate", "up"))


def names_and_shapes(c: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    embd, arch = c["n_embd"], c["arch"]
    yield from (("token_embd.weight", (c["n_vocab"], embd)), ("output_norm.weight", (embd,)))
    if arch != "gemma3" and not c.get("tied"):
        yield "output.weight", (c["n_vocab"], embd)
    for layer in range(c["n_layer"]):
        norms = ["attn_norm"] + ["ffn_norm"] * (arch != "gpt-oss")
        norms += ["post_attention_norm"] * (arch in ("gemma3", "gpt-oss")) + ["post_ffw_norm"] * (
            arch == "gemma3"
        )
        parts = [(f"{norm}.weight", (embd,)) for norm in norms]
        for name, shape in (*parts, *attention_of(c), *ffn_of(c, layer)):
            yield f"blk.{layer}.{name}", shape


def tensor(name: str, *shape: int, role: Role = "norm") -> Tensor:
    return Tensor(name=name, role=role, layer=layer_of(name), shape=shape)


INVENTORIES: dict[str, tuple[Tensor, ...]] = {}


def inventory(model: str) -> tuple[Tensor, ...]:
    if model not in INVENTORIES:
        INVENTORIES[model] = tuple(tensor(name, *shape) for name, shape in names_and_shapes(MODELS[model]))
    return INVENTORIES[model]


def quantised(model: str, ftype: str, table: QuantTable) -> tuple[Tensor, ...]:
    name = "mxfp4_moe" if ftype == "MXFP4" else ftype
    return assign_types(spec_of(MODELS[model]), inventory(model), name, table)


# ── against the quantizer ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("model", sorted({row["model"] for row in SIZES}))
def test_sizes_are_those_of_the_quantizers_dry_run(model: str, table: QuantTable) -> None:
    """Total and MiB per tensor type, to the last printed digit; per-tensor figures rounded as printed."""
    of_model = [row for row in SIZES if row["model"] == model]
    assert len(of_model) == 10
    for row in of_model:
        typed = quantised(model, row["ftype"], table)
        assert f"{sum(t.n_bytes for t in typed) / MIB:.2f}" == row["quant_MiB"], row["ftype"]
        assert f"{bits_per_weight(typed):.2f}" == row["bpw"], row["ftype"]
        printed: Counter[str] = Counter()
        for t in typed:
            printed[t.qtype] += float(f"{t.n_bytes / MIB:.{3 if t.qtype == 'f32' else 2}f}")
        wanted = dict(item.split("=") for item in row["tensor_type_mix_MiB"].split(";"))
        got = {qtype: f"{mib:.2f}" for qtype, mib in printed.items()}
        assert got == {qtype.lower(): mib for qtype, mib in wanted.items()}, row["ftype"]


@pytest.mark.parametrize("model", sorted({row["model"] for row in COUNTS}))
def test_types_are_those_the_quantizer_chose(model: str, table: QuantTable) -> None:
    """Every other file type of llama-quantize: how many tensors of each type, and the total."""
    for row in (row for row in COUNTS if row["model"] == model):
        if row["tensors_by_type"] == "refused":
            with pytest.raises(NotModelled, match="llama-quantize refuses"):
                quantised(model, row["ftype"], table)
            continue
        typed = quantised(model, row["ftype"], table)
        counts = Counter(t.qtype for t in typed)
        got = ";".join(f"{qtype}={n}" for qtype, n in sorted(counts.items()))
        assert got == row["tensors_by_type"], row["ftype"]
        assert f"{sum(t.n_bytes for t in typed) / MIB:.2f}" == row["total_mib"], row["ftype"]


def test_the_dry_runs_cover_all_file_types(table: QuantTable) -> None:
    seen = {row["ftype"].lower() for row in SIZES} - {"mxfp4"} | {"mxfp4_moe"}
    seen |= {row["ftype"] for row in COUNTS}
    ruled = {s.id for s in table.schemes.values() if s.rules and s.source.kind == "datasheet"}
    assert ruled == seen


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row['model']}-{row['ftype']}")
def test_published_files(row: dict[str, str], table: QuantTable) -> None:
    """Within 0.3 % (sizes are published with three digits); the private recipes within 1.5 %."""
    typed = quantised(row["model"], row["ftype"], table)
    if row["ftype"].startswith("ud-"):
        n_bytes = sum(t.n_bytes for t in typed)
        assert n_bytes == pytest.approx(float(row["published_size_gb"]) * 1e9, rel=0.015)
    else:
        assert bits_per_weight(typed) == pytest.approx(float(row["published_bpw"]), rel=0.003)


# ── by hand ─────────────────────────────────────────────────────────────────────────────────────


def test_more_bits_for_half_of_32_layers() -> None:
    # First eighth 0-3, last eighth 28-31, and (i - 4) % 3 == 2 between: 6, 9, ..., 27.
    assert [i for i in range(32) if use_more_bits(i, 32)] == [
        *range(4), 6, 9, 12, 15, 18, 21, 24, 27, *range(28, 32)
    ]  # fmt: skip


def test_llama_3_8b_q4_k_m_by_tensor(table: QuantTable) -> None:
    types = {t.name: t.qtype for t in quantised("Llama-3-8B", "q4_k_m", table)}
    assert types["output.weight"] == "q6_k"
    assert types["token_embd.weight"] == "q4_k"
    assert types["blk.0.attn_norm.weight"] == "f32"
    assert (types["blk.4.ffn_down.weight"], types["blk.6.ffn_down.weight"]) == ("q4_k", "q6_k")
    assert (types["blk.5.attn_v.weight"], types["blk.31.attn_v.weight"]) == ("q4_k", "q6_k")


def published_gpt_oss(scheme: str, table: QuantTable) -> tuple[Tensor, ...]:
    """As converted from the published checkpoint; the quantizer's dry runs began with 16 bits."""
    spec, tensors = spec_of(MODELS["gpt-oss-20b"]), inventory("gpt-oss-20b")
    return assign_types(replace(spec, architecture="gpt_oss"), tensors, scheme, table, gguf=True)


def test_gpt_oss_keeps_its_experts_and_its_width_of_2880_falls_back(table: QuantTable) -> None:
    # 2880 = 11.25 x 256 = 90 x 32: q4_k -> q5_0, q6_k -> q8_0; attn_output has rows of 64 x 64 = 4096 and
    # stays q4_k. Experts stay as published, 32 of 2880 rows of 90 blocks of 17 bytes.
    typed = {t.name: t for t in published_gpt_oss("q4_k_m", table)}
    assert typed["blk.4.attn_q.weight"].qtype == "q5_0"
    assert typed["blk.0.attn_v.weight"].qtype == "q8_0"
    assert typed["blk.0.attn_output.weight"].qtype == "q4_k"
    assert typed["output.weight"].qtype == "q8_0"
    for name in ("gate", "up", "down"):
        expert = typed[f"blk.4.ffn_{name}_exps.weight"]
        assert (expert.qtype, expert.n_bytes) == ("mxfp4", 32 * 2880 * 90 * 17)


@pytest.mark.parametrize(
    ("scheme", "file_bytes"),
    # unsloth/gpt-oss-20b-GGUF, vocabulary of about 13 MB included
    [("q4_k_m", 11_624_759_488), ("q8_0", 12.11e9), ("f16", 13.79e9)],
)
def test_published_files_of_gpt_oss(scheme: str, file_bytes: float, table: QuantTable) -> None:
    n_bytes = sum(t.n_bytes for t in published_gpt_oss(scheme, table))
    assert 8e6 < file_bytes - n_bytes < 18e6


def test_which_files_keep_their_experts_as_published() -> None:
    spec = replace(spec_of(MODELS["gpt-oss-20b"]), architecture="gpt_oss")
    assert published_experts(spec, "q8_0", gguf=True) == "mxfp4"
    assert (
        published_experts(spec, "mxfp4_moe", gguf=True) == published_experts(spec, "bf16", gguf=False) == ""
    )
    assert published_experts(replace(spec, architecture="qwen3_moe"), "q8_0", gguf=True) == ""


def test_gemma_3_1b_has_tied_embeddings_of_width_1152(table: QuantTable) -> None:
    # 1152 = 4.5 x 256: the embedding, which is the head too, becomes q8_0: 262144 x 36 x 34 bytes.
    typed = quantised("gemma3-f16", "q4_k_m", table)
    embedding = next(t for t in typed if t.name == "token_embd.weight")
    assert (embedding.qtype, embedding.n_bytes) == ("q8_0", 262144 * 36 * 34)
    assert bits_per_weight(typed) == pytest.approx(6.40, abs=0.005)


@pytest.mark.parametrize(
    ("name", "shape", "kept"),
    [
        ("blk.0.attn_q.weight", (64, 64), ""),
        ("blk.0.attn_norm.weight", (64,), "f32"),
        ("blk.0.attn_k_norm.weight", (8, 64), "f32"),
        ("blk.0.ffn_gate_inp.weight", (8, 64), "f32"),
        ("blk.0.ffn_gate_exps.bias", (8, 64), "f32"),
        ("blk.0.ssm_a", (64, 16), "f32"),
        ("blk.0.ssm_conv1d.weight", (64, 4), "f32"),
        ("blk.0.ffn_gate_inp_shexp.weight", (1, 64), "f32"),  # one row: a vector to ggml
        ("blk.0.laurel_l.weight", (64, 64), "f16"),
        ("blk.0.ffn_gate_tid2eid.weight", (100, 6), "i32"),
    ],
)
def test_tensors_that_are_never_quantised(name: str, shape: tuple[int, ...], kept: str) -> None:
    assert kept_type(tensor(name, *shape)) == kept


def test_categories_go_by_name() -> None:
    names = {
        "output.weight": "head",
        "token_embd.weight": "embedding",
        "blk.1.attn_qkv.weight": "attn_v",
        "blk.1.attn_q_b.weight": "other",
        "blk.1.ffn_down_shexp.weight": "ffn_down",
        "blk.1.ffn_up_exps.weight": "ffn_up",
    }
    assert {name: category_of(name) for name in names} == names


def test_order_of_the_inventory_does_not_matter(table: QuantTable) -> None:
    """llama.cpp counts attn_v tensors in file order, by layer: 10 comes after 9, not after 1."""
    tensors = inventory("qwen3moe-f16")
    spec = spec_of(MODELS["qwen3moe-f16"])
    model = mix_model(spec, tensors)
    scheme = table.find("q3_k_m")
    backwards = mix_types(model, tensors[::-1], scheme, table)
    assert backwards[::-1] == mix_types(model, tensors, scheme, table)


def test_a_scheme_of_the_same_name_for_gguf_engines(table: QuantTable) -> None:
    spec, tensors = spec_of(MODELS["gpt-oss-20b"]), inventory("gpt-oss-20b")
    as_file = assign_types(spec, tensors, "mxfp4", table, gguf=True)
    assert as_file == assign_types(spec, tensors, "mxfp4_moe", table)
    half = bytes_by_type(assign_types(spec, tensors, "bf16", table, gguf=True))
    assert set(half) == {"bf16", "f32"}  # norms, biases and routers
    assert set(bytes_by_type(published_gpt_oss("bf16", table))) == {"bf16", "f32", "mxfp4"}
    # experts MXFP4, the rest f16: the file that ggml-org published is 12.83 GiB
    unquantised = assign_types(spec, tensors, "mxfp4-f16", table)
    assert sum(t.n_bytes for t in unquantised) / 2**30 == pytest.approx(12.83, abs=0.005)


@pytest.mark.parametrize(
    ("model", "scheme", "gib"),
    [
        # ubergarm's published files: DeepSeek-V3-0324 IQ2_K_R4, IQ4_K_R4; Qwen3-30B-A3B mix-IQ4_K
        ("DeepSeek-V3", "iq2_k_r4", 226.0),
        ("DeepSeek-V3", "iq4_k_r4", 386.18),
        ("Qwen3-30B-A3B", "iq4_k", 17.68),
    ],
)
def test_ik_llama_recipes_meet_published_sizes(
    model: str, scheme: str, gib: float, table: QuantTable
) -> None:
    typed = quantised(model, scheme, table)
    assert sum(t.n_bytes for t in typed) / 2**30 == pytest.approx(gib, rel=0.015)


def test_a_shape_no_type_fits(table: QuantTable) -> None:
    narrow = (tensor("blk.0.attn_q.weight", 64, 40), tensor("token_embd.weight", 64, 64))
    spec = spec_of(MODELS["Llama-3-8B"])
    with pytest.raises(NotModelled, match=r"blk\.0\.attn_q\.weight as q8_0"):
        assign_types(spec, narrow, "q8_0", table)  # 40 is no multiple of 32
    typed = assign_types(spec, narrow, "q4_k_m", table)  # q5_0 does not fit either: f16
    assert typed[0].qtype == "f16"
    assert typed[0].n_bytes == 64 * 40 * 2
