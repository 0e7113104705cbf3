"""Hybrid, exotic and older families: parameters from the published config.json.

Expected totals are the safetensors parameter counts of the Hugging Face repositories, less what
test_stored_counts adds up, or the text model built by transformers on the meta device (Qwen3.5,
DeepSeek-V4, MiMo, GPT-3's shape). Published only, so weaker: grok-1, grok-2, dbrx (their vendors' 314B,
270B and 132B) and the Switch Transformers (arXiv:2101.03961, table 9). Active counts are total
- routed experts x (1 - k/E).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moeplan.domain.model import (
    CompressedAttention,
    GatedDeltaNet,
    GqaAttention,
    KimiDelta,
    Lightning,
    Mamba1,
    Mamba2,
    MlaAttention,
    ModelSpec,
    MoeFfn,
    ShortConv,
)
from moeplan.errors import NotModelled
from moeplan.graph.inventory import build_tensors, param_counts
from moeplan.readers.hf import FAMILIES, read_config, spec_from_config

DATA = Path(__file__).parents[1] / "data" / "hf"

# id: (total, active, active without the input embedding, active without both embeddings)
PARAMS = {
    "qwen3-next-80b-a3b": (79_674_391_296, 3_874_929_408, 3_563_764_480, 3_252_599_552),
    "qwen3.5-27b": (26_895_998_464, 26_895_998_464, 25_624_600_064, 24_353_201_664),
    "qwen3.5-35b-a3b": (34_660_610_688, 3_454_988_928, 2_946_429_568, 2_437_870_208),
    "jamba-1.5-mini": (51_570_323_328, 12_110_311_296, 11_841_875_840, 11_573_440_384),
    "jamba-1.5-large": (398_555_145_696, 94_149_338_592, 93_612_467_680, 93_075_596_768),
    "granite-4.0-h-tiny": (6_939_037_248, 1_465_470_528, 1_465_470_528, 1_311_329_856),
    "granite-4.0-h-small": (32_207_337_984, 8_803_121_664, 8_803_121_664, 8_392_079_872),
    "nemotron-h-56b": (56_324_350_464, 56_324_350_464, 55_250_608_640, 54_176_866_816),
    "nemotron-3-nano-30b-a3b": (31_577_940_288, 3_580_076_352, 3_227_754_816, 2_875_433_280),
    "nemotron-3-super-120b-a12b": (120_668_707_840, 12_770_237_440, 12_233_366_528, 11_696_495_616),
    "nemotron-3-ultra-550b-a55b": (549_308_993_536, 56_058_843_136, 54_985_101_312, 53_911_359_488),
    "minimax-text-01": (456_089_655_296, 48_403_306_496, 47_174_113_280, 45_944_920_064),
    "minimax-m3": (426_174_572_928, 25_962_473_856, 24_733_280_640, 23_504_087_424),
    "kimi-linear-48b-a3b": (49_122_681_728, 3_484_459_904, 3_106_972_544, 2_729_485_184),
    "kimi-k3": (2_779_484_476_000, 105_364_017_760, 104_189_612_640, 103_015_207_520),
    "lfm2-8b-a1b": (8_339_929_856, 1_557_740_288, 1_557_740_288, 1_423_522_560),
    "deepseek-v4-flash": (284_332_230_231, 13_799_622_231, 13_270_091_351, 12_740_560_471),
    "deepseek-v4-pro": (1_572_997_179_491, 49_779_058_787, 48_852_379_747, 47_925_700_707),
    "longcat-flash": (560_664_980_480, 27_954_818_048, 27_149_511_680, 26_344_205_312),
    "mimo-v2-flash-309b-a15b": (308_778_780_864, 15_445_936_320, 14_820_985_024, 14_196_033_728),
    "step-3.7-flash-196b-a11b": (196_956_130_368, 11_987_323_968, 11_459_365_952, 10_931_407_936),
    "arctic": (478_584_608_768, 17_318_647_808, 17_089_271_808, 16_859_895_808),
    "dbrx": (131_596_523_520, 36_469_708_800, 35_853_146_112, 35_236_583_424),
    "grok-1": (315_684_820_992, 83_756_587_008, 83_756_587_008, 82_951_280_640),
    "grok-2": (269_515_497_472, 114_896_674_816, 113_822_932_992, 112_749_191_168),
    "switch-base-8": (619_339_008, 222_977_280, 222_977_280, 198_302_976),
    "switch-c-2048": (1_571_308_972_448, 1_728_326_048, 1_728_326_048, 1_661_499_808),
    "switch-xxl-128": (394_543_476_736, 11_016_318_976, 11_016_318_976, 10_884_722_688),
    "bloom-176b": (176_247_271_424, 176_247_271_424, 176_247_271_424, 172_650_655_744),
    "falcon-7b": (6_921_720_704, 6_921_720_704, 6_921_720_704, 6_626_251_648),
    "falcon-40b": (41_303_293_952, 41_303_293_952, 41_303_293_952, 40_770_617_344),
    "falcon-180b": (178_557_088_768, 178_557_088_768, 178_557_088_768, 177_591_612_416),
    "gpt2": (124_439_808, 124_439_808, 124_439_808, 85_842_432),
    "gpt2-xl": (1_557_611_200, 1_557_611_200, 1_557_611_200, 1_477_200_000),
    "gpt3-175b-like": (174_604_259_328, 174_604_259_328, 174_604_259_328, 173_986_701_312),
}


def load(model: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((DATA / f"{model}.json").read_text())
    return data


def spec(data: dict[str, Any]) -> ModelSpec:
    return spec_from_config(data, id="m", name="M", where="config.json")


def total(data: dict[str, Any]) -> int:
    found = spec(data)
    return param_counts(found, build_tensors(found)).total


def changed(model: str, drop: tuple[str, ...] = (), **keys: object) -> dict[str, Any]:
    return {key: value for key, value in {**load(model), **keys}.items() if key not in drop}


@pytest.mark.parametrize("model", PARAMS)
def test_parameters_are_exact(model: str) -> None:
    found = read_config(DATA / f"{model}.json")
    counts = param_counts(found, build_tensors(found))
    active = (counts.active, counts.active_no_input_embedding, counts.active_no_embeddings)
    assert (counts.total, *active) == PARAMS[model]
    assert sum(counts.by_role.values()) == counts.total


def vit(width: int, mlp: int, layers: int, per_layer_vectors: int) -> int:
    """A vision transformer's layers: four attention matrices and two MLP matrices with biases."""
    return layers * (4 * (width**2 + width) + 2 * width * mlp + mlp + width + per_layer_vectors * width)


