"""Looks at this machine. Matching what is found with the catalog is readers' work."""

from __future__ import annotations

import os
import sys

from moeplan.domain.hardware import FoundGpu, FoundMachine
from moeplan.hw import host
from moeplan.hw.drm import find_drm_gpus
from moeplan.hw.nvml import find_nvidia_gpus
from moeplan.units import fmt_bytes

_NVIDIA = "0x10de"  # PCI-SIG vendor number


def free_ram_bytes() -> int:
    """RAM that a program may take now, pages of the file cache included."""
    import psutil

    return int(psutil.virtual_memory().available)


def detect() -> FoundMachine:
    """This machine's GPUs, CPU and RAM, as far as drivers and system tell; ``notes`` name the rest.

    Never raises for a missing driver, tool or permission.
    """
    import psutil

    ram_bytes: int = psutil.virtual_memory().total
    if sys.platform == "darwin":
        return _mac(ram_bytes)
    gpus, notes = find_nvidia_gpus(dict(os.environ))
    if not sys.platform.startswith("linux"):
        cpu = host.other_cpu()
        notes.append("only NVIDIA GPUs are looked for on this system")
        return _machine(gpus, cpu, ram_bytes, notes)
    if not gpus and not notes and host.has_pci_vendor(_NVIDIA):
        notes.append("an NVIDIA GPU is plugged in, but its driver is not installed")
    others, more = find_drm_gpus()
    notes += more + host.surroundings()
    limit = host.cgroup_limit_bytes()
    if limit is not None and limit < ram_bytes:
        notes.append(f"a control group limits RAM to {fmt_bytes(limit)} of {fmt_bytes(ram_bytes)}")
        ram_bytes = limit
    cpu = host.linux_cpu()
    usable = len(os.sched_getaffinity(0))
    if usable < cpu.threads:
        notes.append(f"only {usable} of {cpu.threads} hardware threads may be used")
        cpu.cores, cpu.threads = max(1, cpu.cores * usable // cpu.threads), usable
    return _machine(gpus + others, cpu, ram_bytes, notes)


def _machine(gpus: list[FoundGpu], cpu: host.Cpu, ram_bytes: int, notes: list[str]) -> FoundMachine:
    mts, modules = host.memory_modules()
    return FoundMachine(
        gpus=tuple(gpus),
        cpu_name=cpu.name,
        sockets=cpu.sockets,
        cores=cpu.cores,
        threads=cpu.threads,
        isa=cpu.isa,
        ram_bytes=ram_bytes,
        ram_mts=mts,
        ram_modules=modules,
        virtual=cpu.virtual,
        notes=tuple(notes),
    )


def _mac(ram_bytes: int) -> FoundMachine:
    cpu = host.mac_cpu()
    gpus = []
    if cpu.name.startswith("Apple"):
        cores = host.mac_gpu_cores()
        name = f"{cpu.name} {cores}-core" if cores else cpu.name
        gpus.append(FoundGpu(name=name, vendor="apple", memory_bytes=ram_bytes, unified_memory=True))
    return FoundMachine(
        gpus=tuple(gpus),
        cpu_name=cpu.name,
        sockets=1,
        cores=cpu.cores,
        threads=cpu.threads,
        isa=cpu.isa,
        ram_bytes=ram_bytes,
    )
