"""Which machines an engine runs on. What it has no kernels for is refused, never priced like its kin."""

from __future__ import annotations

from moeplan.domain.hardware import GpuSpec, HardwareSpec
from moeplan.engines.traits import EngineTraits
from moeplan.errors import NotModelled


def refuse_machine(engine: EngineTraits, hardware: HardwareSpec) -> None:
    """Raise NotModelled where ``engine`` has nothing to run on in ``hardware``."""
    why = lacks(engine, hardware)
    if why:
        raise NotModelled(f"{engine.asked} on {hardware.name}", why)


def lacks(engine: EngineTraits, hardware: HardwareSpec) -> str:
    """What ``engine`` needs and ``hardware`` has not, in words; "" where it runs."""
    if "cpu" in engine.splits and not hardware.gpus:
        return ""
    if not hardware.gpus:
        return "it needs a GPU"
    kind = "unified" if hardware.unified else "gpu"
    if kind not in engine.splits:
        return "it is modelled on " + (
            "GPUs with memory of their own" if hardware.unified else "machines with unified memory"
        )
    return next((why for gpu in hardware.gpus if (why := _lacks_kernels(engine, gpu))), "")


def _lacks_kernels(engine: EngineTraits, gpu: GpuSpec) -> str:
    if engine.makers is not None and maker(gpu) not in engine.makers | {"other"}:
        return f"it has kernels for GPUs of {', '.join(sorted(engine.makers))}, not for {gpu.name}"
    if gpu.vendor == "nvidia" and 0.0 < capability(gpu) < engine.least_capability:
        least = engine.least_capability
        return f"it needs compute capability {least}, {gpu.name} has {gpu.compute_capability}"
    return ""


def maker(gpu: GpuSpec) -> str:
    """Whose kernels ``gpu`` needs: its vendor's; Gaudi's share nothing with Intel's GPUs."""
    return "gaudi" if gpu.architecture.casefold().startswith("gaudi") else gpu.vendor


def capability(gpu: GpuSpec) -> float:
    """A CUDA compute capability such as ``9.0``; 0 where it is unknown."""
    try:
        return float(gpu.compute_capability)
    except ValueError:
        return 0.0


def likely_capability(gpu: GpuSpec) -> float:
    """The same; unknown, as of GPUs that are sold now."""
    return capability(gpu) or 8.0
