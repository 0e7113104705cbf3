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
    sources: tuple[Source, ...] = ()


class StorageSpec(Value):
    """A disk: sequential and 4 KiB random read rates."""

    id: str
    name: str
    read_bytes_per_s: float
    random_read_bytes_per_s: float | None = None
    sources: tuple[Source, ...] = ()


class GpuSpec(Value):
    """An accelerator. ``peak_flop_per_s`` maps a dtype (fp32, fp16, bf16, fp8, fp4, int8) to its
    dense rate with FP32 accumulation where that exists; a missing dtype is unknown, not zero."""

    id: str
    name: str
    vendor: Vendor
    segment: str
    architecture: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    peak_flop_per_s: Mapping[str, float]
    unified_memory: bool = False
    pcie: str = ""
    """Id of the PCIe link it plugs into, e.g. ``pcie-4.0-x16``; empty for unified memory."""
    peer_link: str = ""
    """Name of the link to its peers (NVLink 4, Infinity Fabric ...), empty for PCIe only."""
    peer_bytes_per_s: float | None = None
    """One direction, all lanes of one GPU."""
    tdp_w: float | None = None
    compute_capability: str = ""
    launched: str = ""
    msrp_usd: float | None = None
    aliases: tuple[str, ...] = ()
    notes: str = ""
    sources: tuple[Source, ...] = ()


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
    ram_type: str = ""
    ram_bytes_per_s: float | None = None
    measured_low_bytes_per_s: float | None = None
    measured_high_bytes_per_s: float | None = None
    pcie: str = ""
    max_ram_bytes: int | None = None
    aliases: tuple[str, ...] = ()
    notes: str = ""
    sources: tuple[Source, ...] = ()


class HostSpec(Value):
    """The machine around the GPUs. ``ram_basis`` says how the bandwidth is known."""

    cpu: CpuSpec
    ram_bytes: int
    ram_bytes_per_s: float
    ram_basis: Literal["theoretical", "measured", "stated", "assumed"]
    storage: StorageSpec


class HardwareSpec(Value):
    """A whole machine. ``gpus`` is empty for a CPU-only one; ``pcie`` is each GPU's host link."""

    id: str
    name: str
    gpus: tuple[GpuSpec, ...]
    host: HostSpec
    pcie: LinkSpec | None = None
    peer_link: LinkSpec | None = None
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