# Vision towers, from the classes in transformers (Qwen3_5VisionModel, MiniMaxM3VLVisionModel and
# projector, Step3p7VisionModel): layers, patch embedding, positions, norms, merger.
QWEN_VISION = vit(1152, 4304, 27, 4) + 3 * 2 * 16**2 * 1152 + 1152 + 2304 * 1152
QWEN_VISION += 2 * 1152 + 4608 * 4608 + 4608 + 4608 * 5120 + 5120
M3_VISION = vit(1280, 5120, 32, 4) + 3 * 2 * 14**2 * 1280 + 2 * 1280
M3_VISION += (1280 + 6144 + 4 * 6144 + 6144) * 6144 + 4 * 6144
STEP_VISION = vit(1536, 8960, 47, 6) + 3 * 14**2 * 1536 + 2704 * 1536 + 2 * 1536
STEP_VISION += (9 * 1536 * 3072 + 3072) + (9 * 3072 * 6144 + 6144) + 6144 * 4096

# what a repository stores beside the text model and its MTP layers
BESIDE = {
    "qwen3.5-27b": QWEN_VISION,
    "minimax-m3": M3_VISION,
    "step-3.7-flash-196b-a11b": STEP_VISION,
    # selection biases of 40 routers and the token tables of 3 hash-routed layers
    "deepseek-v4-flash": 40 * 256 + 3 * 129280 * 6,
    "deepseek-v4-pro": 58 * 384 + 3 * 129280 * 6,
    # the count leaves out the selection biases of 40 + 1 and 48 + 1 routers
    "nemotron-3-super-120b-a12b": -41 * 512,
    "nemotron-3-ultra-550b-a55b": -49 * 512,
    "nemotron-3-nano-30b-a3b": -23 * 128,
    # the tied head stored again
    "falcon-7b": 65024 * 4544,
    "falcon-40b": 65024 * 8192,
    "falcon-180b": 65024 * 14848,
}

