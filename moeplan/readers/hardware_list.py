"""Single entries of the hardware catalog, whatever their kind: for ``moeplan hardware list|show``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from moeplan.domain.hardware import CpuSpec, GpuSpec, HardwareSpec, LinkSpec, StorageSpec
from moeplan.errors import UnknownName
from moeplan.readers.catalog import Catalog
from moeplan.readers.hardware import resolve_hardware
from moeplan.readers.hardware_parts import Parts, cpu_names, gpu_names

Kind = Literal["gpu", "cpu", "node", "link", "storage"]
KINDS: tuple[Kind, ...] = ("gpu", "cpu", "node", "link", "storage")
HardwareEntry = GpuSpec | CpuSpec | LinkSpec | StorageSpec | HardwareSpec


def list_hardware(catalog: Catalog, kind: Kind) -> list[HardwareEntry]:
    """Every entry of ``kind``, by id. Reads all files of that kind; SpecError for a broken one."""
    parts = Parts(catalog)
    return [_read(parts, kind, id_) for id_ in catalog.ids(f"hardware/{kind}")]


def find_hardware(
    catalog: Catalog, name: str, kind: Kind | None = None, *, parts: Parts | None = None
) -> tuple[Kind, HardwareEntry]:
    """The entry called ``name``: a machine before a GPU before a CPU before links and disks.

    UnknownName with the nearest names of every kind. ``parts`` keeps what was read between calls.
    """
    kinds: tuple[Kind, ...] = (kind,) if kind else ("node", "gpu", "cpu", "link", "storage")
    parts = parts or Parts(catalog)
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
    readers: dict[str, Callable[[str], HardwareEntry]] = {
        "gpu": parts.gpu,
        "cpu": parts.cpu,
        "link": parts.link,
        "storage": parts.storage,
    }
    return readers[kind](name)
