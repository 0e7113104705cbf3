"""What a tensor of a Hugging Face checkpoint is for, told from its name.

Names: the modules of transformers' model classes, ``model.layers.3.mlp.experts.7.up_proj.weight``.
Quantisers add pieces beside a weight (scales, zero points), which belong to it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal, NamedTuple

from moeplan.domain.graph import Role
from moeplan.domain.model import Block, GqaAttention, Mamba1, Mamba2, MlaAttention
from moeplan.readers.gguf_names import Owner

Piece = Literal["weight", "bias", "extra"]
"""A matrix itself, its bias, or something that only its quantisation needs."""


def _table(text: str) -> dict[str, Role]:
    """Leaf -> role, from lines of ``role: leaf leaf``."""
    roles: dict[str, Role] = {}
    for line in text.strip().splitlines():
        role, _, leaves = line.partition(":")
        roles.update(dict.fromkeys(leaves.split(), role.strip()))  # type: ignore[arg-type]
    return roles


_LEAVES: Final = _table("""
    embedding: embed_tokens wte word_embeddings tok_embeddings embed_in embeddings embed
    position: wpe embed_positions
    head: lm_head embed_out output head
    attn_q: q_proj wq query
    attn_k: k_proj wk key
    attn_v: v_proj wv value
    attn_qkv: qkv_proj query_key_value Wqkv W_pack c_attn qkv
    attn_out: o_proj wo out_proj dense
    attn_gate: g_proj
    mla_q_down: q_a_proj
    mla_q_up: q_b_proj
    mla_kv_down: kv_a_proj_with_mqa
    mla_kv_up: kv_b_proj
    ffn_gate: gate_proj w1
    ffn_up: up_proj w3 v1 fc1 c_fc dense_h_to_4h
    ffn_down: down_proj w2 fc2 dense_4h_to_h output_linear
    ffn_gate_up: gate_up_proj input_linear
    router: gate router wg classifier
    shared_router: shared_expert_gate
    latent: fc1_latent_proj fc2_latent_proj
    sink: sinks attention_sink_bias
    norm: per_expert_scale
    bias: A_log D dt_bias e_score_correction_bias expert_bias
