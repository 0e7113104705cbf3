"""The device that torch measures on, and how much of its memory may be used."""

from __future__ import annotations

from typing import Any, NamedTuple

from moeplan.errors import MeasurementError, MissingExtra

# Of what is free: the rest of the machine keeps working, and a second copy (repacking) still fits.
MEMORY_SHARE = 0.4


class Device(NamedTuple):
    """A torch device, by name, and the number of bytes a run may hold on it."""

    torch: Any
    name: str
    """``cpu``, ``cuda``, ``xpu``, ``mps`` ..."""
    budget_bytes: int

    @property
    def is_cpu(self) -> bool:
        """Whether work runs on the processor itself."""
        return self.name == "cpu"

    def sync(self) -> None:
        """Wait until the device has done what it was asked; nothing to wait for on a CPU."""
        if not self.is_cpu:
            self.torch.accelerator.synchronize()


def import_torch() -> Any:
    """The module torch. Raises MissingExtra."""
    try:
        import torch
    except ImportError:
        raise MissingExtra("torch", "profile") from None
    return torch


def cpu_device(share: float = MEMORY_SHARE) -> Device:
    """The processor, with ``share`` of the memory that is free now."""
    return Device(import_torch(), "cpu", free_ram_bytes(share))


def free_ram_bytes(share: float = MEMORY_SHARE) -> int:
    """``share`` of the memory that this process may still use."""
    import psutil

    from moeplan.hw.host import cgroup_limit_bytes

    free = psutil.virtual_memory().available
    limit = cgroup_limit_bytes()
    if limit is not None:
        free = min(free, max(0, limit - psutil.Process().memory_info().rss))
    return int(free * share)


def gpu_device(share: float = MEMORY_SHARE) -> Device:
    """The accelerator that torch finds (CUDA, ROCm, XPU, MPS). MeasurementError says what was looked for."""
    torch = import_torch()
    found = _accelerator(torch)
    if found is None:
        raise MeasurementError(f"--gpu: no GPU to measure; {looked_for(torch)}")
    free = _free_bytes(torch, found)
    return Device(torch, found, int(free * share))


def looked_for(torch: Any) -> str:
    """What was asked in vain: the torch build, its accelerator, NVML, the kernel's graphics drivers."""
    import os

    from moeplan.hw.drm import find_drm_gpus
    from moeplan.hw.nvml import find_nvidia_gpus

    version = torch.version
    builds = [
        f"{label} {getattr(version, name)}"
        for name, label in (("cuda", "CUDA"), ("hip", "ROCm"), ("xpu", "XPU"))
        if getattr(version, name, None)
    ]
    gpus, notes = find_nvidia_gpus(dict(os.environ))
    others, more = find_drm_gpus()
    names = [gpu.name for gpu in (*gpus, *others)]
    parts = [
        f"torch {torch.__version__} is built for {' and '.join(builds) or 'the CPU only'}",
        "torch.accelerator finds none",
        f"drivers show {', '.join(names) if names else 'no GPU (NVML, /sys/class/drm)'}",
        *notes, *more,
    ]  # fmt: skip
    if names and not builds:
        parts.append("install the torch build for that GPU")
    return "; ".join(parts)


def _accelerator(torch: Any) -> str | None:
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is None or not accelerator.is_available():
        return None
    return str(accelerator.current_accelerator().type)


def _free_bytes(torch: Any, name: str) -> int:
    module = getattr(torch, name, None)
    info = getattr(module, "mem_get_info", None)
    if info is not None:
        return int(info()[0])
    import psutil  # MPS shares the machine's memory

    return int(psutil.virtual_memory().available)
