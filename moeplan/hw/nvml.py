"""NVIDIA GPUs as NVML describes them (package nvidia-ml-py, module ``pynvml``)."""

from __future__ import annotations

import re
from typing import Any

from moeplan.domain.hardware import FoundGpu

# nvml.h: NVML_NVLINK_MAX_LINKS, NVML_CLOCK_SM, NVML_CLOCK_MEM.
_MAX_NVLINKS = 18
_SM_CLOCK, _MEMORY_CLOCK = 1, 2
# Transfers per memory clock that NVML reports, GDDR5 to GDDR7 and HBM alike: an RTX 4090 reports
# 10501 MHz and has 21 GT/s, an A100 80GB 1593 MHz and 3.19 GT/s (their data sheets).
_TRANSFERS_PER_CLOCK = 2
_FLOP_PER_CORE_AND_CLOCK = 2  # one fused multiply-add


def find_nvidia_gpus(environ: dict[str, str]) -> tuple[list[FoundGpu], list[str]]:
    """The GPUs that CUDA programs would see (``CUDA_VISIBLE_DEVICES`` of ``environ``), and notes."""
    try:
        import pynvml
    except ImportError:
        return [], ["NVIDIA GPUs were not looked for: the package nvidia-ml-py is not installed"]
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError) as error:
        return [], _why_not(error)
    try:
        return _find(pynvml, environ)
    except (pynvml.NVMLError, OSError) as error:
        return [], [f"the NVIDIA driver stopped answering: {error}"]
    finally:
        _ask(pynvml, "nvmlShutdown")


def _why_not(error: Exception) -> list[str]:
    """A note for a driver that is there but broken; silence where there is simply no NVIDIA GPU."""
    if type(error).__name__ in ("NVMLError_LibraryNotFound", "NVMLError_NotFound"):
        return []
    return [f"NVIDIA GPUs could not be read: {error}"]


def _find(nvml: Any, environ: dict[str, str]) -> tuple[list[FoundGpu], list[str]]:
    gpus: list[FoundGpu] = []
    notes: list[str] = []
    for index in _visible(nvml, nvml.nvmlDeviceGetCount(), environ.get("CUDA_VISIBLE_DEVICES")):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            gpus += _slices(nvml, handle) or [_gpu(nvml, handle, handle)]
        except (nvml.NVMLError, OSError) as error:
            notes.append(f"GPU {index} does not answer and is left out: {error}")
    if environ.get("CUDA_VISIBLE_DEVICES") is not None:
        notes.append("CUDA_VISIBLE_DEVICES chooses which GPUs count")
    return gpus, notes


def _visible(nvml: Any, count: int, chosen: str | None) -> list[int]:
    """Indices named by ``CUDA_VISIBLE_DEVICES``: up to the first one that makes no sense, as CUDA does."""
    if chosen is None:
        return list(range(count))
    ids = [
        str(_text(_ask(nvml, "nvmlDeviceGetUUID", nvml.nvmlDeviceGetHandleByIndex(index))))
        for index in range(count)
    ]
    indices: list[int] = []
    for name in (part.strip() for part in chosen.split(",")):
        index = int(name) if name.isdigit() else next((i for i, id_ in enumerate(ids) if _is(name, id_)), -1)
        if not 0 <= index < count or index in indices:
            break
        indices.append(index)
    return indices


def _is(name: str, uuid: str) -> bool:
    return name.startswith("GPU-") and uuid.startswith(name)


def _slices(nvml: Any, handle: Any) -> list[FoundGpu]:
    """The MIG slices of a GPU; empty when it is not divided."""
    mode = _ask(nvml, "nvmlDeviceGetMigMode", handle)
    if not mode or mode[0] != 1:
        return []
    found = []
    for index in range(_ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        slice_ = _ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
        if slice_ is not None:
            found.append(_gpu(nvml, handle, slice_))
    return found


def _gpu(nvml: Any, board: Any, part: Any) -> FoundGpu:
    """``part`` is the GPU itself or one MIG slice of ``board``."""
    name = _text(nvml.nvmlDeviceGetName(part))
    memory = _ask(nvml, "nvmlDeviceGetMemoryInfo", part)
    capability = _ask(nvml, "nvmlDeviceGetCudaComputeCapability", board)
    power_mw = _ask(nvml, "nvmlDeviceGetPowerManagementLimit", board)
    sliced = re.search(r" MIG (?:\d+c\.)?(\d)g\.", name)
    return FoundGpu(
        name=name,
        vendor="nvidia",
        memory_bytes=memory.total if memory else None,
        used_bytes=memory.used if memory else 0,
        bandwidth_bytes_per_s=_bandwidth(nvml, board),
        fp32_flop_per_s=_fp32(nvml, board),
        pcie_gen=_ask(nvml, "nvmlDeviceGetMaxPcieLinkGeneration", board),
        pcie_lanes=_ask(nvml, "nvmlDeviceGetCurrPcieLinkWidth", board),
        nvlink_links=_nvlinks(nvml, board),
        mig_slices=int(sliced[1]) if sliced else 0,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else "",
        power_limit_w=power_mw / 1000 if power_mw else None,
    )


def _bandwidth(nvml: Any, handle: Any) -> float | None:
    clock_mhz = _ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, _MEMORY_CLOCK)
    bus_bits = _ask(nvml, "nvmlDeviceGetMemoryBusWidth", handle)
    if not clock_mhz or not bus_bits:
        return None
    return float(clock_mhz * 10**6 * _TRANSFERS_PER_CLOCK * bus_bits // 8)


def _fp32(nvml: Any, handle: Any) -> float | None:
    cores = _ask(nvml, "nvmlDeviceGetNumGpuCores", handle)
    clock_mhz = _ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, _SM_CLOCK)
    return float(cores * clock_mhz * 10**6 * _FLOP_PER_CORE_AND_CLOCK) if cores and clock_mhz else None


def _nvlinks(nvml: Any, handle: Any) -> int | None:
    states = [_ask(nvml, "nvmlDeviceGetNvLinkState", handle, link) for link in range(_MAX_NVLINKS)]
    known = [state for state in states if state is not None]
    return sum(state == 1 for state in known) if known else None


def _ask(nvml: Any, function: str, *arguments: Any) -> Any:
    """What NVML answers, or None: many functions are not supported by every card, driver and binding."""
    try:
        return getattr(nvml, function)(*arguments)
    except (nvml.NVMLError, AttributeError, OSError, TypeError, ValueError):
        return None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# nvml.h, nvmlClocksThrottleReasons: what slows a busy GPU (idle and user settings are no faults).
_THROTTLES = {
    0x4: "the power cap", 0x8: "a hardware slowdown (heat or power brake)", 0x20: "heat (software limit)",
    0x40: "heat (hardware limit)", 0x80: "the power brake",
}  # fmt: skip


def find_throttling() -> list[str]:
    """What holds GPU clocks back at this moment; empty where nothing does or nobody can tell."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except (ImportError, OSError):
        return []
    except pynvml.NVMLError:
        return []
    notes = []
    for index in range(_ask(pynvml, "nvmlDeviceGetCount") or 0):
        handle = _ask(pynvml, "nvmlDeviceGetHandleByIndex", index)
        bits = _ask(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle) or 0
        notes += [f"GPU {index} is throttled by {what}" for bit, what in _THROTTLES.items() if bits & bit]
    _ask(pynvml, "nvmlShutdown")
    return notes