# safetensors parameter counts that the hub reports for the repository
STORED = {
    "qwen3.5-27b": 27_781_427_952,
    "minimax-m3": 427_040_140_160,
    "step-3.7-flash-196b-a11b": 201_365_316_160,
    "deepseek-v4-flash": 290_944_616_402,
    "deepseek-v4-pro": 1_598_839_674_782,
    "nemotron-3-super-120b-a12b": 123_611_012_096,
    "nemotron-3-ultra-550b-a55b": 560_524_578_816,
    "nemotron-3-nano-30b-a3b": 31_577_937_344,
    "kimi-linear-48b-a3b": 49_122_681_728,
    "longcat-flash": 560_664_980_480,  # LongCat-Flash-Prover, which ships no MTP layer
    "falcon-7b": 7_217_189_760,
    "falcon-40b": 41_835_970_560,
    "falcon-180b": 179_522_565_120,
}


@pytest.mark.parametrize("model", STORED)
def test_stored_counts(model: str) -> None:
    """Text model, MTP layers and what else is known of the file make the hub's count, to the last one."""
    found = read_config(DATA / f"{model}.json")
    text = param_counts(found, build_tensors(found)).total
    assert text + sum(part.params for part in found.parts) + BESIDE.get(model, 0) == STORED[model]


def test_mtp_layer_of_qwen3_next() -> None:
    # Qwen/Qwen3-Next-80B-A3B-Instruct stores 81,324,862,720, Qwen3-Coder-Next, without MTP, 79,674,391,296
    (part,) = spec(changed("qwen3-next-80b-a3b", num_nextn_predict_layers=1)).parts
    assert (part.kind, part.params) == ("mtp", 81_324_862_720 - 79_674_391_296)


# ── layers ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        ("qwen3-next-80b-a3b", {GatedDeltaNet: 36, GqaAttention: 12}),
        ("qwen3.5-27b", {GatedDeltaNet: 48, GqaAttention: 16}),
        ("jamba-1.5-mini", {Mamba1: 28, GqaAttention: 4}),
        ("granite-4.0-h-tiny", {Mamba2: 36, GqaAttention: 4}),
        ("nemotron-h-56b", {Mamba2: 54, GqaAttention: 10, type(None): 54}),
        ("nemotron-3-nano-30b-a3b", {Mamba2: 23, GqaAttention: 6, type(None): 23}),
        ("minimax-text-01", {Lightning: 70, GqaAttention: 10}),
        ("kimi-linear-48b-a3b", {KimiDelta: 20, MlaAttention: 7}),
        ("kimi-k3", {KimiDelta: 69, MlaAttention: 24}),
        ("lfm2-8b-a1b", {ShortConv: 18, GqaAttention: 6}),
        ("deepseek-v4-flash", {CompressedAttention: 43}),
        ("longcat-flash", {MlaAttention: 56}),
    ],
)
def test_layers_by_mixer(model: str, kinds: dict[type, int]) -> None:
    counted: dict[type, int] = {}
    for block in read_config(DATA / f"{model}.json").layer_blocks():
        counted[type(block.mixer)] = counted.get(type(block.mixer), 0) + 1
    assert counted == kinds


def test_order_of_layers() -> None:
    # Jamba: softmax in layers 4, 12, 20, 28; experts in the odd ones
    jamba = read_config(DATA / "jamba-1.5-mini.json").layer_blocks()
    assert [i for i, b in enumerate(jamba) if isinstance(b.mixer, GqaAttention)] == [4, 12, 20, 28]
    assert [i for i, b in enumerate(jamba) if isinstance(b.ffn, MoeFfn)] == list(range(1, 32, 2))
    # Kimi Linear counts layers from one: MLA in 4, 8, ... 24 and in the last
    kimi = read_config(DATA / "kimi-linear-48b-a3b.json").layer_blocks()
    assert [i for i, b in enumerate(kimi) if isinstance(b.mixer, MlaAttention)] == [3, 7, 11, 15, 19, 23, 26]
    # LFM2: two dense layers first
    lfm = read_config(DATA / "lfm2-8b-a1b.json").layer_blocks()
    assert [isinstance(b.ffn, MoeFfn) for b in lfm] == [False] * 2 + [True] * 22


