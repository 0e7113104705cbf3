"""GGUF files of known shape -> ModelSpec and tensors. Expected values are the generator's own numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Q

from moeplan.domain.model import DenseFfn, GqaAttention, MlaAttention, MoeFfn
from moeplan.domain.quant import QuantTable
from moeplan.errors import NotModelled, SpecError
from moeplan.graph.inventory import build_tensors
from moeplan.readers.gguf import GgufModel, read_gguf
from tests.support.make_gguf import (
    MODELS,
    Row,
    model_keys,
    model_rows,
    plain,
    tensor_rows,
    write_gguf,
    write_model,
)


@pytest.fixture
def read(tmp_path: Path, quants: QuantTable) -> Any:
    """Write a model of MODELS with changes, and read it."""

    def write_and_read(model: str, types: Any = plain, **changes: Any) -> GgufModel:
        return read_gguf(write_model(tmp_path / "model.gguf", model, types, **changes), quants)

    return write_and_read


# ── specs ───────────────────────────────────────────────────────────────────────────────────────


def test_dense_llama(read: Any) -> None:
    spec = read("llama").spec
    assert (spec.architecture, spec.hidden_size, spec.vocab_size, spec.context_tokens) == (
        "llama",
        256,
        320,
        4096,
    )
    assert spec.name == "tiny llama"
    assert spec.layout == (0, 0)
    assert not spec.tied_embeddings
    block = spec.blocks[0]
    assert block.mixer == GqaAttention(n_heads=8, n_kv_heads=2, head_dim=32, v_head_dim=32)
    assert block.ffn == DenseFfn(intermediate=512)
    assert block.n_norms == 2


def test_mixtral(read: Any) -> None:
    spec = read("mixtral").spec
    assert spec.architecture == "mixtral"
    assert spec.blocks[0].ffn == MoeFfn(n_experts=4, n_active=2, expert_intermediate=768)
    assert spec.layout == (0, 0, 0)


def test_qwen3moe_has_head_norms_and_its_own_head_size(read: Any) -> None:
    block = read("qwen3moe").spec.blocks[0]
    assert block.mixer == GqaAttention(n_heads=8, n_kv_heads=2, head_dim=128, v_head_dim=128, qk_norm="head")
    assert block.ffn == MoeFfn(n_experts=16, n_active=4, expert_intermediate=256)


def test_deepseek2_latent_attention_and_shared_experts(read: Any) -> None:
    spec = read("deepseek2").spec
    assert spec.architecture == "deepseek_v3"  # sigmoid routing; V2 has softmax
    assert spec.layout == (0, 1, 1)
    dense, moe = spec.blocks
    assert dense.mixer == moe.mixer == MlaAttention(
        n_heads=4, q_lora_rank=256, kv_lora_rank=256, nope_head_dim=64, rope_head_dim=32, v_head_dim=48
    )  # fmt: skip
    assert dense.ffn == DenseFfn(intermediate=1024)
    assert moe.ffn == MoeFfn(
        n_experts=8, n_active=3, expert_intermediate=256, n_shared=2, shared_intermediate=512,
        router_correction=True, routing="sigmoid",
    )  # fmt: skip


def test_gpt_oss_biases_sinks_and_every_second_layer_full(read: Any) -> None:
    spec = read("gpt-oss").spec
    assert spec.layout == (0, 1, 0, 1)
    local, full = spec.blocks
    assert local.mixer == GqaAttention(
        n_heads=8,
        n_kv_heads=2,
        head_dim=64,
        v_head_dim=64,
        window_tokens=64,
        qkv_bias=True,
        out_bias=True,
        sinks=True,
    )
    assert isinstance(full.mixer, GqaAttention)
    assert full.mixer.window_tokens is None
    assert local.ffn == MoeFfn(n_experts=8, n_active=2, expert_intermediate=256, bias=True, router_bias=True)


def test_gemma3_every_sixth_layer_full_and_tied(read: Any) -> None:
    spec = read("gemma3").spec
    assert spec.tied_embeddings
    assert spec.layout == (0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0)
    assert isinstance(spec.blocks[0].mixer, GqaAttention)
    assert spec.blocks[0].mixer.window_tokens == 512
    assert spec.blocks[0].n_norms == 4


@pytest.mark.parametrize("model", MODELS)
def test_the_inventory_of_the_spec_is_the_table_of_the_file(read: Any, model: str) -> None:
    # moeplan/graph builds names and shapes from the architecture alone
    got = read(model)
    assert tensor_rows(got.tensors) == tensor_rows(build_tensors(got.spec)) or model == "gpt-oss"
    if model == "gpt-oss":  # its second norm has another name than the inventory gives it
        assert len(got.tensors) == len(build_tensors(got.spec))
        assert sum(t.n_elements for t in got.tensors) == sum(t.n_elements for t in build_tensors(got.spec))


# ── quantisation ────────────────────────────────────────────────────────────────────────────────


def _with_file_type(tmp_path: Path, quants: QuantTable, number: int, kind: Q) -> str:
    hp = MODELS["llama"]
    keys = model_keys(hp) | {"general.file_type": number}
    path = tmp_path / "typed.gguf"
    write_gguf(path, "llama", keys, list(model_rows(hp)), lambda row: Q.F32 if row.small else kind)
    return read_gguf(path, quants).quant


def test_quant_is_what_the_file_says(tmp_path: Path, quants: QuantTable) -> None:
    assert _with_file_type(tmp_path, quants, 15, Q.Q4_K) == "q4_k_m"


def test_quant_that_the_weights_contradict_is_not_believed(tmp_path: Path, quants: QuantTable) -> None:
    # file type 1 is F16; the weights are Q8_0
    assert _with_file_type(tmp_path, quants, 1, Q.Q8_0) == "q8_0"


def test_quant_without_a_file_type_is_the_commonest(read: Any) -> None:
    assert read("llama").quant == "f16"


def test_bytes_of_a_q4_k_matrix(tmp_path: Path, quants: QuantTable) -> None:
    model = read_gguf(
        write_model(tmp_path / "m.gguf", "llama", lambda r: Q.F32 if r.small else Q.Q4_K), quants
    )
    down = next(t for t in model.tensors if t.name == "blk.1.ffn_down.weight")
    # 256 rows of 512 = 2 blocks of 256 weights in 144 bytes (ggml-common.h, block_q4_K): 256 x 2 x 144
    assert (down.shape, down.qtype, down.n_bytes) == ((256, 512), "q4_k", 73_728)


# ── what older and newer files do differently ───────────────────────────────────────────────────


def test_experts_stored_one_by_one_are_stacked(tmp_path: Path, quants: QuantTable) -> None:
    hp = MODELS["mixtral"]
    rows = []
    for row in model_rows(hp):
        if "_exps" in row.name:
            single = row.name.replace("_exps.weight", ".{}.weight")
            rows += [Row(single.format(i), row.shape[1:]) for i in range(row.shape[0])]
        else:
            rows.append(row)
    old = read_gguf(write_gguf(tmp_path / "old.gguf", "llama", model_keys(hp), rows), quants)
    new = read_gguf(write_model(tmp_path / "new.gguf", "mixtral"), quants)
    assert tensor_rows(old.tensors) == tensor_rows(new.tensors)
    assert sum(t.n_bytes for t in old.tensors) == sum(t.n_bytes for t in new.tensors)
    assert old.spec.blocks == new.spec.blocks


def test_a_missing_expert_is_an_error(tmp_path: Path, quants: QuantTable) -> None:
    rows = [Row(f"blk.0.ffn_up.{i}.weight", (512, 256)) for i in (0, 1, 3)]
    path = write_gguf(
        tmp_path / "m.gguf", "llama", model_keys(MODELS["llama"]), [*model_rows(MODELS["llama"]), *rows]
    )
    with pytest.raises(SpecError, match="experts of 'ffn_up_exps"):
        read_gguf(path, quants)


def _old_deepseek(tmp_path: Path, quants: QuantTable, *, lite: bool) -> GgufModel:
    """As converted before April 2025: K and V projections in one matrix, K/V lengths of the heads."""
    hp = MODELS["deepseek2"]
    rows = []
    for row in model_rows(hp):
        if row.name.endswith("attn_k_b.weight"):
            rows.append(Row(row.name.replace("_k_b", "_kv_b"), (4 * (64 + 48), 256)))
        elif lite and row.name.endswith("attn_q_b.weight"):
            rows.append(Row(row.name.replace("_q_b", "_q"), (4 * (64 + 32), 512)))
        elif not row.name.endswith(("attn_v_b.weight", "probs_b.bias")) and not (lite and "q_a" in row.name):
            rows.append(row)
    keys = {k: v for k, v in model_keys(hp).items() if not k.endswith("_mla") and k != "expert_gating_func"}
    keys |= {"attention.key_length": 64 + 32, "attention.value_length": 48, "attention.head_count_kv": 4}
    return read_gguf(write_gguf(tmp_path / "old.gguf", "deepseek2", keys, rows), quants)


@pytest.mark.parametrize("lite", [False, True])
def test_old_deepseek_files(tmp_path: Path, quants: QuantTable, lite: bool) -> None:
    got = _old_deepseek(tmp_path, quants, lite=lite)
    assert got.spec.architecture == "deepseek_v2"
    assert got.spec.blocks[1].mixer == MlaAttention(
        n_heads=4, q_lora_rank=None if lite else 256, kv_lora_rank=256, nope_head_dim=64, rope_head_dim=32,
        v_head_dim=48, expanded_cache=True,
    )  # fmt: skip
    assert "every head" in got.spec.notes[0]
    assert {t.role for t in got.tensors if t.name.endswith("kv_b.weight")} == {"mla_kv_up"}


def test_prediction_layers_are_apart(tmp_path: Path, quants: QuantTable) -> None:
    hp = MODELS["mixtral"]
    rows = [
        *model_rows(hp),
        Row("blk.2.nextn.eh_proj.weight", (256, 512)),
        Row("blk.2.nextn.enorm.weight", (256,)),
    ]
    keys = model_keys(hp) | {"nextn_predict_layers": 1}
    got = read_gguf(write_gguf(tmp_path / "m.gguf", "llama", keys, rows), quants)
    assert got.spec.n_layers == 2
    mtp = [t for t in got.tensors if t.owner == "mtp"]
    assert {t.layer for t in mtp} == {2}
    assert got.spec.parts[0].params == sum(t.n_elements for t in mtp) > 256 * 512


def test_rotary_tables_are_no_parameters(tmp_path: Path, quants: QuantTable) -> None:
    rows = [*model_rows(MODELS["llama"]), Row("rope_freqs.weight", (16,), True)]
    got = read_gguf(write_gguf(tmp_path / "m.gguf", "llama", model_keys(MODELS["llama"]), rows), quants)
    assert [t.owner for t in got.tensors if "rope" in t.name] == ["other"]


def test_fused_projections(tmp_path: Path, quants: QuantTable) -> None:
    # Phi-3: q, k and v in one matrix of (8 + 2 + 2) x 32 rows; ffn_up holds gate and up, 2 x 512 rows
    hp = MODELS["llama"] | {"arch": "phi3"}
    rows = []
    for row in model_rows(hp):
        if row.name.endswith("attn_q.weight"):
            rows.append(Row(row.name.replace("attn_q", "attn_qkv"), (384, 256)))
        elif row.name.endswith("ffn_up.weight"):
            rows.append(row._replace(shape=(1024, 256)))
        elif not row.name.endswith(("attn_k.weight", "attn_v.weight", "ffn_gate.weight")):
            rows.append(row)
    got = read_gguf(write_gguf(tmp_path / "m.gguf", "phi3", model_keys(hp), rows), quants)
    block = got.spec.blocks[0]
    assert block.mixer == GqaAttention(n_heads=8, n_kv_heads=2, head_dim=32, v_head_dim=32, fused_qkv=True)
    assert block.ffn == DenseFfn(intermediate=512, fused_gate_up=True)
    assert {"attn_qkv", "ffn_gate_up"} <= {t.role for t in got.tensors}


def test_window_patterns(tmp_path: Path, quants: QuantTable) -> None:
    def windows(arch: str, **keys: Any) -> list[int | None]:
        hp = MODELS["gemma3"] | {"arch": "gemma3", "n_layer": 4}
        path = write_gguf(tmp_path / "m.gguf", arch, model_keys(hp) | keys, list(model_rows(hp)))
        blocks = read_gguf(path, quants).spec.layer_blocks()
        return [block.mixer.window_tokens for block in blocks if isinstance(block.mixer, GqaAttention)]

    pattern = "attention.sliding_window_pattern"
    assert windows("gemma3") == [512] * 4  # the first full one would be the sixth
    assert windows("gemma2") == [512, None, 512, None]
    assert windows("cohere2") == [512, 512, 512, None]
    assert windows("llama") == [None] * 4  # llama.cpp reads no window for it
    assert windows("gemma3", **{pattern: 2}) == [512, None, 512, None]
    assert windows("gemma4", **{pattern: [True, True, False, True]}) == [512, 512, None, 512]
    # a window as long as the context of 4096 changes nothing
    assert windows("gemma2", **{"attention.sliding_window": 4096}) == [None] * 4


def test_one_shape_for_each_distinct_layer(tmp_path: Path, quants: QuantTable) -> None:
    # per-layer head counts, as in OpenELM or Step-3.5
    hp = MODELS["llama"]
    keys = model_keys(hp) | {"attention.head_count": [8, 8], "attention.head_count_kv": [2, 4]}
    rows = [row._replace(shape=(128, 256)) if "blk.1.attn_k" in row.name else row for row in model_rows(hp)]
    rows = [row._replace(shape=(128, 256)) if "blk.1.attn_v" in row.name else row for row in rows]
    spec = read_gguf(write_gguf(tmp_path / "m.gguf", "llama", keys, rows), quants).spec
    heads = [block.mixer.n_kv_heads for block in spec.layer_blocks() if isinstance(block.mixer, GqaAttention)]
    assert heads == [2, 4]


def test_per_layer_embeddings_are_not_modelled(tmp_path: Path, quants: QuantTable) -> None:
    hp = MODELS["gemma3"]
    rows = [*model_rows(hp), Row("per_layer_token_embd.weight", (320, 256))]
    with pytest.raises(NotModelled, match="per-layer embeddings"):
        read_gguf(write_gguf(tmp_path / "m.gguf", "gemma4", model_keys(hp), rows), quants)


def test_a_name_from_the_file_is_made_fit_to_show(tmp_path: Path, quants: QuantTable) -> None:
    keys = model_keys(MODELS["llama"]) | {"general.name": "bad\x1b[31m\nname" + "x" * 1000}
    spec = read_gguf(
        write_gguf(tmp_path / "m.gguf", "llama", keys, list(model_rows(MODELS["llama"]))), quants
    ).spec
    assert spec.name.startswith("bad[31mname")
    assert len(spec.name) == 120
