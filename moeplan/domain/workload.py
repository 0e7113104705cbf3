"""What is asked of the model and of the engine, and where the weights are put."""

from __future__ import annotations

from typing import Literal

from moeplan.domain.value import Value

PlacementKind = Literal[
    "gpu", "unified", "cpu", "layers", "experts", "mixed", "stream", "disk",
    "tensor-parallel", "layer-split",
]  # fmt: skip

MAX_COUNT = 10**9
"""No option that counts something takes more; beyond lie typing errors."""


class Workload(Value):
    """One kind of use. ``context_tokens`` is what the KV cache is sized for, per sequence;
    ``prompt_tokens`` and ``output_tokens`` set what is computed; ``n_sequences`` decode together."""

    context_tokens: int
    prompt_tokens: int
    output_tokens: int
    n_sequences: int
    kv_type_k: str
    kv_type_v: str
    engine: str
    """As an answer names it, with its backend where one was asked for: llama.cpp (Vulkan)."""
    ubatch_tokens: int
    batch_tokens: int
    flash_attention: bool
    threads: int | None = None
    depth_tokens: int = 0
    """Tokens already in the cache before the prompt."""
    engine_date: str = ""
    """When the engine was built, as YYYY or YYYY-MM; empty for a current build. Of a bare year only what came
    before it counts (engines/builds.py)."""
    output_rows: int | None = None
    """Rows of a micro-batch whose logits are reserved; None: all of them. llama-server reserves one a
    sequence, other programs one a token."""
    kv_unified: bool = False
    """All sequences share one pool of cells (llama.cpp); windows then grow with their number."""
    n_slots: int = 0
    """Sequences that a server lays its cache out for, where they are more than ``n_sequences``: each has a
    recurrent state and a row of logits of its own, and its window in a unified cache."""
    swa_full: bool = False
    """Window layers cache the whole context all the same."""
    repack: bool = True
    """The CPU may keep a second, rearranged copy of 4-bit matrices."""
    kv_offload: bool = True
    """The cache of layers on a GPU is there too, not in RAM."""

    @property
    def n_reserved(self) -> int:
        """Sequences that memory is kept for."""
        return max(self.n_sequences, self.n_slots)

    @property
    def n_streams(self) -> int:
        """Caches that lie apart: one a sequence, or one for all."""
        return 1 if self.kv_unified else self.n_reserved


class Placement(Value):
    """Where everything lives. A tier is ``gpu0`` ..., ``ram`` or ``disk``.

    ``dense_tiers[i]`` holds all of layer i but its routed experts, with its KV cache;
    ``expert_tiers[i]`` holds the routed experts (equal to the dense tier in a dense layer).
    ``streamed`` weights live in the host tier but are computed on the GPU.
    """

    kind: PlacementKind
    dense_tiers: tuple[str, ...]
    expert_tiers: tuple[str, ...]
    embedding_tier: str
    head_tier: str
    gpu_layers: int = 0
    """As llama.cpp counts: layers on GPUs, the output layer as one more."""
    cpu_moe: int = 0
    """Layers whose routed experts are in RAM while the rest of the layer is on a GPU."""
    tensor_parallel: int = 1
    expert_parallel: int = 1
    """GPUs of the tensor-parallel group that share the routed experts as whole ones; 1: a slice of each."""
    streamed: bool = False
    reason: str = ""
