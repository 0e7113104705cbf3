"""What each layer of a GGUF file is, told from the tensors it has: their names and shapes decide, metadata
gives only what shapes cannot show (heads, window, experts per token).

Names and shapes: llama.cpp, src/llama-model.cpp (load_tensors) and gguf-py/gguf/constants.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from moeplan.domain.graph import Tensor
from moeplan.domain.model import (
    DenseFfn,
    Ffn,
    GatedDeltaNet,
    GqaAttention,
    Indexer,
    KimiDelta,
    Mamba1,
    Mamba2,
    Mixer,
    MlaAttention,
    MoeFfn,
    ShortConv,
)
from moeplan.errors import SpecError
from moeplan.readers.gguf_metadata import Metadata

Shape: TypeAlias = tuple[int, ...]

# Architectures whose routers use a sigmoid where the file does not say (llama-model.cpp, load_hparams).
_SIGMOID = frozenset({"glm4moe", "glm-dsa", "llama4", "step35", "afmoe"})


class Layer:
    """The tensors of one layer by their short names (``attn_q.weight``), with checked access."""

    __slots__ = ("hidden", "index", "meta", "tensors")

    def __init__(self, meta: Metadata, index: int, hidden: int, tensors: Mapping[str, Tensor]) -> None:
        self.meta = meta
        self.index = index
        self.hidden = hidden
        self.tensors = tensors

    def has(self, *names: str) -> bool:
        """Whether any of these tensors is there."""
        return any(name in self.tensors for name in names)

    def shape(self, name: str) -> Shape | None:
        """The shape of a tensor, None where it is absent."""
        tensor = self.tensors.get(name)
        return None if tensor is None else tensor.shape

    def matrix(self, name: str, n_dims: int = 2) -> Shape:
        """The shape of a weight that must be there with ``n_dims`` dimensions."""
        shape = self.shape(name)
        if shape is None:
            raise self.error(f"has no tensor {name!r}")
        if len(shape) != n_dims:
            raise self.error(f"tensor {name!r} has shape {shape}, expected {n_dims} dimensions")
        return shape

    def expect(self, name: str, *shape: int) -> None:
        """SpecError unless the tensor has this shape."""
        found = self.matrix(name, len(shape))
        if found != shape:
            raise self.error(f"tensor {name!r} has shape {found}, the metadata makes it {shape}")

    def split(self, name: str, total: int, parts: int) -> int:
        """``total`` divided into ``parts`` without a rest."""
        if parts <= 0 or total <= 0 or total % parts:
            raise self.error(f"{total} rows of {name!r} do not divide among {parts} heads")
        return total // parts

    def error(self, problem: str) -> SpecError:
        """A SpecError about this layer."""
        return self.meta.error(f"layer {self.index} {problem}")


def mixer_of(layer: Layer, window: int | None) -> Mixer | None:
    """The sequence part of a layer, or None where it has none."""
    if layer.has("ssm_f_a.weight"):
        return _kimi_delta(layer)
    if layer.has("ssm_ba.weight", "ssm_alpha.weight"):
        return _gated_delta_net(layer)
    if layer.has("ssm_x.weight"):
        return _mamba1(layer)
    if layer.has("ssm_in.weight"):
        return _mamba2(layer)
    if layer.has("shortconv.conv.weight"):
        channels, width = layer.matrix("shortconv.conv.weight")
        bias = layer.has("shortconv.conv.bias")
        return ShortConv(channels=channels, conv_width=width, bias=bias)
    if layer.has("attn_kv_a_mqa.weight"):
        return _mla(layer)
    if layer.has("attn_q.weight", "attn_qkv.weight"):
        return _gqa(layer, window)
    return None


def ffn_of(layer: Layer) -> Ffn | None:
    """The feed-forward part of a layer, or None where it has none."""
    if layer.has("ffn_gate_inp.weight"):
        return _moe(layer)
    return _dense(layer) if layer.has("ffn_down.weight") else None


# ── attention ───────────────────────────────────────────────────────────────────────────────────


def _gqa(layer: Layer, window: int | None) -> GqaAttention:
    heads = layer.meta.layer("attention.head_count", layer.index, low=1)
    kv_heads = layer.meta.layer("attention.head_count_kv", layer.index, heads, low=1)
    fused = layer.has("attn_qkv.weight")
    if fused:
        head_dim, v_dim = _stated_head_dims(layer, heads)
        q_rows = layer.matrix("attn_qkv.weight")[0] - kv_heads * (head_dim + v_dim)
    else:
        k_rows = layer.matrix("attn_k.weight")[0]
        head_dim = v_dim = layer.split("attn_k.weight", k_rows, kv_heads)
        if layer.has("attn_v.weight"):
            v_dim = layer.split("attn_v.weight", layer.matrix("attn_v.weight")[0], kv_heads)
        q_rows = layer.matrix("attn_q.weight")[0]
    if q_rows not in (heads * head_dim, 2 * heads * head_dim):
        raise layer.error(
            f"has {q_rows} rows of queries, {heads} heads of {head_dim} need {heads * head_dim}"
        )
    layer.expect("attn_output.weight", layer.hidden, heads * v_dim)
    return GqaAttention(
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=v_dim,
        window_tokens=window,
        qkv_bias=layer.has("attn_q.bias", "attn_k.bias", "attn_qkv.bias"),
        out_bias=layer.has("attn_output.bias"),
        fused_qkv=fused,
        qk_norm=_qk_norm(layer, heads, head_dim),
        # Qwen3-Next keeps the gate in the queries' matrix, others in one of its own.
        output_gate="full" if q_rows != heads * head_dim else _output_gate(layer, heads, v_dim),
        sinks=layer.has("attn_sinks.weight"),
        value_is_key=not fused and not layer.has("attn_v.weight"),
        indexer=_indexer(layer),
    )


def _stated_head_dims(layer: Layer, heads: int) -> tuple[int, int]:
    """Head sizes of K and V where one matrix holds q, k and v and no shape shows them."""
    default = layer.hidden // heads or None
    return (
        layer.meta.integer("attention.key_length", default),
        layer.meta.integer("attention.value_length", default),
    )


def _qk_norm(layer: Layer, heads: int, head_dim: int) -> Literal["none", "head", "heads", "full"]:
    shape = layer.shape("attn_q_norm.weight")
    if shape is None:
        return "none"
    if shape == (head_dim,):
        return "head"
    if shape == (heads, head_dim):
        return "heads"
    if shape == (heads * head_dim,):
        return "full"
    raise layer.error(f"tensor 'attn_q_norm.weight' has shape {shape}, heads are {heads} of {head_dim}")


def _output_gate(layer: Layer, heads: int, v_dim: int) -> Literal["none", "full", "head"]:
    if not layer.has("attn_gate.weight"):
        return "none"
    rows = layer.matrix("attn_gate.weight")[0]
    if rows not in (heads, heads * v_dim):
        raise layer.error(f"tensor 'attn_gate.weight' has {rows} rows for {heads} heads of {v_dim}")
    return "head" if rows == heads else "full"


def _mla(layer: Layer) -> MlaAttention:
    meta = layer.meta
    heads = meta.layer("attention.head_count", layer.index, low=1)
    latent = meta.integer("attention.kv_lora_rank")
    rope = layer.matrix("attn_kv_a_mqa.weight")[0] - latent
    if rope < 0:
        raise layer.error(f"has fewer latent rows than the kv_lora_rank of {latent}")
    split = layer.has("attn_k_b.weight")
    if split:
        per_row = heads * latent
        nope = layer.split("attn_k_b.weight", _elements(layer, "attn_k_b.weight"), per_row)
        v_dim = layer.split("attn_v_b.weight", _elements(layer, "attn_v_b.weight"), per_row)
    else:
        rows = layer.matrix("attn_kv_b.weight")[0]
        nope = meta.integer("attention.key_length_mla", meta.integer("attention.key_length")) - rope
        v_dim = layer.split("attn_kv_b.weight", rows, heads) - nope
    if nope <= 0 or v_dim <= 0:
        raise layer.error("has K/V projections that do not fit its head sizes")
    low_rank = layer.has("attn_q_a.weight")
    q_width = heads * (nope + rope)
    q_rank = layer.matrix("attn_q_a.weight")[0] if low_rank else None
    layer.expect("attn_q_b.weight" if low_rank else "attn_q.weight", q_width, q_rank or layer.hidden)
    return MlaAttention(
        n_heads=heads,
        q_lora_rank=q_rank,
        kv_lora_rank=latent,
        nope_head_dim=nope,
        rope_head_dim=rope,
        v_head_dim=v_dim,
        qkv_bias=layer.has("attn_kv_a_mqa.bias"),
        output_gate=_output_gate(layer, heads, v_dim),
        # llama.cpp caches the latent only where the file states the head sizes of MLA (is_mla()).
        expanded_cache=meta.get("attention.key_length_mla") is None,
        indexer=_indexer(layer),
    )


def _elements(layer: Layer, name: str) -> int:
    """Elements of a K/V up projection, which is stored in two or three dimensions."""
    if not layer.has(name):
        raise layer.error(f"has no tensor {name!r}")
    return layer.tensors[name].n_elements


def _indexer(layer: Layer) -> Indexer | None:
    """The sparse attention scorer; a layer without its weights shares the selection of an earlier one."""
    meta = layer.meta
    if meta.get("attention.indexer.top_k") is None:
        return None
    return Indexer(
        n_heads=meta.integer("attention.indexer.head_count"),
        head_dim=meta.integer("attention.indexer.key_length"),
        top_k_tokens=meta.integer("attention.indexer.top_k"),
        shared=not layer.has("indexer.attn_k.weight"),
    )


# ── layers with a state ─────────────────────────────────────────────────────────────────────────


def _mamba1(layer: Layer) -> Mamba1:
    inner, conv = layer.matrix("ssm_conv1d.weight")
    _, rank = layer.matrix("ssm_dt.weight")
    _, state = layer.matrix("ssm_a")
    layer.expect("ssm_in.weight", 2 * inner, layer.hidden)
    layer.expect("ssm_x.weight", rank + 2 * state, inner)
    return Mamba1(
        inner_dim=inner,
        state_dim=state,
        conv_width=conv,
        dt_rank=rank,
        conv_bias=layer.has("ssm_conv1d.bias"),
        proj_bias=layer.has("ssm_in.bias"),
        inner_norms=layer.has("ssm_dt_norm.weight"),
    )


def _mamba2(layer: Layer) -> Mamba2:
    meta = layer.meta
    heads, inner = meta.integer("ssm.time_step_rank"), meta.integer("ssm.inner_size")
    groups, state = meta.integer("ssm.group_count"), meta.integer("ssm.state_size")
    convolved = inner + 2 * groups * state
    layer.expect("ssm_in.weight", inner + convolved + heads, layer.hidden)
    rows, conv = layer.matrix("ssm_conv1d.weight")
    if rows != convolved:
        raise layer.error(f"convolves {rows} channels, the metadata makes it {convolved}")
    return Mamba2(
        n_heads=heads,
        head_dim=layer.split("ssm.inner_size", inner, heads),
        n_groups=groups,
        state_dim=state,
        conv_width=conv,
        conv_bias=layer.has("ssm_conv1d.bias"),
        proj_bias=layer.has("ssm_in.bias"),
    )


def _gated_delta_net(layer: Layer) -> GatedDeltaNet:
    meta = layer.meta
    k_heads, v_heads = meta.integer("ssm.group_count"), meta.integer("ssm.time_step_rank")
    k_dim, value = meta.integer("ssm.state_size"), meta.integer("ssm.inner_size")
    rows, conv = layer.matrix("ssm_conv1d.weight")
    if rows != 2 * k_heads * k_dim + value:
        raise layer.error(f"convolves {rows} channels, the metadata makes it {2 * k_heads * k_dim + value}")
    layer.expect("ssm_out.weight", layer.hidden, value)
    return GatedDeltaNet(
        n_k_heads=k_heads,
        n_v_heads=v_heads,
        k_head_dim=k_dim,
        v_head_dim=layer.split("ssm.inner_size", value, v_heads),
        conv_width=conv,
    )


def _kimi_delta(layer: Layer) -> KimiDelta:
    width = layer.matrix("attn_q.weight")[0]
    head_dim = layer.meta.integer("kda.head_dim")
    full = not layer.has("ssm_g_a.weight")
    return KimiDelta(
        n_heads=layer.split("attn_q.weight", width, head_dim),
        head_dim=head_dim,
        conv_width=layer.meta.integer("ssm.conv_kernel"),
        gate_rank=layer.matrix("ssm_f_a.weight")[0],
        full_rank_gate=full,
    )


# ── feed-forward ────────────────────────────────────────────────────────────────────────────────


def _dense(layer: Layer) -> DenseFfn:
    _, width = layer.matrix("ffn_down.weight")
    up_rows = layer.matrix("ffn_up.weight")[0]
    gate = layer.has("ffn_gate.weight")
    if up_rows not in ((width,) if gate else (width, 2 * width)):
        raise layer.error(f"tensor 'ffn_up.weight' has {up_rows} rows, 'ffn_down.weight' {width} columns")
    fused = up_rows != width
    bias = layer.has("ffn_up.bias", "ffn_down.bias")
    return DenseFfn(intermediate=width, gated=gate or fused, bias=bias, fused_gate_up=fused)


def _moe(layer: Layer) -> MoeFfn:
    meta = layer.meta
    outputs = layer.matrix("ffn_gate_inp.weight")[0]
    n_experts, width, inner = layer.matrix("ffn_down_exps.weight", 3)
    chosen = meta.integer("expert_used_count")
    if not chosen <= n_experts <= outputs:
        raise layer.error(f"chooses {chosen} of {n_experts} experts with {outputs} router outputs")
    shared = layer.matrix("ffn_down_shexp.weight")[1] if layer.has("ffn_down_shexp.weight") else 0
    dense = layer.matrix("ffn_down.weight")[1] if layer.has("ffn_down.weight") else 0
    correction = layer.has("exp_probs_b.bias", "exp_probs_b.weight", "exp_probs_b")
    return MoeFfn(
        n_experts=n_experts,
        # outputs beyond the experts compute nothing (LongCat): on average this many of the chosen do
        n_active=max(1, round(chosen * n_experts / outputs)),
        expert_intermediate=inner,
        gated=layer.has("ffn_gate_exps.weight", "ffn_gate_up_exps.weight"),
        bias=layer.has("ffn_up_exps.bias", "ffn_down_exps.bias"),
        fused_gate_up=layer.has("ffn_gate_up_exps.weight"),
        router_bias=layer.has("ffn_gate_inp.bias"),
        router_correction=correction,
        router_scale=layer.has("ffn_gate_inp.scale"),
        n_shared=max(1, meta.integer("expert_shared_count", 1, low=0)) if shared else 0,
        shared_intermediate=shared,
        shared_gate=layer.has("ffn_gate_inp_shexp.weight"),
        n_zero_experts=outputs - n_experts,
        latent_dim=width if width != layer.hidden else 0,
        parallel_dense=dense,
        routing=_routing(meta, correction),
    )


def _routing(meta: Metadata, correction: bool) -> Literal["softmax", "sigmoid"]:
    """llama.cpp's expert_gating_func: 1 softmax, 2 sigmoid, 3 softmax over the chosen, 4 sqrt(softplus).

    Without it, a correction of the selection (DeepSeek-V3, arXiv:2412.19437) means a sigmoid.
    """
    if meta.get("expert_gating_func") is None:
        return "sigmoid" if correction or meta.arch in _SIGMOID else "softmax"
    return "sigmoid" if meta.integer("expert_gating_func", low=0) == 2 else "softmax"
