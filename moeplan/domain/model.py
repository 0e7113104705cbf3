"""What a model is: kinds of layer (blocks), their order (layout), and everything around them.

Dimensions are element counts; ``*_tokens`` are tokens. A field that is False, None or 0 means that the
part is absent from the model, never "use the default": defaults are resolved by the readers.
"""

from __future__ import annotations

from typing import Literal

from moeplan.domain.value import Value
from moeplan.provenance import Source

# ── mixers: what a layer does along the sequence ────────────────────────────────────────────────


class Indexer(Value):
    """DeepSeek sparse attention: a small scorer that picks ``top_k_tokens`` of the context."""

    n_heads: int
    head_dim: int
    top_k_tokens: int
    shared: bool = False
    """The layer reuses an earlier layer's selection: no weights and no key cache of its own (GLM-5.2)."""


class GqaAttention(Value, tag="gqa", tag_field="kind"):
    """Softmax attention with ``n_kv_heads`` shared K/V heads (MHA: all heads, MQA: one)."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    v_head_dim: int
    window_tokens: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    fused_qkv: bool = False
    qk_norm: Literal["none", "head", "heads", "full"] = "none"
    """Norm of q and k: "head" head_dim weights each, "heads" n x head_dim for q and for k apart
    (per-head weights), "full" one norm over all heads' elements."""
    output_gate: Literal["none", "full", "head"] = "none"
    """Gate of the attention output: "full" n_heads x head_dim columns, "head" one column a head."""
    sinks: bool = False
    value_is_key: bool = False
    """V reuses K's projection (no v matrix)."""
    shares_kv: bool = False
    """The layer reads an earlier layer's K/V: no k and v matrices and no cache of its own."""
    indexer: Indexer | None = None


class MlaAttention(Value, tag="mla", tag_field="kind"):
    """Multi-head latent attention: K and V are expanded from a latent of ``kv_lora_rank``."""

    n_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    nope_head_dim: int
    rope_head_dim: int
    v_head_dim: int
    qkv_bias: bool = False
    output_gate: Literal["none", "full", "head"] = "none"
    window_tokens: int | None = None
    expanded_cache: bool = False
    """llama.cpp caches K and V of every head instead of the latent: GGUF files made before April 2025."""
    indexer: Indexer | None = None


class Mamba1(Value, tag="mamba1", tag_field="kind"):
    """Selective state space layer of Mamba and Jamba."""

    inner_dim: int
    state_dim: int
    conv_width: int
    dt_rank: int
    conv_bias: bool = True
    proj_bias: bool = False
    inner_norms: bool = False
    """Jamba's norms of dt, B and C."""


class Mamba2(Value, tag="mamba2", tag_field="kind"):
    """Mamba-2 (SSD) layer: ``n_heads`` x ``head_dim`` inner channels, ``n_groups`` B/C groups."""

    n_heads: int
    head_dim: int
    n_groups: int
    state_dim: int
    conv_width: int
    conv_bias: bool = True
    proj_bias: bool = False


class GatedDeltaNet(Value, tag="gated-delta-net", tag_field="kind"):
    """Gated DeltaNet linear attention of Qwen3-Next and Qwen3.5."""

    n_k_heads: int
    n_v_heads: int
    k_head_dim: int
    v_head_dim: int
    conv_width: int


class KimiDelta(Value, tag="kimi-delta", tag_field="kind"):
    """Kimi delta attention (KDA): delta rule with a channel-wise gate from a low-rank projection."""

    n_heads: int
    head_dim: int
    conv_width: int
    gate_rank: int
    full_rank_gate: bool = False


class Lightning(Value, tag="lightning", tag_field="kind"):
    """Lightning (linear) attention of MiniMax-Text-01."""

    n_heads: int
    head_dim: int


class ShortConv(Value, tag="short-conv", tag_field="kind"):
    """Gated short convolution of LFM2 over ``channels`` channels (there the hidden size)."""

    channels: int
    conv_width: int
    bias: bool = False


class CompressedAttention(Value, tag="compressed", tag_field="kind"):
    """DeepSeek-V4 attention: a window of raw keys beside a cache compressed ``ratio`` to one.

    One K/V head, whose key is also its value, and a sink per query head. With an ``indexer`` adjacent
    compression windows overlap and the indexer keeps a compressed key of its own.
    """

    n_heads: int
    head_dim: int
    q_lora_rank: int
    rope_head_dim: int
    n_out_groups: int
    out_lora_rank: int
    window_tokens: int
    ratio: int
    """Tokens per compressed entry; 0: a plain window layer."""
    indexer: Indexer | None = None


Mixer = (
    GqaAttention
    | MlaAttention
    | Mamba1
    | Mamba2
    | GatedDeltaNet
    | KimiDelta
    | Lightning
    | ShortConv
    | CompressedAttention
)

