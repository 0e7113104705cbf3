"""Tiny GGUF files with the keys and tensors of real ones, written by the gguf package.

Weights are holes: a file has its full size and takes a few kilobytes of disk. Tensor names and shapes
follow load_tensors in llama.cpp's src/llama-model.cpp, keys its load_hparams.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES

from moeplan.domain.graph import Tensor

F16, F32 = GGMLQuantizationType.F16, GGMLQuantizationType.F32
ALIGNMENT = 32


class Row(NamedTuple):
    """One tensor: ``shape`` is outermost first; ``small`` ones are never quantised."""

    name: str
    shape: tuple[int, ...]
    small: bool = False


Hparams = dict[str, Any]


def _hp(arch: str, **sizes: int) -> Hparams:
    return {"arch": arch, "n_vocab": 320, **sizes}


# The shapes of real families, scaled down; widths stay multiples of 256 so that K-quants fit.
MODELS: dict[str, Hparams] = {
    "llama": _hp("llama", n_layer=2, n_embd=256, n_ff=512, n_head=8, n_head_kv=2),
    "mixtral": _hp("llama", n_layer=3, n_embd=256, n_ff=768, n_head=4, n_head_kv=2, n_expert=4, n_used=2),
    "qwen3moe": _hp(
        "qwen3moe", n_layer=2, n_embd=512, n_ff=1536, n_ff_exp=256, n_head=8, n_head_kv=2, head_dim=128,
        n_expert=16, n_used=4,
    ),
    "deepseek2": _hp(
        "deepseek2", n_layer=3, n_embd=512, n_ff=1024, n_ff_exp=256, n_head=4, n_head_kv=1, n_expert=8,
        n_used=3, n_shared=2, n_dense_lead=1, q_lora=256, kv_lora=256, qk_nope=64, qk_rope=32, v_dim=48,
    ),
    "gpt-oss": _hp(
        "gpt-oss", n_layer=4, n_embd=256, n_ff=256, n_ff_exp=256, n_head=8, n_head_kv=2, head_dim=64,
        n_expert=8, n_used=2, swa=64,
    ),
    "gemma3": _hp("gemma3", n_layer=13, n_embd=256, n_ff=512, n_head=4, n_head_kv=1, head_dim=128, swa=512),
}  # fmt: skip


def model_keys(hp: Hparams) -> dict[str, Any]:
    """Metadata of one of MODELS."""
    head_dim = hp.get("head_dim", hp["n_embd"] // hp["n_head"])
    keys = {
        "general.name": "tiny " + hp["arch"],
        "context_length": 4096,
        "embedding_length": hp["n_embd"],
        "block_count": hp["n_layer"],
        "feed_forward_length": hp["n_ff"],
        "attention.head_count": hp["n_head"],
        "attention.head_count_kv": hp["n_head_kv"],
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "vocab_size": hp["n_vocab"],
    }
    if hp["arch"] == "deepseek2":
        keys |= {
            "attention.q_lora_rank": hp["q_lora"],
            "attention.kv_lora_rank": hp["kv_lora"],
            "attention.key_length": hp["kv_lora"] + hp["qk_rope"],
            "attention.value_length": hp["kv_lora"],
            "attention.key_length_mla": hp["qk_nope"] + hp["qk_rope"],
            "attention.value_length_mla": hp["v_dim"],
            "leading_dense_block_count": hp["n_dense_lead"],
            "expert_shared_count": hp["n_shared"],
            "expert_gating_func": 2,
        }
    if "n_expert" in hp:
        keys |= {"expert_count": hp["n_expert"], "expert_used_count": hp["n_used"]}
    if "swa" in hp:
        keys["attention.sliding_window"] = hp["swa"]
    return keys


def model_rows(hp: Hparams) -> Iterator[Row]:
    """Tensors of one of MODELS."""
    arch, width, vocab = hp["arch"], hp["n_embd"], hp["n_vocab"]
    yield Row("token_embd.weight", (vocab, width))
    yield Row("output_norm.weight", (width,), True)
    if arch != "gemma3":
        yield Row("output.weight", (vocab, width))
    for i in range(hp["n_layer"]):
        for row in _layer_rows(hp, i):
            yield row._replace(name=f"blk.{i}.{row.name}")


def _layer_rows(hp: Hparams, layer: int) -> Iterator[Row]:
    arch, width = hp["arch"], hp["n_embd"]
    yield Row("attn_norm.weight", (width,), True)
    yield from _mla_rows(hp) if arch == "deepseek2" else _gqa_rows(hp)
    if arch in ("gemma3", "gpt-oss"):
        yield Row("post_attention_norm.weight", (width,), True)
    if arch != "gpt-oss":
        yield Row("ffn_norm.weight", (width,), True)
    if arch == "gemma3":
        yield Row("post_ffw_norm.weight", (width,), True)
    if "n_expert" in hp and layer >= hp.get("n_dense_lead", 0):
        yield from _moe_rows(hp)
    else:
        yield from gated("ffn_{}.weight", width, hp["n_ff"])


def gated(form: str, width: int, inner: int, *stack: int) -> Iterator[Row]:
    """Gate, up and down of an MLP, or of a stack of experts."""
    for part in ("gate", "up"):
        yield Row(form.format(part), (*stack, inner, width))
    yield Row(form.format("down"), (*stack, width, inner))


def _gqa_rows(hp: Hparams) -> Iterator[Row]:
    arch, width, heads, kv = hp["arch"], hp["n_embd"], hp["n_head"], hp["n_head_kv"]
    dim = hp.get("head_dim", width // heads)
    yield Row("attn_q.weight", (heads * dim, width))
    yield Row("attn_k.weight", (kv * dim, width))
    yield Row("attn_v.weight", (kv * dim, width))
    yield Row("attn_output.weight", (width, heads * dim))
    if arch in ("qwen3moe", "gemma3"):
        yield Row("attn_q_norm.weight", (dim,), True)
        yield Row("attn_k_norm.weight", (dim,), True)
    if arch == "gpt-oss":
        for part, n in (("q", heads * dim), ("k", kv * dim), ("v", kv * dim), ("output", width)):
            yield Row(f"attn_{part}.bias", (n,), True)
        yield Row("attn_sinks.weight", (heads,), True)


def _mla_rows(hp: Hparams) -> Iterator[Row]:
    width, heads, q_lora, kv_lora = hp["n_embd"], hp["n_head"], hp["q_lora"], hp["kv_lora"]
    nope, rope, v_dim = hp["qk_nope"], hp["qk_rope"], hp["v_dim"]
    yield Row("attn_q_a_norm.weight", (q_lora,), True)
    yield Row("attn_kv_a_norm.weight", (kv_lora,), True)
    yield Row("attn_q_a.weight", (q_lora, width))
    yield Row("attn_q_b.weight", (heads * (nope + rope), q_lora))
    yield Row("attn_kv_a_mqa.weight", (kv_lora + rope, width))
    yield Row("attn_k_b.weight", (heads, kv_lora, nope))
    yield Row("attn_v_b.weight", (heads, v_dim, kv_lora))
    yield Row("attn_output.weight", (width, heads * v_dim))


def _moe_rows(hp: Hparams) -> Iterator[Row]:
    width, n = hp["n_embd"], hp["n_expert"]
    inner = hp.get("n_ff_exp", hp["n_ff"])
    yield Row("ffn_gate_inp.weight", (n, width), True)
    yield from gated("ffn_{}_exps.weight", width, inner, n)
    if hp["arch"] == "deepseek2":
        yield from gated("ffn_{}_shexp.weight", width, inner * hp["n_shared"])
        yield Row("exp_probs_b.bias", (n,), True)
    if hp["arch"] == "gpt-oss":
        yield Row("ffn_gate_inp.bias", (n,), True)
        for part, size in (("gate", inner), ("up", inner), ("down", width)):
            yield Row(f"ffn_{part}_exps.bias", (n, size), True)


# ── writing ─────────────────────────────────────────────────────────────────────────────────────

Types = Callable[[Row], GGMLQuantizationType]


def plain(row: Row) -> GGMLQuantizationType:
    """F16 matrices, F32 for the rest: what convert_hf_to_gguf.py writes."""
    return F32 if row.small or len(row.shape) == 1 else F16


def n_bytes(shape: Sequence[int], kind: GGMLQuantizationType) -> int:
    """Bytes of a tensor after the gguf package's table of block sizes."""
    block, size = GGML_QUANT_SIZES[kind]
    assert shape[-1] % block == 0, (shape, kind)
    return prod(shape) // block * size


