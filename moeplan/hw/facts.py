"""What identifies this machine in a calibration file, and what measurements depend on beside it."""

from __future__ import annotations

from moeplan.domain.hardware import FoundMachine
from moeplan.domain.profile import HostFacts


def local_facts() -> HostFacts:
    """This machine, as calibration files know it."""
    from moeplan.hw.detect import detect

    return host_facts(detect())


def host_facts(machine: FoundMachine) -> HostFacts:
    """``machine`` as a calibration records it, with driver, power limits, system and torch version."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = ""
    return HostFacts(
        cpu=machine.cpu_name,
        isa=machine.isa,
        sockets=machine.sockets,
        cores=machine.cores,
        threads=machine.threads,
        ram_bytes=machine.ram_bytes,
        gpus=tuple(gpu.name for gpu in machine.gpus),
        gpu_driver=nvidia_driver() if any(gpu.vendor == "nvidia" for gpu in machine.gpus) else "",
        power_limits_w=tuple(gpu.power_limit_w for gpu in machine.gpus if gpu.power_limit_w),
        virtual=machine.virtual,
        system=f"{platform.system()} {platform.release()}",
        torch=torch,
        notes=(*machine.notes, *clock_notes()),
    )


def nvidia_driver() -> str:
    """Version of the NVIDIA driver, or an empty string."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except (ImportError, OSError):
        return ""
    except pynvml.NVMLError:
        return ""
    try:
        text = pynvml.nvmlSystemGetDriverVersion()
        return text.decode() if isinstance(text, bytes) else str(text)
    except pynvml.NVMLError:
        return ""
    finally:
        pynvml.nvmlShutdown()


def throttle_notes() -> list[str]:
    """What holds the clocks of NVIDIA GPUs back right now (power, heat), by NVML's own words."""
    from moeplan.hw.nvml import find_throttling

    return find_throttling()


def clock_notes() -> list[str]:
    """A CPU governor that saves power makes repeats differ."""
    from pathlib import Path

    from moeplan.hw.probe import read

    governor = read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
    if governor in ("powersave", "conservative"):
        return [f"the CPU's frequency governor is {governor!r}: clocks vary with the load"]
    return []
