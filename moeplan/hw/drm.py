"""AMD and Intel GPUs as the Linux kernel describes them under /sys/class/drm."""

from __future__ import annotations

import re
from pathlib import Path

from moeplan.domain.hardware import FoundGpu, Vendor
from moeplan.hw.probe import folders, read, read_int

# PCI-SIG vendor numbers.
_VENDORS: dict[int, Vendor] = {0x1002: "amd", 0x8086: "intel"}
_PCI_IDS = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")
_AMD_IDS = "usr/share/libdrm/amdgpu.ids"
# GT/s per lane of PCIe 1 to 6.
_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}


def find_drm_gpus(root: Path = Path("/")) -> tuple[list[FoundGpu], list[str]]:
    """Every AMD or Intel display device with memory of its own that the kernel names, and notes."""
    gpus: list[FoundGpu] = []
    notes: list[str] = []
    for card in folders(root / "sys/class/drm", "card"):
        if not card.name[4:].isdigit():
            continue  # a connector such as card0-DP-1
        device = card / "device"
        vendor = _VENDORS.get(read_int(device / "vendor") or 0)
        if vendor is None:
            continue
        name = _name(root, device, vendor)
        memory = read_int(device / "mem_info_vram_total") or read_int(card / "lmem_total_bytes")
        if not name or (vendor == "intel" and "arc" not in name.casefold()):
            if memory:
                notes.append(f"a GPU of vendor {vendor} is left out: the system does not know its name")
            continue
        gpus.append(
            FoundGpu(
                name=name,
                vendor=vendor,
                memory_bytes=memory,
                used_bytes=read_int(device / "mem_info_vram_used") or 0,
                pcie_gen=_generation(read(device / "max_link_speed")),
                pcie_lanes=read_int(device / "current_link_width") or None,
            )
        )
    return gpus, notes


def _name(root: Path, device: Path, vendor: Vendor) -> str:
    """The marketing name: from the board, libdrm's table, or the PCI table."""
    own = read(device / "product_name")
    number, revision = read_int(device / "device"), read_int(device / "revision")
    if own or number is None:
        return own
    if vendor == "amd":
        for line in read(root / _AMD_IDS).splitlines():
            fields = [field.strip() for field in line.split(",", 2)]
            if len(fields) == 3 and fields[0].casefold() == f"{number:x}" and _hex(fields[1]) == revision:
                return fields[2]
    for table in _PCI_IDS:
        name = _pci_name(read(root / table), read(device / "vendor")[2:].casefold(), f"{number:04x}")
        if name:
            return name
    return ""


def _pci_name(table: str, vendor: str, device: str) -> str:
    """``Arc A770`` of a line such as ``\\t56a0  DG2 [Arc A770]`` in the vendor's block."""
    inside = False
    for line in table.splitlines():
        if line[:1] not in ("\t", "#", ""):
            inside = line.casefold().startswith(vendor)
        elif inside and line.startswith(f"\t{device}"):
            bracket = re.search(r"\[(.+)\]", line)
            return bracket[1] if bracket else line[5:].strip()
    return ""


def _generation(speed: str) -> int | None:
    """4 of ``16.0 GT/s PCIe``."""
    try:
        return _GENERATIONS.get(float(speed.split(" ")[0]))
    except ValueError:
        return None


def _hex(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None