def write_model(path: Path, model: str, types: Types = plain, **changes: Any) -> Path:
    """One of MODELS as a file; ``changes`` are added to its hyperparameters."""
    hp = MODELS[model] | changes
    return write_gguf(path, hp["arch"], model_keys(hp), list(model_rows(hp)), types)


def write_gguf(
    path: Path, arch: str, keys: Mapping[str, Any], rows: Sequence[Row], types: Types = plain
) -> Path:
    """A file with these keys (``arch.`` is put in front where needed) and tensors."""
    writer = GGUFWriter(path, arch)
    for key, value in keys.items():
        _add(writer, key if key.startswith(("general.", "split.", "tokenizer.")) else f"{arch}.{key}", value)
    total = 0
    for row in rows:
        kind = types(row)
        size = n_bytes(row.shape, kind)
        writer.add_tensor_info(row.name, row.shape, np.dtype(np.float32), size, raw_dtype=kind)
        total += _padded(size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, _padded(path.stat().st_size) + total)
    return path


def loadable(path: Path, model: str, **changes: Any) -> Path:
    """A file of holes with a vocabulary, so that a real llama.cpp loads it."""
    hp = MODELS[model] | changes
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    tokens += [f"tok{i}" for i in range(hp["n_vocab"] - len(tokens))]
    head_dim = hp.get("head_dim", hp["n_embd"] // hp["n_head"])
    keys = model_keys(hp) | {
        "rope.dimension_count": hp.get("qk_rope", head_dim),
        "rope.freq_base": 10000.0,
        "expert_feed_forward_length": hp.get("n_ff_exp", hp["n_ff"]),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.token_type": [2, 3, 3, *([6] * 256), *([1] * (len(tokens) - 259))],
    }
    return write_gguf(path, hp["arch"], keys, list(model_rows(hp)))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint16(key, value) if key in ("split.no", "split.count") else writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def tensor_rows(tensors: tuple[Tensor, ...]) -> set[tuple[object, ...]]:
    """What tells tensors apart but their types."""
    return {(t.name, t.role, t.layer, t.shape, t.expert_stacked) for t in tensors if t.owner == "base"}
