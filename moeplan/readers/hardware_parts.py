"""Catalog entries by name, the names people and processors use, and the rules for typical machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from moeplan.domain.hardware import CpuSpec, GpuSpec, LinkSpec, StorageSpec
from moeplan.readers.catalog import Catalog
from moeplan.readers.hardware_wire import HostRuleWire, TypicalHostsWire, WhenWire
from moeplan.readers.hardware_yaml import (
    read_cpu,
    read_gpu,
    read_link,
    read_storage,
    read_typical_hosts,
)
from moeplan.units import GIB

PartT = TypeVar("PartT", GpuSpec, CpuSpec, LinkSpec, StorageSpec)

# Links that come as an accessory: two cards have it only if somebody bought the bridge.
OPTIONAL_LINKS = frozenset({"nvlink-bridge"})


class Parts:
    """Reads catalog entries by name, each file at most once."""

    __slots__ = ("_read", "_rules", "catalog")

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._rules: TypicalHostsWire | None = None
        self._read: dict[Path, Any] = {}

    def gpu(self, name: str) -> GpuSpec:
        """The GPU called ``name``; vendor words in front are optional."""
        return self._once("hardware/gpu", gpu_names(name), read_gpu)

    def cpu(self, name: str) -> CpuSpec:
        """The CPU called ``name``."""
        return self._once("hardware/cpu", cpu_names(name), read_cpu)

    def link(self, name: str) -> LinkSpec:
        """The link called ``name``."""
        return self._once("hardware/link", [name], read_link)

    def storage(self, name: str) -> StorageSpec:
        """The disk called ``name``."""
        return self._once("hardware/storage", [name], read_storage)

    def _once(self, kind: str, names: list[str], read: Callable[[Path], PartT]) -> PartT:
        name = next((name for name in names if self.catalog.resolve(kind, name) is not None), names[0])
        path = self.catalog.find(kind, name)
        if path not in self._read:
            self._read[path] = read(path)
        part: PartT = self._read[path]
        return part

    @property
    def rules(self) -> TypicalHostsWire:
        """The rules for typical hosts, from the first root that has them."""
        if self._rules is None:
            for root in self.catalog.roots:
                path = root / "hardware" / "typical_hosts.yaml"
                if path.is_file():
                    break
            self._rules = read_typical_hosts(path)
        return self._rules


def host_rule(parts: Parts, gpu: GpuSpec) -> HostRuleWire:
    """The first rule of typical_hosts.yaml that matches ``gpu``."""
    built_in = is_built_in(parts, gpu)
    return next(rule for rule in parts.rules.gpu_hosts if _matches_gpu(rule.when, gpu, built_in))


def cpu_rule(parts: Parts, cpu: CpuSpec) -> HostRuleWire:
    """The first rule of typical_hosts.yaml that matches ``cpu``."""
    return next(
        rule
        for rule in parts.rules.cpu_hosts
        if (rule.when.ids is None or cpu.id in rule.when.ids)
        and (rule.when.segments is None or cpu.segment in rule.when.segments)
    )


def visible_bytes(rules: TypicalHostsWire, gpu: GpuSpec, ram_bytes: int) -> int:
    """How much of ``ram_bytes`` of unified memory the GPU may hold."""
    for rule in rules.unified:
        if rule.up_to_gib is not None and ram_bytes > rule.up_to_gib * GIB:
            continue
        if _matches_gpu(rule.when, gpu, False):
            return int(ram_bytes * rule.visible_frac)
    return ram_bytes


def is_built_in(parts: Parts, gpu: GpuSpec) -> bool:
    """Whether the link to its peers is part of the GPU's module (SXM, OAM), not a bridge."""
    if not gpu.peer_link or gpu.unified_memory:
        return False
    return parts.link(gpu.peer_link).kind not in OPTIONAL_LINKS


def pcie_shape(link_id: str) -> tuple[int, int]:
    """(generation, lanes) of ``pcie-4.0-x16``."""
    _, generation, lanes = link_id.split("-")
    return int(generation.split(".")[0]), int(lanes[1:])


def gpu_names(name: str) -> list[str]:
    """The ways a GPU's name may stand in the catalog, most literal first."""
    names = [name]
    for word in ("nvidia", "amd", "intel", "geforce", "radeon"):
        short = names[-1]
        if short.casefold().startswith(word):
            names.append(short[len(word) :].lstrip(" -_"))
    return names


def cpu_names(name: str) -> list[str]:
    """The ways a CPU's name may stand in the catalog, most literal first; ``name`` may be the string
    that the processor itself gives, e.g. ``Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz``."""
    words = name.replace("(R)", " ").replace("(TM)", " ").replace("(tm)", " ")
    for end in (" @ ", " w/ ", " with Radeon", " Rev ", " ("):
        words = words.split(end)[0]
    plain = " ".join(word for word in words.split() if not _is_filler(word))
    names = [name, plain]
    for word in ("intel", "amd"):
        if plain.casefold().startswith(word):
            names.append(plain[len(word) :].lstrip(" -_"))
    if names[-1].casefold().startswith("epyc") and names[-1][-1:] in "Pp":
        names.append(names[-1][:-1])  # the one-socket version of the same processor
    return list(dict.fromkeys(names))


def _is_filler(word: str) -> bool:
    """Words of a brand string that are no part of the model: ``16-Core``, ``13th``, ``Gen``, ``CPU``."""
    folded = word.casefold()
    if folded in ("cpu", "processor", "gen"):
        return True
    return folded.endswith(("-core", "-cores")) or (
        folded[:-2].isdigit() and folded[-2:] in ("st", "nd", "rd", "th")
    )


def _matches_gpu(when: WhenWire, gpu: GpuSpec, built_in: bool) -> bool:
    generation = pcie_shape(gpu.pcie)[0] if gpu.pcie else None
    return (
        (when.ids is None or gpu.id in when.ids)
        and (when.vendors is None or gpu.vendor in when.vendors)
        and (when.segments is None or gpu.segment in when.segments)
        and (when.pcie_gens is None or generation in when.pcie_gens)
        and (when.unified is None or gpu.unified_memory == when.unified)
        and (when.interconnect is None or built_in == when.interconnect)
    )
