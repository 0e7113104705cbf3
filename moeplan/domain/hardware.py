"""What a machine is: GPUs, a host with RAM, and the links between them. SI units throughout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from moeplan.domain.value import Value
from moeplan.provenance import Source

Vendor = Literal["nvidia", "amd", "intel", "apple", "google", "aws", "habana", "other"]


class LinkSpec(Value):
    """A connection; ``bytes_per_s`` is one direction, ``effective_*`` what copies reach."""

    id: str
    name: str
    bytes_per_s: float
    effective_bytes_per_s: float
    latency_s: float = 0.0
    kind: str = "pcie"
    """pcie, nvlink, nvlink-bridge, nvswitch, c2c, infinity-fabric, infiniband, ethernet, usb ..."""
    direct_gpus: int | None = None
    """GPUs of which each is joined to every other; of more, some reach others over a third. None: any."""
    sources: tuple[Source, ...] = ()


class StorageSpec(Value):
    """A disk: sequential and 4 KiB random read rates."""

    id: str
    name: str
    read_bytes_per_s: float
    random_read_bytes_per_s: float | None = None
    sources: tuple[Source, ...] = ()


class GpuSpec(Value):
    """An accelerator. ``peak_flop_per_s`` maps a dtype (fp32, tf32, fp16, bf16, fp8, fp4, int8) to its
    dense rate with FP32 accumulation where that exists (``fp16_acc16``, ``fp8_acc16``: with FP16
    accumulation); a missing dtype is unknown, not zero. Capacity to plan with is ``usable_bytes``."""

    id: str
    name: str
    vendor: Vendor
    segment: str
    architecture: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    peak_flop_per_s: Mapping[str, float]
    memory_type: str = ""
    visible_bytes: int | None = None
    """What the driver reports, or what the system lets the GPU hold of a unified memory, where known."""
    unified_memory: bool = False
    host_cpu: str = ""
    """Id of the CPU in the same package or board (unified memory, Grace Hopper)."""
    pcie: str = ""
    """Id of the PCIe link it plugs into, e.g. ``pcie-4.0-x16``; empty for unified memory."""
    peer_link: str = ""
    """Id of the link to its peers (``nvlink-4`` ...), empty for PCIe only."""
    peer_bytes_per_s: float | None = None
    """One direction, all lanes of one GPU."""
    tdp_w: float | None = None
    compute_capability: str = ""
    launched: str = ""
    msrp_usd: float | None = None
    aliases: tuple[str, ...] = ()
    notes: str = ""
    sources: tuple[Source, ...] = ()

    @property
    def usable_bytes(self) -> int:
        """Memory that a program can get: what the driver reports where known, else the nominal size."""
        return self.memory_bytes if self.visible_bytes is None else self.visible_bytes

    @property
    def data_bytes_per_s(self) -> float:
        """Bandwidth that is left for data: GDDR has no lanes of its own for check bits, so that a GPU which
        keeps a sixteenth of it for them reads as much more. HBM has (NVIDIA WP-08608, Tesla V100)."""
        checked = (
            self.memory_type.upper().startswith("GDDR") and self.usable_bytes <= 0.94 * self.memory_bytes
        )
        return self.bandwidth_bytes_per_s * (15 / 16 if checked else 1.0)


class CpuSpec(Value):
    """A processor, or all sockets of one machine together when ``sockets`` is above 1.

    ``ram_bytes_per_s`` is channels x transfer rate of its usual memory; ``measured_*`` what
    STREAM-like programs reach.
    """

    id: str
    name: str
    segment: str
    sockets: int
    cores: int
    threads: int
    isa: tuple[str, ...]
    microarchitecture: str = ""
    base_hz: float | None = None
    """Guaranteed clock of the performance cores: what all of them hold under load, at least."""
    ram_type: str = ""
    ram_bytes_per_s: float | None = None
    measured_low_bytes_per_s: float | None = None
    measured_high_bytes_per_s: float | None = None
    ram_channels: int | None = None
    """Per socket."""
    pcie: str = ""
    """Id of the link of its widest slot."""
    pcie_lanes: int | None = None
    max_ram_bytes: int | None = None
    aliases: tuple[str, ...] = ()
    notes: str = ""
    sources: tuple[Source, ...] = ()


class HostSpec(Value):
    """The machine around the GPUs. ``ram_basis`` says how the bandwidth is known.

    ``guess_factor``: where it is a guess, within which factor either way it lies in eight cases of ten.
    """

    cpu: CpuSpec
    ram_bytes: int
    ram_bytes_per_s: float
    ram_basis: Literal["theoretical", "measured", "stated", "assumed"]
    storage: StorageSpec
    guess_factor: float = 1.0


class HardwareSpec(Value):
    """A whole machine, or ``n_nodes`` equal ones. ``gpus`` lists the GPUs of all nodes together (empty
    for CPU only), ``host`` is one node's; ``pcie`` is each GPU's host link, ``peer_link`` joins the GPUs
    of a node where they have more than PCIe, ``node_link`` joins nodes (rate per GPU)."""

    id: str
    name: str
    gpus: tuple[GpuSpec, ...]
    host: HostSpec
    pcie: LinkSpec | None = None
    peer_link: LinkSpec | None = None
    node_link: LinkSpec | None = None
    reserve_vram_bytes: int = 0
    reserve_ram_bytes: int = 0
    n_nodes: int = 1
    notes: str = ""
    assumptions: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def unified(self) -> bool:
        """Whether CPU and GPU share one memory (Apple, Strix Halo, DGX Spark)."""
        return bool(self.gpus) and all(gpu.unified_memory for gpu in self.gpus)


class FoundGpu(Value):
    """A GPU as this machine's drivers describe it; None is what they do not tell."""

    name: str
    vendor: Vendor
    memory_bytes: int | None = None
    used_bytes: int = 0
    """Held by programs that run now."""
    bandwidth_bytes_per_s: float | None = None
    """From memory clock and bus width."""
    fp32_flop_per_s: float | None = None
    """From core count and clock."""
    unified_memory: bool = False
    pcie_gen: int | None = None
    pcie_lanes: int | None = None
    nvlink_links: int | None = None
    """Active links to peers; None where the driver does not tell."""
    mig_slices: int = 0
    """Of seven, when this is a slice of a GPU (MIG); 0 is the whole."""
    compute_capability: str = ""
    power_limit_w: float | None = None


class FoundMachine(Value):
    """This machine as it was found, before it is matched with the catalog."""

    gpus: tuple[FoundGpu, ...]
    cpu_name: str
    sockets: int
    cores: int
    threads: int
    isa: tuple[str, ...]
    ram_bytes: int
    """Installed, or the container's limit where that is lower."""
    ram_mts: int | None = None
    """Mega-transfers per second that the memory is configured for."""
    ram_modules: int | None = None
    virtual: bool = False
    notes: tuple[str, ...] = ()
    """What could not be read, and anything unusual (WSL, a container's limit)."""
