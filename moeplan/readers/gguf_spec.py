"""GGUF metadata and tensor shapes -> ModelSpec.

Key names: gguf-py/gguf/constants.py. Which layers have a sliding window: llama.cpp, src/llama-model.cpp
(load_hparams), the same rules that decide what the engine that reads these files will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from moeplan.domain.graph import Tensor
from moeplan.domain.model import Block, Ffn, GqaAttention, Mixer, MlaAttention, ModelSpec, MoeFfn, Part
from moeplan.errors import NotModelled, nearest
from moeplan.provenance import Source
from moeplan.readers.gguf_layers import Layer, ffn_of, mixer_of
from moeplan.readers.gguf_metadata import MAX_LAYERS, MAX_TOKENS, Metadata

# Architecture of the file -> model_type of the Hugging Face configuration class.
ARCHITECTURES: Final = {
    "apertus": "apertus", "arcee": "arcee", "arctic": "arctic", "bailingmoe": "bailing_moe",
    "bailingmoe2": "bailing_moe_v2", "bloom": "bloom", "cohere2": "cohere2", "command-r": "cohere",
    "dbrx": "dbrx", "deepseek": "deepseek", "deepseek2": "deepseek_v2", "dots1": "dots1",
    "ernie4_5": "ernie4_5", "ernie4_5-moe": "ernie4_5_moe", "falcon": "falcon", "gemma": "gemma",
    "gemma2": "gemma2", "gemma3": "gemma3_text", "gemma4": "gemma4_text", "glm-dsa": "glm_moe_dsa",
    "glm4": "glm4", "glm4moe": "glm4_moe", "gpt-oss": "gpt_oss", "gpt2": "gpt2", "granite": "granite",
    "granitehybrid": "granitemoehybrid", "granitemoe": "granitemoe", "grok": "grok-1",
    "hunyuan-dense": "hunyuan_v1_dense", "hunyuan-moe": "hunyuan_v1_moe", "internlm2": "internlm2",
    "jamba": "jamba", "kimi-linear": "kimi_linear", "lfm2": "lfm2", "lfm2moe": "lfm2_moe",
    "llama": "llama", "llama4": "llama4_text", "mamba": "mamba", "mamba2": "mamba2",
    "mimo2": "mimo_v2_flash", "minimax-m2": "minimax_m2", "mistral3": "ministral3", "mistral4": "mistral4",
    "nemotron": "nemotron", "nemotron_h": "nemotron_h", "nemotron_h_moe": "nemotron_h", "olmo": "olmo",
    "olmo2": "olmo2", "olmoe": "olmoe", "phi3": "phi3", "phimoe": "phimoe", "qwen2": "qwen2",
    "qwen2moe": "qwen2_moe", "qwen2vl": "qwen2_vl_text", "qwen3": "qwen3", "qwen35": "qwen3_5_text",
    "qwen35moe": "qwen3_5_moe_text", "qwen3moe": "qwen3_moe", "qwen3next": "qwen3_next",
    "qwen3vl": "qwen3_vl_text", "qwen3vlmoe": "qwen3_vl_moe_text", "seed_oss": "seed_oss",
    "smollm3": "smollm3", "stablelm": "stablelm", "starcoder2": "starcoder2", "step35": "step3p7",
}  # fmt: skip

# Architecture -> (period, window where the file states none). Within a period the last layer sees
# everything; period 0: the file must say which layers have the window.
_WINDOWS: Final = {
    "cohere2": (4, 0), "gemma2": (2, 4096), "gemma3": (6, 0), "gemma4": (0, 0), "gpt-oss": (2, 0),
    "llama4": (4, 8192), "mimo2": (0, 0), "olmo2": (4, 0), "step35": (0, 0),
}  # fmt: skip

# Norms inside a mixer; all others of hidden width belong to the block.
_INNER_NORMS = ("attn_q_norm", "attn_k_norm", "attn_q_a_norm", "attn_kv_a_norm", "ssm_", "indexer.")


def check_architecture(meta: Metadata) -> None:
    """SpecError for a file that is no language model, NotModelled for one of an unknown kind."""
    kind = meta.text("general.type", "model")
    if meta.arch == "clip" or kind == "mmproj":
        raise meta.error("is a multimodal projector file", hint="name the language model's file")
    if kind == "adapter":
        raise meta.error("is a LoRA adapter", hint="name the base model's file")
    if kind == "imatrix":
        raise meta.error("is an importance matrix, not a model")
    if meta.arch not in ARCHITECTURES:
        close = nearest(meta.arch[:80], ARCHITECTURES)
        why = f"nearest known: {', '.join(close)}" if close else ""
        raise NotModelled(f"GGUF architecture {meta.arch[:80]!r} ({meta.where})", why)


def layer_count(meta: Metadata) -> int:
    """Layers of the text model, those that predict further tokens (nextn) not counted."""
    blocks = meta.integer("block_count", high=MAX_LAYERS)
    extra = meta.integer("nextn_predict_layers", 0, low=0)
    if extra >= blocks:
        raise meta.error(f"has {extra} prediction layers among {blocks} layers")
    return blocks - extra


def spec_of(meta: Metadata, name: str, quant: str, tensors: Sequence[Tensor]) -> ModelSpec:
    """The ModelSpec of a file with these tensors; ``name`` is the file's, without its ending."""
    n_layers = layer_count(meta)
    outside, inside = _by_layer(tensors)
    if "per_layer_token_embd.weight" in outside:
        raise NotModelled(f"per-layer embeddings of architecture {meta.arch} ({meta.where})")
    hidden, vocab = _embedding(meta, outside)
    if max(inside, default=-1) >= n_layers or len(inside) != n_layers:
        raise meta.error(f"has tensors for {len(inside)} layers, the metadata makes it {n_layers}")
    context = meta.integer("context_length", high=MAX_TOKENS)
    blocks, layout = _layers(meta, hidden, inside, layer_windows(meta, n_layers, context))
    final = "output_norm.weight" in outside
    embedding_norm = "token_embd_norm.weight" in outside
    position = outside.get("position_embd.weight")
    return ModelSpec(
        id=name.lower(),
        name=_printable(meta.text("general.name", "")) or name,
        architecture=_model_type(meta, blocks),
        hidden_size=hidden,
        vocab_size=vocab,
        context_tokens=context,
        blocks=blocks,
        layout=layout,
        tied_embeddings="output.weight" not in outside,
        norm_bias="output_norm.bias" in outside,
        # LFM2's final norm is stored under the name of an embedding norm.
        final_norm=final or embedding_norm,
        embedding_norms=int(final and embedding_norm),
        n_position_embeddings=position.shape[0] if position else 0,
        head_bias="output.bias" in outside,
        extra_params=sum(t.n_elements for t in outside.values() if t.role == "extra"),
        extra_note=", ".join(name for name, t in outside.items() if t.role == "extra"),
        native_quant=quant,
        parts=_parts(tensors),
        notes=_notes(meta, blocks),
        sources=(Source("derived", meta.where, note="read from a GGUF header"),),
    )


