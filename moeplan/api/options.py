"""Options of Python calls: those of the command line with underscores."""

from __future__ import annotations

from typing import Any

from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.errors import SpecError, nearest

_MACHINE_OPTIONS = frozenset(MachineFlags.__struct_fields__)
_OPTION_NAMES = {"tp": ("tensor_parallel",), "ep": ("expert_parallel",)}
"""What options of the command line are called here, where that is not near."""


def request_of(model: str, hardware: str | None, options: dict[str, Any]) -> EstimateRequest:
    """The request of ``options``, those of the machine too. Raises SpecError naming one that is not known."""
    machine = MachineFlags(**{k: options.pop(k) for k in list(options) if k in _MACHINE_OPTIONS})
    known = EstimateRequest.__struct_fields__
    for name in options:
        if name not in known:
            close = _OPTION_NAMES.get(name) or nearest(name, (*known, *_MACHINE_OPTIONS))
            hint = f"did you mean {close[0]}?" if close else None
            raise SpecError(f"unknown option {name!r}", hint=hint)
    return EstimateRequest(model=model, hardware=hardware, machine=machine, **options)
