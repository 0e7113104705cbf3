"""Layers with a state, read from files whose tensors are written out by hand, and every family that has
a published config.json: its GGUF must give the same model.

The hand-written tables follow load_tensors of llama.cpp's src/llama-model.cpp (March 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from moeplan.domain.model import (
    Block,
    DenseFfn,
    GatedDeltaNet,
    GqaAttention,
    KimiDelta,
    Mamba1,
    Mamba2,
    MlaAttention,
    ModelSpec,
    MoeFfn,
    ShortConv,
)
from moeplan.graph.inventory import build_tensors, param_counts
from moeplan.readers.gguf import GgufModel, read_gguf
from moeplan.readers.hf import read_config
from moeplan.readers.quants import load_quants
from tests.support.make_gguf import Row, gated, write_gguf

DATA = Path(__file__).parents[1] / "data" / "hf"
WIDTH, VOCAB = 64, 96


def _read(
    folder: Path, arch: str, layers: list[dict[str, tuple[int, ...]]], keys: Mapping[str, Any]
) -> GgufModel:
    rows = [Row("token_embd.weight", (VOCAB, WIDTH)), Row("output_norm.weight", (WIDTH,), True)]
    for i, layer in enumerate(layers):
        rows += [Row(f"blk.{i}.{name}", shape, len(shape) == 1) for name, shape in layer.items()]
    basic = {"block_count": len(layers), "embedding_length": WIDTH, "context_length": 512}
    return read_gguf(write_gguf(folder / "m.gguf", arch, basic | dict(keys), rows), load_quants())


def _dense(inner: int = 128) -> dict[str, tuple[int, ...]]:
    return {row.name: row.shape for row in gated("ffn_{}.weight", WIDTH, inner)}


def _experts(n: int, inner: int) -> dict[str, tuple[int, ...]]:
    rows = {row.name: row.shape for row in gated("ffn_{}_exps.weight", WIDTH, inner, n)}
    return {"ffn_gate_inp.weight": (n, WIDTH)} | rows


def _norms(*names: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (WIDTH,) for name in names}


def _attention(heads: int, kv: int, dim: int) -> dict[str, tuple[int, ...]]:
    return {
        "attn_q.weight": (heads * dim, WIDTH),
        "attn_k.weight": (kv * dim, WIDTH),
        "attn_v.weight": (kv * dim, WIDTH),
        "attn_output.weight": (WIDTH, heads * dim),
    }


# Mamba-2 with 8 heads of 16 (inner 128), 1 group, state 32: in = 2 x 128 + 2 x 32 + 8 = 328 rows, and
# 128 + 2 x 32 = 192 convolved channels
MAMBA2_KEYS = {
    "ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 32, "ssm.time_step_rank": 8,
    "ssm.group_count": 1,
}  # fmt: skip
MAMBA2: dict[str, tuple[int, ...]] = {
    "ssm_in.weight": (328, WIDTH),
    "ssm_conv1d.weight": (192, 4),
    "ssm_conv1d.bias": (192,),
    "ssm_dt.bias": (8,),
    "ssm_a": (8, 1),
    "ssm_d": (8, 1),
    "ssm_norm.weight": (1, 128),
    "ssm_out.weight": (WIDTH, 128),
}


def test_granite_hybrid(tmp_path: Path) -> None:
    shared = {row.name: row.shape for row in gated("ffn_{}_shexp.weight", WIDTH, 96)}
    ffn = _norms("attn_norm", "ffn_norm") | _experts(8, 32) | shared
    keys = MAMBA2_KEYS | {
        "attention.head_count": 4,
        "attention.head_count_kv": [0, 2],
        "expert_used_count": 3,
    }
    got = _read(tmp_path, "granitehybrid", [MAMBA2 | ffn, _attention(4, 2, 16) | ffn], keys)
    first, second = got.spec.layer_blocks()
    assert got.spec.architecture == "granitemoehybrid"
    assert first.mixer == Mamba2(n_heads=8, head_dim=16, n_groups=1, state_dim=32, conv_width=4)
    assert second.mixer == GqaAttention(n_heads=4, n_kv_heads=2, head_dim=16, v_head_dim=16)
    moe = MoeFfn(n_experts=8, n_active=3, expert_intermediate=32, n_shared=1, shared_intermediate=96)
    assert first.ffn == second.ffn == moe
    assert (first.n_norms, first.name, second.name) == (2, "moe-mamba2", "moe")
    roles = {t.name[6:]: t.role for t in got.tensors if t.name.startswith("blk.0.ssm")}
    assert roles == {
        "ssm_in.weight": "ssm", "ssm_conv1d.weight": "conv", "ssm_conv1d.bias": "bias",
        "ssm_dt.bias": "bias",
        "ssm_a": "bias", "ssm_d": "bias", "ssm_norm.weight": "norm", "ssm_out.weight": "ssm",
    }  # fmt: skip


def test_nemotron_h_has_one_part_a_layer(tmp_path: Path) -> None:
    norm = _norms("attn_norm")
    experts = _experts(8, 32)
    del experts["ffn_gate_exps.weight"]  # squared ReLU: no gate
    experts |= {
        "exp_probs_b.bias": (8,),
        "ffn_up_shexp.weight": (48, WIDTH),
        "ffn_down_shexp.weight": (WIDTH, 48),
    }
    keys = MAMBA2_KEYS | {
        "attention.head_count": 4, "attention.head_count_kv": [0, 0, 2], "feed_forward_length": [0, 32, 0],
        "attention.key_length": 32, "attention.value_length": 32, "expert_used_count": 2,
        "expert_gating_func": 2,
    }  # fmt: skip
    got = _read(
        tmp_path, "nemotron_h_moe", [MAMBA2 | norm, experts | norm, _attention(4, 2, 32) | norm], keys
    )
    mamba, moe, attention = got.spec.layer_blocks()
    assert isinstance(mamba.mixer, Mamba2)
    assert mamba.ffn is None
    assert moe.mixer is None
    assert moe.ffn == MoeFfn(
        n_experts=8, n_active=2, expert_intermediate=32, gated=False, router_correction=True, n_shared=1,
        shared_intermediate=48, routing="sigmoid",
    )  # fmt: skip
    assert attention.mixer == GqaAttention(n_heads=4, n_kv_heads=2, head_dim=32, v_head_dim=32)
    assert [block.n_norms for block in (mamba, moe, attention)] == [1, 1, 1]
    assert [block.name for block in (mamba, moe, attention)] == ["mamba2", "moe", "attention"]


def test_jamba(tmp_path: Path) -> None:
    # inner 128, state 16, dt rank 4: x makes dt, B and C, 4 + 2 x 16 = 36 rows
    mamba = {
        "ssm_in.weight": (256, WIDTH), "ssm_conv1d.weight": (128, 4), "ssm_conv1d.bias": (128,),
        "ssm_x.weight": (36, 128), "ssm_dt_norm.weight": (4,), "ssm_dt.weight": (128, 4),
        "ssm_dt.bias": (128,),
        "ssm_b_norm.weight": (16,), "ssm_c_norm.weight": (16,), "ssm_a": (128, 16), "ssm_d": (128,),
        "ssm_out.weight": (WIDTH, 128),
    }  # fmt: skip
    norms = _norms("attn_norm", "ffn_norm")
    keys = {"attention.head_count": 4, "attention.head_count_kv": [0, 2], "expert_used_count": 2}
    got = _read(
        tmp_path, "jamba", [mamba | norms | _dense(), _attention(4, 2, 16) | norms | _experts(4, 128)], keys
    )
    first, second = got.spec.layer_blocks()
    assert first.mixer == Mamba1(inner_dim=128, state_dim=16, conv_width=4, dt_rank=4, inner_norms=True)
    assert first.ffn == DenseFfn(intermediate=128)
    assert second.ffn == MoeFfn(n_experts=4, n_active=2, expert_intermediate=128)
    assert (first.n_norms, second.n_norms) == (2, 2)


@pytest.mark.parametrize("arch", ["qwen3next", "qwen35moe"])
def test_gated_delta_net(tmp_path: Path, arch: str) -> None:
    # 2 key heads and 4 value heads of 16: keys 32, values 64; 2 x 32 + 64 = 128 convolved channels
    linear = {
        "attn_qkv.weight": (128, WIDTH), "attn_gate.weight": (64, WIDTH), "ssm_conv1d.weight": (128, 4),
        "ssm_dt.bias": (4,), "ssm_a": (4,), "ssm_norm.weight": (16,), "ssm_out.weight": (WIDTH, 64),
    }  # fmt: skip
    if arch == "qwen3next":
        linear |= {"ssm_ba.weight": (8, WIDTH)}
    else:
        linear |= {"ssm_beta.weight": (4, WIDTH), "ssm_alpha.weight": (4, WIDTH)}
    # the full layers' q holds the output gate as well: 2 x 4 x 16 rows
    full = _attention(4, 2, 16) | {
        "attn_q.weight": (128, WIDTH),
        "attn_q_norm.weight": (16,),
        "attn_k_norm.weight": (16,),
    }
    shared = {row.name: row.shape for row in gated("ffn_{}_shexp.weight", WIDTH, 32)}
    ffn = (
        _norms("attn_norm", "post_attention_norm")
        | _experts(8, 32)
        | shared
        | {"ffn_gate_inp_shexp.weight": (WIDTH,)}
    )
    keys = {
        "ssm.conv_kernel": 4, "ssm.inner_size": 64, "ssm.state_size": 16, "ssm.time_step_rank": 4,
        "ssm.group_count": 2,
        "attention.head_count": 4, "attention.head_count_kv": 2, "expert_used_count": 2,
    }  # fmt: skip
    got = _read(tmp_path, arch, [linear | ffn] * 3 + [full | ffn], keys)
    assert got.spec.layout == (0, 0, 0, 1)
    delta, gqa = got.spec.blocks
    assert delta.mixer == GatedDeltaNet(n_k_heads=2, n_v_heads=4, k_head_dim=16, v_head_dim=16, conv_width=4)
    assert gqa.mixer == GqaAttention(
        n_heads=4, n_kv_heads=2, head_dim=16, v_head_dim=16, qk_norm="head", output_gate="full"
    )
    assert delta.ffn == MoeFfn(
        n_experts=8, n_active=2, expert_intermediate=32, n_shared=1, shared_intermediate=32, shared_gate=True
    )
    roles = {t.name[6:]: t.role for t in got.tensors if t.layer == 0}
    assert roles["attn_qkv.weight"] == roles["attn_gate.weight"] == roles["ssm_out.weight"] == "linear_attn"
    assert {t.role for t in got.tensors if t.layer == 3} >= {"attn_q", "attn_k", "attn_v", "attn_out"}


def test_kimi_linear(tmp_path: Path) -> None:
    # delta layers: 4 heads of 16; latent layers: latent 32, rope 8, nope 16, values 16
    delta: dict[str, tuple[int, ...]] = {f"attn_{part}.weight": (64, WIDTH) for part in "qkv"}
    delta |= {f"ssm_conv1d_{part}.weight": (64, 1, 4) for part in "qkv"}
    delta |= {
        "ssm_f_a.weight": (16, WIDTH), "ssm_f_b.weight": (64, 16), "ssm_beta.weight": (4, WIDTH),
        "ssm_a": (4, 1),
        "ssm_dt.bias": (64,), "ssm_g_a.weight": (16, WIDTH), "ssm_g_b.weight": (64, 16),
        "ssm_norm.weight": (16,),
        "attn_output.weight": (WIDTH, 64),
    }  # fmt: skip
    latent = {
        "attn_q.weight": (96, WIDTH), "attn_kv_a_mqa.weight": (40, WIDTH), "attn_kv_a_norm.weight": (32,),
        "attn_k_b.weight": (4, 32, 16), "attn_v_b.weight": (4, 16, 32), "attn_output.weight": (WIDTH, 64),
    }  # fmt: skip
    keys = {
        "attention.head_count": 4, "attention.head_count_kv": [0, 4], "kda.head_dim": 16,
        "ssm.conv_kernel": 4,
        "attention.kv_lora_rank": 32, "attention.key_length_mla": 24, "attention.value_length_mla": 16,
    }  # fmt: skip
    norms = _norms("attn_norm", "ffn_norm")
    got = _read(tmp_path, "kimi-linear", [delta | norms | _dense(), latent | norms | _dense()], keys)
    first, second = got.spec.layer_blocks()
    assert first.mixer == KimiDelta(n_heads=4, head_dim=16, conv_width=4, gate_rank=16)
    assert second.mixer == MlaAttention(
        n_heads=4, q_lora_rank=None, kv_lora_rank=32, nope_head_dim=16, rope_head_dim=8, v_head_dim=16
    )
    assert {t.role for t in got.tensors if t.name.startswith("blk.0.attn_") and len(t.shape) > 1} == {
        "linear_attn"
    }
    assert {t.role for t in got.tensors if t.name.startswith("blk.1.attn_q")} == {"attn_q"}


def test_lfm2_final_norm_and_short_convolutions(tmp_path: Path) -> None:
    conv = {
        "shortconv.conv.weight": (WIDTH, 3), "shortconv.in_proj.weight": (3 * WIDTH, WIDTH),
        "shortconv.out_proj.weight": (WIDTH, WIDTH),
    }  # fmt: skip
    rows = [Row("token_embd.weight", (VOCAB, WIDTH)), Row("token_embd_norm.weight", (WIDTH,), True)]
    for name, shape in (conv | _norms("attn_norm", "ffn_norm") | _dense()).items():
        rows.append(Row(f"blk.0.{name}", shape, len(shape) == 1))
    keys = {"block_count": 1, "embedding_length": WIDTH, "context_length": 512, "shortconv.l_cache": 3}
    got = read_gguf(write_gguf(tmp_path / "m.gguf", "lfm2", keys, rows), load_quants())
    assert got.spec.blocks[0].mixer == ShortConv(channels=WIDTH, conv_width=3)
    assert (got.spec.final_norm, got.spec.embedding_norms, got.spec.tied_embeddings) == (True, 0, True)


def test_router_outputs_beyond_the_experts_compute_nothing(tmp_path: Path) -> None:
    # LongCat: of 12 outputs 8 are experts, so that of 3 chosen 2 compute on average
    ffn = _norms("attn_norm", "ffn_norm") | _experts(8, 32) | {"ffn_gate_inp.weight": (12, WIDTH)}
    keys = {"attention.head_count": 4, "attention.head_count_kv": 2, "expert_used_count": 3}
    got = _read(tmp_path, "qwen3moe", [_attention(4, 2, 16) | ffn], keys).spec.blocks[0].ffn
    assert got == MoeFfn(n_experts=8, n_active=2, expert_intermediate=32, n_zero_experts=4)


# ── every family with a published configuration ─────────────────────────────────────────────────

# model_type -> the architecture of its GGUF files, where it is another word
ARCH = {
    "llama": "llama", "mistral": "llama", "mixtral": "llama", "ministral3": "mistral3",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe", "qwen3_next": "qwen3next", "qwen3_5_text": "qwen35",
    "qwen3_5_moe_text": "qwen35moe",
    "gemma3_text": "gemma3", "gemma4_text": "gemma4", "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "glm4_moe_lite": "deepseek2", "glm_moe_dsa": "glm-dsa", "gpt_oss": "gpt-oss", "glm4_moe": "glm4moe",
    "cohere": "command-r", "olmo3": "olmo2", "granitemoehybrid": "granitehybrid",
    "ernie4_5_moe": "ernie4_5-moe",
    "bailing_moe_v2": "bailingmoe2", "hunyuan_v1_moe": "hunyuan-moe", "minimax_m2": "minimax-m2",
    "llama4_text": "llama4", "nemotron_h": "nemotron_h_moe", "lfm2_moe": "lfm2moe",
    "kimi_linear": "kimi-linear",
    "mimo_v2_flash": "mimo2", "step3p7": "step35",
}  # fmt: skip
SAME = (
    "qwen2 qwen3 gemma2 deepseek phi3 phimoe glm4 cohere2 olmo2 olmoe granite granitemoe smollm3 dots1 "
    "seed_oss jamba apertus arctic dbrx falcon bloom gpt2 mistral4"
)
ARCH |= {name: name for name in SAME.split()}
# A GGUF cannot show: how the checkpoint stored gate and up, nor the windows that llama.cpp ignores.
UNKNOWN_WINDOWS = {"llama", "phi3"}


def _keys(spec: ModelSpec, arch: str) -> dict[str, Any]:
    """The metadata that a converter writes for ``spec``."""
    blocks = spec.layer_blocks()
    heads = [getattr(block.mixer, "n_heads", 0) for block in blocks]
    kv = [
        getattr(block.mixer, "n_kv_heads", 1 if isinstance(block.mixer, MlaAttention) else 0)
        for block in blocks
    ]
    windows = [getattr(block.mixer, "window_tokens", None) for block in blocks]
    keys: dict[str, Any] = {
        "block_count": spec.n_layers,
        "embedding_length": spec.hidden_size,
        "context_length": spec.context_tokens,
        "attention.head_count": heads[0] if len(set(heads)) == 1 else heads,
        "attention.head_count_kv": kv[0] if len(set(kv)) == 1 else kv,
    }
    if any(windows):
        keys["attention.sliding_window"] = max(window for window in windows if window)
    if arch in ("gemma4", "mimo2", "step35"):
        keys["attention.sliding_window_pattern"] = [bool(window) for window in windows]
    for block in spec.blocks:
        keys |= _block_keys(block)
    return keys


def _block_keys(block: Block) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    match block.mixer:
        case GqaAttention() as m:
            keys = {"attention.key_length": m.head_dim, "attention.value_length": m.v_head_dim}
        case MlaAttention() as m:
            keys = {
                "attention.kv_lora_rank": m.kv_lora_rank,
                "attention.key_length_mla": m.nope_head_dim + m.rope_head_dim,
            }
        case Mamba2() as m:
            keys = _ssm_keys(m.conv_width, m.n_heads * m.head_dim, m.state_dim, m.n_heads, m.n_groups)
        case GatedDeltaNet() as m:
            keys = _ssm_keys(m.conv_width, m.n_v_heads * m.v_head_dim, m.k_head_dim, m.n_v_heads, m.n_k_heads)
        case KimiDelta() as m:
            keys = {"ssm.conv_kernel": m.conv_width, "kda.head_dim": m.head_dim}
    if isinstance(block.mixer, GqaAttention | MlaAttention) and block.mixer.indexer:
        indexer = block.mixer.indexer
        keys |= {
            "attention.indexer.head_count": indexer.n_heads,
            "attention.indexer.key_length": indexer.head_dim,
            "attention.indexer.top_k": indexer.top_k_tokens,
        }
    if isinstance(block.ffn, MoeFfn):
        keys |= {"expert_used_count": block.ffn.n_active, "expert_shared_count": block.ffn.n_shared}
        keys["expert_gating_func"] = 2 if block.ffn.routing == "sigmoid" else 1
    return keys


def _ssm_keys(conv: int, inner: int, state: int, rank: int, groups: int) -> dict[str, int]:
    return dict(zip(MAMBA2_KEYS, (conv, inner, state, rank, groups), strict=True))


def _as_a_file_shows(block: Block, arch: str) -> Block:
    mixer, ffn = block.mixer, block.ffn
    if isinstance(ffn, MoeFfn):
        ffn = replace(ffn, fused_gate_up=False)
    if isinstance(mixer, GqaAttention) and arch in UNKNOWN_WINDOWS:
        mixer = replace(mixer, window_tokens=None)
    return replace(block, name="", mixer=mixer, ffn=ffn, extra_note="")


def _configs() -> list[str]:
    """The published configurations of the families that llama.cpp has an architecture for."""
    found = []
    for path in sorted(DATA.glob("*.json")):
        if read_config(path).architecture in ARCH:
            found.append(path.stem)
    return found


def test_most_published_configurations_are_covered() -> None:
    assert len(_configs()) >= 50


@pytest.mark.parametrize("name", _configs())
def test_a_gguf_gives_the_same_model_as_its_config(tmp_path: Path, name: str) -> None:
    spec = read_config(DATA / f"{name}.json")
    arch = ARCH[spec.architecture]
    tensors = build_tensors(spec)
    rows = [Row(t.name, t.shape) for t in tensors]
    got = read_gguf(write_gguf(tmp_path / "m.gguf", arch, _keys(spec, arch), rows), load_quants())
    assert [_as_a_file_shows(block, arch) for block in got.spec.layer_blocks()] == [
        _as_a_file_shows(block, arch) for block in spec.layer_blocks()
    ]
    for field in (
        "hidden_size",
        "vocab_size",
        "context_tokens",
        "tied_embeddings",
        "norm_bias",
        "final_norm",
    ):
        assert getattr(got.spec, field) == getattr(spec, field)
    for field in ("embedding_norms", "n_position_embeddings", "head_bias", "extra_params"):
        assert getattr(got.spec, field) == getattr(spec, field)
    assert {(t.name, t.role, t.expert_stacked) for t in got.tensors} == {
        (t.name, t.role, t.expert_stacked) for t in tensors
    }
    assert param_counts(got.spec, got.tensors) == param_counts(spec, tensors)
