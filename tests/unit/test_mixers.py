"""Tensors, state and state work of the state space, linear and compressed mixers.

Tiny layers by hand first, then real layers against published parameter counts and llama.cpp's log.
"""

from __future__ import annotations

import pytest

from moeplan.domain.graph import Tensor
from moeplan.domain.model import (
    CompressedAttention,
    GatedDeltaNet,
    GqaAttention,
    Indexer,
    KimiDelta,
    Lightning,
    Mamba1,
    Mamba2,
    MlaAttention,
    ShortConv,
)
from moeplan.graph.mixers import StateMixer, mixer_tensors
from moeplan.graph.state import state_elements, state_flop_per_token

HIDDEN = 10

MAMBA1 = Mamba1(inner_dim=20, state_dim=3, conv_width=4, dt_rank=2, inner_norms=True)
MAMBA2 = Mamba2(n_heads=5, head_dim=4, n_groups=2, state_dim=3, conv_width=4)
DELTA_NET = GatedDeltaNet(n_k_heads=2, n_v_heads=4, k_head_dim=3, v_head_dim=5, conv_width=4)
KDA = KimiDelta(n_heads=2, head_dim=3, conv_width=4, gate_rank=3)
LIGHTNING = Lightning(n_heads=2, head_dim=3)
SHORT_CONV = ShortConv(channels=HIDDEN, conv_width=3)
INDEXER = Indexer(n_heads=3, head_dim=2, top_k_tokens=8)
HCA = CompressedAttention(
    n_heads=4, head_dim=6, q_lora_rank=5, rope_head_dim=2, n_out_groups=2, out_lora_rank=3,
    window_tokens=16, ratio=8,
)  # fmt: skip
CSA = CompressedAttention(
    n_heads=4, head_dim=6, q_lora_rank=5, rope_head_dim=2, n_out_groups=2, out_lora_rank=3,
    window_tokens=16, ratio=4, indexer=INDEXER,
)  # fmt: skip
WINDOW = CompressedAttention(
    n_heads=4, head_dim=6, q_lora_rank=5, rope_head_dim=2, n_out_groups=2, out_lora_rank=3,
    window_tokens=16, ratio=0,
)  # fmt: skip
ALL: dict[str, StateMixer] = {
    "mamba1": MAMBA1, "mamba2": MAMBA2, "gated-delta-net": DELTA_NET, "kda": KDA, "lightning": LIGHTNING,
    "short-conv": SHORT_CONV, "hca": HCA, "csa": CSA, "window": WINDOW,
}  # fmt: skip


def tensors(mixer: StateMixer, hidden: int = HIDDEN) -> dict[str, Tensor]:
    built = mixer_tensors("blk.7.", 7, mixer, hidden)
    by_name = {t.name.removeprefix("blk.7."): t for t in built}
    assert len(by_name) == len(built)
    assert all(t.layer == 7 and t.name.startswith("blk.7.") and not t.expert_stacked for t in built)
    return by_name


def params(mixer: StateMixer, hidden: int = HIDDEN) -> int:
    return sum(t.n_elements for t in tensors(mixer, hidden).values())


# ── tensors ─────────────────────────────────────────────────────────────────────────────────────


def test_mamba1() -> None:
    # in 40 x 10 = 400, conv 20 x 4 + 20 = 100, x (2 + 2 x 3) x 20 = 160, dt 20 x 2 + 20 = 60,
    # A 20 x 3 = 60, D 20, out 10 x 20 = 200, norms 2 + 3 + 3 = 8: 1008
    assert params(MAMBA1) == 1008
    built = tensors(MAMBA1)
    assert built["ssm_in.weight"].shape == (40, 10)
    assert built["ssm_x.weight"].shape == (8, 20)
    assert built["ssm_a"].shape == (20, 3)
    # A multiplies element by element: not a matrix product
    assert built["ssm_a"].role == "bias"
    # without Jamba's norms 8 less; proj_bias adds 40 + 10; conv_bias is 20
    plain = Mamba1(inner_dim=20, state_dim=3, conv_width=4, dt_rank=2, conv_bias=False, proj_bias=True)
    assert params(plain) == 1008 - 8 - 20 + 50


def test_mamba2() -> None:
    # inner 5 x 4 = 20, convolved 20 + 2 x 2 x 3 = 32; in (20 + 32 + 5) x 10 = 570,
    # conv 32 x 4 + 32 = 160, dt bias, A, D 3 x 5 = 15, norm 20, out 10 x 20 = 200: 965
    assert params(MAMBA2) == 965
    built = tensors(MAMBA2)
    assert built["ssm_in.weight"].shape == (57, 10)
    assert built["ssm_conv1d.weight"].shape == (32, 4)
    assert built["ssm_norm.weight"].shape == (20,)
    # proj_bias adds 57 + 10, no conv_bias takes 32
    other = Mamba2(
        n_heads=5, head_dim=4, n_groups=2, state_dim=3, conv_width=4, conv_bias=False, proj_bias=True
    )
    assert params(other) == 965 + 67 - 32


