"""Official configs through the reader and the inventory: parameters, cache and windows, exactly.

tests/data/hf/ holds the keys of each model's published config.json that shape it. Expected totals are
the parameter counts that the Hugging Face hub reports for the repository's safetensors, less what is
not the text model (MTP layer, vision tower, an embedding stored twice), see STORED below. Exceptions:
gemma-4-*, llama-4, kimi-k2.5, mistral-small-4, devstral-2: parameters of the text model built by
transformers on the meta device; hunyuan-large: published only as 389B (and 52B active).
Active counts: total - experts x (1 - k/E), checked against the vendors' figures to within 3%.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from moeplan.domain.model import GqaAttention, MlaAttention, ModelSpec
from moeplan.graph.inventory import build_tensors, param_counts
from moeplan.readers.hf import read_config

DATA = Path(__file__).parents[1] / "data" / "hf"

# id: (total, active, active without the input embedding)
PARAMS = {
    "llama-3.1-8b": (8_030_261_248, 8_030_261_248, 7_504_924_672),
    "llama-3.2-1b": (1_235_814_400, 1_235_814_400, 1_235_814_400),
    "mistral-7b-v0.1": (7_241_732_096, 7_241_732_096, 7_110_660_096),
    "devstral-2-123b": (125_025_988_608, 125_025_988_608, 123_415_375_872),
    "qwen2.5-7b": (7_615_616_512, 7_615_616_512, 7_070_619_136),
    "qwen3-8b": (8_190_735_360, 8_190_735_360, 7_568_405_504),
    "phi-4": (14_659_507_200, 14_659_507_200, 14_145_704_960),
    "gemma-2-9b": (9_241_705_984, 9_241_705_984, 9_241_705_984),
    "gemma-3-27b": (27_009_346_304, 27_009_346_304, 27_009_346_304),
    "gemma-4-26b-a4b": (25_233_141_760, 3_822_530_560, 3_822_530_560),
    "gemma-4-31b": (30_697_345_280, 30_697_345_280, 30_697_345_280),
    "command-r-plus": (103_810_674_688, 103_810_674_688, 103_810_674_688),
    "command-a-111b": (111_057_580_032, 111_057_580_032, 111_057_580_032),
    "olmo-2-7b": (7_298_617_344, 7_298_617_344, 6_887_575_552),
    "olmo-3.1-32b": (32_233_522_176, 32_233_522_176, 31_720_098_816),
    "granite-3.3-8b": (8_170_835_968, 8_170_835_968, 8_170_835_968),
    "glm-4-9b-0414": (9_400_279_040, 9_400_279_040, 8_779_522_048),
    "smollm3-3b": (3_075_098_624, 3_075_098_624, 3_075_098_624),
    "seed-oss-36b": (36_151_104_512, 36_151_104_512, 35_356_808_192),
    "apertus-70b": (70_599_864_480, 70_599_864_480, 69_526_122_656),
    "mixtral-8x7b": (46_702_792_704, 12_879_925_248, 12_748_853_248),
    "phi-3.5-moe": (41_873_153_344, 6_640_999_744, 6_509_665_600),
    "qwen1.5-moe-a2.7b": (14_315_784_192, 2_689_173_504, 2_378_008_576),
    "qwen3-30b-a3b": (30_532_122_624, 3_353_032_704, 3_041_867_776),
    "gpt-oss-20b": (20_914_757_184, 4_187_440_704, 3_608_307_264),
    "gpt-oss-120b": (116_829_156_672, 5_711_982_912, 5_132_849_472),
    "olmoe-1b-7b": (6_919_161_856, 1_282_017_280, 1_178_994_688),
    "granite-3.0-1b-a400m": (1_334_625_280, 428_655_616, 428_655_616),
    "llama-4-maverick-400b-a17b": (400_711_848_960, 17_184_691_200, 16_150_205_440),
    "minimax-m2": (228_689_764_864, 11_030_553_088, 10_415_956_480),
    "deepseek-moe-16b": (16_375_728_128, 2_828_650_496, 2_618_935_296),
    "deepseek-v2-lite": (15_706_484_224, 2_661_150_208, 2_451_435_008),
    "deepseek-v3": (671_026_419_200, 37_552_297_472, 36_625_618_432),
    "deepseek-v3.2": (671_877_944_064, 38_403_822_336, 37_477_143_296),
    "kimi-k2.5": (1_026_408_232_448, 32_861_500_928, 31_687_095_808),
    "mistral-small-4-119b": (118_972_826_624, 6_632_588_288, 6_095_717_376),
    "glm-4.7-flash": (29_943_393_920, 3_896_766_080, 3_579_571_840),
    "glm-5.2": (743_377_019_904, 41_250_530_304, 40_298_947_584),
    "glm-4.5": (352_797_829_024, 33_632_266_144, 32_856_319_904),
    "dots.llm1": (142_774_381_696, 14_016_588_928, 13_393_734_784),
    "ernie-4.5-21b-a3b": (21_825_437_888, 3_352_150_208, 3_352_150_208),
    "ling-mini-2.0": (16_255_643_392, 1_432_973_056, 1_111_060_224),
    "hy3": (295_033_543_488, 20_675_730_240, 20_180_802_368),
    "solar-open-100b": (102_651_793_408, 12_054_827_008, 11_249_520_640),
    "hunyuan-a13b": (80_393_183_232, 12_747_448_320, 12_747_448_320),
    "hunyuan-large": (388_701_402_880, 51_322_074_880, 51_322_074_880),
}


def _spec(model: str) -> ModelSpec:
    return read_config(DATA / f"{model}.json")


@pytest.mark.parametrize("model", PARAMS)
def test_parameters_are_exact(model: str) -> None:
    spec = _spec(model)
    counts = param_counts(spec, build_tensors(spec))
    assert (counts.total, counts.active, counts.active_no_input_embedding) == PARAMS[model]
    assert sum(counts.by_role.values()) == counts.total


def test_every_config_of_the_data_directory_is_checked() -> None:
    # configs of other families have a table of their own
    core = {path.stem for path in DATA.glob("*.json")}
    assert set(PARAMS) <= core


# What the hub counts beyond the text model: an MTP layer, and with some the embedding and head again.
STORED = {
    "deepseek-v3": (684_489_845_504, 2 * 129_280 * 7168),
    "deepseek-v3.2": (685_355_329_792, 2 * 129_280 * 7168),
    "glm-4.7-flash": (31_221_488_576, 2 * 154_880 * 2048),
    "glm-4.5": (358_337_791_296, 2 * 151_552 * 5120),
    "glm-5.2": (753_329_940_480, 0),
    "hy3": (298_786_155_776, 0),
}


@pytest.mark.parametrize("model", STORED)
def test_with_its_mtp_layer_a_model_is_what_the_hub_stores(model: str) -> None:
    stored, duplicates = STORED[model]
    spec = _spec(model)
    (mtp,) = spec.parts
    assert mtp.kind == "mtp"
    assert PARAMS[model][0] + mtp.params + duplicates == stored


# Elements cached a token: n_kv_heads x (K + V dimensions) a layer, latent + rope (+ index key) for MLA.
# id: (in layers without window, in layers with one, the window)
CACHE = {
    "llama-3.1-8b": (65_536, 0, None),  # 32 x 8 x 2 x 128
    "mistral-7b-v0.1": (0, 65_536, 4096),
    "gemma-2-9b": (86_016, 86_016, 4096),  # 21 x 8 x 2 x 256 each
    "gemma-3-27b": (40_960, 212_992, 1024),  # 10 and 52 layers x 16 x 2 x 128
    "gemma-4-26b-a4b": (10_240, 102_400, 1024),  # 5 x 2 x 2 x 512, 25 x 8 x 2 x 256
    "command-a-111b": (32_768, 98_304, 4096),  # 16 and 48 layers x 8 x 2 x 128
    "olmo-3.1-32b": (32_768, 98_304, 4096),
    "gpt-oss-20b": (12_288, 12_288, 128),  # 12 x 8 x 2 x 64 each
    "llama-4-maverick-400b-a17b": (24_576, 73_728, 8192),  # 12 and 36 layers x 8 x 2 x 128
    "phi-3.5-moe": (65_536, 0, None),  # a window as long as the context is none
    "qwen2.5-7b": (28_672, 0, None),  # use_sliding_window: false
    "deepseek-v3": (35_136, 0, None),  # 61 x (512 + 64)
    "deepseek-v3.2": (42_944, 0, None),  # 61 x (512 + 64 + 128)
    "glm-5.2": (47_616, 0, None),  # 78 x 576 + 21 x 128: only 21 layers have an index of their own
    "hunyuan-large": (40_960, 0, None),  # 32 of 64 layers x 8 x 2 x 80
}


@pytest.mark.parametrize("model", CACHE)
def test_cache_per_token_and_windows(model: str) -> None:
    full = local = 0
    windows = set()
    for block in _spec(model).layer_blocks():
        mixer = block.mixer
        assert isinstance(mixer, GqaAttention | MlaAttention)
        if isinstance(mixer, MlaAttention):
            n = mixer.kv_lora_rank + mixer.rope_head_dim
            n += mixer.indexer.head_dim if mixer.indexer and not mixer.indexer.shared else 0
        else:
            n = 0 if mixer.shares_kv else mixer.n_kv_heads * (mixer.head_dim + mixer.v_head_dim)
        if mixer.window_tokens:
            local += n
            windows.add(mixer.window_tokens)
        else:
            full += n
    assert (full, local) == CACHE[model][:2]
    assert windows == ({CACHE[model][2]} if CACHE[model][2] else set())


def test_order_of_windows_follows_the_family() -> None:
    def local(model: str) -> list[bool]:
        return [bool(b.mixer and b.mixer.window_tokens) for b in _spec(model).layer_blocks()]  # type: ignore[union-attr]

    assert local("gemma-2-9b")[:4] == [True, False, True, False]
    assert local("gpt-oss-20b")[:4] == [True, False, True, False]
    assert local("gemma-3-27b")[:7] == [True, True, True, True, True, False, True]
    assert local("olmo-3.1-32b")[:5] == [True, True, True, False, True]
    assert local("llama-4-maverick-400b-a17b")[:5] == [True, True, True, False, True]


NATIVE = {
    "llama-3.1-8b": "bf16",
    "command-r-plus": "f16",
    "deepseek-v3": "fp8-block",
    "minimax-m2": "bf16",
    "gpt-oss-20b": "mxfp4",
    "devstral-2-123b": "fp8",
    "kimi-k2.5": "kimi-int4",
    "deepseek-v4-flash": "deepseek-v4",
    "gemma-4-31b": "nvfp4",
}


@pytest.mark.parametrize("model", NATIVE)
def test_native_type(model: str) -> None:
    assert _spec(model).native_quant == NATIVE[model]


def test_sparse_layers_are_where_the_config_says() -> None:
    def sparse(model: str) -> list[bool]:
        return [b.name.startswith("moe") for b in _spec(model).layer_blocks()]

    assert sparse("deepseek-v3") == [False] * 3 + [True] * 58
    assert sparse("ernie-4.5-21b-a3b") == [False] + [True] * 27
    assert sparse("llama-4-maverick-400b-a17b") == [False, True] * 24
    assert sparse("hy3") == [False] + [True] * 79
    assert all(sparse("mixtral-8x7b"))
