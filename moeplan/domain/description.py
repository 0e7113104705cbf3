"""A model described on its own, without a machine: sizes by quantisation, cache by context."""

from __future__ import annotations

from moeplan.domain.graph import ModelGraph, ParamCounts
from moeplan.domain.model import ModelSpec
from moeplan.domain.value import Value


class ModelSummary(Value):
    """One line of the model list."""

    spec: ModelSpec
    params: ParamCounts


class QuantSize(Value):
    """Size of all weights under one quantisation, in bytes."""

    quant: str
    weights_bytes: int


class CacheSize(Value):
    """Cache of one sequence at one context, in bytes, as llama.cpp allocates it."""

    context_tokens: int
    kv_type: str
    kv_bytes: int
    state_bytes: int


class ModelDescription(Value):
    """Everything known of a model. ``graph`` is typed in ``graph.quant``, the file's own or native one."""

    graph: ModelGraph
    origin: str
    """Where it was read: ``catalog``, ``gguf`` ..., and the path."""
    sizes: tuple[QuantSize, ...]
    caches: tuple[CacheSize, ...]
    kv_bytes_per_token: float
    """Growth of the cache per token beyond every window, f16, all layers."""
    not_modelled: tuple[str, ...] = ()
