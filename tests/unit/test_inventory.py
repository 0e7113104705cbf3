"""The inventory: names, shapes, counts and sums, on models small enough to count by hand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from moeplan.domain.graph import ModelGraph, Tensor
from moeplan.domain.model import (
    Block,
    DenseFfn,
    Ffn,
    GqaAttention,
    Indexer,
    MlaAttention,
    ModelSpec,
    MoeFfn,
)
from moeplan.graph.inventory import build_tensors, param_counts, summarise
from moeplan.readers.hf import read_config

DATA = Path(__file__).parents[1] / "data" / "hf"

GQA = GqaAttention(n_heads=4, n_kv_heads=2, head_dim=8, v_head_dim=8)
MLP = DenseFfn(intermediate=10)
MOE = MoeFfn(n_experts=6, n_active=2, expert_intermediate=5)


def model(*blocks: Block, **fields: Any) -> ModelSpec:
    """Width 16, vocabulary 100, one layer of each block."""
    return ModelSpec(
        id="tiny",
        name="Tiny",
        architecture="llama",
        hidden_size=16,
        vocab_size=100,
        context_tokens=64,
        blocks=blocks,
        layout=fields.pop("layout", tuple(range(len(blocks)))),
        **fields,
    )


def layer(mixer: GqaAttention | MlaAttention = GQA, ffn: Ffn | None = MLP, **fields: Any) -> Block:
    return Block(name="layer", mixer=mixer, ffn=ffn, **fields)


def shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    tensors = build_tensors(spec)
    named = {t.name: t.shape for t in tensors}
    assert len(named) == len(tensors), "two tensors of one name"
    return named


def only(spec: ModelSpec, base: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The tensors that ``spec`` has beyond ``base``, or in another shape."""
    other = shapes(base)
    return {name: shape for name, shape in shapes(spec).items() if other.get(name) != shape}


# ── tensors ─────────────────────────────────────────────────────────────────────────────────────


def test_a_dense_llama_is_these_twelve_tensors() -> None:
    assert shapes(model(layer())) == {
        "token_embd.weight": (100, 16),
        "blk.0.attn_norm.weight": (16,),
        "blk.0.ffn_norm.weight": (16,),
        "blk.0.attn_q.weight": (32, 16),
        "blk.0.attn_k.weight": (16, 16),
        "blk.0.attn_v.weight": (16, 16),
        "blk.0.attn_output.weight": (16, 32),
        "blk.0.ffn_gate.weight": (10, 16),
        "blk.0.ffn_up.weight": (10, 16),
        "blk.0.ffn_down.weight": (16, 10),
        "output_norm.weight": (16,),
        "output.weight": (100, 16),
    }


def test_tied_embeddings_have_no_head_and_order_is_execution_order() -> None:
    names = [t.name for t in build_tensors(model(layer(), layer(), tied_embeddings=True))]
    assert "output.weight" not in names
    assert names[0] == "token_embd.weight"
    assert names[-1] == "output_norm.weight"
    layers = [t.layer for t in build_tensors(model(layer(), layer()))]
    assert layers == [-1] + [0] * 9 + [1] * 9 + [-1] * 2


