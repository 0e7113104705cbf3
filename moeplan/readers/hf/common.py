"""What most families share: attention, experts, windows, which layers are sparse, MTP layers.

Defaults that a caller passes are those of the family's configuration class in transformers, which
leaves such keys out of the file (nested text configs) or never had them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from moeplan.domain.model import Block, DenseFfn, Ffn, GqaAttention, MlaAttention, MoeFfn, Part
from moeplan.readers.hf.closed_form import block_params
from moeplan.readers.hf.shape import ModelShape, stack
from moeplan.readers.hf.view import ConfigView

EXPERTS: Final = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
CHOSEN: Final = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_k", "moe_topk")
SHARED: Final = ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")


def gqa(
    cfg: ConfigView,
    *,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    **fields: Any,
) -> GqaAttention:
    """The attention that ``cfg`` describes; ``heads``, ``kv_heads`` and ``head_dim`` are defaults.

    Without them num_attention_heads is required, there are as many K/V heads as heads, and head_dim is
    hidden_size / num_attention_heads.
    """
    key = "num_attention_heads"
    n_heads = cfg.int(key) if heads is None else cfg.int(key, default=heads)
    dim = cfg.int("head_dim", "attention_head_dim", default=head_dim)
    if dim is None:
        hidden = cfg.int("hidden_size")
        problem = f"must be a multiple of num_attention_heads ({n_heads})"
        cfg.require(hidden % n_heads == 0, "hidden_size", problem)
        dim = hidden // n_heads
    n_kv = cfg.int("num_key_value_heads", default=kv_heads or n_heads)
    problem = f"must divide num_attention_heads ({n_heads}), got {n_kv}"
    cfg.require(n_heads % n_kv == 0, "num_key_value_heads", problem)
    return GqaAttention(n_heads=n_heads, n_kv_heads=n_kv, head_dim=dim, v_head_dim=dim, **fields)


def moe(
    cfg: ConfigView,
    *,
    width: int | None = None,
    shared_width: int | None = None,
    n_shared: int = 0,
    routing: str = "softmax",
    **fields: Any,
) -> MoeFfn:
    """The experts that ``cfg`` describes.

    ``width`` of one expert defaults to moe_intermediate_size; ``n_shared`` is the default number of
    shared experts, ``shared_width`` that of all of them together (else n_shared x width).
    """
    n_experts = cfg.int(*EXPERTS)
    n_active = cfg.int(*CHOSEN)
    problem = f"must be at most the number of experts ({n_experts}), got {n_active}"
    cfg.require(n_active <= n_experts, CHOSEN[0], problem)
    inner = cfg.int("moe_intermediate_size") if width is None else width
    shared = cfg.count(*SHARED, default=n_shared) if shared_width is None else n_shared
    return MoeFfn(
        n_experts=n_experts,
        n_active=n_active,
        expert_intermediate=inner,
        n_shared=shared,
        shared_intermediate=shared * inner if shared_width is None else shared_width,
        routing="sigmoid" if cfg.str("scoring_func", default=routing) == "sigmoid" else "softmax",
        **fields,
    )


def dense(cfg: ConfigView, **fields: Any) -> DenseFfn:
    """A dense MLP of width intermediate_size."""
    return DenseFfn(intermediate=cfg.int("intermediate_size"), **fields)


def layer(mixer: GqaAttention | MlaAttention, ffn: Ffn, **fields: Any) -> Block:
    """One layer, named for its parts."""
    parts = ["moe" if isinstance(ffn, MoeFfn) else "dense"]
    if mixer.window_tokens:
        parts.append("window")
    if isinstance(mixer, GqaAttention) and mixer.shares_kv:
        parts.append("shared-kv")
    if mixer.indexer is not None:
        parts.append("shared-index" if mixer.indexer.shared else "index")
    return Block(name="-".join(parts), mixer=mixer, ffn=ffn, **fields)


def model(
    cfg: ConfigView,
    layers: Sequence[Block],
    *,
    tied: bool = False,
    vocab: int | None = None,
    context: int | None = None,
    **fields: Any,
) -> ModelShape:
    """The shape made of ``layers``; ``tied``, ``vocab`` and ``context`` are defaults."""
    blocks, layout = stack(layers)
    return ModelShape(
        blocks=blocks,
        layout=layout,
        hidden_size=cfg.int("hidden_size"),
        vocab_size=cfg.int("vocab_size") if vocab is None else cfg.int("vocab_size", default=vocab),
        context_tokens=context_tokens(cfg, context),
        tied_embeddings=cfg.bool("tie_word_embeddings", default=tied),
        **fields,
    )


def context_tokens(cfg: ConfigView, default: int | None = None) -> int:
    """Tokens that the model was made for."""
    key = "max_position_embeddings"
    return cfg.tokens(key) if default is None else cfg.tokens(key, default=default)


def windowed(
    cfg: ConfigView,
    mixer: GqaAttention,
    is_local: Callable[[int], bool],
    *,
    window: int | None = None,
    key: str = "sliding_window",
    context: int | None = None,
) -> list[GqaAttention]:
    """``mixer`` for every layer, with its window where the layer is local.

    ``layer_types`` decides where it is present, else ``is_local(layer)``. A window that is not below
    the model's context changes nothing and is left out.
    """
    n_layers = cfg.layers()
    size = cfg.tokens(key, default=window)
    if size is None or size >= context_tokens(cfg, context):
        return [mixer] * n_layers
    local = replace(mixer, window_tokens=size)
    types = cfg.list("layer_types", default=None, of=str, length=n_layers)
    if types is None:
        return [local if is_local(i) else mixer for i in range(n_layers)]
    for kind in types:
        if kind not in ("full_attention", "sliding_attention", "chunked_attention"):
            raise cfg.error("layer_types", f"has a kind of layer that this family lacks: {kind!r}")
    return [mixer if kind == "full_attention" else local for kind in types]


def late_windows(cfg: ConfigView, mixer: GqaAttention, first_layer: int) -> list[GqaAttention]:
    """``mixer`` for every layer; with a window from max_window_layers (default ``first_layer``) on, where
    use_sliding_window is set (Qwen2 and its relatives)."""
    if not cfg.bool("use_sliding_window", default=False):
        return [mixer] * cfg.layers()
    first = cfg.count("max_window_layers", default=first_layer)
    return windowed(cfg, mixer, lambda i: i >= first)


def sparse_layers(cfg: ConfigView, first_dense: int | None = None) -> list[bool]:
    """For every layer, whether its FFN is a mixture of experts.

    From mlp_layer_types, or from first_k_dense_replace (default ``first_dense``; required without one)
    and moe_layer_freq, a period or a list of 0 and 1.
    """
    n_layers = cfg.layers()
    kinds = cfg.list("mlp_layer_types", default=None, of=str, length=n_layers)
    if kinds is not None:
        return [kind == "sparse" for kind in kinds]
    if isinstance(cfg.get("moe_layer_freq"), list):
        return [bool(flag) for flag in cfg.list("moe_layer_freq", of=int, length=n_layers)]
    key = "first_k_dense_replace"
    first = cfg.count(key) if first_dense is None else cfg.count(key, default=first_dense)
    period = cfg.int("moe_layer_freq", default=1)
    return [i >= first and i % period == 0 for i in range(n_layers)]


def stacked_layers(
    cfg: ConfigView,
    mixers: Sequence[GqaAttention | MlaAttention],
    experts: MoeFfn,
    is_sparse: Sequence[bool],
    **fields: Any,
) -> list[Block]:
    """One block a layer: ``experts`` where it is sparse, else a dense MLP of intermediate_size."""
    plain = experts if all(is_sparse) else dense(cfg)
    pairs = zip(mixers, is_sparse, strict=True)
    return [layer(mixer, experts if sparse else plain, **fields) for mixer, sparse in pairs]


def mtp_parts(cfg: ConfigView, block: Block) -> tuple[Part, ...]:
    """The multi-token-prediction layers: each one ``block``, a projection of two hidden states to one,
    and three norms. They share embedding and head with the model (DeepSeek-V3 report, section 2.2).
    """
    n_layers = cfg.count("num_nextn_predict_layers", default=0)
    if n_layers == 0:
        return ()
    hidden = cfg.int("hidden_size")
    params = n_layers * (block_params(block, hidden) + 2 * hidden * hidden + 3 * hidden)
    return (Part(kind="mtp", params=params, note=f"{n_layers} multi-token-prediction layer(s)"),)
