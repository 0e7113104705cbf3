"""The inventory of one model in one quantisation: every weight tensor, and its sums by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from moeplan.domain.model import ModelSpec
from moeplan.domain.value import Value

Role = Literal[
    "embedding", "position", "head",
    "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_out", "attn_gate",
    "mla_q_down", "mla_q_up", "mla_kv_down", "mla_k_up", "mla_v_up", "mla_kv_up",
    "indexer", "cross_attn",
    "ssm", "linear_attn", "conv",
    "ffn_gate", "ffn_up", "ffn_down", "ffn_gate_up",
    "expert_gate", "expert_up", "expert_down", "expert_gate_up",
    "shared_gate", "shared_up", "shared_down", "router", "shared_router", "latent",
    "norm", "bias", "sink", "extra",
]  # fmt: skip
"""What a tensor is for. ``expert_*`` are the routed experts, stacked in one tensor."""

EXPERT_ROLES = frozenset({"expert_gate", "expert_up", "expert_down", "expert_gate_up"})


class Tensor(Value):
    """One weight tensor. ``shape`` is outermost first, experts first when stacked; a matrix is
    (out_features, in_features). ``layer`` is -1 outside the layers. ``n_bytes`` is exact for
    ``qtype``, whole quantisation blocks included."""

    name: str
    role: Role
    layer: int
    shape: tuple[int, ...]
    qtype: str = ""
    n_bytes: int = 0
    expert_stacked: bool = False
    """True for routed-expert tensors and their biases: only n_active of n_experts are read a token."""
    owner: Literal["base", "mtp", "vision", "audio", "other"] = "base"
    """Which part of the model it belongs to; only "base" counts for text generation."""

    @property
    def n_elements(self) -> int:
        """Number of elements, all experts included."""
        n = 1
        for size in self.shape:
            n *= size
        return n


class ParamCounts(Value):
    """Parameters of the text model. ``active_*`` are per token, in the three conventions in use."""

    total: int
    active: int
    """All weights but the routed experts not chosen; both embeddings included."""
    active_no_input_embedding: int
    active_no_embeddings: int
    routed_experts: int
    by_role: Mapping[str, int]


class LayerWeights(Value):
    """Sums over the tensors of one layer; layers with equal sums form one group.

    ``*_elements`` count matrix weights that multiply activations (2 FLOP each a token).
    """

    block: int
    dense_bytes: int
    expert_bytes: int
    """All routed experts of the layer."""
    dense_elements: int
    expert_elements: int
    bytes_by_qtype: tuple[tuple[str, int], ...] = ()


class ModelGraph(Value):
    """A model with every tensor typed: what memory and cost are computed from."""

    spec: ModelSpec
    quant: str
    origin: Literal["file", "rules"]
    """"file": read from a GGUF or safetensors header; "rules": built from the architecture."""
    tensors: tuple[Tensor, ...]
    layers: tuple[LayerWeights, ...]
    embedding_bytes: int
    """Input embedding and position table; with tied embeddings also read as the head."""
    head_bytes: int
    """Bytes the output head reads a step (the embedding's when tied), final norm included."""
    head_elements: int
    outside_bytes: int
    """Everything outside the layers, each tensor once: embedding, head, norms."""
    weights_bytes: int
    """All tensors of the text model."""
    params: ParamCounts
    expert_bits_per_weight: float | None = None
    other_bits_per_weight: float | None = None
    expert_group: int = 1
    """Columns of an expert's matrix that are quantised together and cannot be shared among GPUs; 1: none."""
    padding_bytes: int = 0
    """Of ``weights_bytes``, what an engine adds at loading; no file has it."""

    @property
    def file_bytes(self) -> int:
        """What the weights take in their file."""
        return self.weights_bytes - self.padding_bytes