def test_experts_are_stacked_and_marked() -> None:
    spec = model(layer(ffn=MOE))
    assert {n: s for n, s in shapes(spec).items() if "ffn" in n} == {
        "blk.0.ffn_norm.weight": (16,),
        "blk.0.ffn_gate_inp.weight": (6, 16),
        "blk.0.ffn_gate_exps.weight": (6, 5, 16),
        "blk.0.ffn_up_exps.weight": (6, 5, 16),
        "blk.0.ffn_down_exps.weight": (6, 16, 5),
    }
    stacked = {t.name for t in build_tensors(spec) if t.expert_stacked}
    assert stacked == {f"blk.0.ffn_{part}_exps.weight" for part in ("gate", "up", "down")}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"bias": True},
            {"ffn_gate_exps.bias": (6, 5), "ffn_up_exps.bias": (6, 5), "ffn_down_exps.bias": (6, 16)},
        ),
        ({"router_bias": True}, {"ffn_gate_inp.bias": (6,)}),
        ({"router_correction": True}, {"exp_probs_b.bias": (6,)}),
        ({"router_scale": True}, {"ffn_gate_inp.scale": (16,), "ffn_down_exps.scale": (6,)}),
        ({"n_zero_experts": 3}, {"ffn_gate_inp.weight": (9, 16)}),
        (
            {"n_shared": 2, "shared_intermediate": 10, "shared_gate": True},
            {
                "ffn_gate_shexp.weight": (10, 16),
                "ffn_up_shexp.weight": (10, 16),
                "ffn_down_shexp.weight": (16, 10),
                "ffn_gate_inp_shexp.weight": (16,),
            },
        ),
        (
            {"parallel_dense": 7},
            {"ffn_gate.weight": (7, 16), "ffn_up.weight": (7, 16), "ffn_down.weight": (16, 7)},
        ),
        (
            {"latent_dim": 4},
            {
                "ffn_latent_down.weight": (4, 16),
                "ffn_latent_up.weight": (16, 4),
                "ffn_gate_exps.weight": (6, 5, 4),
                "ffn_up_exps.weight": (6, 5, 4),
                "ffn_down_exps.weight": (6, 4, 5),
            },
        ),
    ],
)
def test_what_each_option_of_the_experts_adds(change: dict[str, Any], expected: dict[str, Any]) -> None:
    added = only(model(layer(ffn=replace(MOE, **change))), model(layer(ffn=MOE)))
    assert added == {f"blk.0.{name}": shape for name, shape in expected.items()}


def test_experts_without_gate_have_two_matrices() -> None:
    names = set(shapes(model(layer(ffn=replace(MOE, gated=False, n_shared=1, shared_intermediate=5)))))
    assert not {name for name in names if "gate_exps" in name or "gate_shexp" in name}
    assert {"blk.0.ffn_up_exps.weight", "blk.0.ffn_up_shexp.weight"} <= names


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"qkv_bias": True}, {"attn_q.bias": (32,), "attn_k.bias": (16,), "attn_v.bias": (16,)}),
        ({"out_bias": True}, {"attn_output.bias": (16,)}),
        ({"fused_qkv": True}, {"attn_qkv.weight": (64, 16)}),
        ({"qk_norm": "head"}, {"attn_q_norm.weight": (8,), "attn_k_norm.weight": (8,)}),
        ({"qk_norm": "heads"}, {"attn_q_norm.weight": (4, 8), "attn_k_norm.weight": (2, 8)}),
        ({"qk_norm": "full"}, {"attn_q_norm.weight": (32,), "attn_k_norm.weight": (16,)}),
        ({"sinks": True}, {"attn_sinks.weight": (4,)}),
        ({"output_gate": "full"}, {"attn_q.weight": (64, 16)}),
        ({"output_gate": "head"}, {"attn_gate.weight": (4, 16)}),
        ({"shares_kv": True, "qk_norm": "head"}, {"attn_q_norm.weight": (8,)}),
        ({"value_is_key": True}, {}),
        ({"v_head_dim": 4}, {"attn_v.weight": (8, 16), "attn_output.weight": (16, 16)}),
        ({"window_tokens": 32}, {}),
    ],
)
def test_what_each_option_of_attention_adds(change: dict[str, Any], expected: dict[str, Any]) -> None:
    spec = model(layer(replace(GQA, **change)))
    assert only(spec, model(layer())) == {f"blk.0.{name}": shape for name, shape in expected.items()}
    gone = set(shapes(model(layer()))) - set(shapes(spec))
    missing = {"shares_kv": {"k", "v"}, "value_is_key": {"v"}, "fused_qkv": {"q", "k", "v"}}
    first = next(iter(change))
    assert gone == {f"blk.0.attn_{part}.weight" for part in missing.get(first, set())}


MLA = MlaAttention(
    n_heads=4, q_lora_rank=6, kv_lora_rank=12, nope_head_dim=8, rope_head_dim=2, v_head_dim=5
)  # fmt: skip


