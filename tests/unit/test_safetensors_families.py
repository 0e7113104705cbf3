"""Checkpoints of families with names of their own: parameters must be those of the architecture.

Names and shapes: the model classes in transformers (``from_pretrained`` of a randomly made model).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moeplan.graph.inventory import build_tensors, param_counts
from moeplan.readers.quants import load_quants
from moeplan.readers.safetensors import read_safetensors
from tests.support import safetensors_tables as plain
from tests.support.safetensors_tables import ATTENTION, BASE, OUTSIDE, attention, mlp, weights, write

Shapes = dict[str, tuple[int, ...]]
"""Weights by module. A parameter that is no module's weight has a ``!`` in front and its full name."""


def layer(i: int, parts: Shapes) -> Shapes:
    """Tensors of layer ``i``, its two norms included."""
    return {f"!{n.replace('!', '')}" if "!" in n else n: shape for n, shape in plain.layer(i, parts).items()}


def _qwen3_next() -> tuple[dict[str, Any], Shapes]:
    # 2 key heads, 4 value heads of 16: qkvz 32 + 32 + 64 + 64, ba 4 + 4, conv over 128 channels
    linear = {
        "linear_attn.in_proj_qkvz": (192, 64), "linear_attn.in_proj_ba": (8, 64),
        "linear_attn.conv1d": (128, 1, 4),
        "!linear_attn.A_log": (4,), "!linear_attn.dt_bias": (4,), "linear_attn.norm": (16,),
        "linear_attn.out_proj": (64, 64),
    }  # fmt: skip
    full = attention() | {"self_attn.q_proj": (128, 64), "self_attn.q_norm": (16,), "self_attn.k_norm": (16,)}
    moe: Shapes = {"mlp.gate": (4, 64), "mlp.shared_expert_gate": (1, 64)} | mlp("mlp.shared_expert", 32)
    for e in range(4):
        moe |= mlp(f"mlp.experts.{e}", 32)
    config = {
        "model_type": "qwen3_next", "num_hidden_layers": 4, "head_dim": 16, "full_attention_interval": 4,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_value_head_dim": 16, "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }  # fmt: skip
    shapes: Shapes = dict(OUTSIDE)
    for i in range(4):
        shapes |= layer(i, (full if i == 3 else linear) | moe)
    return config, shapes


MAMBA2: Shapes = {
    # 8 heads of 16, one group, state 32: z 128, x 128, B and C 32 each, dt 8
    "in_proj": (328, 64), "conv1d": (192, 1, 4), "!conv1d.bias": (192,), "!A_log": (8,), "!D": (8,),
    "!dt_bias": (8,), "norm": (128,), "out_proj": (64, 128),
}  # fmt: skip


def _under(module: str, shapes: Shapes) -> Shapes:
    return {(f"!{module}.{n[1:]}" if n[0] == "!" else f"{module}.{n}"): shape for n, shape in shapes.items()}


def _granite_hybrid() -> tuple[dict[str, Any], Shapes]:
    moe = {
        "block_sparse_moe.input_linear": (4, 64, 64), "block_sparse_moe.output_linear": (4, 64, 32),
        "block_sparse_moe.router.layer": (4, 64), "shared_mlp.input_linear": (96, 64),
        "shared_mlp.output_linear": (64, 48),
    }  # fmt: skip
    config = {
        "model_type": "granitemoehybrid", "num_local_experts": 4, "num_experts_per_tok": 2,
        "intermediate_size": 32,
        "shared_intermediate_size": 48, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1,
        "mamba_d_state": 32, "mamba_d_conv": 4, "mamba_expand": 2, "layer_types": ["mamba", "attention"],
    }  # fmt: skip
    shapes: Shapes = dict(OUTSIDE) | layer(0, _under("mamba", MAMBA2) | moe) | layer(1, attention() | moe)
    return config, shapes


