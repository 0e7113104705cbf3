"""What a model's YAML file looks like: the wire structs, unknown keys forbidden.

They follow the domain types of moeplan.domain.model field by field; a key that is left out takes the value
that means "the model has no such part", never a guess. Only what would differ from that is described here.
"""

# ruff: noqa: I002
# No `from __future__ import annotations`: msgspec would compile a hundred annotations at every start (4 ms);
# like this they come from the compiled module.

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

# Upper limits are far above any real model; they keep products of sizes within exact arithmetic.
Dim = Annotated[int, Meta(ge=1, le=10**8)]
OptionalDim = Annotated[int, Meta(ge=0, le=10**8)]
Params = Annotated[int, Meta(ge=0, le=10**15)]
Text = Annotated[str, Meta(min_length=1, max_length=2000)]
Gate = Literal["none", "full", "head"]
PartKind = Literal["mtp", "vision", "audio", "projector", "other"]


def doc(text: str) -> Meta:
    """The description that the JSON Schema shows."""
    return Meta(description=text)


class Wire(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the wire structs."""


class MixerWire(Wire, tag_field="kind"):
    """Base of the mixers: ``kind`` says which."""


class IndexerWire(Wire):
    """See domain.model.Indexer."""

    n_heads: Annotated[Dim, doc("Heads of the scorer.")]
    head_dim: Annotated[Dim, doc("Width of a head.")]
    top_k_tokens: Annotated[Dim, doc("Tokens of the context that attention then reads.")]
    shared: Annotated[
        bool,
        doc("Reuses an earlier layer's selection: no weights and no key cache of its own."),
    ] = False


class GqaWire(MixerWire, tag="gqa"):
    """``kind`` may be left out; ``mha`` and ``mqa`` are accepted and imply ``n_kv_heads``."""

    n_heads: Annotated[Dim, doc("Query heads.")]
    n_kv_heads: Annotated[Dim, doc("Key/value heads: n_heads for MHA, 1 for MQA.")]
    head_dim: Annotated[Dim, doc("Width of a query or key head.")]
    v_head_dim: Annotated[Dim | None, doc("Width of a value head; left out: head_dim.")] = None
    window_tokens: Annotated[Dim | None, doc("Sliding window; left out: full attention.")] = None
    qkv_bias: Annotated[bool, doc("Biases on q, k and v.")] = False
    out_bias: Annotated[bool, doc("Bias on the output projection.")] = False
    fused_qkv: Annotated[bool, doc("The checkpoint stores q, k and v as one matrix.")] = False
    qk_norm: Annotated[
        Literal["none", "head", "heads", "full"],
        doc(
            "Norm of q and k: head_dim weights each (head), per-head ones (heads), one over all heads (full)."
        ),
    ] = "none"
    output_gate: Annotated[
        Gate,
        doc("Gate of the output: a column per element (full) or per head (head)."),
    ] = "none"
    sinks: Annotated[bool, doc("A learned sink per query head.")] = False
    value_is_key: Annotated[bool, doc("V reuses K's projection: no v matrix.")] = False
    shares_kv: Annotated[
        bool,
        doc("Reads an earlier layer's K/V: no k and v matrices, no cache of its own."),
    ] = False
    indexer: Annotated[IndexerWire | None, doc("Sparse attention: what picks the tokens.")] = None


class MlaWire(MixerWire, tag="mla", kw_only=True):
    """See domain.model.MlaAttention; without ``q_lora_rank`` queries come straight from the hidden state."""

    n_heads: Annotated[Dim, doc("Query heads.")]
    q_lora_rank: Annotated[Dim | None, doc("Rank of the query projection; left out: one full matrix.")] = None
    kv_lora_rank: Annotated[Dim, doc("Width of the latent that is cached.")]
    nope_head_dim: Annotated[Dim, doc("Width of the part of a head without rotary position.")]
    rope_head_dim: Annotated[OptionalDim, doc("Width of the part with it, one key for all heads.")]
    v_head_dim: Annotated[Dim, doc("Width of a value head.")]
    qkv_bias: Annotated[bool, doc("Biases on the down projections.")] = False
    output_gate: Annotated[
        Gate,
        doc("Gate of the output: a column per element (full) or per head (head)."),
    ] = "none"
    window_tokens: Annotated[Dim | None, doc("Sliding window; left out: full attention.")] = None
    expanded_cache: Annotated[
        bool,
        doc("K and V of every head are cached instead of the latent (old GGUF files)."),
    ] = False
    indexer: Annotated[IndexerWire | None, doc("Sparse attention: what picks the tokens.")] = None


class Mamba1Wire(MixerWire, tag="mamba1"):
    """See domain.model.Mamba1."""

    inner_dim: Annotated[Dim, doc("Channels.")]
    state_dim: Annotated[Dim, doc("State per channel.")]
    conv_width: Annotated[Dim, doc("Taps of the convolution.")]
    dt_rank: Annotated[Dim, doc("Rank of the step size projection.")]
    conv_bias: Annotated[bool, doc("Bias on the convolution.")] = True
    proj_bias: Annotated[bool, doc("Biases on the projections.")] = False
    inner_norms: Annotated[bool, doc("Norms of dt, B and C (Jamba).")] = False


class Mamba2Wire(MixerWire, tag="mamba2"):
    """See domain.model.Mamba2."""

    n_heads: Annotated[Dim, doc("Heads.")]
    head_dim: Annotated[Dim, doc("Channels of a head.")]
    n_groups: Annotated[Dim, doc("Groups of heads that share B and C.")]
    state_dim: Annotated[Dim, doc("State per channel.")]
    conv_width: Annotated[Dim, doc("Taps of the convolution.")]
    conv_bias: Annotated[bool, doc("Bias on the convolution.")] = True
    proj_bias: Annotated[bool, doc("Biases on the projections.")] = False


class GatedDeltaNetWire(MixerWire, tag="gated-delta-net"):
    """See domain.model.GatedDeltaNet."""

    n_k_heads: Annotated[Dim, doc("Query and key heads.")]
    n_v_heads: Annotated[Dim, doc("Value heads.")]
    k_head_dim: Annotated[Dim, doc("Width of a key head.")]
    v_head_dim: Annotated[Dim, doc("Width of a value head.")]
    conv_width: Annotated[Dim, doc("Taps of the convolution.")]


class KimiDeltaWire(MixerWire, tag="kimi-delta"):
    """See domain.model.KimiDelta."""

    n_heads: Annotated[Dim, doc("Heads.")]
    head_dim: Annotated[Dim, doc("Width of a head.")]
    conv_width: Annotated[Dim, doc("Taps of the convolution.")]
    gate_rank: Annotated[Dim, doc("Rank of the gate projection.")]
    full_rank_gate: Annotated[bool, doc("The output gate is one full matrix.")] = False


class LightningWire(MixerWire, tag="lightning"):
    """See domain.model.Lightning."""

    n_heads: Annotated[Dim, doc("Heads.")]
    head_dim: Annotated[Dim, doc("Width of a head.")]


class ShortConvWire(MixerWire, tag="short-conv"):
    """See domain.model.ShortConv."""

    channels: Annotated[Dim, doc("Channels.")]
    conv_width: Annotated[Dim, doc("Taps of the convolution.")]
    bias: Annotated[bool, doc("Biases on projections and convolution.")] = False


class CompressedWire(MixerWire, tag="compressed"):
    """See domain.model.CompressedAttention."""

    n_heads: Annotated[Dim, doc("Query heads.")]
    head_dim: Annotated[Dim, doc("Width of a head.")]
    q_lora_rank: Annotated[Dim, doc("Rank of the query projection.")]
    rope_head_dim: Annotated[OptionalDim, doc("Width of the rotary part of a head.")]
    n_out_groups: Annotated[Dim, doc("Groups of the output projection.")]
    out_lora_rank: Annotated[Dim, doc("Rank of the output projection.")]
    window_tokens: Annotated[Dim, doc("Raw keys kept beside the compressed ones.")]
    ratio: Annotated[OptionalDim, doc("Tokens per compressed entry; 0: a plain window layer.")]
    indexer: Annotated[IndexerWire | None, doc("What picks the compressed entries.")] = None


AnyMixerWire = (
    GqaWire
    | MlaWire
    | Mamba1Wire
    | Mamba2Wire
    | GatedDeltaNetWire
    | KimiDeltaWire
    | LightningWire
    | ShortConvWire
    | CompressedWire
)


class DenseWire(Wire, tag="dense", tag_field="kind"):
    """See domain.model.DenseFfn; ``kind`` may be left out."""

    intermediate: Annotated[Dim, doc("Inner width.")]
    gated: Annotated[bool, doc("Three matrices (gate, up, down) instead of two.")] = True
    bias: Annotated[bool, doc("Biases on the matrices.")] = False
    fused_gate_up: Annotated[bool, doc("The checkpoint stores gate and up as one matrix.")] = False


class MoeWire(Wire, tag="moe", tag_field="kind"):
    """See domain.model.MoeFfn; ``kind`` may be left out."""

    n_experts: Annotated[Dim, doc("Routed experts.")]
    n_active: Annotated[Dim, doc("Experts chosen for a token.")]
    expert_intermediate: Annotated[Dim, doc("Inner width of one expert.")]
    gated: Annotated[bool, doc("Three matrices (gate, up, down) instead of two.")] = True
    bias: Annotated[bool, doc("Biases on the experts' matrices.")] = False
    fused_gate_up: Annotated[bool, doc("The checkpoint stores gate and up as one matrix.")] = False
    router_bias: Annotated[bool, doc("Bias on the router.")] = False
    router_correction: Annotated[bool, doc("A selection bias per expert (DeepSeek-V3).")] = False
    router_scale: Annotated[
        bool,
        doc("A learned scale of the router's input and of each expert's output (Gemma 4)."),
    ] = False
    n_shared: Annotated[OptionalDim, doc("Experts that every token passes.")] = 0
    shared_intermediate: Annotated[OptionalDim, doc("Inner width of all shared experts together.")] = 0
    shared_gate: Annotated[bool, doc("A learned gate of the shared experts' output.")] = False
    n_zero_experts: Annotated[OptionalDim, doc("Further router outputs that compute nothing (LongCat).")] = 0
    latent_dim: Annotated[
        OptionalDim,
        doc("Width at which experts work when the layer projects down and up around them."),
    ] = 0
    parallel_dense: Annotated[OptionalDim, doc("Inner width of a dense MLP beside the experts.")] = 0
    routing: Annotated[Literal["softmax", "sigmoid"], doc("How router outputs become weights.")] = "softmax"


class BlockWire(Wire):
    """One kind of layer; its name is its key under ``blocks``."""

    mixer: Annotated[AnyMixerWire | None, doc("What the layer does along the sequence.")] = None
    ffn: Annotated[DenseWire | MoeWire | None, doc("Its feed-forward part.")] = None
    n_norms: Annotated[OptionalDim, doc("Norms of hidden width.")] = 2
    cross_attention: Annotated[GqaWire | None, doc("Attention to the encoder's output.")] = None
    encoder: Annotated[
        bool,
        doc("A layer of the encoder: runs once over the prompt, keeps no cache."),
    ] = False
    extra_params: Annotated[Params, doc("Weights that no other key describes.")] = 0
    extra_note: Annotated[str, doc("What they are.")] = ""


class PartWire(Wire):
    """See domain.model.Part."""

    kind: Annotated[PartKind, doc("What it is.")]
    params: Annotated[Params, doc("Its parameters.")]
    note: Annotated[str, doc("Remarks.")] = ""


class PublishedWire(Wire):
    """See domain.model.Published."""

    params_total: Annotated[
        Annotated[float, Meta(gt=0, le=1e18)] | None,
        doc("Total parameters as the vendor states them."),
    ] = None
    params_active: Annotated[
        Annotated[float, Meta(gt=0, le=1e18)] | None,
        doc("Parameters per token as the vendor states them."),
    ] = None
    note: Annotated[str, doc("Why the computed counts differ by more than rounding.")] = ""


class StoredWire(Wire):
    """See domain.model.Stored."""

    params: Annotated[
        Params, doc("Parameters in the repository's safetensors files, as the hub counts them.")
    ]
    repository: Annotated[str, doc("Where it was counted; left out: the first of hf_ids.")] = ""
    parts: Annotated[
        list[PartKind],
        doc("Which kinds of parts the count holds beside the text model."),
    ] = []
    extra_params: Annotated[
        Annotated[int, Meta(ge=-(10**15), le=10**15)],
        doc("What else it holds; negative: what it leaves out."),
    ] = 0
    extra_note: Annotated[str, doc("What that is.")] = ""


class SourceWire(Wire):
    """See provenance.Source."""

    kind: Annotated[
        Literal["measured", "fitted", "datasheet", "paper", "derived", "assumed"],
        doc("What kind of knowledge."),
    ]
    ref: Annotated[Text, doc("Where it stands.")]
    retrieved: Annotated[str, doc("When it was read, YYYY-MM-DD.")] = ""
    note: Annotated[str, doc("Remarks.")] = ""


class ModelWire(Wire, kw_only=True):
    """The whole file."""

    id: Annotated[Text, doc("Name of the file without .yaml.")]
    name: Annotated[str, doc("Title; left out: the id.")] = ""
    family: Annotated[str, doc("Family, e.g. Mixtral.")] = ""
    architecture: Annotated[
        Text,
        doc("Hugging Face model_type: decides how engines name and store the tensors."),
    ]
    hf_ids: Annotated[list[Text], doc("Hugging Face repositories with this architecture.")] = []
    aliases: Annotated[list[Text], doc("Other names it is found by.")] = []
    released: Annotated[str, doc("YYYY, YYYY-MM or YYYY-MM-DD.")] = ""
    license: Annotated[str, doc("Licence id.")] = ""
    hidden_size: Annotated[Dim, doc("Width of the residual stream.")]
    vocab_size: Annotated[Dim, doc("Rows of the embedding.")]
    context_tokens: Annotated[Dim, doc("Longest context.")]
    tied_embeddings: Annotated[bool, doc("The output head is the embedding.")] = False
    norm_bias: Annotated[bool, doc("Norms have a bias.")] = False
    final_norm: Annotated[bool, doc("There is a norm before the head.")] = True
    embedding_norms: Annotated[
        OptionalDim,
        doc("Norms of hidden width outside the layers, the final one not counted."),
    ] = 0
    n_position_embeddings: Annotated[OptionalDim, doc("Rows of a learned position table.")] = 0
    head_bias: Annotated[bool, doc("Bias on the output head.")] = False
    native_quant: Annotated[Text, doc("Type of the published weights, an id of quants.yaml.")] = "bf16"
    blocks: Annotated[
        Annotated[dict[str, BlockWire], Meta(min_length=1, max_length=1000)],
        doc("The kinds of layer, by name."),
    ]
    layout: Annotated[Text, doc("Their order: 3x dense, 58x moe; groups: 8x (5x local, global).")]
    extra_params: Annotated[Params, doc("Weights outside the layers that no other key describes.")] = 0
    extra_note: Annotated[str, doc("What they are.")] = ""
    parts: Annotated[
        list[PartWire],
        doc("What ships with the model but is not needed to generate text."),
    ] = []
    published: Annotated[
        PublishedWire,
        doc("The vendor's counts, to show the difference; never used to compute."),
    ] = msgspec.field(default_factory=PublishedWire)
    stored: Annotated[
        StoredWire | None,
        doc("The hub's count of the repository, to show the difference; never used to compute."),
    ] = None
    weak: Annotated[str, doc("Why this entry is less certain than others.")] = ""
    notes: Annotated[list[str], doc("Remarks.")] = []
    sources: Annotated[list[SourceWire], doc("Where the numbers come from.")] = []


def model_schema() -> dict[str, object]:
    """JSON Schema (draft 2020-12) of a model file; it asks for every ``kind``, the reader does not."""
    return msgspec.json.schema(ModelWire)