def layer_windows(meta: Metadata, n_layers: int, context: int) -> list[int | None]:
    """The sliding window of each layer in tokens, None where it sees the whole context.

    A window that is not below the model's context changes nothing and is left out.
    """
    rule = _WINDOWS.get(meta.arch)
    if rule is None:
        return [None] * n_layers
    period, default = rule
    key = "attention.sliding_window"
    window = meta.integer(key, default, low=0, high=MAX_TOKENS)
    if meta.arch == "llama4" and window:
        window = default  # llama.cpp takes 8192 whatever the file says, unless that is 0
    if not 0 < window < context:
        return [None] * n_layers
    key += "_pattern"
    if isinstance(meta.get(key), tuple):
        return [window if meta.flag(key, i) else None for i in range(n_layers)]
    period = meta.integer(key, period or None)
    return [window if i % period < period - 1 else None for i in range(n_layers)]


def _by_layer(tensors: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]]]:
    """The text model's tensors by name: outside the layers, and by their short names in each layer."""
    outside: dict[str, Tensor] = {}
    inside: dict[int, dict[str, Tensor]] = {}
    for t in tensors:
        if t.owner != "base":
            continue
        if t.layer < 0:
            outside[t.name] = t
        else:
            inside.setdefault(t.layer, {})[t.name.split(".", 2)[2]] = t
    return outside, inside


def _embedding(meta: Metadata, outside: Mapping[str, Tensor]) -> tuple[int, int]:
    """(hidden size, vocabulary) after the embedding matrix, which must agree with the metadata."""
    hidden = meta.integer("embedding_length")
    table = outside.get("token_embd.weight")
    if table is None:
        raise meta.error("has no tensor 'token_embd.weight'", hint="a file of the vocabulary alone?")
    if len(table.shape) != 2 or table.shape[1] != hidden:
        raise meta.error(f"tensor 'token_embd.weight' has shape {table.shape}, the model is {hidden} wide")
    return hidden, table.shape[0]