def _nemotron_h() -> tuple[dict[str, Any], Shapes]:
    moe: Shapes = {"mixer.gate": (4, 64), "!mixer.gate.e_score_correction_bias": (4,)}
    moe |= {"mixer.shared_experts.up_proj": (48, 64), "mixer.shared_experts.down_proj": (64, 48)}
    for e in range(4):
        moe |= {f"mixer.experts.{e}.up_proj": (32, 64), f"mixer.experts.{e}.down_proj": (64, 32)}
    shapes: Shapes = {"backbone.embeddings": (96, 64), "backbone.norm_f": (64,), "lm_head": (96, 64)}
    for i, parts in enumerate((_under("mixer", MAMBA2), moe, attention("mixer"))):
        for name, shape in (parts | {"norm": (64,)}).items():
            mark = "!" if name[0] == "!" else ""
            shapes[f"{mark}backbone.layers.{i}.{name.removeprefix('!')}"] = shape
    config = {
        "model_type": "nemotron_h", "num_hidden_layers": 3, "hybrid_override_pattern": "ME*",
        "head_dim": 16,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1,
        "moe_shared_expert_intermediate_size": 48, "mamba_num_heads": 8, "mamba_head_dim": 16,
        "n_groups": 1,
        "ssm_state_size": 32, "conv_kernel": 4, "use_conv_bias": True, "use_bias": False,
    }  # fmt: skip
    return config, shapes


def _jamba() -> tuple[dict[str, Any], Shapes]:
    mamba: Shapes = {
        "in_proj": (256, 64), "conv1d": (128, 1, 4), "!conv1d.bias": (128,), "x_proj": (36, 128),
        "dt_proj": (128, 4), "!dt_proj.bias": (128,), "!A_log": (128, 16), "!D": (128,),
        "out_proj": (64, 128),
        "dt_layernorm": (4,), "b_layernorm": (16,), "c_layernorm": (16,),
    }  # fmt: skip
    moe: Shapes = {"feed_forward.router": (4, 64)}
    for e in range(4):
        moe |= mlp(f"feed_forward.experts.{e}", 128)
    shapes: Shapes = {"model.embed_tokens": (96, 64), "model.final_layernorm": (64,), "lm_head": (96, 64)}
    shapes |= layer(0, _under("mamba", mamba) | mlp("feed_forward", 128)) | layer(1, attention() | moe)
    config = {
        "model_type": "jamba", "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2,
        "mamba_dt_rank": 4,
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "num_experts": 4, "num_experts_per_tok": 2,
    }  # fmt: skip
    return config, shapes


def _llama4() -> tuple[dict[str, Any], Shapes]:
    # fused and transposed: (experts, in, out)
    moe = {
        "!feed_forward.experts.gate_up_proj": (4, 64, 256), "!feed_forward.experts.down_proj": (4, 128, 64),
        "feed_forward.router": (4, 64),
    } | mlp("feed_forward.shared_expert", 128)  # fmt: skip
    config = {
        "model_type": "llama4_text", "intermediate_size": 128, "intermediate_size_mlp": 160, "head_dim": 16,
        "num_local_experts": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
    }  # fmt: skip
    shapes: Shapes = (
        dict(OUTSIDE) | layer(0, attention() | mlp("feed_forward", 160)) | layer(1, attention() | moe)
    )
    return config, shapes


def _lfm2_moe() -> tuple[dict[str, Any], Shapes]:
    conv: Shapes = {"conv.conv": (64, 1, 3), "conv.in_proj": (192, 64), "conv.out_proj": (64, 64)}
    full: Shapes = {f"self_attn.{n}": ATTENTION[n] for n in ("q_proj", "k_proj", "v_proj")}
    full |= {"self_attn.out_proj": (64, 64), "self_attn.q_layernorm": (16,), "self_attn.k_layernorm": (16,)}
    dense: Shapes = {
        f"feed_forward.{n}": s for n, s in (("w1", (128, 64)), ("w3", (128, 64)), ("w2", (64, 128)))
    }
    moe: Shapes = {"feed_forward.gate": (4, 64)}
    for e in range(4):
        moe |= {
            f"feed_forward.experts.{e}.{n}": s
            for n, s in (("w1", (32, 64)), ("w3", (32, 64)), ("w2", (64, 32)))
        }
    shapes: Shapes = {"model.embed_tokens": (96, 64), "model.embedding_norm": (64,)}
    for i, parts in enumerate((conv | dense, full | moe)):
        named = layer(i, parts)
        shapes |= {n.replace("input_layernorm", "operator_norm"): s for n, s in named.items()}
    config = {
        "model_type": "lfm2_moe", "layer_types": ["conv", "full_attention"], "conv_L_cache": 3,
        "num_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_dense_layers": 1,
        "use_expert_bias": True,
        "tie_word_embeddings": True, "conv_bias": False,
    }  # fmt: skip
    return config, shapes


