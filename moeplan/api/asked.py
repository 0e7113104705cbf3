"""Values of a request, checked: what the command line refuses is refused from Python too."""

from __future__ import annotations

import math
from typing import Any, get_args

from moeplan.domain.request import EstimateRequest, MachineFlags, RamBasis
from moeplan.domain.workload import MAX_COUNT
from moeplan.errors import SpecError

# Field -> (option, least value, words that stand for a number).
_COUNTS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "context": ("--context", 1, ("max",)),
    "prompt_tokens": ("--prompt", 1, ()),
    "output_tokens": ("--output-tokens", 1, ()),
    "batch": ("--batch", 1, ("max",)),
    "ubatch": ("--ubatch", 1, ()),
    "gpu_layers": ("--gpu-layers", 0, ("all",)),
    "cpu_moe": ("--cpu-moe", 0, ("all",)),
    "tensor_parallel": ("--tp", 1, ()),
    "expert_parallel": ("--ep", 1, ()),
    "threads": ("--threads", 1, ()),
    "slots": ("--slots", 1, ()),
    "output_rows": ("output_rows", 1, ()),
    "depth_tokens": ("--depth", 0, ()),
}
_SWITCHES = ("flash_attention", "kv_unified", "swa_full", "mmap", "repack", "kv_offload")
_NAMES = ("model", "hardware", "quant", "engine", "kv_type", "placement", "calibration")
_PARTS = ("gpu", "cpu", "pcie", "link")
_SIZES = ("ram_gib", "ram_gbs", "storage_gbs", "reserve_vram_gib")


def check_request(request: EstimateRequest) -> None:
    """Raise SpecError for the first value that no run could have."""
    for field in _NAMES:
        check_name(getattr(request, field), field)
    _check_machine(request.machine)
    for field, (option, low, words) in _COUNTS.items():
        check_count(getattr(request, field), option, low, words)
    for field in _SWITCHES:
        if getattr(request, field) not in (None, True, False):
            raise SpecError(f"{field}: expected True or False, got {getattr(request, field)!r}")
    check_share(request.level, "--level", whole=False, given=True)
    check_share(request.memory_utilization, "--gpu-memory-utilization", whole=True)


def check_name(value: Any, what: str) -> None:
    """Raise where ``value`` is neither a name nor None."""
    if value is not None and not (isinstance(value, str) and value):
        raise SpecError(f"{what}: expected a name, got {value!r}")


def _check_machine(machine: MachineFlags) -> None:
    for field in _PARTS:
        check_name(getattr(machine, field), field)
    for field in _SIZES:
        size = getattr(machine, field)
        if size is not None and not (isinstance(size, str) or _is_number(size)):
            raise SpecError(f"{field}: expected a number or a size such as '64GB', got {size!r}")
    check_count(machine.n_gpus, "--n-gpus")
    if machine.ram_basis not in get_args(RamBasis):
        known = ", ".join(get_args(RamBasis))
        raise SpecError(f"ram_basis: expected one of {known}, got {machine.ram_basis!r}")


def check_count(value: Any, option: str, low: int = 1, words: tuple[str, ...] = ()) -> None:
    """Raise where ``value`` is no whole number of at least ``low``, none of ``words`` and not None."""
    if value is None or (isinstance(value, str) and value in words):
        return
    if isinstance(value, bool) or not isinstance(value, int):
        what = " or ".join(["a whole number", *map(repr, words)])
        raise SpecError(f"{option}: expected {what}, got {value!r}")
    if value < low:
        raise SpecError(f"{option} must be at least {low}, got {value}")
    if value > MAX_COUNT:
        raise SpecError(f"{option} must be at most {MAX_COUNT:,}, got {value:,}")


def check_share(value: Any, option: str, *, whole: bool, given: bool = False) -> None:
    """Raise where ``value`` does not lie between 0 and 1. ``whole``: it may be 1, ``given``: not None."""
    if (given or value is not None) and not (_is_number(value) and (0 < value < 1 or (whole and value == 1))):
        raise SpecError(f"{option} must lie between 0 and 1, got {value!r}")


def check_positive(value: Any, option: str) -> None:
    """Raise where ``value`` is not a finite number above zero; None is fine."""
    if value is not None and not (_is_number(value) and 0 < value < math.inf):
        raise SpecError(f"{option} must be a number above zero, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
