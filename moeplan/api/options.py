"""Options of Python calls: those of the command line with underscores."""

from __future__ import annotations

from typing import Any

from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.errors import SpecError, nearest

_MACHINE_OPTIONS = frozenset(MachineFlags.__struct_fields__)
_OPTION_NAMES = {
    "tp": "tensor_parallel",
    "ep": "expert_parallel",
    "prompt": "prompt_tokens",
    "depth": "depth_tokens",
    "flash_attn": "flash_attention",
    "gpu_memory_utilization": "memory_utilization",
}
"""Options of the command line, each with the name of its field where that is another one."""


def named(options: dict[str, Any]) -> dict[str, Any]:
    """``options`` under the names of their fields. Raises SpecError where two of them are one."""
    fields: dict[str, Any] = {}
    for name, value in options.items():
        field = _OPTION_NAMES.get(name, name)
        if field in fields:
            raise SpecError(f"{name}: given twice, under the names {' and '.join(_both(field))}")
        fields[field] = value
    return fields


def _both(field: str) -> list[str]:
    return [*(name for name, other in _OPTION_NAMES.items() if other == field), field]


def request_of(model: str, hardware: str | None, options: dict[str, Any]) -> EstimateRequest:
    """The request of ``options``, those of the machine too. Raises SpecError naming one that is not known."""
    fields = named(options)
    machine = MachineFlags(**{k: fields.pop(k) for k in list(fields) if k in _MACHINE_OPTIONS})
    known = EstimateRequest.__struct_fields__
    for name in fields:
        if name not in known:
            close = nearest(name, (*known, *_MACHINE_OPTIONS, *_OPTION_NAMES))
            raise SpecError(f"unknown option {name!r}", hint=f"did you mean {close[0]}?" if close else None)
    return EstimateRequest(model=model, hardware=hardware, machine=machine, **fields)
