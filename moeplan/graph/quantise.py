"""Typing an inventory: every tensor gets the type and the exact bytes a quantisation gives it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from moeplan.domain.graph import EXPERT_ROLES, Role, Tensor
from moeplan.domain.model import ModelSpec, MoeFfn
from moeplan.domain.quant import QuantScheme, QuantTable, Storage, TypeLayout
from moeplan.errors import SpecError
from moeplan.graph.gguf_mixes import mix_model, mix_types

# Parts of a model as `weights` in configs/quants.yaml names them; matrices of other roles are "small".
_PARTS: dict[str, tuple[Role, ...]] = {
    "embedding": ("embedding",),
    "head": ("head",),
    "router": ("router", "shared_router"),
    "experts": ("expert_gate", "expert_up", "expert_down", "expert_gate_up"),
    "shared": ("shared_gate", "shared_up", "shared_down"),
    "attention": (
        "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_out", "attn_gate", "mla_q_down", "mla_q_up",
        "mla_kv_down", "mla_k_up", "mla_v_up", "mla_kv_up", "cross_attn",
    ),
    "indexer": ("indexer",),
    "recurrent": ("ssm", "linear_attn"),
    "ffn": ("ffn_gate", "ffn_up", "ffn_down", "ffn_gate_up"),
    "latent": ("latent",),
}  # fmt: skip
_PART_OF_ROLE = {role: part for part, roles in _PARTS.items() for role in roles}
_PLAIN_PARTS = frozenset({"embedding", "head", "router", "small"})
_PLAIN_TYPE = "bf16"


def assign_types(
    spec: ModelSpec, tensors: tuple[Tensor, ...], scheme: str, table: QuantTable, *, gguf: bool = False
) -> tuple[Tensor, ...]:
    """``tensors`` of ``spec`` with their type and exact bytes under the quantisation ``scheme``.

    With ``gguf`` a name with two meanings (``bf16``, ``mxfp4``) is taken as GGUF engines take it. Names of
    the tensors must be llama.cpp's for GGUF schemes. Raises UnknownName or NotModelled for the scheme, and
    NotModelled for a shape that a quantiser refuses.
    """
    found = table.find(scheme, gguf=gguf)
    return _method(spec, tensors, found, table) if found.weights else _gguf(spec, tensors, found, table)


def tensor_bytes(layout: TypeLayout, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of ``shape`` (last dimension = row) in whole blocks of ``layout``.

    Reference: ggml_row_size and ggml_nbytes in ggml.c. Raises SpecError for a row that is no whole
    number of blocks: no such tensor can exist.
    """
    row = shape[-1]
    blocks, rest = divmod(row, layout.block_elements)
    if rest:
        raise SpecError(
            f"a row of {row} elements is no whole number of {layout.id} blocks of {layout.block_elements}"
        )
    return _product(shape[:-1]) * (blocks * layout.block_bytes + layout.row_bytes)


def matrix_bytes(storage: Storage, shape: tuple[int, ...]) -> int:
    """Bytes of a stack of matrices of ``shape`` (..., out, in), each stored as ``storage`` says.

    Packed values, scales, zero points and per-row, per-column and per-matrix extras; groups and words
    are rounded up per row (``flat``: per matrix).
    """
    rows, columns = (1, shape[0]) if len(shape) == 1 else shape[-2:]
    if storage.flat:
        rows, columns = 1, rows * columns
    values = rows * _ceil(columns * storage.bits / storage.word_bits) * storage.word_bits
    scales = _n_groups(storage, rows, columns)
    zero_bits = storage.bits if storage.zero_packed else storage.zero_bits
    extras = scales * (storage.scale_bits + zero_bits)
    if storage.nested_group:
        extras += _ceil(scales / storage.nested_group) * storage.nested_bits
    extras += columns * storage.column_bits + rows * storage.row_bits
    return _product(shape[:-2]) * (_ceil((values + extras) / 8) + storage.matrix_bytes)


def bits_per_weight(tensors: Iterable[Tensor]) -> float:
    """Mean bits per element of typed ``tensors``; 0 for none."""
    n_bytes = n_elements = 0
    for tensor in tensors:
        n_bytes += tensor.n_bytes
        n_elements += tensor.n_elements
    return n_bytes * 8 / n_elements if n_elements else 0.0


def bytes_by_type(tensors: Iterable[Tensor]) -> dict[str, int]:
    """Bytes of typed ``tensors`` by type."""
    sums: dict[str, int] = {}
    for tensor in tensors:
        sums[tensor.qtype] = sums.get(tensor.qtype, 0) + tensor.n_bytes
    return sums


def _gguf(
    spec: ModelSpec, tensors: tuple[Tensor, ...], scheme: QuantScheme, table: QuantTable
) -> tuple[Tensor, ...]:
    types = mix_types(mix_model(spec, tensors), tensors, scheme, table)
    sizes: dict[tuple[str, tuple[int, ...]], int] = {}
    typed = []
    for tensor, qtype in zip(tensors, types, strict=True):
        key = (qtype, tensor.shape)
        if key not in sizes:
            sizes[key] = tensor_bytes(table.types[qtype], tensor.shape)
        typed.append(replace(tensor, qtype=qtype, n_bytes=sizes[key]))
    return tuple(typed)


def _method(
    spec: ModelSpec, tensors: tuple[Tensor, ...], scheme: QuantScheme, table: QuantTable
) -> tuple[Tensor, ...]:
    fused = _layers_with_fused_experts(spec) if scheme.keep_fused_experts else frozenset()
    sizes: dict[tuple[str, tuple[int, ...]], int] = {}
    typed = []
    for tensor in tensors:
        qtype = _stored_as(tensor, scheme.weights)
        if fused and tensor.role in EXPERT_ROLES and tensor.layer in fused:
            qtype = _PLAIN_TYPE
        key = (qtype, tensor.shape)
        if key not in sizes:
            storage = scheme.storages.get(qtype)
            sizes[key] = (
                matrix_bytes(storage, tensor.shape)
                if storage is not None
                else tensor_bytes(table.type(qtype), tensor.shape)
            )
        typed.append(replace(tensor, qtype=qtype, n_bytes=sizes[key]))
    return tuple(typed)


def _stored_as(tensor: Tensor, weights: Mapping[str, str]) -> str:
    part = _PART_OF_ROLE.get(tensor.role, "small") if is_matrix(tensor) else "small"
    return weights.get(part) or (_PLAIN_TYPE if part in _PLAIN_PARTS else weights["default"])


def is_matrix(tensor: Tensor) -> bool:
    """Whether the tensor is a weight matrix (or a stack of them): more than one row and column."""
    return len(tensor.shape) > 1 and tensor.shape[-1] > 1 and max(tensor.shape[:-1]) > 1


def _layers_with_fused_experts(spec: ModelSpec) -> frozenset[int]:
    blocks = spec.layer_blocks()
    return frozenset(
        i for i, block in enumerate(blocks) if isinstance(block.ffn, MoeFfn) and block.ffn.fused_gate_up
    )


def _n_groups(storage: Storage, rows: int, columns: int) -> int:
    if storage.group == 0:
        return 0
    if storage.group < 0:
        return rows
    return _ceil(columns / storage.group) * _ceil(rows / storage.group_rows)


def _ceil(value: float) -> int:
    return -int(-value // 1)


def _product(sizes: tuple[int, ...]) -> int:
    n = 1
    for size in sizes:
        n *= size
    return n
