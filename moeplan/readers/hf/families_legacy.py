"""Older and singular families: Arctic, DBRX, Grok, Switch Transformer, BLOOM, Falcon, GPT-2.

Layer definitions follow transformers' modeling file of each model_type; Arctic and Grok, which it has
not, the modeling code of their Hugging Face repositories (Snowflake/snowflake-arctic-base) and
llama.cpp's src/models/grok.cpp.
"""

from __future__ import annotations

from moeplan.domain.model import Block, DenseFfn, GqaAttention, MoeFfn
from moeplan.errors import NotModelled
from moeplan.readers.hf.common import dense, gqa, model, moe
from moeplan.readers.hf.shape import ModelShape, stack
from moeplan.readers.hf.view import ConfigView


def arctic(cfg: ConfigView) -> ModelShape:
    """Snowflake Arctic: experts beside a dense residual MLP as wide as the hidden size, with its own norm."""
    width = cfg.int("intermediate_size")
    residual = cfg.bool("parallel_attn_mlp_res", default=False)
    every = cfg.int("moe_layer_frequency", default=2)
    experts = moe(cfg, width=width, parallel_dense=cfg.int("hidden_size") if residual else 0)
    attention = gqa(cfg)
    sparse = Block(name="moe", mixer=attention, ffn=experts, n_norms=3 if residual else 2)
    plain = Block(name="dense", mixer=attention, ffn=dense(cfg))
    return model(cfg, [plain if (i + 1) % every else sparse for i in range(cfg.layers())])


def dbrx(cfg: ConfigView) -> ModelShape:
    """DBRX: fused q, k, v and norms without bias; all layers MoE."""
    attn = cfg.sub("attn_config") or ConfigView({}, cfg.where)
    ffn = cfg.sub("ffn_config") or ConfigView({}, cfg.where)
    attention = _mha(cfg, "d_model", cfg.int("n_heads"), bias=False, n_kv_heads=attn.int("kv_n_heads"))
    experts = MoeFfn(
        n_experts=ffn.int("moe_num_experts"),
        n_active=ffn.int("moe_top_k"),
        expert_intermediate=ffn.int("ffn_hidden_size"),
    )
    cfg.missing += [f"attn_config.{key}" for key in attn.missing]
    cfg.missing += [f"ffn_config.{key}" for key in ffn.missing]
    return ModelShape(
        blocks=(Block(name="moe", mixer=attention, ffn=experts),),
        layout=(0,) * cfg.layers("n_layers"),
        hidden_size=cfg.int("d_model"),
        vocab_size=cfg.int("vocab_size"),
        context_tokens=cfg.tokens("max_seq_len"),
        tied_embeddings=cfg.bool("tie_word_embeddings", default=False),
    )


def grok1(cfg: ConfigView) -> ModelShape:
    """Grok-1: four norms a layer, gated GELU experts, tied embeddings."""
    return _grok(cfg, parallel_dense=0, tied=True)


def grok2(cfg: ConfigView) -> ModelShape:
    """Grok-2: as Grok-1, with a dense MLP beside the experts (residual_moe).

    xai-org/grok-2 calls itself ``git``, which is also the type of an image captioning model: its
    architectures tell.
    """
    architectures = cfg.list("architectures", default=[], of=str)
    if cfg.model_type == "git" and "Grok1ForCausalLM" not in architectures:
        raise NotModelled(f"model type 'git' other than Grok-2 ({cfg.where})")
    parallel = cfg.int("intermediate_size") if cfg.bool("residual_moe", default=False) else 0
    return _grok(cfg, parallel_dense=parallel, tied=False)


def _grok(cfg: ConfigView, *, parallel_dense: int, tied: bool) -> ModelShape:
    width = cfg.int("moe_intermediate_size", "intermediate_size")
    experts = moe(cfg, width=width, parallel_dense=parallel_dense)
    layer = Block(name="moe", mixer=gqa(cfg), ffn=experts, n_norms=4)
    return model(cfg, [layer] * cfg.layers(), tied=tied)


def switch_transformers(cfg: ConfigView) -> ModelShape:
    """Switch Transformer: a T5 encoder and decoder, every k-th layer of each with experts.

    Encoder layers come first in the layout. The final norm is the decoder's; the encoder's is counted
    as an embedding norm. The first layer of each stack holds a table of relative position biases.
    """
    n_heads, d_kv = cfg.int("num_heads"), cfg.int("d_kv")
    attention = GqaAttention(n_heads=n_heads, n_kv_heads=n_heads, head_dim=d_kv, v_head_dim=d_kv)
    gated, width = cfg.bool("is_gated_act", default=False), cfg.int("d_ff")
    plain = DenseFfn(intermediate=width, gated=gated)
    experts = MoeFfn(
        n_experts=cfg.int("num_experts"),
        n_active=cfg.int("num_experts_per_tok", default=1),
        expert_intermediate=width,
        gated=gated,
        router_bias=cfg.bool("router_bias", default=False),
    )
    n_encoder = cfg.layers("num_layers")
    n_decoder = cfg.layers("num_decoder_layers") if cfg.has("num_decoder_layers") else n_encoder
    encoder_sparse = _switch_sparse(cfg, "num_sparse_encoder_layers", n_encoder)
    decoder_sparse = _switch_sparse(cfg, "num_sparse_decoder_layers", n_decoder)
    layers = [
        Block(name="encoder", mixer=attention, ffn=experts if sparse else plain, encoder=True)
        for sparse in encoder_sparse
    ] + [
        Block(
            name="decoder",
            mixer=attention,
            ffn=experts if sparse else plain,
            n_norms=3,
            cross_attention=attention,
        )
        for sparse in decoder_sparse
    ]
    blocks, layout = stack(layers)
    weak = "gated experts follow the paper (arXiv:2101.03961, table 9), transformers' class has none"
    return ModelShape(
        blocks=blocks,
        layout=layout,
        hidden_size=cfg.int("d_model"),
        vocab_size=cfg.int("vocab_size"),
        context_tokens=cfg.tokens("n_positions", default=512),
        tied_embeddings=cfg.bool("tie_word_embeddings", default=True),
        embedding_norms=1,
        extra_params=2 * cfg.int("relative_attention_num_buckets", default=32) * n_heads,
        extra_note="relative position biases of the first encoder and decoder layer",
        weak=weak if gated else "",
    )