""")
_EXPERT: Final[dict[str, Role]] = {
    "ffn_gate": "expert_gate", "ffn_up": "expert_up", "ffn_down": "expert_down",
    "ffn_gate_up": "expert_gate_up",
}  # fmt: skip
_SHARED: Final[dict[str, Role]] = {
    "ffn_gate": "shared_gate", "ffn_up": "shared_up", "ffn_down": "shared_down",
}  # fmt: skip
# Names of lists of layers, and of modules beside the text model.
_LISTS = frozenset({"layers", "h", "blocks", "block"})
_VISION = (
    "vis", "image", "multi_modal", "mm_proj", "pre_mm_", "embed_vision", "vit", "patch_merge",
    "modality_projection",
)  # fmt: skip
_AUDIO = ("audio", "embed_audio", "speech")
# Pieces of a quantised weight. GPTQ, AWQ: qweight is the weight itself; compressed-tensors:
# weight_packed; gpt-oss: <name>_blocks; bitsandbytes: weight.absmax and the like.
_WEIGHTS = frozenset({"weight", "qweight", "weight_packed"})
_EXTRAS = frozenset({
    "scales", "qzeros", "g_idx", "weight_scale", "weight_scale_inv", "weight_scale_2", "weight_shape",
    "weight_zero_point", "weight_g_idx", "weight_global_scale", "input_scale", "input_global_scale",
    "output_scale", "SCB", "weight_format", "scale", "biases",
})  # fmt: skip
_ENDINGS: Final[dict[str, Piece]] = {
    "_blocks": "weight", "_scales": "extra", "_scale_inv": "extra", "_weight_scale": "extra",
    "_input_scale": "extra", "_bias": "bias",
}  # fmt: skip


class Place(NamedTuple):
    """Where a tensor belongs. ``module`` names its matrix, with ``*`` for the number of an expert."""

    module: str
    piece: Piece
    layer: int
    expert: int
    owner: Owner


def place_of(name: str, n_layers: int) -> Place:
    """The place of the tensor ``name`` in a model of ``n_layers`` layers."""
    parts = name.split(".")
    piece = _take_piece(parts)
    layer = expert = -1
    above = len(parts)
    for i in range(1, len(parts)):
        if not parts[i].isdigit() or len(parts[i]) > 6:
            continue
        if layer < 0 and parts[i - 1] in _LISTS:
            layer, above = int(parts[i]), i
        elif parts[i - 1] == "experts":
            expert = int(parts[i])
            parts[i] = "*"
    owner = _tower(tuple(parts[:above]))
    if owner in ("vision", "audio"):
        layer = -1
    elif owner == "base" and layer >= n_layers:
        owner = "mtp"
    elif parts[-1] == "inv_freq":
        owner = "other"
    return Place(".".join(parts), piece, layer, expert, owner)


def _take_piece(parts: list[str]) -> Piece:
    """Cut what names a piece off the end of ``parts``: the module is left."""
    last = parts[-1]
    if "weight" in parts[:-1]:  # bitsandbytes: q_proj.weight.absmax
        del parts[parts.index("weight") :]
        return "extra"
    if len(parts) > 1 and (last in _WEIGHTS or last in _EXTRAS or last == "bias"):
        del parts[-1]
        return "weight" if last in _WEIGHTS else "bias" if last == "bias" else "extra"
    for ending, piece in _ENDINGS.items():
        if last.endswith(ending) and last.removesuffix(ending) in _LEAVES:
            parts[-1] = last.removesuffix(ending)
            return piece
    return "weight"


@lru_cache(maxsize=1024)
def _tower(above: tuple[str, ...]) -> Owner:
    """The part of the model that the modules above a layer belong to."""
    for part in above:
        if part.startswith(_VISION):
            return "vision"
        if part.startswith(_AUDIO):
            return "audio"
        if part.startswith("mtp"):
            return "mtp"
    return "base"


def role_of(module: str, block: Block | None, stacked: bool) -> Role:
    """The role of a matrix in a layer of ``block`` (None outside the layers); ``stacked`` says that it
    holds all routed experts."""
    parts = module.split(".")
    leaf = parts[-1]
    lower = leaf.lower()
    if "norm" in lower or lower.startswith("ln_") or lower in ("ln1", "ln2"):
        return "norm"
    if "conv1d" in lower or (leaf == "conv" and parts[-2:-1] == ["conv"]):
        return "conv"
    if "indexer" in parts:
        return "indexer"
    role = _leaf_role(parts)
    if role in _EXPERT:
        if stacked or "experts" in parts:
            return _EXPERT[role]
        shared = any(part.startswith(("shared", "share_expert")) for part in parts)
        return _SHARED.get(role, role) if shared else role
    return _mixer_role(parts, role, block)


def _leaf_role(parts: list[str]) -> Role:
    leaf = parts[-1]
    if leaf == "c_proj":  # GPT-2 has one in the attention and one in the MLP
        return "ffn_down" if "mlp" in parts else "attn_out"
    if leaf in ("layer", "proj") and "router" in parts:  # DBRX, Granite, Gemma 4
        return "router"
    return _LEAVES.get(leaf, "extra")


def _mixer_role(parts: list[str], role: Role, block: Block | None) -> Role:
    """``role``, or that of a mixer with a state whose projections have the same names."""
    mixer = block.mixer if block is not None else None
    if mixer is None or isinstance(mixer, GqaAttention | MlaAttention):
        return role
    if not role.startswith("attn_") and role != "extra":
        return role
    return "ssm" if isinstance(mixer, Mamba1 | Mamba2) else "linear_attn"
