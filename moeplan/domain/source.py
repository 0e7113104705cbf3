"""Where a model came from and what its file alone can tell."""

from __future__ import annotations

from typing import Literal

from moeplan.domain.graph import Tensor
from moeplan.domain.model import ModelSpec
from moeplan.domain.value import Value


class ModelSource(Value):
    """A model as it was named. A weight file adds its own tensor table, types and size."""

    spec: ModelSpec
    kind: Literal["catalog", "yaml", "config", "gguf", "safetensors", "made"]
    path: str
    """The file or directory that was read."""
    tensors: tuple[Tensor, ...] | None = None
    """The file's tensors with their types; None where only the architecture is known."""
    file_quant: str | None = None
    """Id of the quantisation the file is in."""
    file_bytes: int | None = None
    """Size of the weight file or files."""
    note: str = ""
    """What the reader had to leave out, e.g. weight files that are not there."""
