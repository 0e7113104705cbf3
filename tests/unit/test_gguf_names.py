"""Tensor names of GGUF files -> what they are for. Names: gguf-py/gguf/constants.py of llama.cpp."""

from __future__ import annotations

import pytest

from moeplan.readers.gguf_names import is_stacked, layer_traits, owner_of, role_of, split_name


@pytest.mark.parametrize(
    ("name", "layer", "role", "stacked", "owner"),
    [
        ("token_embd.weight", -1, "embedding", False, "base"),
        ("output.weight", -1, "head", False, "base"),
        ("output_norm.bias", -1, "bias", False, "base"),
        ("position_embd.weight", -1, "position", False, "base"),
        ("blk.3.attn_output.weight", 3, "attn_out", False, "base"),
        ("blk.3.attn_output_norm.weight", 3, "norm", False, "base"),
        ("blk.3.ffn_gate_up_exps.weight", 3, "expert_gate_up", True, "base"),
        ("blk.3.ffn_down_exps.bias", 3, "bias", True, "base"),
        ("blk.3.ffn_down_exps.scale", 3, "norm", False, "base"),
        ("blk.3.ffn_norm_exps.weight", 3, "norm", False, "base"),
        ("blk.3.ffn_up_shexp.weight", 3, "shared_up", False, "base"),
        ("blk.3.ffn_gate_inp_shexp.weight", 3, "shared_router", False, "base"),
        ("blk.3.ffn_latent_up.weight", 3, "latent", False, "base"),
        ("blk.3.indexer.attn_q_b.weight", 3, "indexer", False, "base"),
        ("blk.3.indexer.k_norm.weight", 3, "norm", False, "base"),
        ("blk.3.layer_output_scale.weight", 3, "extra", False, "base"),
        ("blk.4.attn_q.weight", 4, "attn_q", False, "mtp"),
        ("blk.3.nextn.enorm.weight", 3, "norm", False, "mtp"),
        ("blk.999999999999.attn_q.weight", -1, "extra", False, "base"),
        ("v.blk.0.attn_q.weight", -1, "extra", False, "vision"),
        ("mm.0.weight", -1, "extra", False, "vision"),
        ("rope_freqs.weight", -1, "extra", False, "other"),
    ],
)
def test_names(name: str, layer: int, role: str, stacked: bool, owner: str) -> None:
    got = split_name(name)
    traits = layer_traits({})
    assert (got.layer, role_of(got, traits), is_stacked(got), owner_of(got, 4)) == (
        layer,
        role,
        stacked,
        owner,
    )
