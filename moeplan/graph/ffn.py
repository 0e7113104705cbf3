"""Tensors of the feed-forward parts: dense MLPs and mixtures of experts.

Names are those of llama.cpp (gguf-py/gguf/constants.py), without the ``blk.N.`` in front. Gate and up
of the routed experts are always listed apart, as GGUF files store them (all but Gemma 4's), even where
the Hugging Face checkpoint fuses them (``MoeFfn.fused_gate_up``).
"""

from __future__ import annotations

from moeplan.domain.graph import Role, Tensor
from moeplan.domain.model import DenseFfn, MoeFfn
from moeplan.graph.attention import weight


def dense_tensors(ffn: DenseFfn, hidden_size: int) -> list[Tensor]:
    """Every weight of a dense MLP: gate, up and down, or up and down."""
    width = ffn.intermediate
    ups: list[tuple[str, Role, int]]
    if not ffn.gated:
        ups = [("ffn_up", "ffn_up", width)]
    elif ffn.fused_gate_up:
        ups = [("ffn_up", "ffn_gate_up", 2 * width)]
    else:
        ups = [("ffn_gate", "ffn_gate", width), ("ffn_up", "ffn_up", width)]
    tensors = [weight(f"{name}.weight", role, n, hidden_size) for name, role, n in ups]
    tensors.append(weight("ffn_down.weight", "ffn_down", hidden_size, width))
    if ffn.bias:
        tensors += [weight(f"{name}.bias", "bias", n) for name, _, n in ups]
        tensors.append(weight("ffn_down.bias", "bias", hidden_size))
    return tensors


def moe_tensors(ffn: MoeFfn, hidden_size: int) -> list[Tensor]:
    """Every weight of an MoE layer: router, routed experts (stacked), shared and parallel parts."""
    tensors = _router(ffn, hidden_size)
    # experts of a latent MoE live at the latent width, between one shared pair of projections
    width = ffn.latent_dim or hidden_size
    if ffn.latent_dim:
        tensors.append(weight("ffn_latent_down.weight", "latent", ffn.latent_dim, hidden_size))
        tensors.append(weight("ffn_latent_up.weight", "latent", hidden_size, ffn.latent_dim))
    tensors += _experts(ffn, width)
    if ffn.shared_intermediate:
        shared = ffn.shared_intermediate
        if ffn.gated:
            tensors.append(weight("ffn_gate_shexp.weight", "shared_gate", shared, hidden_size))
        tensors.append(weight("ffn_up_shexp.weight", "shared_up", shared, hidden_size))
        tensors.append(weight("ffn_down_shexp.weight", "shared_down", hidden_size, shared))
        if ffn.shared_gate:
            tensors.append(weight("ffn_gate_inp_shexp.weight", "shared_router", hidden_size))
    if ffn.parallel_dense:
        tensors += dense_tensors(DenseFfn(intermediate=ffn.parallel_dense, gated=ffn.gated), hidden_size)
    return tensors


def _router(ffn: MoeFfn, hidden_size: int) -> list[Tensor]:
    """One output an expert, those that compute nothing included."""
    n_outputs = ffn.n_experts + ffn.n_zero_experts
    tensors = [weight("ffn_gate_inp.weight", "router", n_outputs, hidden_size)]
    if ffn.router_bias:
        tensors.append(weight("ffn_gate_inp.bias", "bias", n_outputs))
    if ffn.router_correction:
        tensors.append(weight("exp_probs_b.bias", "bias", n_outputs))
    if ffn.router_scale:
        tensors.append(weight("ffn_gate_inp.scale", "norm", hidden_size))
        tensors.append(weight("ffn_down_exps.scale", "norm", ffn.n_experts))
    return tensors


def _experts(ffn: MoeFfn, width: int) -> list[Tensor]:
    n, inner = ffn.n_experts, ffn.expert_intermediate
    parts: list[tuple[str, Role, int, int]] = [
        ("ffn_gate_exps", "expert_gate", inner, width),
        ("ffn_up_exps", "expert_up", inner, width),
        ("ffn_down_exps", "expert_down", width, inner),
    ]
    if not ffn.gated:
        parts = parts[1:]
    tensors = [_stacked(f"{name}.weight", role, n, out, into) for name, role, out, into in parts]
    if ffn.bias:
        tensors += [_stacked(f"{name}.bias", "bias", n, out) for name, _, out, _ in parts]
    return tensors


def _stacked(name: str, role: Role, *shape: int) -> Tensor:
    return Tensor(name=name, role=role, layer=0, shape=shape, expert_stacked=True)
