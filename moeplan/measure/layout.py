"""Where weights lie: matrices that meet the same row one under the other, so that one product serves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Parts of a layer that read the same row; stacked experts (N, out, in) are joined expert by expert.
_TOGETHER = (
    ("attn_q", "attn_k", "attn_v"),
    ("ffn_gate", "ffn_up"),
    ("ffn_gate_exps", "ffn_up_exps"),
    ("ffn_gate_shexp", "ffn_up_shexp"),
)
_FIRST = {group[0]: group for group in _TOGETHER}


def together(name: str) -> tuple[str, ...]:
    """The weights that are joined with ``name``, first in its group, in order; empty where none are."""
    parts = name.split(".")
    if len(parts) != 4 or parts[0] != "blk" or parts[3] != "weight" or parts[2] not in _FIRST:
        return ()
    return tuple(f"blk.{parts[1]}.{part}.weight" for part in _FIRST[parts[2]])


def make_joined(
    shapes: Mapping[str, Sequence[int]], make: Callable[[str, tuple[int, ...]], Any]
) -> dict[str, Any]:
    """``make(name, shape)`` for every tensor, groups as one tensor and views of its parts."""
    made: dict[str, Any] = {}
    for name, shape in shapes.items():
        if name in made:
            continue
        group = together(name)
        if not group or any(part not in shapes for part in group):
            made[name] = make(name, tuple(shape))
            continue
        rows = [shapes[part][-2] for part in group]
        whole = make(name, (*shape[:-2], sum(rows), shape[-1]))
        made |= zip(group, whole.split(rows, dim=-2), strict=True)
    return {name: made[name] for name in shapes}


def joined_matrices(weights: Mapping[str, Any]) -> dict[str, Any]:
    """By the first name of a group: its matrices as one, of those that do lie one under the other."""
    found = {}
    for name in weights:
        group = together(name)
        if group and all(part in weights for part in group):
            whole = _as_one([weights[part] for part in group])
            if whole is not None:
                found[name] = whole
    return found


def _as_one(parts: Sequence[Any]) -> Any | None:
    first = parts[0]
    rows, width = sum(part.shape[-2] for part in parts), first.shape[-1]
    strides = (*([rows * width] if first.dim() == 3 else []), width, 1)
    at = first.data_ptr()
    for part in parts:
        if part.data_ptr() != at or part.stride() != strides or part.dtype != first.dtype:
            return None
        at += part.shape[-2] * width * part.element_size()
    return first.detach().as_strided((*first.shape[:-2], rows, width), strides)
