"""Bytes of types and methods: of one matrix, and of whole models."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeplan.domain.graph import Tensor
from moeplan.domain.model import Block, DenseFfn, GqaAttention, ModelSpec, MoeFfn
from moeplan.domain.quant import QuantTable, Storage, TypeLayout
from moeplan.errors import SpecError, UnknownName
from moeplan.graph.inventory import build_tensors
from moeplan.graph.quantise import assign_types, bits_per_weight, bytes_by_type, matrix_bytes, tensor_bytes
from moeplan.provenance import DERIVED
from moeplan.readers.quants import load_quants

TABLE = load_quants(user=Path("none"))


# ── bytes ───────────────────────────────────────────────────────────────────────────────────────


def test_whole_blocks_per_row() -> None:
    assert tensor_bytes(TABLE.type("q4_k"), (8, 14336, 4096)) == 8 * 14336 * 16 * 144
    assert tensor_bytes(TABLE.type("f32"), (4096,)) == 4096 * 4
    assert tensor_bytes(TABLE.type("iq4_ks"), (10, 512)) == 10 * (2 * 136 + 4)  # 4 bytes of row scale
    with pytest.raises(SpecError, match="2880"):
        tensor_bytes(TABLE.type("q4_k"), (4, 2880))


M, N = 4096, 14336  # out and in features of the matrix that most cases below use


def stored(scheme: str) -> Storage:
    found = TABLE.find(scheme)
    return found.storages[found.weights["default"]]


@pytest.mark.parametrize(
    ("scheme", "n_bytes"),
    [
        # int32 qweight, fp16 scales and 4-bit zeros per 128 inputs and output, int32 g_idx per input
        ("gptq-int4-g128", M * N // 2 + M * (N // 128) * 2 + M * (N // 128) // 2 + N * 4),
        ("gptq-int8-g128", M * N + M * (N // 128) * 2 + M * (N // 128) + N * 4),
        ("gptq-int3-g128", M * N * 3 // 8 + M * (N // 128) * 2 + M * (N // 128) * 3 // 8 + N * 4),
        ("gptq-int4-channel", M * N // 2 + M * 2 + M // 2 + N * 4),
        ("awq-int4-g128", M * N // 2 + M * (N // 128) * 2 + M * (N // 128) // 2),
        ("autoround-int4", M * N // 2 + M * (N // 128) * 2 + M * (N // 128) // 2),
        # no zeros; the shape as two int64
        ("compressed-int4-g128", M * N // 2 + M * (N // 128) * 2 + 16),
        # fp32 absmax per 64 values, table of 16 fp32
        ("bnb-nf4", M * N // 2 + M * N // 64 * 4 + 64),
        # uint8 absmax per 64, fp32 per 256 of them, tables of 16 and 256 fp32, fp32 offset
        ("bnb-nf4-dq", M * N // 2 + M * N // 64 + M * N // 64 // 256 * 4 + 64 + 1024 + 4),
        ("bnb-int8", M * N + M * 4),
        ("int8", M * N + M * 2),
        ("fp8", M * N + 4),
        ("fp8-channel", M * N + M * 2),
        ("fp8-block", M * N + (M // 128) * (N // 128) * 4),
        ("mxfp8", M * N + M * N // 32),
        ("nvfp4", M * N // 2 + M * N // 16 + 8),
        ("mxfp4-all", M * N // 2 + M * N // 32),
        ("hqq-4bit-g64", M * N // 2 + M * N // 64 * 4),
        # ten 3-bit values in four bytes
        ("hqq-3bit-g64", M * -(-N * 16 // 5 // 8) + M * N // 64 * 4),
        ("mlx-4bit", M * N // 2 + M * N // 64 * 4),
        ("exl2-4.25bpw", M * N * 17 // 32),
        ("exl3-3.0bpw", M * N * 3 // 8 + 2 * (M + N)),
    ],
)
def test_a_matrix_of_a_method(scheme: str, n_bytes: int) -> None:
    assert matrix_bytes(stored(scheme), (M, N)) == n_bytes


def test_blocks_and_groups_are_rounded_up() -> None:
    # 576 x 7168 of DeepSeek-V3's kv_a: 5 x 56 blocks of 128 x 128, the last row of blocks half filled.
    assert matrix_bytes(stored("fp8-block"), (576, 7168)) == 576 * 7168 + 5 * 56 * 4
    # gpt-oss: 32 experts of 5760 x 2880 in MXFP4, 90 blocks of 17 bytes a row
    experts = TABLE.find("mxfp4").storages["mxfp4"]
    assert matrix_bytes(experts, (32, 5760, 2880)) == 32 * 5760 * 90 * 17
    # groups of 128 over 2880 inputs: 23 scales a row
    assert matrix_bytes(stored("compressed-int4-g128"), (1, 2880)) == 2880 // 2 + 23 * 2 + 16


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        ("gptq-int4-g128", 4.15625), ("gptq-int4-g32", 4.625), ("awq-int4-g64", 4.3125), ("bnb-nf4", 4.5),
        ("bnb-nf4-dq", 4.127), ("nvfp4", 4.5), ("mxfp8", 8.25), ("fp8-block", 8.002), ("mlx-3bit", 3.5),
        ("hqq-2bit-g16", 4.0),
    ],
)  # fmt: skip
def test_bits_per_weight_as_the_papers_state_them(scheme: str, bits: float) -> None:
    assert stored(scheme).bits_per_weight == pytest.approx(bits, abs=5e-4)


# ── whole models ────────────────────────────────────────────────────────────────────────────────


def model(
    hidden: int, width: int, vocab: int, n_layers: int, kv: int, experts: int, *, fused: bool
) -> ModelSpec:
    attention = GqaAttention(n_heads=4 * kv, n_kv_heads=kv, head_dim=64, v_head_dim=64, qk_norm="head")
    ffn: DenseFfn | MoeFfn = DenseFfn(intermediate=width)
    if experts:
        ffn = MoeFfn(
            n_experts=experts, n_active=2, expert_intermediate=width, bias=fused, fused_gate_up=fused
        )
    return ModelSpec(
        id="m",
        name="m",
        architecture="llama",
        hidden_size=hidden,
        vocab_size=vocab,
        context_tokens=1,
        blocks=(Block(name="b", mixer=attention, ffn=ffn),),
        layout=(0,) * n_layers,
    )


models = st.builds(
    model,
    hidden=st.integers(1, 8).map(lambda n: 256 * n),
    width=st.integers(1, 8).map(lambda n: 256 * n),
    vocab=st.integers(100, 50_000),
    n_layers=st.integers(1, 20),
    kv=st.sampled_from([1, 2, 4, 8]),
    experts=st.sampled_from([0, 0, 4, 8, 64]),
    fused=st.booleans(),
)
MOE = model(1024, 512, 32000, 4, 2, 16, fused=True)


def n_bytes(spec: ModelSpec, scheme: str) -> int:
    return sum(t.n_bytes for t in assign_types(spec, build_tensors(spec), scheme, TABLE))


@given(models)
def test_more_bits_more_bytes(spec: ModelSpec) -> None:
    names = ["f32", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k"]
    sizes = [n_bytes(spec, name) for name in names]
    assert sizes == sorted(sizes, reverse=True)


@given(models, st.sampled_from([*sorted(TABLE.schemes), "gptq-int4-g96", "exl3-2.7bpw", "bpw-3.3"]))
def test_typing_changes_nothing_else_and_sums_add_up(spec: ModelSpec, scheme: str) -> None:
    tensors = build_tensors(spec)
    typed = assign_types(spec, tensors, scheme, TABLE)
    assert [(t.name, t.shape, t.role, t.layer) for t in typed] == [
        (t.name, t.shape, t.role, t.layer) for t in tensors
    ]
    assert all(t.qtype and t.n_bytes > 0 for t in typed)
    assert sum(bytes_by_type(typed).values()) == sum(t.n_bytes for t in typed)
    assert 0.5 < bits_per_weight(typed) <= 32


@given(
    st.sampled_from(sorted(TABLE.types)),
    st.integers(1, 50),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_block_types_are_additive_in_rows(name: str, rows: int, more: int, blocks: int) -> None:
    layout: TypeLayout = TABLE.types[name]
    row = blocks * layout.block_elements
    assert tensor_bytes(layout, (rows, row)) + tensor_bytes(layout, (more, row)) == tensor_bytes(
        layout, (rows + more, row)
    )
    wider = tensor_bytes(layout, (rows, row + layout.block_elements))
    assert wider > tensor_bytes(layout, (rows, row))


@given(
    st.sampled_from([s for scheme in TABLE.schemes.values() for s in scheme.storages.values()]),
    st.integers(1, 600),
    st.integers(1, 600),
    st.integers(1, 50),
)
def test_storage_grows_with_the_matrix(storage: Storage, rows: int, columns: int, more: int) -> None:
    here = matrix_bytes(storage, (rows, columns))
    assert matrix_bytes(storage, (rows + more, columns)) >= here
    assert matrix_bytes(storage, (rows, columns + more)) >= here
    assert matrix_bytes(storage, (3, rows, columns)) == 3 * here
    assert here >= rows * columns * storage.bits / 8


def test_methods_leave_what_is_no_linear_layer_in_16_bit() -> None:
    types = {t.name: t.qtype for t in assign_types(MOE, build_tensors(MOE), "gptq-int4-g128", TABLE)}
    assert types["token_embd.weight"] == types["output.weight"] == "bf16"
    assert types["blk.0.ffn_gate_inp.weight"] == types["blk.0.attn_norm.weight"] == "bf16"
    assert types["blk.0.attn_q_norm.weight"] == types["blk.0.ffn_up_exps.bias"] == "bf16"
    assert types["blk.0.attn_q.weight"] == types["blk.0.ffn_up_exps.weight"] == "gptq"


def test_bitsandbytes_leaves_fused_experts_alone() -> None:
    for fused, kept in ((True, "bf16"), (False, "nf4")):
        spec = model(1024, 512, 32000, 4, 2, 16, fused=fused)
        types = {t.name: t.qtype for t in assign_types(spec, build_tensors(spec), "nf4", TABLE)}
        assert types["blk.1.ffn_down_exps.weight"] == kept
        assert types["blk.1.attn_q.weight"] == "nf4"


def test_mxfp4_of_gpt_oss_is_experts_only() -> None:
    types = {t.name: t.qtype for t in assign_types(MOE, build_tensors(MOE), "mxfp4", TABLE)}
    quantised = {name for name, qtype in types.items() if qtype == "mxfp4"}
    assert {name.split(".")[2] for name in quantised} == {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"}
    assert set(types.values()) == {"mxfp4", "bf16"}


def test_mlx_quantises_embeddings_and_the_router() -> None:
    types = {t.name: t.qtype for t in assign_types(MOE, build_tensors(MOE), "mlx-4bit", TABLE)}
    assert types["token_embd.weight"] == types["output.weight"] == "mlx"
    assert types["blk.0.ffn_gate_inp.weight"] == "mlx8"


def test_mlx_files_of_gpt_oss_keep_nothing_but_small_tensors_in_16_bits() -> None:
    # mlx-lm's predicate for gpt_oss quantises every matrix, embeddings and head too, the router to 8 bits
    types = {t.name: t.qtype for t in assign_types(MOE, build_tensors(MOE), "mlx-mxfp4-q4", TABLE)}
    assert types["token_embd.weight"] == types["output.weight"] == types["blk.0.attn_q.weight"] == "mlx4"
    assert types["blk.0.ffn_gate_inp.weight"] == "mlx8"
    assert types["blk.0.ffn_up_exps.weight"] == "mxfp4"


def test_exl2_head_has_six_bits() -> None:
    typed = {t.name: t for t in assign_types(MOE, build_tensors(MOE), "exl2-3.0bpw", TABLE)}
    assert typed["output.weight"].n_bytes == 32000 * 1024 * 6 // 8
    assert typed["blk.0.attn_q.weight"].n_bytes == 512 * 1024 * 3 // 8


def test_average_bits_meet_the_file() -> None:
    spec = model(1024, 512, 32000, 4, 2, 0, fused=False)
    typed = assign_types(spec, build_tensors(spec), "bpw-4.83", TABLE)
    assert bits_per_weight(typed) == pytest.approx(4.83, rel=0.003)  # norms are f32


def test_mean_bits() -> None:
    t = Tensor(name="a.weight", role="attn_q", layer=0, shape=(4, 8), qtype="f16", n_bytes=64)
    assert bits_per_weight([t]) == 16
    assert bits_per_weight([]) == 0
    assert bytes_by_type([t, t]) == {"f16": 128}
    assert TypeLayout(id="x", block_elements=32, block_bytes=18, source=DERIVED).bits_per_weight == 4.5


def test_an_unknown_scheme_is_refused_before_any_work() -> None:
    with pytest.raises(UnknownName):
        assign_types(MOE, (), "q99", TABLE)
    assert isinstance(TABLE, QuantTable)