def _layers(
    meta: Metadata, hidden: int, inside: Mapping[int, Mapping[str, Tensor]], windows: Sequence[int | None]
) -> tuple[tuple[Block, ...], tuple[int, ...]]:
    """The distinct blocks, and the block of every layer. Layers of equal tensors are looked at once."""
    index: dict[Block, int] = {}
    seen: dict[tuple[object, ...], int] = {}
    layout = []
    heads = [meta.get(f"attention.head_count{kv}") for kv in ("", "_kv")]
    for i, window in enumerate(windows):
        own = [value[i] if isinstance(value, tuple) and i < len(value) else None for value in heads]
        key = (window, *own, *((name, t.shape) for name, t in inside[i].items()))
        if key not in seen:
            block = _block(Layer(meta, i, hidden, inside[i]), window)
            seen[key] = index.setdefault(block, len(index))
        layout.append(seen[key])
    return tuple(index), tuple(layout)


def _block(layer: Layer, window: int | None) -> Block:
    mixer, ffn = mixer_of(layer, window), ffn_of(layer)
    if mixer is None and ffn is None:
        raise layer.error("has neither attention nor a feed-forward part")
    extra = {name: t for name, t in layer.tensors.items() if t.role == "extra"}
    return Block(
        name=_block_name(mixer, ffn),
        mixer=mixer,
        ffn=ffn,
        n_norms=sum(_is_block_norm(name, t, layer.hidden) for name, t in layer.tensors.items()),
        extra_params=sum(t.n_elements for t in extra.values()),
        extra_note=", ".join(extra),
    )


def _block_name(mixer: Mixer | None, ffn: Ffn | None) -> str:
    parts = [] if ffn is None else ["moe" if isinstance(ffn, MoeFfn) else "dense"]
    if isinstance(mixer, GqaAttention | MlaAttention):
        parts += ["window"] if mixer.window_tokens else [] if parts else ["attention"]
        parts += ["index"] if mixer.indexer else []
    elif mixer is not None:
        parts.append(str(mixer.__struct_config__.tag))
    return "-".join(parts)


def _is_block_norm(name: str, tensor: Tensor, hidden: int) -> bool:
    own = tensor.role == "norm" and tensor.shape == (hidden,) and name.endswith(".weight")
    return own and not name.startswith(_INNER_NORMS)


def _model_type(meta: Metadata, blocks: Sequence[Block]) -> str:
    """The Hugging Face name; a few files of one architecture are two families there."""
    found = ARCHITECTURES[meta.arch]
    moe = [block.ffn for block in blocks if isinstance(block.ffn, MoeFfn)]
    windows = any(isinstance(b.mixer, GqaAttention) and b.mixer.window_tokens for b in blocks)
    if found == "llama" and moe:
        return "mixtral"
    if found == "deepseek_v2" and any(ffn.routing == "sigmoid" for ffn in moe):
        return "deepseek_v3"
    return "olmo3" if found == "olmo2" and windows else found


def _printable(text: str) -> str:
    """A name from a file as it may be shown: on one line, not long, without control characters."""
    return "".join(char for char in text if char.isprintable())[:120].strip()


def _parts(tensors: Sequence[Tensor]) -> tuple[Part, ...]:
    """Parameters of what text generation does not need."""
    params: dict[Literal["mtp", "vision", "audio"], int] = {}
    for t in tensors:
        if t.owner != "base" and t.owner != "other":
            params[t.owner] = params.get(t.owner, 0) + t.n_elements
    return tuple(Part(kind=kind, params=n, note="stored in the file") for kind, n in params.items())


def _notes(meta: Metadata, blocks: Sequence[Block]) -> tuple[str, ...]:
    notes = []
    if meta.arch not in _WINDOWS and meta.get("attention.sliding_window"):
        notes.append(f"llama.cpp ignores the sliding window of architecture {meta.arch}")
    if meta.arch == "llama4":
        notes.append("attention in chunks of 8192 tokens is counted as a window of that size")
    if any(isinstance(b.mixer, MlaAttention) and b.mixer.expanded_cache for b in blocks):
        notes.append("made before llama.cpp's MLA support: it caches K and V of every head, not the latent")
    return tuple(notes)