def _switch_sparse(cfg: ConfigView, key: str, n_layers: int) -> list[bool]:
    """transformers SwitchTransformersStack: with a step of k, layers 1, k + 1, 2 k + 1 ... have experts."""
    n_sparse = cfg.count(key, default=3)
    if n_sparse > n_layers:
        raise cfg.error(key, f"must be at most {n_layers}, got {n_sparse}")
    if n_sparse == 0:
        return [False] * n_layers
    step = n_layers // n_sparse
    return [step == 1 or i % step == 1 for i in range(n_layers)]


def bloom(cfg: ConfigView) -> ModelShape:
    """BLOOM: ALiBi, biases everywhere, a norm after the embedding, an MLP of four times the width."""
    hidden = cfg.int("hidden_size", "n_embed")
    attention = _mha(cfg, "hidden_size", cfg.int("n_head", "num_attention_heads"), bias=True, width=hidden)
    ffn = DenseFfn(intermediate=4 * hidden, gated=False, bias=True)
    return ModelShape(
        blocks=(Block(name="dense", mixer=attention, ffn=ffn),),
        layout=(0,) * cfg.layers("n_layer", "num_hidden_layers"),
        hidden_size=hidden,
        vocab_size=cfg.int("vocab_size"),
        context_tokens=cfg.tokens("seq_length", "max_position_embeddings", default=2048),
        tied_embeddings=cfg.bool("tie_word_embeddings", default=True),
        norm_bias=True,
        embedding_norms=1,
    )


def gpt2(cfg: ConfigView) -> ModelShape:
    """GPT-2 and GPT-3: learned positions, biases everywhere."""
    hidden = cfg.int("n_embd", "hidden_size")
    attention = _mha(cfg, "n_embd", cfg.int("n_head", "num_attention_heads"), bias=True, width=hidden)
    ffn = DenseFfn(intermediate=cfg.int("n_inner", default=4 * hidden), gated=False, bias=True)
    positions = cfg.int("n_positions", "max_position_embeddings")
    return ModelShape(
        blocks=(Block(name="dense", mixer=attention, ffn=ffn),),
        layout=(0,) * cfg.layers("n_layer", "num_hidden_layers"),
        hidden_size=hidden,
        vocab_size=cfg.int("vocab_size"),
        context_tokens=positions,
        tied_embeddings=cfg.bool("tie_word_embeddings", default=True),
        norm_bias=True,
        n_position_embeddings=positions,
    )


def falcon(cfg: ConfigView) -> ModelShape:
    """Falcon: attention and MLP in parallel behind one norm (7B) or two (new_decoder_architecture)."""
    hidden = cfg.int("hidden_size", "n_embed")
    n_heads = cfg.int("num_attention_heads", "n_head")
    new = cfg.bool("new_decoder_architecture", default=False)
    if new:
        n_kv_heads = cfg.int("num_kv_heads", "n_head_kv", default=n_heads)
    else:
        n_kv_heads = 1 if cfg.bool("multi_query", default=True) else n_heads
    bias = cfg.bool("bias", default=False)
    attention = _mha(cfg, "hidden_size", n_heads, bias=bias, n_kv_heads=n_kv_heads, width=hidden)
    width = cfg.int("ffn_hidden_size", default=4 * hidden)
    n_norms = 2
    if cfg.bool("parallel_attn", default=True):
        n_norms = cfg.int("num_ln_in_parallel_attn", default=2 if new else 1)
    ffn = DenseFfn(intermediate=width, gated=False, bias=bias)
    return ModelShape(
        blocks=(Block(name="dense", mixer=attention, ffn=ffn, n_norms=n_norms),),
        layout=(0,) * cfg.layers("num_hidden_layers", "n_layer"),
        hidden_size=hidden,
        vocab_size=cfg.int("vocab_size"),
        context_tokens=cfg.tokens("max_position_embeddings", default=2048),
        tied_embeddings=cfg.bool("tie_word_embeddings", default=True),
        norm_bias=True,
    )


def _mha(
    cfg: ConfigView,
    width_key: str,
    n_heads: int,
    *,
    bias: bool,
    n_kv_heads: int | None = None,
    width: int | None = None,
) -> GqaAttention:
    """Attention with one q, k, v matrix whose heads share the model's width evenly."""
    width = cfg.int(width_key) if width is None else width
    if width % n_heads and not cfg.missing:
        raise cfg.error(width_key, f"must be a multiple of the number of heads ({n_heads}), got {width}")
    head_dim = max(width // n_heads, 1)
    return GqaAttention(
        n_heads=n_heads,
        n_kv_heads=n_heads if n_kv_heads is None else n_kv_heads,
        head_dim=head_dim,
        v_head_dim=head_dim,
        qkv_bias=bias,
        out_bias=bias,
        fused_qkv=True,
    )
