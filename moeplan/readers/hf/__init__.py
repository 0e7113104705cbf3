"""Hugging Face config.json -> ModelSpec.

A family function turns the (text) config of one ``model_type`` into a ModelShape. They live in the
``families_*`` modules and are imported when one is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moeplan.domain.model import ModelSpec
from moeplan.errors import NotModelled, SpecError, nearest
from moeplan.provenance import Source
from moeplan.readers.hf.shape import ModelShape
from moeplan.readers.hf.view import ConfigView

__all__ = ["FAMILIES", "ConfigView", "ModelShape", "read_config", "spec_from_config"]

Family = Callable[[ConfigView], ModelShape]

# model_type -> (module under moeplan.readers.hf, function)
FAMILIES: dict[str, tuple[str, str]] = {}
for _module, _function, _types in (
    ("families_llama", "llama", "llama"),
    ("families_llama", "mistral", "mistral ministral ministral3"),
    ("families_llama", "qwen2", "qwen2"),
    ("families_llama", "qwen3", "qwen3"),
    ("families_llama", "phi3", "phi3"),
    ("families_llama", "glm4", "glm4"),
    ("families_llama", "cohere", "cohere"),
    ("families_llama", "cohere2", "cohere2"),
    ("families_llama", "olmo2", "olmo2"),
    ("families_llama", "olmo3", "olmo3"),
    ("families_llama", "granite", "granite"),
    ("families_llama", "smollm3", "smollm3"),
    ("families_llama", "seed_oss", "seed_oss"),
    ("families_llama", "apertus", "apertus"),
    ("families_gemma", "gemma2", "gemma2"),
    ("families_gemma", "gemma3", "gemma3 gemma3_text"),
    ("families_gemma", "gemma4", "gemma4 gemma4_text"),
    ("families_deepseek", "deepseek", "deepseek"),
    ("families_deepseek", "deepseek_v2", "deepseek_v2"),
    ("families_deepseek", "deepseek_v3", "deepseek_v3 kimi_k2"),
    ("families_deepseek", "deepseek_v32", "deepseek_v32"),
    ("families_deepseek", "glm4_moe_lite", "glm4_moe_lite"),
    ("families_deepseek", "glm_moe_dsa", "glm_moe_dsa"),
    ("families_deepseek", "mistral4", "mistral4"),
    ("families_moe", "mixtral", "mixtral"),
    ("families_moe", "phimoe", "phimoe"),
    ("families_moe", "qwen2_moe", "qwen2_moe"),
    ("families_moe", "qwen3_moe", "qwen3_moe"),
    ("families_moe", "gpt_oss", "gpt_oss"),
    ("families_moe", "olmoe", "olmoe"),
    ("families_moe", "granitemoe", "granitemoe"),
    ("families_moe", "llama4", "llama4 llama4_text"),
    ("families_moe", "minimax_m2", "minimax_m2"),
    ("families_hunyuan", "hunyuan_v1_moe", "hunyuan_v1_moe"),
    ("families_hunyuan", "hunyuan", "hunyuan"),
    ("families_moe_shared", "glm4_moe", "glm4_moe"),
    ("families_moe_shared", "dots1", "dots1"),
    ("families_moe_shared", "ernie4_5_moe", "ernie4_5_moe"),
    ("families_moe_shared", "bailing_moe_v2", "bailing_moe_v2"),
    ("families_moe_shared", "hy_v3", "hy_v3"),
    ("families_moe_shared", "solar_open", "solar_open"),
    ("families_hybrid", "qwen3_next", "qwen3_next"),
    ("families_hybrid", "qwen3_5", "qwen3_5 qwen3_5_text"),
    ("families_hybrid", "qwen3_5_moe", "qwen3_5_moe qwen3_5_moe_text"),
    ("families_hybrid", "jamba", "jamba"),
    ("families_hybrid", "granitemoehybrid", "granitemoehybrid"),
    ("families_hybrid", "nemotron_h", "nemotron_h"),
    ("families_hybrid", "minimax", "minimax minimax_text_01 minimax_m1"),
    ("families_hybrid", "kimi_linear", "kimi_linear"),
    ("families_hybrid", "lfm2_moe", "lfm2_moe"),
    ("families_exotic", "deepseek_v4", "deepseek_v4"),
    ("families_exotic", "longcat_flash", "longcat_flash"),
    ("families_exotic", "mimo_v2_flash", "mimo_v2_flash"),
    ("families_exotic", "minimax_m3", "minimax_m3 minimax_m3_vl minimax_m3_vl_text"),
    ("families_exotic", "step3p7", "step3p7 step3p5"),
    ("families_legacy", "arctic", "arctic"),
    ("families_legacy", "dbrx", "dbrx"),
    ("families_legacy", "grok1", "grok-1"),
    ("families_legacy", "grok2", "grok-2 git"),
    ("families_legacy", "switch_transformers", "switch_transformers"),
    ("families_legacy", "bloom", "bloom"),
    ("families_legacy", "falcon", "falcon"),
    ("families_legacy", "gpt2", "gpt2"),
):
    for _type in _types.split():
        FAMILIES[_type] = (_module, _function)


def spec_from_config(
    data: Mapping[str, Any],
    *,
    id: str,
    name: str,
    where: str,
    hf_ids: tuple[str, ...] = (),
    sources: tuple[Source, ...] = (),
    text: str = "",
) -> ModelSpec:
    """The ModelSpec of a parsed config.json.

    ``where`` names the file in errors. A multimodal wrapper is entered: its ``text_config`` (or
    ``language_config``, ``llm_config``) is what is modelled. Raises NotModelled for a model_type
    without a family function or with required keys missing, SpecError for values that make no sense.
    """
    from moeplan.readers.hf.quantization import native_quant

    config = _text_config(data, where)
    view = ConfigView(config, where, text)
    family = _family(view)
    try:
        shape = family(view)
    except (SpecError, NotModelled):
        view.finish()  # a stand-in for a missing key may be what made no sense
        raise
    except (ArithmeticError, LookupError, ValueError) as error:
        view.finish()
        raise SpecError(f"its sizes contradict each other ({error})", path=where) from error
    view.finish()
    _check(shape, where)
    return ModelSpec(
        id=id,
        name=name,
        architecture=view.model_type,
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        context_tokens=shape.context_tokens,
        blocks=shape.blocks,
        layout=shape.layout,
        tied_embeddings=shape.tied_embeddings,
        norm_bias=shape.norm_bias,
        final_norm=shape.final_norm,
        embedding_norms=shape.embedding_norms,
        n_position_embeddings=shape.n_position_embeddings,
        head_bias=shape.head_bias,
        extra_params=shape.extra_params,
        extra_note=shape.extra_note,
        native_quant=native_quant(view),
        hf_ids=hf_ids,
        parts=shape.parts,
        weak=shape.weak,
        notes=shape.notes,
        sources=sources,
    )


def _check(shape: ModelShape, where: str) -> None:
    """Raise SpecError for sizes that are possible one by one but not together."""
    from moeplan.domain.model import GqaAttention, MoeFfn

    for block in shape.blocks:
        ffn, mixer = block.ffn, block.mixer
        if isinstance(ffn, MoeFfn) and ffn.n_active > ffn.n_experts:
            raise SpecError(f"{ffn.n_active} experts a token, but there are only {ffn.n_experts}", path=where)
        if isinstance(mixer, GqaAttention) and mixer.n_heads % mixer.n_kv_heads:
            heads = f"{mixer.n_kv_heads} K/V heads for {mixer.n_heads} heads"
            raise SpecError(f"{heads}: the first must divide the second", path=where)


def read_config(path: Path) -> ModelSpec:
    """The ModelSpec of a config.json, or of a directory that holds one.

    Raises SpecError when the file is absent, too big or not JSON (with line and column).
    """
    from moeplan.readers.hf.files import load_config, model_name

    file, data, text = load_config(path)
    name = model_name(file)
    source = Source("derived", str(file), note="read from a config.json")
    return spec_from_config(
        data, id=name.rsplit("/", 1)[-1].lower(), name=name, where=str(file), sources=(source,), text=text
    )


# Keys that a wrapper may hold for its text model; the text model's own come first.
_INHERITED = ("quantization_config", "torch_dtype", "dtype", "tie_word_embeddings", "vision_config")
_NESTED = ("text_config", "language_config", "llm_config", "thinker_config")


def _text_config(data: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The config of the text model inside multimodal wrappers, at most four deep."""
    for _ in range(4):
        inner = next((data[key] for key in _NESTED if data.get(key) is not None), None)
        if inner is None:
            return data
        if not isinstance(inner, dict):
            raise SpecError("the text config must be an object", path=where)
        outer = {key: data[key] for key in _INHERITED if data.get(key) is not None}
        if "model_type" not in inner and "model_type" in data:
            outer["model_type"] = data["model_type"]
        data = {**outer, **{key: value for key, value in inner.items() if value is not None}}
    return data


# What a description of any decoder must say, under the names in use.
_EVERY_DECODER = (
    ("hidden_size", "d_model", "n_embd"),
    ("num_hidden_layers", "n_layers", "n_layer", "num_layers"),
    ("num_attention_heads", "n_heads", "n_head"),
    ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "moe_intermediate_size"),
    ("vocab_size",),
)


def _family(view: ConfigView) -> Family:
    from importlib import import_module

    model_type = view.str("model_type", default="")
    if not model_type:
        raise NotModelled(f"a config without model_type ({view.where})", missing=["model_type"])
    entry = FAMILIES.get(model_type)
    if entry is None:
        close = nearest(model_type, FAMILIES)
        hint = f"nearest known model types: {', '.join(close)}" if close else "no known model type is similar"
        missing = [keys[0] for keys in _EVERY_DECODER if not view.has(*keys)]
        raise NotModelled(
            f"model type {model_type!r} ({view.where})", f"{hint}; its layers can be told in YAML", missing
        )
    module = import_module(f"moeplan.readers.hf.{entry[0]}")
    function: Family = getattr(module, entry[1])
    return function
