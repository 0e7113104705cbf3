"""What the YAML files under configs/hardware look like. Units stand in the key names.

These are wire types: unknown keys are errors, and they hold what a person wrote, not SI values.
``hardware_yaml`` turns them into the domain's values. GB/s is 10^9 bytes per second.
"""

from __future__ import annotations

from typing import Annotated, Literal, dataclass_transform

from msgspec import Meta, Struct, field

from moeplan.domain.hardware import Vendor
from moeplan.provenance import SourceKind

Positive = Annotated[float, Meta(gt=0)]
PositiveInt = Annotated[int, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Id = Annotated[str, Meta(min_length=1, max_length=200)]
Basis = Literal["theoretical", "measured", "stated", "assumed"]
GpuSegment = Literal["consumer", "laptop", "pro", "datacenter", "desktop-unified", "edge"]
CpuSegment = Literal["desktop", "desktop-unified", "laptop", "hedt", "workstation", "server", "edge"]
LinkKind = Literal[
    "pcie", "nvlink", "nvlink-bridge", "nvswitch", "c2c", "infinity-fabric", "socket", "accelerator",
    "infiniband", "roce", "ethernet", "usb", "cxl",
]  # fmt: skip


@dataclass_transform(kw_only_default=True, field_specifiers=(field,))
class Wire(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every wire type of this module."""


class SourceWire(Wire, kw_only=True):
    """Where the numbers of an entry come from. ``note`` names those it covers, or a doubt."""

    kind: SourceKind
    ref: Annotated[str, Meta(min_length=1)]
    retrieved: str = ""
    note: str = ""


class TflopsWire(Wire, kw_only=True):
    """Dense TFLOP/s by type (int8 in TOPS), with FP32 accumulation unless the name ends in _acc16.
    A type that is left out is unknown or absent, never zero."""

    fp32: Positive | None = None
    tf32: Positive | None = None
    fp16: Positive | None = None
    fp16_acc16: Positive | None = None
    bf16: Positive | None = None
    fp8: Positive | None = None
    fp8_acc16: Positive | None = None
    fp4: Positive | None = None
    int8: Positive | None = None


class Entry(Wire, kw_only=True):
    """What every catalog entry has."""

    id: Id
    name: Id
    aliases: tuple[Id, ...] = ()
    notes: str = ""
    sources: tuple[SourceWire, ...] = ()


class GpuWire(Entry, kw_only=True):
    """configs/hardware/gpu/<id>.yaml: an accelerator."""

    vendor: Vendor
    segment: GpuSegment
    architecture: str
    memory_gib: Positive = field(name="memory_GiB")
    bandwidth_gbps: Positive = field(name="bandwidth_GBps")
    tflops: TflopsWire = field(default_factory=TflopsWire)
    launched: str = ""
    memory_type: str = ""
    visible_gib: Positive | None = field(name="visible_GiB", default=None)
    """What the driver reports or can be given to the GPU, where that is known to be less."""
    unified_memory: bool = False
    host_cpu: str = ""
    """Id of the CPU in the same package or on the same board (unified memory, Grace)."""
    pcie: str = ""
    """Id of the link to the host."""
    peer_link: str = ""
    """Id of the link to its peers, if other than PCIe."""
    peer_gbps: Positive | None = field(name="peer_GBps", default=None)
    """One direction, all lanes of one GPU."""
    tdp_w: Positive | None = field(name="tdp_W", default=None)
    compute_capability: str = ""
    msrp_usd: Positive | None = None


class CpuWire(Entry, kw_only=True):
    """configs/hardware/cpu/<id>.yaml: a processor, or all sockets of one machine together."""

    segment: CpuSegment
    cores: PositiveInt
    threads: PositiveInt
    sockets: PositiveInt = 1
    isa: tuple[str, ...] = ()
    ram_type: str = ""
    ram_mts: PositiveInt | None = field(name="ram_MTps", default=None)
    """Mega-transfers per second of its usual memory."""
    ram_channels: PositiveInt | None = None
    """Per socket."""
    ram_gbps: Positive | None = field(name="ram_GBps", default=None)
    """Theoretical, all sockets: channels x width x transfer rate."""
    measured_low_gbps: Positive | None = field(name="measured_low_GBps", default=None)
    measured_high_gbps: Positive | None = field(name="measured_high_GBps", default=None)
    pcie: str = ""
    """Id of the widest slot's link."""
    pcie_lanes: PositiveInt | None = None
    max_ram_gib: Positive | None = field(name="max_ram_GiB", default=None)


class LinkWire(Entry, kw_only=True):
    """configs/hardware/link/<id>.yaml: rates of one direction."""

    kind: LinkKind
    rate_gbps: Positive = field(name="rate_GBps")
    effective_gbps: Positive = field(name="effective_GBps")
    """What large copies reach."""
    latency_us: NonNegative = 0.0


class StorageWire(Entry, kw_only=True):
    """configs/hardware/storage/<id>.yaml: a disk."""

    read_gbps: Positive = field(name="read_GBps")
    write_gbps: Positive | None = field(name="write_GBps", default=None)
    random_read_gbps: Positive | None = field(name="random_read_GBps", default=None)
    """4 KiB reads at a deep queue."""
    interface: str = ""
    examples: str = ""


class GpuCountWire(Wire, kw_only=True):
    """One kind of GPU in a machine; the other keys replace the catalog's value for this machine."""

    id: Id
    count: Annotated[int, Meta(gt=0, le=65536)] = 1
    memory_gib: Positive | None = field(name="memory_GiB", default=None)
    """Of one GPU; for unified memory the machine's."""
    visible_gib: Positive | None = field(name="visible_GiB", default=None)
    bandwidth_gbps: Positive | None = field(name="bandwidth_GBps", default=None)


class NodeWire(Entry, kw_only=True):
    """configs/hardware/node/<id>.yaml: a whole machine. What is left out is filled with what is
    typical for its GPUs (configs/hardware/typical_hosts.yaml) and shown as an assumption."""

    segment: str = ""
    gpus: tuple[GpuCountWire, ...] | None = None
    gpu: str = ""
    """Short for ``gpus`` with one entry."""
    n_gpus: Annotated[int, Meta(gt=0, le=65536)] | None = None
    cpu: str = ""
    ram_gib: Positive | None = field(name="ram_GiB", default=None)
    ram_gbps: Positive | None = field(name="ram_GBps", default=None)
    ram_basis: Basis | None = None
    storage: str = ""
    storage_gbps: Positive | None = field(name="storage_GBps", default=None)
    pcie: str = ""
    """Id of each GPU's link to the host."""
    peer_link: str = ""
    """Id of the link between GPUs, ``none`` if they only have PCIe."""
    node_link: str = ""
    """Id of the link between machines, per GPU."""
    n_nodes: PositiveInt | None = None
    reserve_gib: NonNegative = field(name="reserve_GiB", default=0.0)
    """GPU memory of each GPU that other programs hold."""
    reserve_ram_gib: NonNegative = field(name="reserve_ram_GiB", default=0.0)
    assumptions: tuple[str, ...] = ()
    cpu_spec: CpuWire | None = None
    """A CPU that the catalog does not have, in place of ``cpu``."""
    gpu_specs: tuple[GpuWire, ...] = ()
    """GPUs that the catalog does not have, referred to by id in ``gpus``."""


class WhenWire(Wire, kw_only=True):
    """Which GPUs or CPUs a rule of typical_hosts.yaml is for; every given key must match."""

    ids: tuple[str, ...] | None = None
    vendors: tuple[str, ...] | None = None
    segments: tuple[str, ...] | None = None
    pcie_gens: tuple[int, ...] | None = None
    unified: bool | None = None
    interconnect: bool | None = None
    """Whether the GPU has a built-in link to its peers (SXM, OAM), not an optional bridge."""


class HostRuleWire(Wire, kw_only=True):
    """The machine that usually stands around such a GPU or CPU; the first match counts."""

    when: WhenWire
    label: str
    sources: tuple[SourceWire, ...]
    cpu: str = ""
    ram_gib: Positive | None = field(name="ram_GiB", default=None)
    ram_gbps: Positive | None = field(name="ram_GBps", default=None)
    """Of one socket, where the CPU is unknown."""
    storage: str
    pcie: str = ""
    gpus_per_node: PositiveInt | None = None
    node_link: str = ""


class UnifiedRuleWire(Wire, kw_only=True):
    """How much of a unified memory the GPU may hold."""

    when: WhenWire
    sources: tuple[SourceWire, ...]
    up_to_gib: Positive | None = field(name="up_to_GiB", default=None)
    visible_frac: Annotated[float, Meta(gt=0, le=1)]


class VirtualMachineWire(Wire, kw_only=True):
    """What a few cores of a larger CPU reach."""

    core_gbps: Positive = field(name="core_GBps")
    sources: tuple[SourceWire, ...]


class TypicalHostsWire(Wire, kw_only=True):
    """configs/hardware/typical_hosts.yaml."""

    gpu_hosts: tuple[HostRuleWire, ...]
    cpu_hosts: tuple[HostRuleWire, ...]
    unified: tuple[UnifiedRuleWire, ...]
    virtual_machine: VirtualMachineWire
