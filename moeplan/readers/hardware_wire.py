"""What the YAML files under configs/hardware look like. Units stand in the key names.

These are wire types: unknown keys are errors, and they hold what a person wrote, not SI values.
``hardware_yaml`` turns them into the domain's values. GB/s is 10^9 bytes per second.
"""

from __future__ import annotations

from typing import Annotated, Literal, dataclass_transform

from msgspec import Meta, Struct, field

from moeplan.domain.hardware import Vendor
from moeplan.provenance import SourceKind

# Beyond a billion GiB, GB/s, TFLOP/s or cores lies a typing error.
Positive = Annotated[float, Meta(gt=0, le=1e9)]
PositiveInt = Annotated[int, Meta(gt=0, le=10**9)]
NonNegative = Annotated[float, Meta(ge=0, le=1e9)]
Factor = Annotated[float, Meta(ge=1, le=1e3)]
GpuCount = Annotated[int, Meta(gt=0, le=65536)]
Id = Annotated[str, Meta(min_length=1, max_length=200)]
Basis = Literal["theoretical", "measured", "stated", "assumed"]
GpuSegment = Literal["consumer", "laptop", "pro", "datacenter", "desktop-unified", "edge"]
CpuSegment = Literal["desktop", "desktop-unified", "laptop", "hedt", "workstation", "server", "edge"]
LinkKind = Literal[
    "pcie", "nvlink", "nvlink-bridge", "nvswitch", "c2c", "infinity-fabric", "socket", "accelerator",
    "infiniband", "roce", "ethernet", "usb", "cxl",
]  # fmt: skip


def doc(text: str) -> Meta:
    """The description that the JSON Schema shows."""
    return Meta(description=text)


