"""Reading the pattern of layers in hybrid models, whose configs spell it in many ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from moeplan.domain.model import Part
from moeplan.readers.hf.view import ConfigView

T = TypeVar("T")


def layer_types(cfg: ConfigView, n_layers: int, known: Mapping[str, str]) -> list[str] | None:
    """The kind of each layer from ``layer_types`` or ``layers_block_type``, in the words of ``known``.

    None where neither key is present. Entries beyond ``n_layers`` (MTP layers) are dropped. Raises
    SpecError for a kind outside ``known`` and for a list that is too short.
    """
    key = "layer_types" if cfg.has("layer_types") else "layers_block_type"
    found = cfg.list(key, default=None, of=str)
    if found is None:
        return None
    kinds = at_least(cfg, key, found, n_layers)
    for i, kind in enumerate(kinds):
        if kind not in known:
            raise cfg.error(key, f"item {i} is {kind!r}, expected one of {', '.join(known)}")
    return [known[kind] for kind in kinds]


def flags(cfg: ConfigView, key: str, n_layers: int) -> list[bool] | None:
    """A list of 0 and 1 per layer (a longer one is cut), or None where ``key`` is absent."""
    found = cfg.list(key, default=None, of=int)
    return None if found is None else [bool(item) for item in at_least(cfg, key, found, n_layers)]


def at_least(cfg: ConfigView, key: str, items: list[T], n_layers: int) -> list[T]:
    """The first ``n_layers`` items. Raises SpecError when there are fewer."""
    if len(items) < n_layers:
        raise cfg.error(key, f"must have {n_layers} items, got {len(items)}")
    return items[:n_layers]


def one_based(cfg: ConfigView, key: str, n_layers: int) -> set[int]:
    """Layer numbers counted from one -> indices counted from zero. Raises SpecError beyond the model."""
    numbers = cfg.list(key, of=int)
    for number in numbers:
        if not 1 <= number <= n_layers:
            raise cfg.error(key, f"names layer {number}, the model has layers 1 to {n_layers}")
    return {number - 1 for number in numbers}


def mtp_part(n_layers: int, layer_params: int) -> tuple[Part, ...]:
    """``n_layers`` multi-token-prediction layers of ``layer_params`` each, none where there are none."""
    if n_layers == 0:
        return ()
    note = f"{n_layers} multi-token-prediction layer(s)"
    return (Part(kind="mtp", params=n_layers * layer_params, note=note),)
