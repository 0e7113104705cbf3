"""A machine while it is put together: what is known so far, and what is typical for the rest."""

from __future__ import annotations

import msgspec

from moeplan.domain.hardware import CpuSpec, GpuSpec, HardwareSpec, HostSpec, LinkSpec, StorageSpec
from moeplan.errors import NotModelled
from moeplan.provenance import Source
from moeplan.readers.hardware_parts import (
    OPTIONAL_LINKS,
    Parts,
    cpu_rule,
    host_rule,
    is_built_in,
    pcie_shape,
    visible_bytes,
)
from moeplan.readers.hardware_wire import Basis, HostRuleWire, SourceWire
from moeplan.readers.hardware_yaml import gib, rate, sources_of
from moeplan.units import fmt_bytes, fmt_si

# More is a typing error rather than a machine that moeplan can say anything about.
MAX_GPUS = 65536
# Lanes a desktop board has for graphics cards; the CPU's others serve disks and the chipset.
# AMD AM5 and Intel LGA1700/1851 platform block diagrams: one x16 port, split as x8/x8 or x8/x4/x4.
DESKTOP_GPU_LANES = 16
_DESKTOP = frozenset({"desktop", "laptop", "edge", "desktop-unified"})
# Between machines with unified memory when nothing is said: what a Mac Studio or mini PC has built in.
_DEFAULT_NODE_LINK = "ethernet-10gbe"


