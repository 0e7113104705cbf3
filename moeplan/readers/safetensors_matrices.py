"""From the stored pieces of a checkpoint to its matrices.

A quantised weight is stored as several tensors (packed values, scales, zero points), and the experts of a
layer one by one. Here they become one Tensor each: its shape is that of the matrix that is computed with,
its bytes those of everything stored for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from moeplan.domain.graph import Role, Tensor
from moeplan.domain.model import Block, ModelSpec, MoeFfn
from moeplan.domain.quant import QuantTable
from moeplan.errors import NotModelled, SpecError, UnknownName
from moeplan.readers.safetensors_names import Place, place_of, role_of

_PLAIN: Final = {"BF16": "bf16", "F16": "f16", "F32": "f32", "F64": "f64"}
_WORD_BITS: Final = {"U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64}
_FFN: Final = frozenset({"ffn_gate", "ffn_up", "ffn_down", "ffn_gate_up"})
# Matrices that write to the hidden state; all others read it.
_WRITERS: Final = frozenset({"attn_out", "ffn_down", "shared_down", "expert_down"})


class Stored(NamedTuple):
    """One tensor as a file has it; ``dtype`` is safetensors' name of the type."""

    dtype: str
    shape: tuple[int, ...]
    n_bytes: int


class _Matrix:
    """The pieces of one matrix, or of that matrix of every expert of a layer."""

    __slots__ = ("bias", "bias_name", "columns", "experts", "extras", "name", "place", "weight")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.name = self.bias_name = ""
        self.weight: list[Stored] = []
        self.bias: list[Stored] = []
        self.experts: set[int] = set()
        self.extras: list[tuple[str, Stored]] = []
        self.columns = 0
        """Output features as the scales of GPTQ and AWQ show them, else 0."""

    def add(self, name: str, place: Place, stored: Stored) -> None:
        """One more piece."""
        if place.piece == "weight":
            self.name = self.name or name
            self.weight.append(stored)
            self.experts.add(place.expert)
        elif place.piece == "bias":
            self.bias_name = self.bias_name or name
            self.bias.append(stored)
        else:
            self.extras.append((name, stored))
            if name.endswith(".scales") and stored.shape:
                self.columns = stored.shape[-1]

    def bytes_of_weight(self) -> int:
        """Bytes of everything but the bias."""
        extra_bytes = sum(stored.n_bytes for _, stored in self.extras)
        return sum(stored.n_bytes for stored in self.weight) + extra_bytes


def matrices(
    spec: ModelSpec, stored: Mapping[str, Stored], quants: QuantTable, where: str
) -> tuple[tuple[Tensor, ...], str]:
    """The tensors of a checkpoint of ``spec``, and the quantisation that they are in.

    Raises SpecError where layers or experts are missing, NotModelled for packed weights of a method
    whose packing is not known.
    """
    found: dict[str, _Matrix] = {}
    for name, piece in stored.items():
        place = place_of(name, spec.n_layers)
        matrix = found.get(place.module)
        if matrix is None:
            matrix = found[place.module] = _Matrix(place)
        matrix.add(name, place, piece)
    builder = _Builder(spec, quants, where)
    tensors = tuple(tensor for matrix in found.values() for tensor in builder.tensors(matrix))
    layers = {t.layer for t in tensors if t.owner == "base" and t.layer >= 0}
    if len(layers) != spec.n_layers:
        raise SpecError(f"weights for {len(layers)} layers, config.json has {spec.n_layers}", path=where)
    return tensors, _quant(spec, tensors)


