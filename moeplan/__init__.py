"""moeplan: will this model run on this machine, how fast, with which placement, and how sure are we?

``import moeplan`` is cheap; the functions load what they need when they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moeplan._version import __version__

if TYPE_CHECKING:
    from moeplan.api import estimate
    from moeplan.domain.result import Estimate
    from moeplan.errors import MoeplanError

__all__ = ["Estimate", "MoeplanError", "__version__", "estimate"]

_HOMES = {
    "estimate": "moeplan.api",
    "Estimate": "moeplan.domain.result",
    "MoeplanError": "moeplan.errors",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moeplan' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
