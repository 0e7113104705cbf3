"""moeplan: will this model run on this machine, how fast, with which placement, and how sure are we?

``import moeplan`` is cheap; the functions load what they need when they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moeplan._version import __version__

if TYPE_CHECKING:
    from moeplan.api.compare import compare
    from moeplan.api.estimate import estimate
    from moeplan.api.plan import plan
    from moeplan.api.textbook import textbook
    from moeplan.domain.comparison import Comparison
    from moeplan.domain.plan import Plan
    from moeplan.domain.result import Estimate
    from moeplan.domain.textbook import Textbook
    from moeplan.errors import MoeplanError

__all__ = [
    "Comparison",
    "Estimate",
    "MoeplanError",
    "Plan",
    "Textbook",
    "__version__",
    "compare",
    "estimate",
    "plan",
    "textbook",
]

_HOMES = {
    "compare": "moeplan.api.compare",
    "Comparison": "moeplan.domain.comparison",
    "estimate": "moeplan.api.estimate",
    "Estimate": "moeplan.domain.result",
    "MoeplanError": "moeplan.errors",
    "plan": "moeplan.api.plan",
    "Plan": "moeplan.domain.plan",
    "textbook": "moeplan.api.textbook",
    "Textbook": "moeplan.domain.textbook",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moeplan' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
