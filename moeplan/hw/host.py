"""CPU and memory of this machine: /proc, /sys, cgroups on Linux, sysctl on macOS."""

from __future__ import annotations

import os
import re
from pathlib import Path

from moeplan.hw.probe import folders, read, run

# Names of instruction sets as /proc/cpuinfo has them -> as the catalog has them.
_X86 = {"avx2": "avx2", "avx512f": "avx512", "amx_tile": "amx", "amx_fp16": "amx-fp16"}
_ARM = {"asimd": "neon", "sve": "sve", "sve2": "sve2", "sme": "sme"}
# A cgroup v1 without a limit shows the largest whole number of pages.
_UNLIMITED_BYTES = 1 << 60


class Cpu:
    """What the system says of its processors."""

    __slots__ = ("cores", "isa", "name", "sockets", "threads", "virtual")

    def __init__(self, name: str, sockets: int, cores: int, threads: int, isa: tuple[str, ...]) -> None:
        self.name = name
        self.sockets = sockets
        self.cores = cores
        self.threads = threads
        self.isa = isa
        self.virtual = False


def linux_cpu(root: Path = Path("/")) -> Cpu:
    """CPUs of a Linux machine; counts are what this process may use."""
    text = read(root / "proc/cpuinfo")
    fields: dict[str, str] = {}
    places: set[tuple[str, str]] = set()
    physical = core = ""
    threads = 0
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        fields.setdefault(key, value)
        threads += key == "processor"
        if key == "physical id":
            physical = value
        elif key == "core id":
            core = value
            places.add((physical, core))
    words = fields.get("flags", fields.get("Features", "")).split()
    table = _X86 if "flags" in fields else _ARM
    isa = tuple(table[word] for word in table if word in words)
    name = fields.get("model name", "")
    if not name or "flags" not in fields:
        name = _board(root) or name
    sockets = len({socket for socket, _ in places}) or 1
    threads = threads or os.cpu_count() or 1
    cpu = Cpu(name or "unknown CPU", sockets, len(places) or threads, threads, isa)
    cpu.virtual = "hypervisor" in words
    return cpu


def _board(root: Path) -> str:
    """What Arm machines have instead of a CPU name."""
    return read(root / "proc/device-tree/model") or read(root / "sys/class/dmi/id/product_name")


def mac_cpu() -> Cpu:
    """The chip of a Mac, e.g. ``Apple M2 Max``."""
    name = run("sysctl", "-n", "machdep.cpu.brand_string") or "unknown CPU"
    threads = os.cpu_count() or 1
    cores = run("sysctl", "-n", "hw.physicalcpu")
    isa: tuple[str, ...] = ("neon",) if name.startswith("Apple") else ("avx2",)
    return Cpu(name, 1, int(cores) if cores.isdigit() else threads, threads, isa)


def mac_gpu_cores() -> int | None:
    """GPU cores of an Apple chip: M3 Max and later come in two widths of memory."""
    match = re.search(r'"gpu-core-count"\s*=\s*(\d+)', run("ioreg", "-rc", "AGXAccelerator"))
    return int(match[1]) if match else None


def other_cpu() -> Cpu:
    """Any other system."""
    import platform

    threads = os.cpu_count() or 1
    return Cpu(platform.processor() or "unknown CPU", 1, max(1, threads // 2), threads, ())


def cgroup_limit_bytes(root: Path = Path("/")) -> int | None:
    """The lowest memory limit of this process's control groups (v1 and v2), or None."""
    limits: list[int] = []
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # Inside a container the path may be the host's: then the limit stands at the mount itself.
        steps = [step for step in path.split("/") if step not in ("", "..", ".")]
        for depth in range(len(steps), -1, -1):
            text = read(base.joinpath(*steps[:depth]) / name)
            if text.isdigit() and 0 < int(text) < _UNLIMITED_BYTES:
                limits.append(int(text))
    return min(limits, default=None)


def memory_modules() -> tuple[int | None, int | None]:
    """(mega-transfers per second, number of modules) as the firmware says; needs root and dmidecode."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None, None
    return parse_dmidecode(run("dmidecode", "-t", "memory"))


def parse_dmidecode(text: str) -> tuple[int | None, int | None]:
    """The slowest configured speed and the number of filled slots in ``dmidecode -t memory``."""
    speeds: list[int] = []
    modules = 0
    for block in text.split("Memory Device")[1:]:
        size = re.search(r"^\s*Size: (\d+) [MGT]B", block, re.MULTILINE)
        if size is None:
            continue
        modules += 1
        speed = re.search(r"^\s*Configured (?:Memory|Clock) Speed: (\d+) MT/s", block, re.MULTILINE)
        if speed:
            speeds.append(int(speed[1]))
    return min(speeds, default=None), modules or None


def surroundings(root: Path = Path("/")) -> list[str]:
    """Notes on where this runs: WSL or a container."""
    notes = []
    if "microsoft" in read(root / "proc/version").casefold():
        notes.append("Windows Subsystem for Linux: Windows keeps a part of RAM and of GPU memory")
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        notes.append("inside a container: other programs of the host are not seen")
    return notes


def has_pci_vendor(vendor: str, root: Path = Path("/")) -> bool:
    """Whether a device of the PCI vendor (``0x10de``) is plugged in."""
    return any(read(device / "vendor") == vendor for device in folders(root / "sys/bus/pci/devices"))
