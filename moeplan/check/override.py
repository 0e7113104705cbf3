"""llama.cpp's ``--override-tensor``: which layers' routed experts its patterns send to the CPU."""

from __future__ import annotations

import re

from moeplan.domain.model import ModelSpec, MoeFfn
from moeplan.errors import NotModelled

# Names of the stacked tensors of routed experts, and of others of a layer (gguf-py/gguf/constants.py).
_EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
_OTHERS = ("attn_q", "attn_k", "attn_output", "ffn_norm", "ffn_gate_inp", "ffn_down_shexp", "ffn_down")
_MAX_PATTERN = 300
# A repeated group can take a regular expression forever; tensor names need none.
_REPEATED_GROUP = re.compile(r"\)[*+{]")


def moved_layers(patterns: str, spec: ModelSpec) -> int:
    """How many MoE layers have all their routed experts on the CPU; NotModelled for every other use."""
    layers = [i for i, block in enumerate(spec.layer_blocks()) if isinstance(block.ffn, MoeFfn)]
    moved: set[tuple[int, str]] = set()
    for entry in patterns.split(","):
        pattern, _, device = entry.rpartition("=")
        if device.strip().upper() != "CPU" or not pattern:
            raise NotModelled(f"-ot {entry[:60]}", "only experts that go to the CPU are")
        moved |= _matches(pattern, spec, layers)
    whole = [i for i in layers if all((i, name) in moved for name in _EXPERTS)]
    if len(whole) * len(_EXPERTS) != len(moved):
        raise NotModelled("-ot", "it moves parts of a layer's experts")
    return len(whole)


def _matches(pattern: str, spec: ModelSpec, layers: list[int]) -> set[tuple[int, str]]:
    """(layer, tensor) of the experts that ``pattern`` matches; it must match nothing else."""
    if len(pattern) > _MAX_PATTERN or _REPEATED_GROUP.search(pattern):
        raise NotModelled("-ot", "this pattern is too involved to be tried")
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise NotModelled("-ot", f"not a regular expression: {error}") from None
    for i in range(spec.n_layers):
        for name in _OTHERS:
            if found.search(f"blk.{i}.{name}.weight"):
                raise NotModelled("-ot", f"it moves {name} of layer {i}")
    return {(i, name) for i in layers for name in _EXPERTS if found.search(f"blk.{i}.{name}.weight")}
