"""Checkpoints of safetensors files without data, and the tables of small models to write into them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from moeplan.domain.graph import Tensor
from moeplan.graph.inventory import build_tensors, param_counts
from moeplan.readers.safetensors import SafetensorsModel

BITS = {"BF16": 16, "F16": 16, "F32": 32, "F8_E4M3": 8, "U8": 8, "I8": 8, "I32": 32}
Table = dict[str, tuple[str, tuple[int, ...]]]
BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 96,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}


def write(path: Path, table: Table) -> Path:
    """A file with these tensors; the data is a hole."""
    offset, header = 0, {}
    for name, (dtype, shape) in table.items():
        size = prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    with path.open("r+b") as file:
        file.truncate(8 + len(raw) + offset)
    return path


def checkpoint(folder: Path, config: Mapping[str, Any], table: Table) -> Path:
    (folder / "config.json").write_text(json.dumps(BASE | dict(config)))
    return write(folder / "model.safetensors", table)


def weights(shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16") -> Table:
    return {f"{name}.weight": (dtype, shape) for name, shape in shapes.items()}


OUTSIDE = {"model.embed_tokens": (96, 64), "model.norm": (64,), "lm_head": (96, 64)}
ATTENTION = {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64), "o_proj": (64, 64)}


def layer(i: int, parts: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Tensors of layer ``i``, its two norms included."""
    names = {"input_layernorm": (64,), "post_attention_layernorm": (64,)} | dict(parts)
    return {f"model.layers.{i}.{name}": shape for name, shape in names.items()}


def mlp(module: str, inner: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{module}.gate_proj": (inner, 64),
        f"{module}.up_proj": (inner, 64),
        f"{module}.down_proj": (64, inner),
    }


def attention(module: str = "self_attn") -> dict[str, tuple[int, ...]]:
    return {f"{module}.{name}": shape for name, shape in ATTENTION.items()}


def llama_table(dtype: str = "BF16") -> Table:
    shapes = dict(OUTSIDE)
    for i in range(2):
        shapes |= layer(i, attention() | mlp("mlp", 128))
    return weights(shapes, dtype)


def roles(tensors: tuple[Tensor, ...]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for t in tensors:
        if t.owner == "base":
            counts[t.role] = counts.get(t.role, 0) + t.n_elements
    return counts


def check(model: SafetensorsModel) -> tuple[Tensor, ...]:
    """The parameters of every role are those that the architecture makes."""
    assert model.tensors is not None
    built = build_tensors(model.spec)
    assert roles(model.tensors) == roles(built)
    assert param_counts(model.spec, model.tensors) == param_counts(model.spec, built)
    return model.tensors
