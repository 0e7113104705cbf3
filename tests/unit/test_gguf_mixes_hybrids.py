"""llama.cpp's type rules for models whose layers are not all attention."""

from __future__ import annotations

from typing import Any

import pytest

from moeplan.domain.graph import Tensor
from moeplan.domain.model import (
    Block,
    DenseFfn,
    GatedDeltaNet,
    GqaAttention,
    Mamba2,
    ModelSpec,
)
from moeplan.domain.quant import QuantTable
from moeplan.graph.gguf_mixes import (
    mix_model,
)
from moeplan.graph.quantise import assign_types

HYBRID_ATTENTION = Block(
    name="a",
    mixer=GqaAttention(n_heads=16, n_kv_heads=2, head_dim=256, v_head_dim=256),
    ffn=DenseFfn(intermediate=512),
)
DELTA = GatedDeltaNet(n_k_heads=16, n_v_heads=32, k_head_dim=128, v_head_dim=128, conv_width=4)
MAMBA = Mamba2(n_heads=64, head_dim=64, n_groups=1, state_dim=128, conv_width=4)


@pytest.mark.parametrize(
    ("architecture", "mixer", "heads_per_kv", "attn_v"),
    [
        # llama.cpp looks at the first layer. Files of Granite 4, Jamba, Nemotron-H and LFM2 state 0 K/V
        # heads for layers without attention; those of Qwen3-Next state 2 for all, so 16 / 2 = 8.
        # llama.cpp v0.5.0 chose the same types for files of these shapes in a dry run.
        ("granitemoehybrid", MAMBA, 0, "q3_k"),
        ("qwen3_next", DELTA, 8, "q4_k"),
        ("llama", HYBRID_ATTENTION.mixer, 8, "q4_k"),
    ],
)
def test_heads_per_kv_head_of_hybrids(
    architecture: str, mixer: Any, heads_per_kv: int, attn_v: str, quants: QuantTable
) -> None:
    first = Block(name="f", mixer=mixer, ffn=DenseFfn(intermediate=512))
    spec = ModelSpec(
        id="m",
        name="m",
        architecture=architecture,
        hidden_size=2048,
        vocab_size=1000,
        context_tokens=1,
        blocks=(first, HYBRID_ATTENTION),
        layout=(0, 0, 0, 1),
    )
    tensors = (Tensor(name="blk.3.attn_v.weight", role="attn_v", layer=3, shape=(512, 2048)),)
    assert mix_model(spec, tensors).heads_per_kv_head == heads_per_kv
    assert assign_types(spec, tensors, "q2_k", quants)[0].qtype == attn_v