def test_deepseek_v4_layers() -> None:
    # compress_ratios 0, 0, 4, 128, 4, 128 ... 4, then the MTP layer's 0, which is not a layer of the model
    mixers = [b.mixer for b in read_config(DATA / "deepseek-v4-flash.json").layer_blocks()]
    ratios = [m.ratio for m in mixers if isinstance(m, CompressedAttention)]
    assert ratios == [0, 0] + [4, 128] * 20 + [4]
    assert all(
        (m.indexer is not None) == (m.ratio == 4) for m in mixers if isinstance(m, CompressedAttention)
    )


def test_window_hybrids() -> None:
    mimo = read_config(DATA / "mimo-v2-flash-309b-a15b.json").layer_blocks()
    windows = [b.mixer for b in mimo if isinstance(b.mixer, GqaAttention) and b.mixer.window_tokens]
    assert len(windows) == 39
    assert {(m.window_tokens, m.n_kv_heads, m.head_dim, m.v_head_dim, m.sinks) for m in windows} == {
        (128, 8, 192, 128, True)
    }
    assert isinstance(mimo[0].mixer, GqaAttention)
    assert (mimo[0].mixer.n_kv_heads, mimo[0].mixer.sinks) == (4, False)
    step = read_config(DATA / "step-3.7-flash-196b-a11b.json").layer_blocks()
    heads = [(b.mixer.n_heads, b.mixer.window_tokens) for b in step if isinstance(b.mixer, GqaAttention)]
    assert heads.count((96, 512)) == 33
    assert heads.count((64, None)) == 12


def test_longcat_counts_two_layers_each_and_experts_that_compute() -> None:
    found = read_config(DATA / "longcat-flash.json")
    first, second = found.layer_blocks()[:2]
    assert isinstance(first.ffn, MoeFfn)
    # 12 of 768 router outputs, 512 of them experts: 8
    assert (first.ffn.n_active, first.ffn.n_experts, first.ffn.n_zero_experts) == (8, 512, 256)
    assert first.ffn.parallel_dense == 12288
    assert not isinstance(second.ffn, MoeFfn)


def test_switch_is_an_encoder_and_a_decoder() -> None:
    found = read_config(DATA / "switch-base-8.json")
    blocks = found.layer_blocks()
    assert [b.encoder for b in blocks] == [True] * 12 + [False] * 12
    assert [b.cross_attention is not None for b in blocks] == [False] * 12 + [True] * 12
    # every second layer of both, starting with the second
    assert [isinstance(b.ffn, MoeFfn) for b in blocks] == [False, True] * 12
    assert found.weak == ""
    assert "paper" in read_config(DATA / "switch-xxl-128.json").weak


# ── other spellings of the same model ───────────────────────────────────────────────────────────


def test_minimax_original_spelling() -> None:
    # MiniMaxAI/MiniMax-Text-01 gives attn_type_list, transformers layer_types
    pattern = ([0] * 7 + [1]) * 10
    data = changed(
        "minimax-text-01", drop=("layer_types",), model_type="minimax_text_01", attn_type_list=pattern
    )
    assert total(data) == PARAMS["minimax-text-01"][0]


def test_qwen_interval_instead_of_layer_types() -> None:
    assert total(changed("qwen3.5-27b", drop=("layer_types",))) == PARAMS["qwen3.5-27b"][0]


def test_qwen3_5_wrapper_is_entered() -> None:
    wrapper = {"model_type": "qwen3_5", "text_config": load("qwen3.5-27b"), "vision_config": {"depth": 27}}
    assert total(wrapper) == PARAMS["qwen3.5-27b"][0]


