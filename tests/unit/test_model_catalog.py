"""The models that are shipped: sound, sourced and quick to read."""

from __future__ import annotations

from functools import cache

from moeplan.domain.model import DenseFfn, GqaAttention, MlaAttention, ModelSpec, MoeFfn
from moeplan.graph.deviation import deviation
from moeplan.graph.inventory import build_tensors, param_counts
from moeplan.readers.model_yaml import (
    dump_model_yaml,
    parse_model_yaml,
    read_model_yaml,
)
from moeplan.readers.paths import shipped_configs


@cache
def shipped() -> dict[str, ModelSpec]:
    return {
        path.stem: read_model_yaml(path) for path in sorted((shipped_configs() / "models").glob("*.yaml"))
    }


def test_the_shipped_models_are_sound() -> None:
    specs = shipped()
    assert len(specs) >= 156
    for id_, spec in specs.items():
        assert spec.id == id_
        assert spec.sources, id_
        assert spec.family, id_
        assert spec.released, id_
        assert spec.license, id_
        assert parse_model_yaml(dump_model_yaml(spec)) == spec, id_


def test_a_source_that_claims_a_reproduced_count_is_right() -> None:
    """What the notes say of the repository's own count, against that count (Stored) and the inventory."""
    n_exact = 0
    for id_, spec in shipped().items():
        left = deviation(spec, param_counts(spec, build_tensors(spec))).stored_unexplained
        claims = any("the parameter total reproduces" in source.note for source in spec.sources)
        assert claims == (left == 0), id_
        n_exact += claims
        if spec.stored is not None:
            counts = [source.note for source in spec.sources if source.note.startswith("safetensors count")]
            assert len(counts) == 1, id_
            assert f"{spec.stored.params:,}" in counts[0], id_
    assert n_exact >= 138


def test_weak_entries_are_marked() -> None:
    """Entries whose sizes no stored count confirms say so."""
    specs = shipped()
    for id_ in (
        "grok-1",
        "grok-2",
        "hunyuan-large",
        "dbrx",
        "gpt3-175b-like",
        "switch-c-2048",
    ):
        assert specs[id_].weak, id_
    for id_ in ("mixtral-8x7b", "llama-3-70b", "qwen3-30b-a3b", "deepseek-v3", "gpt-oss-120b"):
        assert not specs[id_].weak, id_


def test_the_kinds_of_layer_are_those_of_the_papers() -> None:
    specs = shipped()
    # DeepSeek-V3 (arXiv:2412.19437, section 4.2): 61 layers, the first three dense; MLA 128 heads, 512 + 64.
    v3 = specs["deepseek-v3"]
    kinds = [type(block.ffn) for block in v3.layer_blocks()]
    assert kinds == [DenseFfn] * 3 + [MoeFfn] * 58
    assert isinstance(v3.blocks[0].mixer, MlaAttention)
    assert (v3.blocks[0].mixer.kv_lora_rank, v3.blocks[0].mixer.rope_head_dim) == (512, 64)
    # Gemma 3 (arXiv:2503.19786, section 2): five layers of a 1,024 token window, then a full one.
    windows = [getattr(block.mixer, "window_tokens", 0) for block in specs["gemma-3-27b"].layer_blocks()]
    assert windows[:12] == ([1024] * 5 + [None]) * 2
    # Jamba (arXiv:2403.19887, section 3): one attention layer in eight, MoE in every other layer.
    jamba = specs["jamba-1.5-mini"].layer_blocks()
    assert sum(isinstance(block.mixer, GqaAttention) for block in jamba) * 8 == len(jamba)
    assert sum(isinstance(block.ffn, MoeFfn) for block in jamba) * 2 == len(jamba)


def test_every_native_type_is_a_known_quantisation() -> None:
    from moeplan.readers.quants import load_quants

    quants = load_quants()
    for id_, spec in shipped().items():
        assert quants.find(spec.native_quant).id == spec.native_quant, id_
