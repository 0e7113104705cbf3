"""The catalog of hardware as a list, and single entries of it: for ``moeplan hardware list|show``."""

from __future__ import annotations

from typing import Literal

from moeplan.domain.hardware import CpuSpec, GpuSpec, HardwareSpec, LinkSpec, StorageSpec
from moeplan.domain.value import Value
from moeplan.errors import UnknownName
from moeplan.readers.catalog import Catalog
from moeplan.readers.hardware import resolve_hardware
from moeplan.readers.hardware_draft import Parts, cpu_names, gpu_names

Kind = Literal["gpu", "cpu", "node", "link", "storage"]
KINDS: tuple[Kind, ...] = ("gpu", "cpu", "node", "link", "storage")
HardwareEntry = GpuSpec | CpuSpec | LinkSpec | StorageSpec | HardwareSpec


class HardwareRow(Value):
    """One line of a list. ``memory_bytes``: VRAM of a GPU, all VRAM of a machine (its RAM without GPU);
    ``bytes_per_s``: memory bandwidth, of a link what copies reach, of a disk sequential reads."""

    id: str
    name: str
    kind: Kind
    segment: str
    memory_bytes: int | None
    bytes_per_s: float | None


def list_hardware(catalog: Catalog, kind: Kind) -> list[HardwareRow]:
    """Every entry of ``kind``, by id. Reads all files of that kind."""
    parts = Parts(catalog)
    return [_row(kind, _read(parts, kind, id_)) for id_ in catalog.ids(f"hardware/{kind}")]


def find_hardware(catalog: Catalog, name: str, kind: Kind | None = None) -> tuple[Kind, HardwareEntry]:
    """The entry called ``name``: a machine before a GPU before a CPU before links and disks.

    UnknownName with the nearest names of every kind.
    """
    kinds = (kind,) if kind else ("node", "gpu", "cpu", "link", "storage")
    parts = Parts(catalog)
    for each in kinds:
        for form in _forms(each, name):
            if catalog.resolve(f"hardware/{each}", form) is not None:
                return each, _read(parts, each, form)
    near = [candidate for each in kinds for candidate in catalog.nearest(f"hardware/{each}", name, n=2)]
    raise UnknownName("hardware", name[:60], tuple(dict.fromkeys(near))[:4], help="moeplan hardware list")


def _forms(kind: Kind, name: str) -> list[str]:
    return gpu_names(name) if kind == "gpu" else cpu_names(name) if kind == "cpu" else [name]


def _read(parts: Parts, kind: Kind, name: str) -> HardwareEntry:
    if kind == "node":
        return resolve_hardware(name, catalog=parts.catalog, parts=parts)
    readers = {"gpu": parts.gpu, "cpu": parts.cpu, "link": parts.link, "storage": parts.storage}
    return readers[kind](name)


def _row(kind: Kind, entry: HardwareEntry) -> HardwareRow:
    memory: int | None = None
    segment, rate = "", None
    if isinstance(entry, GpuSpec):
        memory, rate, segment = entry.memory_bytes, entry.bandwidth_bytes_per_s, entry.segment
    elif isinstance(entry, CpuSpec):
        memory, rate, segment = entry.max_ram_bytes, entry.ram_bytes_per_s, entry.segment
    elif isinstance(entry, LinkSpec):
        rate, segment = entry.effective_bytes_per_s, entry.kind
    elif isinstance(entry, StorageSpec):
        rate = entry.read_bytes_per_s
    elif entry.gpus:
        memory = sum(gpu.memory_bytes for gpu in entry.gpus)
        rate, segment = sum(gpu.bandwidth_bytes_per_s for gpu in entry.gpus), entry.gpus[0].segment
    else:
        memory, rate, segment = entry.host.ram_bytes, entry.host.ram_bytes_per_s, entry.host.cpu.segment
    return HardwareRow(
        id=entry.id, name=entry.name, kind=kind, segment=segment, memory_bytes=memory, bytes_per_s=rate
    )