def test_gated_delta_net() -> None:
    # key 6, value 20: qkv (2 x 6 + 20) x 10 = 320, gate 20 x 10 = 200, beta and alpha 2 x 4 x 10 = 80,
    # conv 32 x 4 = 128, dt bias and A 2 x 4 = 8, norm 5, out 10 x 20 = 200: 941
    assert params(DELTA_NET) == 941
    assert tensors(DELTA_NET)["ssm_conv1d.weight"].shape == (32, 4)


def test_kimi_delta() -> None:
    # width 6: q, k, v, out 4 x 60 = 240, conv 3 x 6 x 4 = 72, f 3 x 10 + 6 x 3 = 48, g the same 48,
    # dt bias 6, A 2, beta 2 x 10 = 20, norm 3: 439
    assert params(KDA) == 439
    # Kimi K3: g is one 6 x 10 matrix: 439 - 48 + 60
    full = KimiDelta(n_heads=2, head_dim=3, conv_width=4, gate_rank=3, full_rank_gate=True)
    assert params(full) == 451
    assert "ssm_g_a.weight" not in tensors(full)


def test_lightning() -> None:
    # width 6: qkv 18 x 10 = 180, gate 60, out 60, norm 6: 306
    assert params(LIGHTNING) == 306


def test_short_conv() -> None:
    # in 30 x 10 = 300, conv 10 x 3 = 30, out 100: 430
    assert params(SHORT_CONV) == 430
    # biases: in 30, conv 10, out 10
    assert params(ShortConv(channels=HIDDEN, conv_width=3, bias=True)) == 480


def test_compressed_attention() -> None:
    # q width 24: q_a 50, q_a norm 5, q_b 24 x 5 = 120, kv 60, kv norm 6,
    # out_a (2 x 3) x (24 / 2) = 72, out_b 10 x 6 = 60, sinks 4: 377
    assert params(WINDOW) == 377
    # + compressor: kv and gate 2 x 6 x 10 = 120, position 8 x 6 = 48, norm 6: 551
    assert params(HCA) == 551
    # overlapping: kv and gate 2 x 12 x 10 = 240, position 4 x 12 = 48, norm 6: 294;
    # indexer: q (3 x 2) x 5 = 30, weights 3 x 10 = 30, kv and gate 2 x 4 x 10 = 80, position 16, norm 2: 158
    assert params(CSA) == 377 + 294 + 158
    assert tensors(CSA)["attn_output_a.weight"].shape == (6, 12)


@pytest.mark.parametrize("name", ALL)
def test_matrices_have_matrix_roles_and_vectors_do_not(name: str) -> None:
    # what does not multiply activations (norms, biases, decays, sinks) must not count as a matrix
    for tensor in tensors(ALL[name]).values():
        if tensor.name.endswith(("_a", "_d", "_ape.weight")):
            assert tensor.role == "bias", tensor.name
        else:
            vector = tensor.role in ("norm", "bias", "sink")
            assert vector == (len(tensor.shape) == 1), tensor.name


def test_softmax_attention_is_refused() -> None:
    gqa = GqaAttention(n_heads=2, n_kv_heads=1, head_dim=4, v_head_dim=4)
    mla = MlaAttention(
        n_heads=2, q_lora_rank=None, kv_lora_rank=4, nope_head_dim=4, rope_head_dim=2, v_head_dim=4
    )
    for mixer in (gqa, mla):
        with pytest.raises(TypeError, match="no state mixer"):
            mixer_tensors("", 0, mixer, HIDDEN)
        assert state_elements(mixer) == 0
        assert state_flop_per_token(mixer) == 0
    assert state_elements(None) == state_flop_per_token(None) == 0


# ── state ───────────────────────────────────────────────────────────────────────────────────────

STATE = {
    # recurrent + convolution: 20 x 3 + 20 x 3
    "mamba1": 120,
    # 20 x 3 + 32 x 3
    "mamba2": 156,
    # 4 heads x 3 x 5 + 32 x 3
    "gated-delta-net": 156,
    # 2 x 3 x 3 + 3 x 6 x 3
    "kda": 72,
    # 2 x 3 x 3
    "lightning": 18,
    # 10 x 2
    "short-conv": 20,
    # values and scores of 8 tokens x 6 channels
    "hca": 96,
    # values and scores of 2 windows x 4 tokens x 2 series x (6 + 2) channels
    "csa": 256,
    "window": 0,
}

FLOP = {
    # 60 state elements x 8 + 20 x 2
    "mamba1": 520,
    # 60 x 5 + 20 x 3
    "mamba2": 360,
    # 60 x 7 + 20 x 2
    "gated-delta-net": 460,
    # 18 x 7 + 6 x 2
    "kda": 138,
    # 18 x 5
    "lightning": 90,
    # 10 x 2
    "short-conv": 20,
    # 6 x 5
    "hca": 30,
    # 2 series x (6 + 2) x 5
    "csa": 80,
    "window": 0,
}


