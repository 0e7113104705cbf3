"""What was found on a machine, matched with the shipped catalog alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moeplan.domain.hardware import FoundGpu, FoundMachine, HardwareSpec
from moeplan.domain.request import MachineFlags
from moeplan.readers.catalog import Catalog
from moeplan.readers.hardware import resolve_hardware
from moeplan.readers.hardware_parts import Parts

GIB, MIB = 1024**3, 1024**2
PARTS = Parts(Catalog(user=Path("/nonexistent")))


def match(gpus: list[FoundGpu], **changes: Any) -> HardwareSpec:
    found: dict[str, Any] = {
        "gpus": tuple(gpus),
        "cpu_name": "AMD Ryzen 9 7950X 16-Core Processor",
        "sockets": 1,
        "cores": 16,
        "threads": 32,
        "isa": ("avx2", "avx512"),
        "ram_bytes": 62 * GIB,
    }
    machine = FoundMachine(**(found | changes))
    return resolve_hardware("local", MachineFlags(), parts=PARTS, detect=lambda: machine)
