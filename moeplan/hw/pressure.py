"""What the system counts of time that work could not run: taken by the host, or waited for a core."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from moeplan.hw.probe import folders, read, read_int

_STEAL_FIELD = 8


class Pressure(NamedTuple):
    """Counted since the system started; zero where the system does not count it."""

    stolen_s: float
    """Of all cores together, in which the host of a virtual machine ran something else (proc(5): steal)."""
    waiting_s: float
    """In which some program had to wait for a core (/proc/pressure/cpu: some)."""


def read_pressure(root: Path = Path("/")) -> Pressure:
    """Both counters as they are now (Linux)."""
    fields = read(root / "proc/stat").partition("\n")[0].split()
    stolen = int(fields[_STEAL_FIELD]) / os.sysconf("SC_CLK_TCK") if len(fields) > _STEAL_FIELD else 0.0
    some = next((x for x in read(root / "proc/pressure/cpu").splitlines() if x.startswith("some ")), "")
    total = some.rpartition("total=")[2]
    return Pressure(stolen, int(total) / 1e6 if total.isdigit() else 0.0)


def throttle_events(root: Path = Path("/")) -> int:
    """How often the cores have lowered their clocks for heat since the system started (x86 Linux)."""
    counts = [
        read_int(cpu / "thermal_throttle/core_throttle_count")
        for cpu in folders(root / "sys/devices/system/cpu", "cpu")
    ]
    return sum(count for count in counts if count is not None)
