"""The dense twin of a MoE: a model nobody trained, of equal active, total or memory size.

How it is made (docs/compare.md): depth, width and attention heads grow by one factor, so that depth over
width stays the MoE's. The factor is 1 for equal active size, else the cube root of total over active
parameters, since parameters grow with depth x width^2. Sizes of a head, K/V heads, latents, windows and the
vocabulary stay. Every MoE layer becomes a dense one, and the width of these FFNs is what makes the size come
out: steps of 256, one layer at a time. What whole steps leave is shown as a difference.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from moeplan.domain.comparison import TwinKind
from moeplan.domain.model import (
    Block,
    CompressedAttention,
    DenseFfn,
    GatedDeltaNet,
    GqaAttention,
    Mamba1,
    Mamba2,
    Mixer,
    ModelSpec,
    MoeFfn,
    Published,
    ShortConv,
)
from moeplan.errors import NotModelled, SpecError
from moeplan.provenance import Source

WIDTH_STEP = 256
"""Widths are multiples of ggml's largest block (256 elements), as those of real models are."""


def dense_twin(
    moe: ModelSpec, kind: TwinKind, size: Callable[[ModelSpec], float], target: float, growth: float
) -> ModelSpec:
    """The dense model whose ``size`` is nearest to ``target``; ``growth`` is total over active parameters.

    ``size`` counts parameters or bytes of a model. Raises SpecError for a dense model and NotModelled where
    no such twin exists.
    """
    if not moe.is_moe:
        raise SpecError(f"--twin: {moe.id} is dense: its twin is itself")
    scale = 1.0 if kind == "active" else growth ** (1 / 3)
    shape = _scaled_shape(moe, scale)
    n = sum(isinstance(shape.blocks[i].ffn, MoeFfn) for i in shape.layout)
    narrowest = size(_with_width(shape, n))
    per_step = (size(_with_width(shape, 2 * n)) - narrowest) / n
    steps = n + round((target - narrowest) / per_step)
    if steps >= n:
        # the types of a quantisation may depend on the width: once more from here
        steps += round((target - size(_with_width(shape, steps))) / per_step)
    if steps < n:
        raise NotModelled(
            f"a dense twin of {moe.id} of equal {kind} size", f"its FFNs would be narrower than {WIDTH_STEP}"
        )
    return replace(
        _with_width(shape, steps),
        id=f"{moe.id}-twin-{kind}",
        name="Dense twin",
        hf_ids=(),
        aliases=(),
        parts=(),
        published=Published(),
        weak="made up: nobody trained it",
        sources=(Source("derived", f"{moe.id} with dense FFNs and equal {kind} size (docs/compare.md)"),),
    )


def _with_width(shape: ModelSpec, steps: int) -> ModelSpec:
    """``shape`` with dense FFNs for its MoE layers, ``steps`` x WIDTH_STEP wide together."""
    moe_layers = [i for i in shape.layout if isinstance(shape.blocks[i].ffn, MoeFfn)]
    low, n_wider = divmod(steps, len(moe_layers))
    blocks: list[Block] = []
    places: dict[tuple[int, int], int] = {}
    layout, rank = [], 0
    for index in shape.layout:
        is_moe = isinstance(shape.blocks[index].ffn, MoeFfn)
        width = (low + (rank < n_wider)) * WIDTH_STEP if is_moe else 0
        rank += is_moe
        if (index, width) not in places:
            places[index, width] = len(blocks)
            blocks.append(_dense_block(shape.blocks[index], width) if is_moe else shape.blocks[index])
        layout.append(places[index, width])
    return replace(shape, blocks=tuple(blocks), layout=tuple(layout))


def _dense_block(block: Block, width: int) -> Block:
    ffn = block.ffn
    assert isinstance(ffn, MoeFfn)
    dense = DenseFfn(intermediate=width, gated=ffn.gated, bias=ffn.bias)
    return replace(block, name=f"{block.name} {width:,}", ffn=dense)


def _scaled_shape(moe: ModelSpec, scale: float) -> ModelSpec:
    """The MoE deeper and wider by ``scale``, the order of its kinds of layer kept in proportion."""
    if scale == 1.0:
        return moe
    n_layers = max(1, round(moe.n_layers * scale))
    hidden = _multiple(moe.hidden_size * scale, WIDTH_STEP)
    return replace(
        moe,
        hidden_size=hidden,
        blocks=tuple(_scaled_block(block, scale, hidden) for block in moe.blocks),
        layout=tuple(moe.layout[i * moe.n_layers // n_layers] for i in range(n_layers)),
    )


def _scaled_block(block: Block, scale: float, hidden: int) -> Block:
    ffn = block.ffn
    if isinstance(ffn, DenseFfn):
        ffn = replace(ffn, intermediate=_multiple(ffn.intermediate * scale, WIDTH_STEP))
    cross = block.cross_attention
    return replace(
        block,
        mixer=None if block.mixer is None else _scaled_mixer(block.mixer, scale, hidden),
        ffn=ffn,
        cross_attention=None if cross is None else _scaled_heads(cross, scale),
    )


def _scaled_mixer(mixer: Mixer, scale: float, hidden: int) -> Mixer:
    """More heads (channels, where there are none) of the same size; groups still divide them."""
    if isinstance(mixer, GqaAttention):
        return _scaled_heads(mixer, scale)
    if isinstance(mixer, ShortConv):
        return replace(mixer, channels=hidden)
    if isinstance(mixer, Mamba1):
        return replace(
            mixer,
            inner_dim=_multiple(mixer.inner_dim * scale, WIDTH_STEP),
            dt_rank=max(1, round(mixer.dt_rank * scale)),
        )
    if isinstance(mixer, GatedDeltaNet):
        return replace(mixer, n_v_heads=_multiple(mixer.n_v_heads * scale, mixer.n_k_heads))
    unit = 1
    if isinstance(mixer, Mamba2):
        unit = mixer.n_groups
    elif isinstance(mixer, CompressedAttention):
        unit = mixer.n_out_groups
    return replace(mixer, n_heads=_multiple(mixer.n_heads * scale, unit))


def _scaled_heads(attention: GqaAttention, scale: float) -> GqaAttention:
    return replace(attention, n_heads=_multiple(attention.n_heads * scale, attention.n_kv_heads))


def _multiple(value: float, unit: int) -> int:
    return max(1, round(value / unit)) * unit
