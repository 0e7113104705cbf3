"""The inventory: every weight tensor of a model's text part, untyped, in llama.cpp's names.

``build_tensors`` makes it from a ModelSpec, ``param_counts`` counts it, and ``summarise`` turns typed
tensors into a ModelGraph with its sums by layer.
"""

from __future__ import annotations

from moeplan.domain.graph import Role, Tensor
from moeplan.domain.model import Block, GqaAttention, MlaAttention, ModelSpec, MoeFfn
from moeplan.graph.attention import gqa_tensors, mla_tensors, weight
from moeplan.graph.counts import param_counts, summarise
from moeplan.graph.ffn import dense_tensors, moe_tensors

__all__ = ["block_tensors", "build_tensors", "param_counts", "summarise"]

# Norms of hidden width in the order in which a block has them: one or two before the parts, then
# those behind them (Gemma, GLM-4), then those around the experts beside a dense MLP (Gemma 4).
_NORMS = (
    "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm",
    "pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2",
)  # fmt: skip

# Where llama.cpp calls them otherwise: norms behind the parts alone (OLMo), or the second one by its
# Hugging Face name.
_NORMS_OF = {
    "glm4_moe": ("attn_norm", "post_attention_norm"),
    "gpt_oss": ("attn_norm", "post_attention_norm"),
    "olmo2": ("post_attention_norm", "post_ffw_norm"),
    "olmo3": ("post_attention_norm", "post_ffw_norm"),
}


def build_tensors(spec: ModelSpec) -> tuple[Tensor, ...]:
    """Every weight tensor of the text model, without types; ``spec.parts`` are not included.

    Order: embeddings, layers, final norm, head. With tied embeddings there is no head tensor.
    """
    tensors = _input_tensors(spec)
    templates: dict[int, list[tuple[str, Role, tuple[int, ...], bool]]] = {}
    for layer, index in enumerate(spec.layout):
        template = templates.get(index)
        if template is None:
            built = block_tensors(spec, spec.blocks[index])
            template = [(t.name, t.role, t.shape, t.expert_stacked) for t in built]
            templates[index] = template
        prefix = f"blk.{layer}."
        tensors += [
            Tensor(name=prefix + name, role=role, layer=layer, shape=shape, expert_stacked=stacked)
            for name, role, shape, stacked in template
        ]
    return (*tensors, *_output_tensors(spec))


def block_tensors(spec: ModelSpec, block: Block) -> list[Tensor]:
    """The tensors of one layer of ``block``, as layer 0 and named without ``blk.N.``."""
    hidden_size = spec.hidden_size
    tensors = _norm_tensors(spec, block)
    if block.mixer is not None:
        tensors += _mixer_tensors(block, hidden_size)
    if block.cross_attention is not None:
        tensors += _cross_attention_tensors(block.cross_attention, hidden_size)
    if isinstance(block.ffn, MoeFfn):
        tensors += moe_tensors(block.ffn, hidden_size)
    elif block.ffn is not None:
        tensors += dense_tensors(block.ffn, hidden_size)
    if block.extra_params:
        tensors.append(weight("extra.weight", "extra", block.extra_params))
    return tensors


def _mixer_tensors(block: Block, hidden_size: int) -> list[Tensor]:
    mixer = block.mixer
    assert mixer is not None
    if isinstance(mixer, GqaAttention):
        return gqa_tensors(mixer, hidden_size)
    if isinstance(mixer, MlaAttention):
        return mla_tensors(mixer, hidden_size)
    from moeplan.graph.mixers import mixer_tensors

    return mixer_tensors("", 0, mixer, hidden_size)


def _cross_attention_tensors(attention: GqaAttention, hidden_size: int) -> list[Tensor]:
    """Attention over an encoder's output: the same matrices under names and a role of their own."""
    roles: dict[Role, Role] = {"norm": "norm", "bias": "bias", "sink": "sink"}
    return [
        weight(t.name.replace("attn_", "cross_attn_", 1), roles.get(t.role, "cross_attn"), *t.shape)
        for t in gqa_tensors(attention, hidden_size)
    ]


def _norm_tensors(spec: ModelSpec, block: Block) -> list[Tensor]:
    known = _NORMS_OF.get(spec.architecture, _NORMS)
    names = [*known, *(f"norm_{i}" for i in range(len(known), block.n_norms))]
    if block.mixer is None:  # a layer of an FFN alone has its norm in front of that
        names = [*names[1:], "norm_last"]
    return [t for name in names[: block.n_norms] for t in _norm(name, spec.hidden_size, spec.norm_bias)]


def _norm(name: str, hidden_size: int, with_bias: bool, layer: int = 0) -> list[Tensor]:
    tensors = [Tensor(name=f"{name}.weight", role="norm", layer=layer, shape=(hidden_size,))]
    if with_bias:
        tensors.append(Tensor(name=f"{name}.bias", role="bias", layer=layer, shape=(hidden_size,)))
    return tensors


def _input_tensors(spec: ModelSpec) -> list[Tensor]:
    width = spec.hidden_size
    tensors = [_outside("token_embd.weight", "embedding", spec.vocab_size, width)]
    if spec.n_position_embeddings:
        tensors.append(_outside("position_embd.weight", "position", spec.n_position_embeddings, width))
    for i in range(spec.embedding_norms):
        name = "token_embd_norm" if i == 0 else f"token_embd_norm_{i + 1}"
        tensors += _norm(name, width, spec.norm_bias, layer=-1)
    return tensors


def _output_tensors(spec: ModelSpec) -> list[Tensor]:
    tensors = _norm("output_norm", spec.hidden_size, spec.norm_bias, layer=-1) if spec.final_norm else []
    if not spec.tied_embeddings:
        tensors.append(_outside("output.weight", "head", spec.vocab_size, spec.hidden_size))
    if spec.head_bias:
        tensors.append(_outside("output.bias", "bias", spec.vocab_size))
    if spec.extra_params:
        tensors.append(_outside("extra.weight", "extra", spec.extra_params))
    return tensors


def _outside(name: str, role: Role, *shape: int) -> Tensor:
    return Tensor(name=name, role=role, layer=-1, shape=shape)