def _phi3() -> tuple[dict[str, Any], Shapes]:
    parts = {
        "self_attn.qkv_proj": (128, 64), "self_attn.o_proj": (64, 64), "mlp.gate_up_proj": (256, 64),
        "mlp.down_proj": (64, 128),
    }  # fmt: skip
    return {"model_type": "phi3"}, dict(OUTSIDE) | layer(0, parts) | layer(1, parts)


def _gpt2() -> tuple[dict[str, Any], Shapes]:
    shapes: Shapes = {"wte": (96, 64), "wpe": (32, 64), "ln_f": (64,), "!ln_f.bias": (64,)}
    for i in range(2):
        for name, shape in (("attn.c_attn", (64, 192)), ("attn.c_proj", (64, 64)), ("mlp.c_fc", (64, 256)),
                            ("mlp.c_proj", (256, 64)), ("ln_1", (64,)), ("ln_2", (64,))):  # fmt: skip
            shapes[f"h.{i}.{name}"] = shape
            shapes[f"!h.{i}.{name}.bias"] = shape[-1:]
    config = {
        "model_type": "gpt2",
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 32,
        "n_inner": None,
    }
    return config | {"tie_word_embeddings": True}, shapes


FAMILIES = {
    "qwen3_next": _qwen3_next, "granitemoehybrid": _granite_hybrid, "nemotron_h": _nemotron_h,
    "jamba": _jamba,
    "llama4": _llama4, "lfm2_moe": _lfm2_moe, "phi3": _phi3, "gpt2": _gpt2,
}  # fmt: skip
# Roles that the checkpoint has in one matrix where the inventory has two, or under another name.
_SAME = {
    "expert_gate": "expert_gate_up", "expert_up": "expert_gate_up", "shared_gate": "shared",
    "shared_up": "shared",
    "shared_down": "shared", "ffn_gate_up": "ffn", "ffn_gate": "ffn", "ffn_up": "ffn", "ffn_down": "ffn",
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_by_role(tmp_path: Path, family: str) -> None:
    config, shapes = FAMILIES[family]()
    (tmp_path / "config.json").write_text(json.dumps(BASE | config))
    table = {name[1:]: ("BF16", shape) for name, shape in shapes.items() if name[0] == "!"}
    table |= weights({name: shape for name, shape in shapes.items() if name[0] != "!"})
    write(tmp_path / "model.safetensors", table)
    model = read_safetensors(tmp_path, load_quants())
    assert model.tensors is not None
    have = param_counts(model.spec, model.tensors)
    built = param_counts(model.spec, build_tensors(model.spec))
    assert (have.total, have.active, have.routed_experts) == (built.total, built.active, built.routed_experts)
    sums: list[dict[str, int]] = [{}, {}]
    for counts, merged in zip((have, built), sums, strict=True):
        for role, n in counts.by_role.items():
            name = _SAME.get(role, role)
            if family == "granitemoehybrid" and name in ("ffn", "shared"):
                name = "shared"  # its shared_mlp has gate and up in one matrix
            merged[name] = merged.get(name, 0) + n
    assert sums[0] == sums[1]
    for t in model.tensors:  # stacked experts stand as (experts, out, in), however they are stored
        if t.role == "expert_down":
            assert t.shape[:2] == (4, 64)