@dataclass_transform(kw_only_default=True, field_specifiers=(field,))
class Wire(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every wire type of this module."""


class SourceWire(Wire, kw_only=True):
    """Where the numbers of an entry come from."""

    kind: SourceKind
    ref: Annotated[str, Meta(min_length=1), doc("Data sheet, page, paper, program.")]
    retrieved: Annotated[str, doc("Date it was read.")] = ""
    note: Annotated[str, doc("Which values it covers, or a doubt.")] = ""


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

    id: Annotated[Id, doc("The file's name without .yaml.")]
    name: Annotated[Id, doc("As people write it.")]
    aliases: Annotated[tuple[Id, ...], doc("Other names it is found by.")] = ()
    notes: Annotated[str, doc("Remarks.")] = ""
    sources: Annotated[tuple[SourceWire, ...], doc("Where the numbers come from.")] = ()


class GpuWire(Entry, kw_only=True):
    """configs/hardware/gpu/<id>.yaml: an accelerator."""

    vendor: Vendor
    segment: GpuSegment
    architecture: str
    launched: Annotated[str, doc("Year and month.")] = ""
    memory_gib: Annotated[Positive, doc("Nominal size.")] = field(name="memory_GiB")
    memory_type: str = ""
    visible_gib: Annotated[Positive | None, doc("What the driver reports, where clearly less.")] = field(
        name="visible_GiB", default=None
    )
    bandwidth_gbps: Annotated[Positive, doc("Memory bandwidth, 10^9 bytes per second.")] = field(
        name="bandwidth_GBps"
    )
    tflops: TflopsWire = field(default_factory=TflopsWire)
    unified_memory: Annotated[bool, doc("Whether it shares its memory with the CPU.")] = False
    host_cpu: Annotated[str, doc("Id of the CPU in the same package or board.")] = ""
    pcie: Annotated[str, doc("Id of the link to the host.")] = ""
    peer_link: Annotated[str, doc("Id of the link to its peers, if other than PCIe.")] = ""
    peer_gbps: Annotated[Positive | None, doc("One direction, all lanes of one GPU.")] = field(
        name="peer_GBps", default=None
    )
    tdp_w: Positive | None = field(name="tdp_W", default=None)
    compute_capability: Annotated[str, doc("CUDA's, or AMD's gfx name.")] = ""
    msrp_usd: Annotated[Positive | None, doc("At launch.")] = None


class CpuWire(Entry, kw_only=True):
    """configs/hardware/cpu/<id>.yaml: a processor, or all sockets of one machine together."""

    segment: CpuSegment
    cores: Annotated[PositiveInt, doc("Of all sockets.")]
    threads: Annotated[PositiveInt, doc("Of all sockets.")]
    sockets: PositiveInt = 1
    isa: Annotated[tuple[str, ...], doc("avx2, avx512, amx, neon, sve2 ...")] = ()
    microarchitecture: Annotated[str, doc("As its maker calls it: Zen 4, Golden Cove, Cascade Lake.")] = ""
    base_ghz: Annotated[Positive | None, doc("Guaranteed clock of the performance cores.")] = field(
        name="base_GHz", default=None
    )
    ram_type: str = ""
    ram_mts: Annotated[PositiveInt | None, doc("Mega-transfers per second of its usual memory.")] = field(
        name="ram_MTps", default=None
    )
    ram_channels: Annotated[PositiveInt | None, doc("Per socket.")] = None
    ram_gbps: Annotated[Positive | None, doc("Theoretical, all sockets: channels x width x rate.")] = field(
        name="ram_GBps", default=None
    )
    measured_low_gbps: Annotated[Positive | None, doc("What STREAM-like programs reach.")] = field(
        name="measured_low_GBps", default=None
    )
    measured_high_gbps: Positive | None = field(name="measured_high_GBps", default=None)
    pcie: Annotated[str, doc("Id of the widest slot's link.")] = ""
    pcie_lanes: Annotated[PositiveInt | None, doc("All that the CPU has.")] = None
    max_ram_gib: Positive | None = field(name="max_ram_GiB", default=None)


class LinkWire(Entry, kw_only=True):
    """configs/hardware/link/<id>.yaml: rates of one direction."""

    kind: LinkKind
    rate_gbps: Annotated[Positive, doc("Line rate of one direction.")] = field(name="rate_GBps")
    effective_gbps: Annotated[Positive, doc("What large copies reach.")] = field(name="effective_GBps")
    latency_us: NonNegative = 0.0
    direct_gpus: Annotated[
        PositiveInt | None, doc("GPUs of which each is joined to every other, where there is no switch.")
    ] = None


class StorageWire(Entry, kw_only=True):
    """configs/hardware/storage/<id>.yaml: a disk."""

    read_gbps: Annotated[Positive, doc("Sequential.")] = field(name="read_GBps")
    write_gbps: Positive | None = field(name="write_GBps", default=None)
    random_read_gbps: Annotated[Positive | None, doc("4 KiB reads at a deep queue.")] = field(
        name="random_read_GBps", default=None
    )
    interface: str = ""
    examples: str = ""


class GpuCountWire(Wire, kw_only=True):
    """One kind of GPU in a machine; the other keys replace the catalog's value for this machine."""

    id: Id
    count: GpuCount = 1
    memory_gib: Annotated[Positive | None, doc("Of one GPU.")] = field(name="memory_GiB", default=None)
    visible_gib: Positive | None = field(name="visible_GiB", default=None)
    bandwidth_gbps: Positive | None = field(name="bandwidth_GBps", default=None)


class NodeWire(Entry, kw_only=True):
    """configs/hardware/node/<id>.yaml: a whole machine. What is left out is filled with what is
    typical for its GPUs (configs/hardware/typical_hosts.yaml) and shown as an assumption."""

    gpus: Annotated[
        tuple[GpuCountWire | Id, ...] | None, doc("Kinds of GPU; an id alone is one of its kind.")
    ] = None
    gpu: Annotated[str, doc("Short for `gpus` with one kind.")] = ""
    n_gpus: Annotated[GpuCount | None, doc("How many of `gpu`.")] = None
    cpu: Annotated[str, doc("Id of the CPU, all sockets together.")] = ""
    vcpus: Annotated[PositiveInt | None, doc("Threads of a VM that has a part of that CPU.")] = None
    ram_gib: Annotated[Positive | None, doc("With unified memory: all of it.")] = field(
        name="ram_GiB", default=None
    )
    ram_gbps: Positive | None = field(name="ram_GBps", default=None)
    ram_basis: Annotated[Basis | None, doc("How ram_GBps is known.")] = None
    ram_factor: Annotated[
        Factor | None, doc("Of an assumed ram_GBps: within which it lies in eight cases of ten.")
    ] = None
    storage: Annotated[str, doc("Id of the disk that holds the model.")] = ""
    storage_gbps: Annotated[Positive | None, doc("Its read rate, in place of `storage`.")] = field(
        name="storage_GBps", default=None
    )
    pcie: Annotated[str, doc("Id of each GPU's link to the host.")] = ""
    peer_link: Annotated[str, doc("Id of the link between GPUs; none: only PCIe.")] = ""
    node_link: Annotated[str, doc("Id of the link between machines, per GPU.")] = ""
    n_nodes: Annotated[PositiveInt | None, doc("Over how many machines the GPUs are spread.")] = None
    reserve_gib: Annotated[NonNegative, doc("Of each GPU, held by other programs.")] = field(
        name="reserve_GiB", default=0.0
    )
    reserve_ram_gib: NonNegative = field(name="reserve_ram_GiB", default=0.0)
    assumptions: tuple[str, ...] = ()
    cpu_spec: Annotated[CpuWire | None, doc("A CPU the catalog lacks, in place of `cpu`.")] = None
    gpu_specs: Annotated[tuple[GpuWire, ...], doc("GPUs the catalog lacks, named in `gpus`.")] = ()


class WhenWire(Wire, kw_only=True):
    """Which GPUs or CPUs a rule of typical_hosts.yaml is for; every given key must match."""

    ids: tuple[str, ...] | None = None
    vendors: tuple[str, ...] | None = None
    segments: tuple[str, ...] | None = None
    pcie_gens: tuple[int, ...] | None = None
    unified: bool | None = None
    interconnect: Annotated[bool | None, doc("Has a built-in link to peers (SXM, OAM).")] = None


class HostRuleWire(Wire, kw_only=True):
    """The machine that usually stands around such a GPU or CPU; the first match counts."""

    when: WhenWire
    label: str
    sources: tuple[SourceWire, ...]
    cpu: str = ""
    ram_gib: Positive | None = field(name="ram_GiB", default=None)
    ram_gbps: Annotated[Positive | None, doc("Of one socket, where the CPU is unknown.")] = field(
        name="ram_GBps", default=None
    )
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
    factor: Annotated[Factor, doc("Within which they lie in eight cases of ten, either way.")]
    sources: tuple[SourceWire, ...]


class UnknownCpuWire(Wire, kw_only=True):
    """What a host may be whose processor nobody named."""

    factor: Annotated[Factor, doc("Of its RAM bandwidth, either way, in eight cases of ten.")]
    sources: tuple[SourceWire, ...]


class TypicalHostsWire(Wire, kw_only=True):
    """configs/hardware/typical_hosts.yaml."""

    gpu_hosts: tuple[HostRuleWire, ...]
    cpu_hosts: tuple[HostRuleWire, ...]
    unified: tuple[UnifiedRuleWire, ...]
    virtual_machine: VirtualMachineWire
    unknown_cpu: UnknownCpuWire