def test_latent_attention() -> None:
    found = {n.removeprefix("blk.0."): s for n, s in shapes(model(layer(MLA))).items() if "attn_" in n}
    assert found == {
        "attn_norm.weight": (16,),
        "attn_q_a.weight": (6, 16),
        "attn_q_a_norm.weight": (6,),
        "attn_q_b.weight": (40, 6),  # 4 heads x (8 + 2)
        "attn_kv_a_mqa.weight": (14, 16),  # 12 + 2
        "attn_kv_a_norm.weight": (12,),
        "attn_k_b.weight": (4, 12, 8),
        "attn_v_b.weight": (4, 5, 12),
        "attn_output.weight": (16, 20),  # 4 x 5
    }
    direct = shapes(model(layer(replace(MLA, q_lora_rank=None))))
    assert direct["blk.0.attn_q.weight"] == (40, 16)
    assert not [name for name in direct if "attn_q_" in name]


def test_the_indexer_is_deepseeks_and_a_shared_one_is_free() -> None:
    indexer = Indexer(n_heads=2, head_dim=3, top_k_tokens=8)
    added = only(model(layer(replace(MLA, indexer=indexer))), model(layer(MLA)))
    assert added == {
        "blk.0.indexer.attn_q_b.weight": (6, 6),  # from the query latent
        "blk.0.indexer.attn_k.weight": (3, 16),
        "blk.0.indexer.k_norm.weight": (3,),
        "blk.0.indexer.k_norm.bias": (3,),
        "blk.0.indexer.proj.weight": (2, 16),
    }
    shared = replace(MLA, indexer=replace(indexer, shared=True))
    assert shapes(model(layer(shared))) == shapes(model(layer(MLA)))


def test_norms_extras_and_everything_outside_the_layers() -> None:
    base = model(layer())
    spec = model(
        layer(n_norms=4, extra_params=3, extra_note="three scalars"),
        norm_bias=True,
        head_bias=True,
        n_position_embeddings=64,
        embedding_norms=1,
        extra_params=9,
    )
    assert only(spec, base) == {
        "position_embd.weight": (64, 16),
        "token_embd_norm.weight": (16,),
        "token_embd_norm.bias": (16,),
        "blk.0.attn_norm.bias": (16,),
        "blk.0.ffn_norm.bias": (16,),
        "blk.0.post_attention_norm.weight": (16,),
        "blk.0.post_attention_norm.bias": (16,),
        "blk.0.post_ffw_norm.weight": (16,),
        "blk.0.post_ffw_norm.bias": (16,),
        "blk.0.extra.weight": (3,),
        "output_norm.bias": (16,),
        "output.bias": (100,),
        "extra.weight": (9,),
    }
    assert "output_norm.weight" not in shapes(model(layer(), final_norm=False))


def test_blocks_without_mixer_without_ffn_and_with_cross_attention() -> None:
    alone = model(Block(name="ffn", mixer=None, ffn=MLP, n_norms=1))
    assert {n for n in shapes(alone) if "norm" in n} == {"blk.0.ffn_norm.weight", "output_norm.weight"}
    assert not [n for n in shapes(model(layer(ffn=None, n_norms=1))) if "ffn" in n]
    crossed = model(layer(cross_attention=replace(GQA, n_kv_heads=4), n_norms=3))
    tensors = [t for t in build_tensors(crossed) if "cross" in t.name]
    assert {t.name for t in tensors} == {f"blk.0.cross_attn_{x}.weight" for x in ("q", "k", "v", "output")}
    assert {t.role for t in tensors} == {"cross_attn"}