# ── feed-forward parts ──────────────────────────────────────────────────────────────────────────


class DenseFfn(Value, tag="dense", tag_field="kind"):
    """One MLP; ``gated`` has three matrices (gate, up, down), else two."""

    intermediate: int
    gated: bool = True
    bias: bool = False
    fused_gate_up: bool = False


class MoeFfn(Value, tag="moe", tag_field="kind"):
    """Routed experts beside optional shared ones and an optional dense MLP in parallel."""

    n_experts: int
    n_active: int
    """Experts that compute for a token, of ``n_experts``. Where the router may pick zero experts it is
    their average number: 8 of 512 in LongCat, whose router picks 12 of 768 outputs."""
    expert_intermediate: int
    gated: bool = True
    bias: bool = False
    fused_gate_up: bool = False
    """The checkpoint stores gate and up of an expert as one matrix (matters for LoRA)."""
    router_bias: bool = False
    router_correction: bool = False
    """A per-expert selection bias (DeepSeek-V3's e_score_correction)."""
    router_scale: bool = False
    """A learned scale of the router's input and one of each expert's output (Gemma 4)."""
    n_shared: int = 0
    shared_intermediate: int = 0
    """Width of all shared experts together."""
    shared_gate: bool = False
    n_zero_experts: int = 0
    """Extra router outputs that compute nothing (LongCat)."""
    latent_dim: int = 0
    """Width at which experts work when the layer projects down and up around them (Nemotron-3)."""
    parallel_dense: int = 0
    """Intermediate size of a dense MLP that runs beside the experts (Arctic), else 0."""
    routing: Literal["softmax", "sigmoid"] = "softmax"


Ffn = DenseFfn | MoeFfn


class Block(Value):
    """One kind of layer. ``n_norms`` counts norms of hidden width; either part may be absent."""

    name: str
    mixer: Mixer | None
    ffn: Ffn | None
    n_norms: int = 2
    cross_attention: GqaAttention | None = None
    """Attention of a decoder layer to the encoder's output; its norm is counted in ``n_norms``."""
    encoder: bool = False
    """A layer of the encoder: runs once over the prompt, sees all of it, keeps no cache."""
    extra_params: int = 0
    """Weights of this layer that no field above describes; ``extra_note`` says which."""
    extra_note: str = ""


class Part(Value):
    """Something shipped with the model that text generation does not need: counted apart."""

    kind: Literal["mtp", "vision", "audio", "projector", "other"]
    params: int
    note: str = ""


class Published(Value):
    """What the vendor says, in parameters; kept to show the difference, never used to compute."""

    params_total: float | None = None
    params_active: float | None = None
    note: str = ""
    """Why the computed counts differ from these by more than their rounding."""


class Stored(Value):
    """Parameters in a repository's safetensors files, as the Hugging Face hub counts them: the text
    model, those of ``ModelSpec.parts`` whose kind is in ``parts``, ``extra_params``, and what is
    unexplained. Never used to compute."""

    params: int
    repository: str = ""
    """Where it was counted; empty: the first of ``hf_ids``."""
    parts: tuple[str, ...] = ()
    extra_params: int = 0
    """Copies of tied weights, scales, buffers; negative where the hub leaves weights out."""
    extra_note: str = ""


class ModelSpec(Value):
    """A model. ``layout[i]`` is the index into ``blocks`` of layer ``i``, in execution order."""

    id: str
    name: str
    architecture: str
    """Hugging Face ``model_type``, which decides how engines name and store the tensors."""
    hidden_size: int
    vocab_size: int
    context_tokens: int
    blocks: tuple[Block, ...]
    layout: tuple[int, ...]
    tied_embeddings: bool = False
    norm_bias: bool = False
    final_norm: bool = True
    embedding_norms: int = 0
    """Norms of hidden width outside the layers, the final norm not counted."""
    n_position_embeddings: int = 0
    """Rows of a learned position table, else 0."""
    head_bias: bool = False
    extra_params: int = 0
    extra_note: str = ""
    native_quant: str = "bf16"
    """Type of the published weights, an id of configs/quants.yaml."""
    family: str = ""
    hf_ids: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    """Other names people use for it or for models of identical shape."""
    released: str = ""
    license: str = ""
    parts: tuple[Part, ...] = ()
    published: Published = Published()
    stored: Stored | None = None
    weak: str = ""
    """Why this entry is less certain than the others; empty when it is verified."""
    notes: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layout)

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return any(isinstance(self.blocks[i].ffn, MoeFfn) for i in set(self.layout))

    @property
    def has_encoder(self) -> bool:
        """Whether the prompt is read by an encoder, whose output the decoder attends to."""
        return any(block.encoder for block in self.blocks)

    def layer_blocks(self) -> tuple[Block, ...]:
        """The block of every layer, in order."""
        return tuple(self.blocks[i] for i in self.layout)
