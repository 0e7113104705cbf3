"""What a family function returns: the architecture part of a ModelSpec."""

from __future__ import annotations

from collections.abc import Iterable

from moeplan.domain.model import Block, Part
from moeplan.domain.value import Value


class ModelShape(Value):
    """Layers and surroundings of a model, as moeplan.domain.model.ModelSpec has them."""

    blocks: tuple[Block, ...]
    layout: tuple[int, ...]
    hidden_size: int
    vocab_size: int
    context_tokens: int
    tied_embeddings: bool = False
    norm_bias: bool = False
    final_norm: bool = True
    embedding_norms: int = 0
    n_position_embeddings: int = 0
    head_bias: bool = False
    extra_params: int = 0
    extra_note: str = ""
    parts: tuple[Part, ...] = ()
    weak: str = ""
    notes: tuple[str, ...] = ()


def stack(layers: Iterable[Block]) -> tuple[tuple[Block, ...], tuple[int, ...]]:
    """The distinct blocks of ``layers`` in order of appearance, and the layout that rebuilds it."""
    index: dict[Block, int] = {}
    layout = tuple(index.setdefault(block, len(index)) for block in layers)
    return tuple(index), layout