class Draft:
    """The pieces of a machine that are known. Everything still None is filled by ``finish``."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.id = ""
        self.name = ""
        self.gpus: list[GpuSpec] = []
        self.cpu: CpuSpec | None = None
        self.vcpus: int | None = None
        self.virtual = False
        self.ram_bytes: int | None = None
        self.ram_bytes_per_s: float | None = None
        self.ram_basis: Basis = "stated"
        self.guess_factor = 1.0
        self.storage: StorageSpec | None = None
        self.pcie: LinkSpec | None = None
        self.peer_link: LinkSpec | None = None
        self.no_peer_link = False
        self.node_link: LinkSpec | None = None
        self.n_nodes: int | None = None
        self.reserve_vram_bytes = 0
        self.reserve_ram_bytes = 0
        self.notes = ""
        self.assumptions: list[str] = []
        self.sources: list[Source] = []

    @property
    def unified(self) -> bool:
        """Whether the GPUs use the machine's only memory."""
        return bool(self.gpus) and all(gpu.unified_memory for gpu in self.gpus)

    @property
    def kinds(self) -> list[GpuSpec]:
        """One GPU of each id."""
        return list({gpu.id: gpu for gpu in self.gpus}.values())

    def replace_gpus(self, gpus: list[GpuSpec]) -> None:
        """Take other GPUs; what was said about links between the old ones no longer holds."""
        if [gpu.id for gpu in gpus] != [gpu.id for gpu in self.gpus]:
            self.pcie = self.peer_link = self.n_nodes = None
            self.no_peer_link = False
            self.reserve_vram_bytes = 0
        self.gpus = gpus

    def set_unified_memory(self, ram_bytes: int) -> None:
        """Give every (unified) GPU ``ram_bytes`` of memory and the share of it that it may hold."""
        self.ram_bytes = ram_bytes
        rules = self.parts.rules
        sized = {
            gpu.id: msgspec.structs.replace(
                gpu, memory_bytes=ram_bytes, visible_bytes=visible_bytes(rules, gpu, ram_bytes)
            )
            for gpu in self.kinds
        }
        self.gpus = [sized[gpu.id] for gpu in self.gpus]

    def finish(self) -> HardwareSpec:
        """The machine, with the rest filled in as is typical and each guess listed."""
        rule = self._rule()
        cpu = self._part_of(self.cpu or self._typical_cpu(rule))
        ram_bytes = self._ram_bytes(rule, cpu)
        ram_rate, basis = self._ram_rate(cpu)
        n_nodes = self._n_nodes(rule)
        storage = self.storage
        if storage is None:
            storage = self.parts.storage(rule.storage)
            self._assume(f"storage {storage.name}, {fmt_si(storage.read_bytes_per_s, 'B/s')}", rule)
        pcie = self.pcie or self._host_link(rule, cpu)
        peer = self._peer_link(n_nodes)
        node_link = self._node_link(rule, n_nodes)
        return HardwareSpec(
            id=self.id or "machine",
            name=self.name or self.id or "machine",
            gpus=tuple(self.gpus),
            host=HostSpec(
                cpu=cpu,
                ram_bytes=ram_bytes,
                ram_bytes_per_s=ram_rate,
                ram_basis=basis,
                storage=storage,
                guess_factor=self.guess_factor if basis == "assumed" else 1.0,
            ),
            pcie=pcie,
            peer_link=peer,
            node_link=node_link,
            reserve_vram_bytes=self.reserve_vram_bytes,
            reserve_ram_bytes=self.reserve_ram_bytes,
            n_nodes=n_nodes,
            notes=self.notes,
            assumptions=tuple(dict.fromkeys(self.assumptions)),
            sources=tuple(self.sources),
        )

    def _rule(self) -> HostRuleWire:
        if self.gpus:
            return host_rule(self.parts, self.gpus[0])
        if self.cpu is None:
            raise NotModelled("a machine of which neither GPU nor CPU is known")
        return cpu_rule(self.parts, self.cpu)

    def _assume(self, what: str, rule: HostRuleWire) -> None:
        self.assumptions.append(f"{what} (typical {rule.label})")
        for source in sources_of(rule.sources):
            if source not in self.sources:
                self.sources.append(source)

    def _typical_cpu(self, rule: HostRuleWire) -> CpuSpec:
        own = self.gpus[0].host_cpu
        if own:
            return self.parts.cpu(own)
        if not rule.cpu:
            raise NotModelled(f"the host of {self.gpus[0].name}", "no CPU is known for it", ["--cpu"])
        cpu = self.parts.cpu(rule.cpu)
        self._assume(f"host CPU {cpu.name}", rule)
        self.guess_factor = self.parts.rules.unknown_cpu.factor
        return cpu

    def _part_of(self, cpu: CpuSpec) -> CpuSpec:
        """As much of ``cpu`` as a virtual machine has."""
        if self.vcpus is None or self.vcpus >= cpu.threads:
            return cpu
        self.virtual = True
        cores = max(1, self.vcpus * cpu.cores // cpu.threads)
        return msgspec.structs.replace(cpu, cores=cores, threads=self.vcpus)

    def _ram_bytes(self, rule: HostRuleWire, cpu: CpuSpec) -> int:
        if self.unified:
            if self.ram_bytes is None or self.gpus[0].visible_bytes is None:
                self.set_unified_memory(self.ram_bytes or self.gpus[0].memory_bytes)
            size = self.gpus[0].memory_bytes
            self.assumptions.append(
                f"the GPU may hold {fmt_bytes(self.gpus[0].usable_bytes)} of {fmt_bytes(size)} unified memory"
            )
            return size
        if self.ram_bytes is not None:
            return self.ram_bytes
        if rule.ram_gib is None:
            raise NotModelled(f"RAM of the host of {self.gpus[0].name}", "", ["--ram-gib"])
        size = gib(rule.ram_gib)
        if cpu.max_ram_bytes is not None:
            size = min(size, cpu.max_ram_bytes)
        self._assume(f"RAM {fmt_bytes(size)}", rule)
        return size

    def _ram_rate(self, cpu: CpuSpec) -> tuple[float, Basis]:
        if self.ram_bytes_per_s is not None:
            return self.ram_bytes_per_s, self.ram_basis
        if self.unified:
            return self.gpus[0].bandwidth_bytes_per_s, "theoretical"
        if cpu.ram_bytes_per_s is not None:
            usual = f", {cpu.ram_type}" if cpu.ram_type else ""
            value, why = cpu.ram_bytes_per_s, f"theoretical, the usual memory of {cpu.name}{usual}"
            basis: tuple[SourceWire, ...] = ()
        else:
            rule = cpu_rule(self.parts, cpu)
            value, why = rate((rule.ram_gbps or 0.0) * cpu.sockets), f"typical {rule.label}"
            basis = rule.sources
            self.guess_factor = self.parts.rules.unknown_cpu.factor
        part = self.parts.rules.virtual_machine
        if self.virtual and rate(part.core_gbps * cpu.cores) < value:
            value, why = rate(part.core_gbps * cpu.cores), f"{cpu.cores} cores of a virtual machine"
            basis, self.guess_factor = part.sources, part.factor
        self.sources += sources_of(basis)
        wide = f", within a factor of {self.guess_factor:g}" if self.guess_factor > 1.0 else ""
        said = f"RAM bandwidth {fmt_si(value, 'B/s')} ({why}{wide})"
        self.assumptions.append(f"{said}; say it with --ram-gbs")
        return value, "assumed"

    def _n_nodes(self, rule: HostRuleWire) -> int:
        if self.n_nodes is not None:
            return self.n_nodes
        per_node = 1 if self.unified and rule.gpus_per_node is None else rule.gpus_per_node
        if per_node is None or len(self.gpus) <= per_node:
            return 1
        n_nodes = -(-len(self.gpus) // per_node)
        self._assume(f"{n_nodes} machines with {per_node} GPU{'s' * (per_node > 1)} each", rule)
        return n_nodes

    def _host_link(self, rule: HostRuleWire, cpu: CpuSpec) -> LinkSpec | None:
        """The slowest host link among the GPUs, as the CPU's generation and lanes allow."""
        if rule.pcie and self.gpus:
            return self.parts.link(rule.pcie)
        slots = [gpu.pcie for gpu in self.kinds if gpu.pcie]
        if not slots:
            return None
        generation = min(pcie_shape(slot)[0] for slot in slots)
        lanes = wanted = min(pcie_shape(slot)[1] for slot in slots)
        if cpu.pcie:
            generation = min(generation, pcie_shape(cpu.pcie)[0])
        built_in = any(is_built_in(self.parts, gpu) for gpu in self.kinds)
        if cpu.pcie_lanes and not built_in:
            # SXM and OAM boards sit behind PCIe switches, x16 each; slots share the CPU's lanes.
            free = min(cpu.pcie_lanes, DESKTOP_GPU_LANES) if cpu.segment in _DESKTOP else cpu.pcie_lanes
            lanes = _lanes_each(free, len(self.gpus), wanted)
        if lanes < wanted:
            self.assumptions.append(
                f"PCIe x{lanes} for each of {len(self.gpus)} GPUs: {cpu.name} has no more lanes for them"
            )
        return self.parts.link(f"pcie-{generation}.0-x{lanes}")

    def _peer_link(self, n_nodes: int) -> LinkSpec | None:
        if self.peer_link is not None or self.no_peer_link or len(self.gpus) <= n_nodes:
            return self.peer_link
        names = {gpu.peer_link for gpu in self.gpus}
        if len(names) > 1 or "" in names:
            return None
        link = self.parts.link(names.pop())
        if link.kind in OPTIONAL_LINKS:
            self.assumptions.append(f"no bridge between the GPUs, PCIe only (else: --link {link.id})")
            return None
        return link

    def _node_link(self, rule: HostRuleWire, n_nodes: int) -> LinkSpec | None:
        if self.node_link is not None or n_nodes < 2:
            return self.node_link
        own = self.gpus[0].peer_link if self.unified else ""
        link = self.parts.link(own or rule.node_link or _DEFAULT_NODE_LINK)
        self._assume(f"{link.name} between machines", rule)
        return link


def stated_storage(bytes_per_s: float) -> StorageSpec:
    """A disk of which only the rate is known, because the user said so."""
    return StorageSpec(
        id="stated",
        name="disk as stated",
        read_bytes_per_s=bytes_per_s,
        sources=(Source("assumed", "rate as the user stated it"),),
    )


def _lanes_each(free: int, n_gpus: int, wanted: int) -> int:
    lanes = wanted
    while lanes > 1 and lanes * n_gpus > free:
        lanes //= 2
    return lanes
