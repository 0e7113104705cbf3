"""Small GGUF files with random weights: what an engine is timed on when no model is given.

Blocks of quantised types are random bytes with small scales: kernels take the same time whatever the
weights are. Layouts: ggml's block_q8_0, block_q4_K, block_q6_K (ggml-common.h); GGUF version 3.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

PROMPT_TOKENS, LONG_PROMPT_TOKENS = 128, 512
_ALIGNMENT = 32
_NOISE_BYTES = 1 << 20
# Half-precision 0.001 and -0.0005, little-endian.
_SCALE, _MINIMUM = struct.pack("<e", 1e-3), struct.pack("<e", -5e-4)


class GgmlType(NamedTuple):
    """A storage type: its number in ggml.h, elements and bytes of a block."""

    number: int
    elements: int
    n_bytes: int


TYPES = {
    "f32": GgmlType(0, 1, 4),
    "f16": GgmlType(1, 1, 2),
    "q8_0": GgmlType(8, 32, 34),
    "q4_k": GgmlType(12, 256, 144),
    "q6_k": GgmlType(14, 256, 210),
}


class Shape(NamedTuple):
    """A llama or Mixtral shape; ``n_experts`` 0 is dense."""

    hidden: int = 1024
    layers: int = 6
    heads: int = 16
    kv_heads: int = 4
    width: int = 2816
    vocab: int = 4096
    n_experts: int = 0
    n_active: int = 0


class RandomFile(NamedTuple):
    """A file that an engine is timed on, and how long that takes beside the others."""

    label: str
    shape: Shape
    qtype: str
    weight: float
    prompts: tuple[int, ...] = (PROMPT_TOKENS,)
    """Lengths, the longest first."""


# Of the last-level cache: a dense file is read from end to end in every step, experts in random order.
_DENSE_CACHES, _EXPERT_CACHES = 2, 6
_LEAST_LAYERS, _MOST_LAYERS = {"dense": 2, "moe": 3}, 24


def profile_files(*, every_type: bool, cache_bytes: int) -> list[RandomFile]:
    """What an engine is timed on: dense and MoE in each type, and three with next to no weights, whose time
    is that of layers, of layers that route, and of entries of the vocabulary.

    The former have layers enough that little of them stays in a cache of ``cache_bytes``: of 40 MB beside
    32 MiB so much did that decode looked a third too fast; from 60 MB on each layer of a dense file took as
    long as the one before (EPYC 9004, 2026-11-30). Matrices are as wide as those of small real models.
    """
    dense = Shape(1792, 4, 14, 2, 4608, 4096)
    moe = Shape(1024, 4, 16, 4, 768, 4096, n_experts=16, n_active=4)
    bare = Shape(128, 32, 2, 1, 352, 512)
    small = {
        "layers": bare,
        "routing": bare._replace(width=128, n_experts=16, n_active=4),
        "vocabulary": bare._replace(layers=2, vocab=65536),
    }
    types = [q for q in ("f16", "q8_0", "q4_k", "q6_k") if every_type or q != "q6_k"]
    files = [RandomFile(f"many {what}", shape, "q8_0", 0.3) for what, shape in small.items()]
    longer = (LONG_PROMPT_TOKENS, PROMPT_TOKENS)
    files[0] = files[0]._replace(prompts=longer)
    for kind, shape, caches in (("dense", dense, _DENSE_CACHES), ("moe", moe, _EXPERT_CACHES)):
        elements = 3 * shape.hidden * shape.width * max(1, shape.n_experts)
        for q in types:
            layer_bytes = elements * TYPES[q].n_bytes / TYPES[q].elements
            layers = min(
                _MOST_LAYERS, max(_LEAST_LAYERS[kind], math.ceil(caches * cache_bytes / layer_bytes))
            )
            weight = (1.5 if q == "f16" else 1.0) * layers / 6
            files.append(RandomFile(f"random {kind} {q}", shape._replace(layers=layers), q, weight))
            if every_type and (kind, q) == ("dense", "q4_k"):  # a long cache of a file past the caches
                files[-1] = files[-1]._replace(prompts=longer)
    return files


def file_bytes(shape: Shape, qtype: str) -> int:
    """Of the tensors; header and vocabulary are little beside them."""
    return sum(_padded(_size(dims, kind)) for _, dims, kind in _tensors(shape, qtype))


def write_random_gguf(path: Path, shape: Shape, qtype: str) -> None:
    """Write a loadable file with every matrix in ``qtype``; norms and routers are f32."""
    tensors = list(_tensors(shape, qtype))
    with path.open("wb") as file:
        metadata = list(_metadata(shape))
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
        for entry in metadata:
            file.write(entry)
        offset = 0
        for name, dims, kind in tensors:
            file.write(_text(name) + struct.pack("<I", len(dims)))
            file.write(struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", TYPES[kind].number, offset))
            offset += _padded(_size(dims, kind))
        file.write(bytes(-file.tell() % _ALIGNMENT))
        noise = {kind: _noise(kind) for kind in {kind for _, _, kind in tensors}}
        for name, dims, kind in tensors:
            _write_data(file, _ones(dims) if name.endswith("norm.weight") else noise[kind], _size(dims, kind))


def _tensors(shape: Shape, qtype: str) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """(name, dimensions with the row length first, type)."""
    d, f = shape.hidden, shape.width
    kv = d // shape.heads * shape.kv_heads
    yield "token_embd.weight", (d, shape.vocab), qtype
    for i in range(shape.layers):
        p = f"blk.{i}."
        yield p + "attn_norm.weight", (d,), "f32"
        yield p + "attn_q.weight", (d, d), qtype
        yield p + "attn_k.weight", (d, kv), qtype
        yield p + "attn_v.weight", (d, kv), qtype
        yield p + "attn_output.weight", (d, d), qtype
        yield p + "ffn_norm.weight", (d,), "f32"
        if shape.n_experts:
            n = shape.n_experts
            yield p + "ffn_gate_inp.weight", (d, n), "f32"
            yield p + "ffn_gate_exps.weight", (d, f, n), qtype
            yield p + "ffn_up_exps.weight", (d, f, n), qtype
            yield p + "ffn_down_exps.weight", (f, d, n), qtype
        else:
            yield p + "ffn_gate.weight", (d, f), qtype
            yield p + "ffn_up.weight", (d, f), qtype
            yield p + "ffn_down.weight", (f, d), qtype
    yield "output_norm.weight", (d,), "f32"
    yield "output.weight", (d, shape.vocab), qtype


def _metadata(shape: Shape) -> Iterator[bytes]:
    numbers = {
        "context_length": 4096, "embedding_length": shape.hidden, "block_count": shape.layers,
        "feed_forward_length": shape.width, "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads, "vocab_size": shape.vocab,
        "rope.dimension_count": shape.hidden // shape.heads,
    }  # fmt: skip
    if shape.n_experts:
        numbers |= {"expert_count": shape.n_experts, "expert_used_count": shape.n_active}
    yield _text("general.architecture") + _string("llama")
    yield _text("general.alignment") + struct.pack("<II", 4, _ALIGNMENT)
    for key, value in numbers.items():
        yield _text(f"llama.{key}") + struct.pack("<II", 4, value)
    yield _text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5)
    yield from _vocabulary(shape.vocab)


def _vocabulary(n: int) -> Iterator[bytes]:
    """A sentencepiece vocabulary of control, byte and filler tokens."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    tokens += [f"tok{i}" for i in range(len(tokens), n)]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (n - 259)  # unknown, control, control, byte, normal
    yield _text("tokenizer.ggml.model") + _string("llama")
    yield _text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, n) + b"".join(map(_text, tokens))
    yield _text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, n) + struct.pack(f"<{n}f", *([0.0] * n))
    yield _text("tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, n) + struct.pack(f"<{n}i", *kinds)
    for key, value in (("bos", 1), ("eos", 2), ("unknown", 0)):
        yield _text(f"tokenizer.ggml.{key}_token_id") + struct.pack("<II", 4, value)


@cache
def _noise(kind: str) -> bytes:
    """About a megabyte of whole blocks."""
    block = TYPES[kind]
    n = _NOISE_BYTES // block.n_bytes
    raw = bytearray(os.urandom(n * block.n_bytes))
    if kind in ("f16", "f32"):
        return _floats(raw, kind)
    # where a block keeps its scale: q8_0 first, q4_K scale and minimum first, q6_K last
    at = {"q8_0": 0, "q4_k": 0, "q6_k": 208}[kind]
    patch = _SCALE + _MINIMUM if kind == "q4_k" else _SCALE
    for start in range(0, len(raw), block.n_bytes):
        raw[start + at : start + at + len(patch)] = patch
    return bytes(raw)


def _floats(raw: bytearray, kind: str) -> bytes:
    code, width = ("e", 2) if kind == "f16" else ("f", 4)
    values = [(byte - 127.5) / 4096 for byte in raw[: len(raw) // width]]
    return struct.pack(f"<{len(values)}{code}", *values)


def _ones(dims: tuple[int, ...]) -> bytes:
    return struct.pack("<f", 1.0) * dims[0]


def _size(dims: tuple[int, ...], kind: str) -> int:
    n = 1
    for dim in dims:
        n *= dim
    return n // TYPES[kind].elements * TYPES[kind].n_bytes


def _write_data(file: BinaryIO, noise: bytes, n_bytes: int) -> None:
    whole, rest = divmod(n_bytes, len(noise))
    for _ in range(whole):
        file.write(noise)
    file.write(noise[:rest])
    file.write(bytes(_padded(n_bytes) - n_bytes))


def _padded(n: int) -> int:
    return n + -n % _ALIGNMENT


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _string(text: str) -> bytes:
    return struct.pack("<I", 8) + _text(text)