def test_nemotron_list_instead_of_pattern() -> None:
    words = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
    data = load("nemotron-3-nano-30b-a3b")
    names = [words[letter] for letter in data.pop("hybrid_override_pattern")]
    assert total({**data, "layers_block_type": names}) == PARAMS["nemotron-3-nano-30b-a3b"][0]


def test_kimi_linear_flat_spelling_of_transformers() -> None:
    data = changed("kimi-linear-48b-a3b", drop=("linear_attn_config", "model_max_length"))
    kinds = ["full_attention" if i in (3, 7, 11, 15, 19, 23, 26) else "linear_attention" for i in range(27)]
    flat = {
        "layer_types": kinds, "mlp_layer_types": ["dense"] + ["sparse"] * 26, "linear_head_dim": 128,
        "linear_num_heads": 32, "linear_conv_kernel_dim": 4, "max_position_embeddings": 1048576,
    }  # fmt: skip
    assert total({**data, **flat}) == PARAMS["kimi-linear-48b-a3b"][0]


def test_step_original_spelling() -> None:
    # stepfun-ai/Step-3.7-Flash: a wrapper whose text config is of type step3p5, lists that run into the
    # MTP layers, experts named by layer
    data = load("step-3.7-flash-196b-a11b")
    types = data["layer_types"] + ["sliding_attention"] * 3
    for new, old in (
        ("num_attention_groups", "num_key_value_heads"),
        ("moe_num_experts", "num_experts"),
        ("moe_top_k", "num_experts_per_tok"),
    ):
        data[new] = data.pop(old)
    del data["first_k_dense_replace"]
    enum = ",".join(str(i) for i in range(3, 45))
    inner = {**data, "model_type": "step3p5", "layer_types": types, "moe_layers_enum": enum}
    found = spec({"model_type": "step3p7", "text_config": inner})
    counts = param_counts(found, build_tensors(found))
    assert (counts.total, counts.active) == PARAMS["step-3.7-flash-196b-a11b"][:2]


def test_deepseek_v4_spelling_of_transformers() -> None:
    names = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}
    data = load("deepseek-v4-flash")
    kinds = [names[ratio] for ratio in data.pop("compress_ratios")[:43]]
    rates = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
    del data["qk_rope_head_dim"]
    found = spec({**data, "layer_types": kinds, "compress_rates": rates})
    assert param_counts(found, build_tensors(found)).total == PARAMS["deepseek-v4-flash"][0]
    assert {b.mixer.rope_head_dim for b in found.blocks if isinstance(b.mixer, CompressedAttention)} == {64}


def test_grok_2_calls_itself_git() -> None:
    data = changed("grok-2", drop=("tie_word_embeddings",), model_type="git")
    assert total(data) == PARAMS["grok-2"][0]
    with pytest.raises(NotModelled, match="git"):
        spec({**data, "architectures": ["GitForCausalLM"]})


def test_granite_hybrid_without_experts_is_dense() -> None:
    # granite-4.0-h-micro's layer: the shared MLP alone
    found = spec(changed("granite-4.0-h-tiny", num_local_experts=0))
    assert not found.is_moe
    # per layer less: router 64 x 1536, experts 64 x 3 x 512 x 1536
    lost = 40 * (64 * 1536 + 64 * 3 * 512 * 1536)
    assert total(changed("granite-4.0-h-tiny", num_local_experts=0)) == PARAMS["granite-4.0-h-tiny"][0] - lost


def test_jamba_auto_rank_and_dense_variant() -> None:
    # "auto" is hidden / 16 = 256, which the model has
    assert total(changed("jamba-1.5-mini", mamba_dt_rank="auto")) == PARAMS["jamba-1.5-mini"][0]
    assert not spec(changed("jamba-1.5-mini", num_experts=1)).is_moe


def test_families_of_this_file_are_all_exercised() -> None:
    modules = ("families_hybrid", "families_exotic", "families_legacy")
    mine = {function for module, function in FAMILIES.values() if module in modules}
    used = {FAMILIES[load(model)["model_type"]][1] for model in PARAMS}
    assert mine == used