@pytest.mark.parametrize("name", ALL)
def test_state_elements_and_work(name: str) -> None:
    assert state_elements(ALL[name]) == STATE[name]
    assert state_flop_per_token(ALL[name]) == FLOP[name]


def test_delta_rule_step_counted_on_a_real_step() -> None:
    """The recurrent step of the gated delta rule, counting each operation as it is done."""
    d_k, d_v, n_heads = 3, 5, 4
    flop = 0
    state = [[0.5] * d_v for _ in range(d_k)]
    q = k = [1.0] * d_k
    v = [2.0] * d_v
    read = [0.0] * d_v
    for i in range(d_k):
        for j in range(d_v):
            state[i][j] *= 0.9  # decay
            read[j] += k[i] * state[i][j]
            flop += 1 + 2
    delta = [0.3 * (v[j] - read[j]) for j in range(d_v)]
    flop += 2 * d_v
    out = [0.0] * d_v
    for i in range(d_k):
        for j in range(d_v):
            state[i][j] += k[i] * delta[j]
            out[j] += q[i] * state[i][j]
            flop += 2 + 2
    assert state_flop_per_token(DELTA_NET) == n_heads * flop


# ── real layers ─────────────────────────────────────────────────────────────────────────────────


def test_state_of_qwen3_5_27b_is_what_llama_cpp_allocates() -> None:
    # llama.cpp pull request 23792, load log of a 27B Qwen3.5 with 3 sequences, 48 linear layers, f32:
    # "size = 448.88 MiB (3 cells, 65 layers, 3 seqs), R (f32): 16.88 MiB, S (f32): 432.00 MiB"
    layer = GatedDeltaNet(n_k_heads=16, n_v_heads=48, k_head_dim=128, v_head_dim=128, conv_width=4)
    mib = 3 * 48 * state_elements(layer) * 4 / 2**20
    assert mib == pytest.approx(448.88, abs=0.005)


def test_state_of_a_smaller_qwen3_5_is_what_llama_cpp_allocates() -> None:
    # llama-cpp-python issue 78, a Qwen3.5 of 32 layers, 24 of them linear with 32 value heads:
    # "size = 50.25 MiB (1 cells, 32 layers, 1 seqs), R (f32): 2.25 MiB, S (f32): 48.00 MiB"
    layer = GatedDeltaNet(n_k_heads=16, n_v_heads=32, k_head_dim=128, v_head_dim=128, conv_width=4)
    assert 24 * state_elements(layer) * 4 / 2**20 == pytest.approx(50.25, abs=0.005)


@pytest.mark.parametrize(
    ("mixer", "hidden", "expected"),
    [
        # Jamba 1.5 Mini: 2,948,636,544 of 28 Mamba layers (safetensors count of the repository less the rest)
        (
            Mamba1(inner_dim=8192, state_dim=16, conv_width=4, dt_rank=256, inner_norms=True),
            4096,
            105_308_448,
        ),
        # Nemotron-H 56B: 23,674,913,280 of 54 Mamba-2 layers
        (Mamba2(n_heads=256, head_dim=64, n_groups=8, state_dim=256, conv_width=4), 8192, 438_424_320),
        # Qwen3-Next: 1,213,864,704 of 36 layers
        (
            GatedDeltaNet(n_k_heads=16, n_v_heads=32, k_head_dim=128, v_head_dim=128, conv_width=4),
            2048,
            33_718_464,
        ),
        # MiniMax-Text-01: 17,616,650,240 of 70 layers
        (Lightning(n_heads=64, head_dim=128), 6144, 251_666_432),
        # LFM2 8B-A1B: 302,100,480 of 18 layers
        (ShortConv(channels=2048, conv_width=3), 2048, 16_783_360),
    ],
)
def test_real_layers(mixer: StateMixer, hidden: int, expected: int) -> None:
    assert params(mixer, hidden) == expected


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("JAMBA", "mamba1"),
        ("NEMOTRON_H_MOE", "mamba2"),
        ("GRANITE_HYBRID", "mamba2"),
        ("QWEN3NEXT", "gated-delta-net"),
        ("KIMI_LINEAR", "kda"),
        ("LFM2MOE", "short-conv"),
    ],
)
def test_names_are_those_of_gguf_files(arch: str, name: str) -> None:
    from gguf.constants import MODEL_ARCH, MODEL_TENSORS, TENSOR_NAMES

    known = {TENSOR_NAMES[tensor] for tensor in MODEL_TENSORS[MODEL_ARCH[arch]]}
    for tensor in tensors(ALL[name]):
        base = tensor.removesuffix(".weight").removesuffix(".bias")
        assert f"blk.{{bid}}.{base}" in known