# One architecture per kind of name; llama.cpp's own table says which tensors it knows.
ARCHITECTURES = {
    "llama-3.1-8b": "LLAMA", "mixtral-8x7b": "LLAMA", "qwen2.5-7b": "QWEN2", "qwen3-30b-a3b": "QWEN3MOE",
    "qwen1.5-moe-a2.7b": "QWEN2MOE", "deepseek-v2-lite": "DEEPSEEK2", "deepseek-v3": "DEEPSEEK2",
    "glm-5.2": "GLM_DSA", "gpt-oss-20b": "GPT_OSS", "gemma-2-9b": "GEMMA2", "gemma-3-27b": "GEMMA3",
    "phi-4": "PHI3", "phi-3.5-moe": "PHIMOE", "glm-4-9b-0414": "GLM4", "glm-4.5": "GLM4_MOE",
    "command-r-plus": "COMMAND_R", "olmo-2-7b": "OLMO2", "olmoe-1b-7b": "OLMOE", "minimax-m2": "MINIMAXM2",
    "llama-4-maverick-400b-a17b": "LLAMA4", "dots.llm1": "DOTS1", "ernie-4.5-21b-a3b": "ERNIE4_5_MOE",
    "ling-mini-2.0": "BAILINGMOE2", "hunyuan-a13b": "HUNYUAN_MOE", "granite-3.0-1b-a400m": "GRANITE_MOE",
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_name_is_one_that_llama_cpp_knows(name: str) -> None:
    import gguf

    arch = getattr(gguf.MODEL_ARCH, ARCHITECTURES[name], None)
    if arch is None:
        pytest.skip(f"this gguf has no {ARCHITECTURES[name]}")
    known = {gguf.TENSOR_NAMES[tensor].format(bid="N") for tensor in gguf.MODEL_TENSORS[arch]}
    spec = read_config(DATA / f"{name}.json")
    built = {t.name.replace(f"blk.{t.layer}.", "blk.N.").rpartition(".")[0] for t in build_tensors(spec)}
    assert built <= known


# ── counts ──────────────────────────────────────────────────────────────────────────────────────


def test_counts_of_a_tiny_moe_by_hand() -> None:
    # attention 32x16 + 2 x 16x16 + 16x32 = 1536, norms 2x16, router 6x16 = 96, experts 6 x 3x5x16 = 1440;
    # outside: 2 x 100x16 = 3200 and a norm of 16
    spec = model(layer(ffn=MOE))
    counts = param_counts(spec, build_tensors(spec))
    assert counts.routed_experts == 1440
    assert counts.total == 1536 + 32 + 96 + 1440 + 3200 + 16
    assert counts.active == counts.total - 1440 + 1440 * 2 // 6
    assert counts.active_no_input_embedding == counts.active - 1600
    assert counts.active_no_embeddings == counts.active - 3200
    assert counts.by_role["router"] == 96
    assert counts.by_role["expert_down"] == 480


def test_a_tied_embedding_is_the_head_and_counts_once() -> None:
    spec = model(layer(), tied_embeddings=True)
    counts = param_counts(spec, build_tensors(spec))
    assert counts.active == counts.total == counts.active_no_input_embedding
    assert counts.active_no_embeddings == counts.total - 1600


def test_zero_experts_have_router_outputs_and_nothing_else() -> None:
    # n_active is the number that computes, so only the router grows: by 2 rows of 16
    plain = model(layer(ffn=MOE))
    zero = model(layer(ffn=replace(MOE, n_zero_experts=2)))
    before, after = (param_counts(spec, build_tensors(spec)) for spec in (plain, zero))
    assert (after.total, after.active) == (before.total + 32, before.active + 32)
    assert after.routed_experts == before.routed_experts


def test_one_expert_is_a_dense_model_with_a_router() -> None:
    one = model(layer(ffn=MoeFfn(n_experts=1, n_active=1, expert_intermediate=10)))
    dense = model(layer(ffn=MLP))
    with_router = param_counts(one, build_tensors(one))
    plain = param_counts(dense, build_tensors(dense))
    assert with_router.total == with_router.active == plain.total + 16


# ── sums ────────────────────────────────────────────────────────────────────────────────────────


def typed(spec: ModelSpec) -> list[Tensor]:
    """Experts at 1 byte a weight, everything else at 2."""
    return [
        replace(t, qtype="q8", n_bytes=t.n_elements)
        if t.expert_stacked
        else replace(t, qtype="f16", n_bytes=2 * t.n_elements)
        for t in build_tensors(spec)
    ]


def graph(spec: ModelSpec) -> ModelGraph:
    return summarise(spec, "test", typed(spec), "rules")


def test_sums_of_a_tiny_moe_by_hand() -> None:
    ffn = replace(MOE, bias=True, router_bias=True)
    spec = model(layer(), layer(replace(GQA, sinks=True, qk_norm="heads"), ffn), layout=(0, 1, 1))
    g = graph(spec)
    dense, moe, last = g.layers
    assert moe == last
    # matrices: 1536 attention + 3x10x16; norms 2x16 have bytes but are no matrices
    assert (dense.block, dense.dense_elements, dense.expert_elements) == (0, 1536 + 480, 0)
    assert (dense.dense_bytes, dense.expert_bytes) == (2 * (1536 + 480 + 32), 0)
    # expert biases 6 x (5 + 5 + 16) = 156; 4 sinks, q/k norms 4x8 + 2x8 = 48, router 96 + 6
    assert (moe.block, moe.dense_elements, moe.expert_elements) == (1, 1536 + 96, 1440)
    assert moe.expert_bytes == 1440 + 156
    assert moe.dense_bytes == 2 * (1536 + 32 + 4 + 48 + 96 + 6)
    assert moe.bytes_by_qtype == (("f16", moe.dense_bytes), ("q8", moe.expert_bytes))
    assert (g.embedding_bytes, g.head_bytes, g.head_elements) == (3200, 3200 + 32, 1600)
    assert g.outside_bytes == 2 * 3200 + 32
    assert g.weights_bytes == g.outside_bytes + dense.dense_bytes + 2 * (moe.dense_bytes + moe.expert_bytes)
    assert g.weights_bytes == sum(t.n_bytes for t in g.tensors)
    assert (g.expert_bits_per_weight, g.other_bits_per_weight) == (8.0, 16.0)


def test_a_tied_head_reads_the_embedding_but_stores_nothing() -> None:
    g = graph(model(layer(), tied_embeddings=True, n_position_embeddings=64))
    assert g.head_bytes == 3200 + 32
    assert g.head_elements == 1600
    assert g.embedding_bytes == 3200 + 2 * 64 * 16
    assert g.outside_bytes == 3200 + 2 * 64 * 16 + 32


def test_tensors_of_other_parts_and_untyped_ones_do_not_count() -> None:
    spec = model(layer())
    extra = Tensor(name="v.patch", role="extra", layer=-1, shape=(9, 9), n_bytes=81, owner="vision")
    mtp = Tensor(name="blk.1.attn_q.weight", role="attn_q", layer=1, shape=(9, 9), n_bytes=81, owner="mtp")
    with_parts = summarise(spec, "test", [*typed(spec), extra, mtp], "file")
    assert with_parts.weights_bytes == graph(spec).weights_bytes
    assert with_parts.params == graph(spec).params
    untyped = summarise(spec, "", build_tensors(spec), "rules")
    assert untyped.weights_bytes == 0
    assert untyped.other_bits_per_weight is None
    assert untyped.expert_bits_per_weight is None


def test_equal_layers_have_equal_sums_and_all_parts_add_up() -> None:
    g = graph(read_config(DATA / "deepseek-v3.json"))
    assert len(set(g.layers)) == 2
    assert [x.block for x in g.layers] == [0] * 3 + [1] * 58
    # 58 layers x 256 experts x 3 matrices x 2048 x 7168
    assert sum(x.expert_elements for x in g.layers) == 58 * 256 * 3 * 2048 * 7168
    assert g.weights_bytes == sum(t.n_bytes for t in g.tensors)


def test_building_deepseek_takes_milliseconds() -> None:
    spec = read_config(DATA / "deepseek-v3.json")
    best = min(_seconds(spec) for _ in range(5))
    # 1086 tensors: 0.4 ms to build and 0.4 ms to count on a slow core; 50 leaves room for any machine
    assert best < 0.05


def _seconds(spec: ModelSpec) -> float:
    start = time.process_time()
    param_counts(spec, build_tensors(spec))
    return time.process_time() - start