class _Builder:
    """Turns collected pieces into tensors, with what the model and its quantisation tell."""

    def __init__(self, spec: ModelSpec, quants: QuantTable, where: str) -> None:
        self._spec = spec
        self._blocks = spec.layer_blocks()
        self._quants = quants
        self._where = where
        self._packing: tuple[str, float] | None = None

    def tensors(self, matrix: _Matrix) -> Iterable[Tensor]:
        """The weight and the bias, as far as there are; else the scales that stand alone."""
        place = matrix.place
        block = self._blocks[place.layer] if 0 <= place.layer < len(self._blocks) else None
        n_experts = self._expert_count(matrix)
        single = matrix.weight[0].shape if matrix.weight else ()
        role = role_of(place.module, block, stacked=False)
        stacked = n_experts > 0 or role.startswith("expert_") or (len(single) == 3 and role in _FFN)
        role = role_of(place.module, block, stacked)
        if matrix.weight:
            qtype, shape = self._logical(matrix, role)
            shape = (n_experts, *shape) if n_experts else _experts_first(shape, block, stacked)
            yield Tensor(
                name=f"{place.module}.weight" if n_experts else matrix.name,
                role=role,
                layer=place.layer,
                shape=_oriented(shape, role, block, self._spec.hidden_size) if stacked else shape,
                qtype=qtype,
                n_bytes=matrix.bytes_of_weight(),
                expert_stacked=stacked,
                owner="other" if self._unused(role) else place.owner,
            )
        else:  # scales of their own, for instance of the KV cache
            for name, stored in matrix.extras:
                yield self._vector(matrix, name, "norm", stored.shape, [stored], False)
        if matrix.bias:
            shape = matrix.bias[0].shape
            shape = (n_experts, *shape) if n_experts else shape
            name = f"{place.module}.bias" if n_experts else matrix.bias_name
            yield self._vector(matrix, name, "bias", shape, matrix.bias, stacked)

    def _vector(
        self,
        matrix: _Matrix,
        name: str,
        role: Role,
        shape: tuple[int, ...],
        pieces: list[Stored],
        stacked: bool,
    ) -> Tensor:
        dtype = pieces[0].dtype
        return Tensor(
            name=name,
            role=role,
            layer=matrix.place.layer,
            shape=shape or (1,),
            qtype=_PLAIN.get(dtype, dtype.lower()),
            n_bytes=sum(piece.n_bytes for piece in pieces),
            expert_stacked=stacked,
            owner=matrix.place.owner,
        )

    def _unused(self, role: Role) -> bool:
        """A head that is stored although config.json ties it to the embedding, which is what is used."""
        return role == "head" and self._spec.tied_embeddings

    def _expert_count(self, matrix: _Matrix) -> int:
        """Experts stored one by one in this matrix, 0 where it is no such."""
        numbers = matrix.experts - {-1}
        if not numbers:
            return 0
        n = len(matrix.weight)
        if len(numbers) != n or max(numbers) != n - 1 or len({w[:2] for w in matrix.weight}) > 1:
            raise SpecError(
                f"experts of {matrix.place.module!r} are missing, or they differ in type or shape",
                path=self._where,
            )
        return n

    def _logical(self, matrix: _Matrix, role: Role) -> tuple[str, tuple[int, ...]]:
        """(type, shape) of one matrix as it is computed with."""
        dtype, shape, _ = matrix.weight[0]
        if dtype in _PLAIN or not shape:
            return _PLAIN.get(dtype, dtype.lower()), shape or (1,)
        if dtype.startswith("F8"):
            return "fp8", shape
        if dtype not in _WORD_BITS or not (matrix.extras or len(shape) > 1):
            return dtype.lower(), shape
        qtype, bits = self._packed_type()
        factor = _WORD_BITS[dtype] / bits
        n_elements = round(_product(shape) * factor)
        if matrix.columns and len(shape) == 2:  # GPTQ packs along the rows, AWQ along the columns
            return qtype, (matrix.columns, n_elements // matrix.columns)
        if shape[-1] == 1:  # bitsandbytes flattens
            other = n_elements // self._spec.hidden_size or 1
            hidden = n_elements // other
            return qtype, (hidden, other) if role in _WRITERS else (other, hidden)
        if len(shape) == 4:  # MXFP4 in blocks of 32: (experts, rows, blocks, bytes)
            return qtype, (*shape[:2], round(shape[2] * shape[3] * factor))
        return qtype, (*shape[:-1], round(shape[-1] * factor))

    def _packed_type(self) -> tuple[str, float]:
        """(storage type, bits a weight) of the checkpoint's packed weights."""
        if self._packing is None:
            method = self._spec.native_quant
            try:
                storages = self._quants.find(method).storages
            except UnknownName:
                storages = {}
            if len(storages) != 1:
                raise NotModelled(f"packed weights of quantisation {method!r} ({self._where})")
            ((qtype, storage),) = storages.items()
            self._packing = (qtype, storage.bits)
        return self._packing


def _experts_first(shape: tuple[int, ...], block: Block | None, stacked: bool) -> tuple[int, ...]:
    """DBRX stores (experts x rows, columns); everything else stacked has the experts in front."""
    ffn = block.ffn if block is not None else None
    if not stacked or len(shape) != 2 or not isinstance(ffn, MoeFfn) or shape[0] % ffn.n_experts:
        return shape
    return (ffn.n_experts, shape[0] // ffn.n_experts, shape[1])


def _oriented(shape: tuple[int, ...], role: Role, block: Block | None, hidden: int) -> tuple[int, ...]:
    """(experts, out, in): some model classes keep stacked experts as (experts, in, out)."""
    if len(shape) != 3:
        return shape
    ffn = block.ffn if block is not None else None
    width = ffn.latent_dim or hidden if isinstance(ffn, MoeFfn) else hidden
    n, out, into = shape
    own, other = (out, into) if role == "expert_down" else (into, out)
    return (n, into, out) if own != width and other == width else shape


def _quant(spec: ModelSpec, tensors: Iterable[Tensor]) -> str:
    """config.json's quantisation where weights bear it out, else the type that most of them have."""
    sizes: dict[str, int] = {}
    for t in tensors:
        if t.owner == "base" and len(t.shape) > 1:
            sizes[t.qtype] = sizes.get(t.qtype, 0) + t.n_bytes
    plain = set(_PLAIN.values())
    special = {qtype: n for qtype, n in sizes.items() if qtype not in plain}
    if special and spec.native_quant not in plain:
        return spec.native_quant
    sizes = special or sizes
    return max(sorted(sizes), key=lambda qtype: sizes[qtype], default=spec.native_quant)


def _product(shape: tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n
