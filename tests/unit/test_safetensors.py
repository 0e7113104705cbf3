"""Safetensors checkpoints: names and sizes as the model classes of transformers and the quantisers write
them, for small models. The number of parameters must be that of the architecture, and bytes are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest

from moeplan.domain.quant import QuantTable
from moeplan.errors import NotModelled, SpecError
from moeplan.graph.inventory import build_tensors
from moeplan.readers.safetensors import read_safetensors
from tests.support.safetensors_tables import (
    ATTENTION,
    BITS,
    OUTSIDE,
    Table,
    attention,
    check,
    checkpoint,
    layer,
    llama_table,
    mlp,
    roles,
    weights,
)

# ── plain checkpoints ───────────────────────────────────────────────────────────────────────────


def test_llama(tmp_path: Path, quants: QuantTable) -> None:
    path = checkpoint(tmp_path, {"model_type": "llama"}, llama_table())
    for named in (path, tmp_path):
        model = read_safetensors(named, quants)
        tensors = check(model)
        assert (model.quant, model.file_bytes) == ("bf16", path.stat().st_size)
        assert {t.qtype for t in tensors} == {"bf16"}
        q = next(t for t in tensors if t.name == "model.layers.1.self_attn.q_proj.weight")
        assert (q.role, q.layer, q.shape, q.n_bytes) == ("attn_q", 1, (64, 64), 64 * 64 * 2)


def test_the_type_of_the_weights_counts_not_that_of_the_config(tmp_path: Path, quants: QuantTable) -> None:
    checkpoint(tmp_path, {"model_type": "llama"}, llama_table("F16"))
    model = read_safetensors(tmp_path, quants)
    assert (model.quant, model.spec.native_quant) == ("f16", "f16")


def test_experts_one_by_one_become_one_tensor(tmp_path: Path, quants: QuantTable) -> None:
    shapes = dict(OUTSIDE)
    for i in range(2):
        shapes |= layer(i, attention() | {"block_sparse_moe.gate": (4, 64)})
        for e in range(4):
            for name, shape in (("w1", (128, 64)), ("w2", (64, 128)), ("w3", (128, 64))):
                shapes[f"model.layers.{i}.block_sparse_moe.experts.{e}.{name}"] = shape
    config = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    checkpoint(tmp_path, config, weights(shapes))
    tensors = check(read_safetensors(tmp_path, quants))
    down = [t for t in tensors if t.role == "expert_down"]
    assert [(t.layer, t.shape, t.n_bytes, t.expert_stacked) for t in down] == [
        (i, (4, 64, 128), 4 * 64 * 128 * 2, True) for i in range(2)
    ]
    assert down[0].name == "model.layers.0.block_sparse_moe.experts.*.w2.weight"


def test_a_missing_expert_is_an_error(tmp_path: Path, quants: QuantTable) -> None:
    shapes = (
        dict(OUTSIDE) | layer(0, {f"mlp.experts.{e}.up_proj": (32, 64) for e in (0, 1, 3)}) | layer(1, {})
    )
    checkpoint(tmp_path, {"model_type": "llama"}, weights(shapes))
    with pytest.raises(SpecError, match=r"experts of .* are missing"):
        read_safetensors(tmp_path, quants)


DEEPSEEK = {
    "model_type": "deepseek_v3", "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 32, "first_k_dense_replace": 1, "kv_lora_rank": 32, "q_lora_rank": 48,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "moe_layer_freq": 1,
    "num_nextn_predict_layers": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
}  # fmt: skip
# q: 4 heads x (16 + 8) = 96; kv_b: 4 x (16 + 16) = 128; o: 4 x 16 = 64
MLA = {
    "self_attn.q_a_proj": (48, 64), "self_attn.q_b_proj": (96, 48),
    "self_attn.kv_a_proj_with_mqa": (40, 64),
    "self_attn.kv_b_proj": (128, 32), "self_attn.o_proj": (64, 64),
}  # fmt: skip
MLA_NORMS = {"self_attn.q_a_layernorm": (48,), "self_attn.kv_a_layernorm": (32,)}


def deepseek_table(dtype: str) -> Table:
    """Layer 0 dense, layer 1 with experts, layer 2 predicts a further token."""
    table = weights(OUTSIDE)
    for i in range(3):
        parts = dict(MLA)
        if i == 0:
            parts |= mlp("mlp", 128)
        else:
            parts |= mlp("mlp.shared_experts", 32)
            for e in range(4):
                parts |= mlp(f"mlp.experts.{e}", 32)
            table[f"model.layers.{i}.mlp.gate.weight"] = ("BF16", (4, 64))
            table[f"model.layers.{i}.mlp.gate.e_score_correction_bias"] = ("F32", (4,))
        for name, shape in parts.items():
            table[f"model.layers.{i}.{name}.weight"] = (dtype, shape)
            if dtype == "F8_E4M3":  # one scale for each block of 128 x 128
                table[f"model.layers.{i}.{name}.weight_scale_inv"] = ("F32", (1, 1))
        table |= weights(layer(i, MLA_NORMS))
    table["model.layers.2.eh_proj.weight"] = ("BF16", (64, 128))
    return table


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_deepseek_and_its_fp8(tmp_path: Path, quants: QuantTable, dtype: str) -> None:
    fp8 = {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}}
    config = DEEPSEEK | (fp8 if dtype == "F8_E4M3" else {})
    checkpoint(tmp_path, config, deepseek_table(dtype))
    model = read_safetensors(tmp_path, quants)
    assert model.tensors is not None
    # K and V projections are one matrix here and two in the inventory
    have, built = roles(model.tensors), roles(build_tensors(model.spec))
    assert have.pop("mla_kv_up") == built.pop("mla_k_up") + built.pop("mla_v_up")
    assert have == built
    up = next(t for t in model.tensors if t.role == "expert_up" and t.owner == "base")
    # 4 experts of 32 x 64: 2 bytes each, or 1 byte and a scale of 4
    assert (up.shape, up.n_bytes) == ((4, 32, 64), 4 * 32 * 64 * 2 if dtype == "BF16" else 4 * (32 * 64 + 4))
    assert (model.quant, up.qtype) == (("bf16", "bf16") if dtype == "BF16" else ("fp8-block", "fp8"))
    assert {t.layer for t in model.tensors if t.owner == "mtp"} == {2}
    assert sum(t.n_bytes for t in model.tensors) == sum(
        prod(shape) * BITS[kind] // 8 for kind, shape in deepseek_table(dtype).values()
    )


def test_gpt_oss_mxfp4_blocks(tmp_path: Path, quants: QuantTable) -> None:
    # transformers: gate and up interleaved, (experts, 2 x inner, hidden / 32 blocks, 16 bytes)
    table = weights(OUTSIDE)
    for i in range(2):
        name = f"model.layers.{i}"
        table |= weights(layer(i, attention()))
        table |= {f"{name}.self_attn.{p}.bias": ("BF16", (ATTENTION[p][0],)) for p in ATTENTION}
        table[f"{name}.self_attn.sinks"] = ("BF16", (4,))
        table[f"{name}.mlp.router.weight"] = ("BF16", (8, 64))
        table[f"{name}.mlp.router.bias"] = ("BF16", (8,))
        for part, out in (("gate_up_proj", 64), ("down_proj", 64)):
            inner = 64 if part == "gate_up_proj" else 32
            table[f"{name}.mlp.experts.{part}_blocks"] = ("U8", (8, out, inner // 32, 16))
            table[f"{name}.mlp.experts.{part}_scales"] = ("U8", (8, out, inner // 32))
            table[f"{name}.mlp.experts.{part}_bias"] = ("BF16", (8, out))
    config = {
        "model_type": "gpt_oss", "num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 32,
        "head_dim": 16, "sliding_window": 128, "attention_bias": True,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
    }  # fmt: skip
    checkpoint(tmp_path, config, table)
    model = read_safetensors(tmp_path, quants)
    assert model.tensors is not None
    have, built = roles(model.tensors), roles(build_tensors(model.spec))
    assert have.pop("expert_gate_up") == built.pop("expert_gate") + built.pop("expert_up")
    assert have == built
    gate_up = next(t for t in model.tensors if t.role == "expert_gate_up")
    # 4 bits a weight and a scale byte for 32 of them: 4.25 bits
    assert (gate_up.qtype, gate_up.shape, gate_up.n_bytes) == ("mxfp4", (8, 64, 64), 8 * 64 * 64 * 17 // 32)
    assert (gate_up.expert_stacked, model.quant) == (True, "mxfp4")
    assert next(t for t in model.tensors if t.name.endswith("experts.down_proj_bias")).expert_stacked


def _quantised(parts: Mapping[str, Any]) -> Table:
    """A llama whose layer matrices are stored in pieces: suffix -> (dtype, shape from (out, in))."""
    table = {n: row for n, row in llama_table("F16").items() if "proj" not in n}
    for name, (_, shape) in llama_table().items():
        if "proj" in name:
            module = name.removesuffix(".weight")
            table |= {f"{module}.{suffix}": (dtype, form(*shape)) for suffix, (dtype, form) in parts.items()}
    return table


GPTQ = {
    "qweight": ("I32", lambda out, into: (into // 8, out)),
    "scales": ("F16", lambda out, into: (into // 32, out)),
    "qzeros": ("I32", lambda out, into: (into // 32, out // 8)),
    "g_idx": ("I32", lambda out, into: (into,)),
}  # fmt: skip
AWQ = {
    "qweight": ("I32", lambda out, into: (into, out // 8)),
    "scales": ("F16", lambda out, into: (into // 32, out)),
    "qzeros": ("I32", lambda out, into: (into // 32, out // 8)),
}  # fmt: skip
NF4 = {
    "weight": ("U8", lambda out, into: (out * into // 2, 1)),
    "weight.absmax": ("F32", lambda out, into: (out * into // 64,)),
    "weight.quant_map": ("F32", lambda out, into: (16,)),
}
NVFP4 = {
    "weight": ("U8", lambda out, into: (out, into // 2)),
    "weight_scale": ("F8_E4M3", lambda out, into: (out, into // 16)),
    "weight_scale_2": ("F32", lambda out, into: ()), "input_scale": ("F32", lambda out, into: ()),
}  # fmt: skip
PACKED = {
    "weight_packed": ("I32", lambda out, into: (out, into // 8)),
    "weight_scale": ("BF16", lambda out, into: (out, into // 32)),
    "weight_shape": ("I32", lambda out, into: (2,)),
}  # fmt: skip
GROUPS = {
    "g": {"weights": {"num_bits": 4, "type": "int", "group_size": 32, "strategy": "group"}, "targets": []}
}


@pytest.mark.parametrize(
    ("parts", "config", "quant", "n_bytes"),
    [
        # gate_proj is 128 x 64 = 8192 weights of 4 bits: 4096 bytes, and what comes with them
        # 256 scales of 2, 256 zero points of half a byte, 64 indices of 4 bytes
        (GPTQ, {"quant_method": "gptq", "bits": 4, "group_size": 32}, "gptq-int4-g32",
         4096 + 512 + 128 + 256),
        (AWQ, {"quant_method": "awq", "bits": 4, "group_size": 32}, "awq-int4-g32", 4096 + 512 + 128),
        # 128 block maxima of 4 bytes, 16 table entries of 4 bytes
        (NF4, {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bnb-nf4",
         4096 + 512 + 64),
        # 512 scales of a byte, two numbers
        (NVFP4, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 4096 + 512 + 8),
        # 256 scales of 2 bytes, two numbers
        (PACKED, {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": GROUPS},
         "compressed-int4-g32", 4096 + 512 + 8),
    ],
    ids=["gptq", "awq", "bnb-nf4", "nvfp4", "compressed"],
)  # fmt: skip
def test_packed_weights_keep_their_shape(
    tmp_path: Path, quants: QuantTable, parts: Mapping[str, Any], config: Any, quant: str, n_bytes: int
) -> None:
    checkpoint(tmp_path, {"model_type": "llama", "quantization_config": config}, _quantised(parts))
    model = read_safetensors(tmp_path, quants)
    tensors = check(model)
    assert model.quant == quant
    gate = next(t for t in tensors if "layers.0.mlp.gate_proj" in t.name)
    assert (gate.shape, gate.n_bytes) == ((128, 64), n_bytes)
    down = next(t for t in tensors if "layers.0.mlp.down_proj" in t.name)
    assert down.shape == (64, 128)
    assert gate.qtype not in ("i32", "u8")


def test_packed_weights_of_an_unknown_method(tmp_path: Path, quants: QuantTable) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "quanto"}}
    checkpoint(tmp_path, config, _quantised(PACKED))
    with pytest.raises(NotModelled, match="packed weights of quantisation 'quanto'"):
        read_safetensors(tmp_path, quants)


def test_what_is_not_the_text_model(tmp_path: Path, quants: QuantTable) -> None:
    table = {name.replace("model.", "model.language_model.", 1): row for name, row in llama_table().items()}
    table |= weights(
        {"model.visual.blocks.0.attn.qkv": (48, 16), "model.multi_modal_projector.linear_1": (64, 16)}
    )
    table |= weights({"mtp.layers.0.mlp.up_proj": (128, 64), "audio_tower.layers.0.fc1": (8, 8)})
    table["model.language_model.layers.0.self_attn.rotary_emb.inv_freq"] = ("F32", (8,))
    checkpoint(tmp_path, {"model_type": "llama"}, table)
    tensors = check(read_safetensors(tmp_path, quants))
    owners = {t.name.split(".")[-2]: t.owner for t in tensors if t.owner != "base"}
    assert owners == {
        "qkv": "vision", "linear_1": "vision", "up_proj": "mtp", "fc1": "audio", "rotary_emb": "other",
    }  # fmt: skip


def test_a_stored_head_that_the_config_ties(tmp_path: Path, quants: QuantTable) -> None:
    checkpoint(tmp_path, {"model_type": "llama", "tie_word_embeddings": True}, llama_table())
    tensors = check(read_safetensors(tmp_path, quants))
    assert [t.owner for t in tensors if t.role == "head"] == ["other"]


def test_config_of_another_depth(tmp_path: Path, quants: QuantTable) -> None:
    checkpoint(tmp_path, {"model_type": "llama", "num_hidden_layers": 3}, llama_table())
    with pytest.raises(SpecError, match=r"weights for 2 layers, config\.json has 3"):
        read_safetensors(tmp_path, quants)
