"""What a tensor of a GGUF file is for, told from its name.

Names: gguf-py/gguf/constants.py of llama.cpp. A name is ``blk.<layer>.<stem>.weight`` inside the layers and
``<stem>.weight`` outside; a few stems (ssm_a, ssm_d) carry no suffix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

from moeplan.domain.graph import EXPERT_ROLES, Role

Owner: TypeAlias = Literal["base", "mtp", "vision", "audio", "other"]

_ROLES: Final[dict[str, Role]] = {
    "token_embd": "embedding",
    "position_embd": "position",
    "output": "head",
    "attn_q": "attn_q",
    "attn_k": "attn_k",
    "attn_v": "attn_v",
    "attn_qkv": "attn_qkv",
    "attn_output": "attn_out",
    "attn_gate": "attn_gate",
    "attn_sinks": "sink",
    "attn_q_a": "mla_q_down",
    "attn_q_b": "mla_q_up",
    "attn_kv_a_mqa": "mla_kv_down",
    "attn_k_b": "mla_k_up",
    "attn_v_b": "mla_v_up",
    "attn_kv_b": "mla_kv_up",
    "ffn_gate": "ffn_gate",
    "ffn_up": "ffn_up",
    "ffn_down": "ffn_down",
    "ffn_gate_exps": "expert_gate",
    "ffn_up_exps": "expert_up",
    "ffn_down_exps": "expert_down",
    "ffn_gate_up_exps": "expert_gate_up",
    "ffn_gate_shexp": "shared_gate",
    "ffn_up_shexp": "shared_up",
    "ffn_down_shexp": "shared_down",
    "ffn_gate_inp": "router",
    "ffn_gate_inp_shexp": "shared_router",
    "ffn_latent_down": "latent",
    "ffn_latent_up": "latent",
    "exp_probs_b": "bias",
    # multiplied or added element by element
    "ssm_a": "bias",
    "ssm_d": "bias",
    "shortconv.conv": "conv",
    "shortconv.in_proj": "linear_attn",
    "shortconv.out_proj": "linear_attn",
}
_SUFFIXES = frozenset({"weight", "bias", "scale", "input_scale"})
# Tables of rotary frequencies: constants, not parameters of the model.
_CONSTANTS = frozenset({"rope_freqs", "rope_factors_long", "rope_factors_short"})
_TOWERS: Final[dict[str, Owner]] = {"v": "vision", "mm": "vision", "a": "audio", "resampler": "vision"}
# Files made before April 2024 hold one matrix an expert: blk.0.ffn_gate.3.weight.
_SINGLE_EXPERT: Final[dict[str, str]] = {
    "ffn_gate": "ffn_gate_exps", "ffn_up": "ffn_up_exps", "ffn_down": "ffn_down_exps",
}  # fmt: skip


class Name(NamedTuple):
    """A name taken apart; ``expert`` is -1 except for one of the matrices that belong stacked."""

    layer: int
    stem: str
    suffix: str
    expert: int = -1

    @property
    def short(self) -> str:
        """The name inside its layer: ``attn_q.weight``, ``ssm_a``."""
        return f"{self.stem}.{self.suffix}" if self.suffix else self.stem


def split_name(name: str) -> Name:
    """Layer (-1 outside), stem and suffix of a tensor name."""
    layer, rest = -1, name
    if name.startswith("blk."):
        number, _, inside = name[4:].partition(".")
        if number.isascii() and number.isdigit() and len(number) <= 6 and inside:
            layer, rest = int(number), inside
    stem, dot, suffix = rest.rpartition(".")
    if not dot or suffix not in _SUFFIXES:
        return Name(layer, rest, "")
    base, _, number = stem.partition(".")
    if base in _SINGLE_EXPERT and number.isascii() and number.isdigit() and len(number) <= 6:
        return Name(layer, _SINGLE_EXPERT[base], suffix, int(number))
    return Name(layer, stem, suffix)


class LayerTraits(NamedTuple):
    """Layers whose tensors mean something else than their names say, which needs a look at the others."""

    linear: frozenset[int]
    """Gated DeltaNet and Kimi Delta: the projections carry the names of softmax attention."""
    fused_up: frozenset[int]
    """Phi-3 and GLM-4: ``ffn_up`` holds gate and up, twice as wide as ``ffn_down``."""


def layer_traits(shapes: Mapping[tuple[int, str], tuple[int, ...]]) -> LayerTraits:
    """The traits of all layers, from the shapes of the weights by (layer, stem)."""
    marks = ("ssm_beta", "ssm_ba", "ssm_alpha", "ssm_f_a")
    linear, fused = [], []
    for (layer, stem), shape in shapes.items():
        if stem in marks:
            linear.append(layer)
        elif stem == "ffn_up" and (layer, "ffn_gate") not in shapes:
            down = shapes.get((layer, "ffn_down"), (0,))
            if shape[0] == 2 * down[-1]:
                fused.append(layer)
    return LayerTraits(frozenset(linear), frozenset(fused))


def role_of(name: Name, traits: LayerTraits) -> Role:
    """The role of a tensor in a model with these ``traits``."""
    stem = name.stem.removeprefix("nextn.")
    if name.suffix == "bias":
        return "bias"
    if "norm" in stem or name.suffix in ("scale", "input_scale"):
        return "norm"
    if stem.startswith("ssm_conv1d"):
        return "conv"
    if stem == "ffn_up" and name.layer in traits.fused_up:
        return "ffn_gate_up"
    linear = name.layer in traits.linear
    role = _ROLES.get(stem)
    if role is not None:
        return "linear_attn" if linear and role.startswith("attn_") else role
    if stem.startswith("ssm_"):
        return "linear_attn" if linear else "ssm"
    return "indexer" if stem.startswith("indexer.") else "extra"


def is_stacked(name: Name) -> bool:
    """Whether the tensor holds a weight or bias of every routed expert."""
    return name.suffix in ("weight", "bias") and _ROLES.get(name.stem) in EXPERT_ROLES


def owner_of(name: Name, n_layers: int) -> Owner:
    """The part of the model a tensor belongs to; layers from ``n_layers`` on predict further tokens."""
    if name.layer >= n_layers or name.stem.startswith("nextn."):
        return "mtp"
    if name.stem in _CONSTANTS:
        return "other"
    if name.layer < 0:
        return _TOWERS.get(name.stem.partition(".")[0], "base")
    return "base"
