"""Memory nodes of this machine (Linux: /sys/devices/system/node), with the cores beside each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from moeplan.hw.probe import folders, read


class NumaNode(NamedTuple):
    """One node and the cores of it that this process may use, one hardware thread each."""

    number: int
    cpus: tuple[int, ...]


def numa_nodes(root: Path = Path("/"), usable: frozenset[int] | None = None) -> tuple[NumaNode, ...]:
    """Nodes that have memory and cores of ``usable`` (those that this process may use); empty elsewhere.

    Nodes of memory alone (CXL) are left out: what touches memory first is a core, and it lands beside it.
    """
    if usable is None:
        usable = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()
    found = []
    for folder in folders(root / "sys/devices/system/node", "node"):
        number = folder.name.removeprefix("node")
        cpus = [cpu for cpu in cpu_list(read(folder / "cpulist")) if cpu in usable]
        cores = tuple(cpu for cpu in cpus if _is_first_of_core(root, cpu, usable))
        if number.isdigit() and cores and _has_memory(folder):
            found.append(NumaNode(int(number), cores))
    return tuple(sorted(found))


def cpu_list(text: str) -> tuple[int, ...]:
    """The numbers of ``0-3,8``; empty for anything else."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            return ()
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def _is_first_of_core(root: Path, cpu: int, usable: frozenset[int]) -> bool:
    """Two hardware threads of a core read no faster than one."""
    siblings = cpu_list(read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
    return cpu == min((s for s in siblings if s in usable), default=cpu)


def _has_memory(folder: Path) -> bool:
    for line in read(folder / "meminfo").splitlines():
        words = line.split()
        if "MemTotal:" in words:
            size = words[words.index("MemTotal:") + 1]
            return size.isdigit() and int(size) > 0
    return False
