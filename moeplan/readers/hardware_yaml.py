"""Reads the catalog's hardware files (see ``hardware_wire``) into domain values, in SI units."""

from __future__ import annotations

from pathlib import Path

import msgspec

from moeplan.domain.hardware import CpuSpec, GpuSpec, LinkSpec, StorageSpec
from moeplan.errors import SpecError
from moeplan.provenance import Source
from moeplan.readers.hardware_wire import (
    CpuWire,
    GpuWire,
    LinkWire,
    NodeWire,
    SourceWire,
    StorageWire,
    TypicalHostsWire,
)
from moeplan.readers.yaml_convert import convert
from moeplan.readers.yaml_doc import Document, load_document
from moeplan.units import GB, GIB

_MEGA = 10**6


def read_gpu(path: Path) -> GpuSpec:
    """The accelerator described by ``path``; SpecError where the file does not make sense."""
    document = load_document(path)
    wire = convert(document, GpuWire, help="moeplan schema hardware-gpu")
    if wire.visible_gib is not None and wire.visible_gib > wire.memory_gib:
        raise document.error("more memory is visible than there is", ("visible_GiB",), value=True)
    return gpu_of(wire)


def read_cpu(path: Path) -> CpuSpec:
    """The processor described by ``path``."""
    document = load_document(path)
    wire = convert(document, CpuWire, help="moeplan schema hardware-cpu")
    low, high = wire.measured_low_gbps, wire.measured_high_gbps
    if low is not None and high is not None and low > high:
        raise document.error("the measured range is upside down", ("measured_low_GBps",), value=True)
    if wire.threads < wire.cores:
        raise document.error("fewer threads than cores", ("threads",), value=True)
    return cpu_of(wire)


def read_link(path: Path) -> LinkSpec:
    """The link described by ``path``."""
    document = load_document(path)
    wire = convert(document, LinkWire, help="moeplan schema hardware-link")
    if wire.effective_gbps > wire.rate_gbps:
        raise document.error("faster than the line rate", ("effective_GBps",), value=True)
    return LinkSpec(
        id=wire.id,
        name=wire.name,
        kind=wire.kind,
        bytes_per_s=rate(wire.rate_gbps),
        effective_bytes_per_s=rate(wire.effective_gbps),
        latency_s=wire.latency_us / 1e6,
        direct_gpus=wire.direct_gpus,
        sources=sources_of(wire.sources),
    )


def read_storage(path: Path) -> StorageSpec:
    """The disk described by ``path``."""
    wire = convert(load_document(path), StorageWire, help="moeplan schema hardware-storage")
    return StorageSpec(
        id=wire.id,
        name=wire.name,
        read_bytes_per_s=rate(wire.read_gbps),
        random_read_bytes_per_s=_optional(wire.random_read_gbps),
        sources=sources_of(wire.sources),
    )


def read_node(path: Path) -> tuple[Document, NodeWire]:
    """The machine described by ``path`` as written, with its document for errors about references."""
    document = load_document(path)
    return document, convert(document, NodeWire, help="moeplan schema hardware-node")


def read_typical_hosts(path: Path) -> TypicalHostsWire:
    """The rules for what usually stands around a GPU or a CPU."""
    return convert(load_document(path), TypicalHostsWire)


def gpu_of(wire: GpuWire) -> GpuSpec:
    """The domain value of a checked wire value."""
    rates = msgspec.structs.asdict(wire.tflops)
    return GpuSpec(
        id=wire.id,
        name=wire.name,
        vendor=wire.vendor,
        segment=wire.segment,
        architecture=wire.architecture,
        memory_bytes=gib(wire.memory_gib),
        visible_bytes=None if wire.visible_gib is None else gib(wire.visible_gib),
        memory_type=wire.memory_type,
        bandwidth_bytes_per_s=rate(wire.bandwidth_gbps),
        peak_flop_per_s={
            dtype: float(round(tera * _MEGA) * _MEGA) for dtype, tera in rates.items() if tera is not None
        },
        unified_memory=wire.unified_memory,
        host_cpu=wire.host_cpu,
        pcie=wire.pcie,
        peer_link=wire.peer_link,
        peer_bytes_per_s=_optional(wire.peer_gbps),
        tdp_w=wire.tdp_w,
        compute_capability=wire.compute_capability,
        launched=wire.launched,
        msrp_usd=wire.msrp_usd,
        aliases=wire.aliases,
        notes=wire.notes,
        sources=sources_of(wire.sources),
    )


def cpu_of(wire: CpuWire) -> CpuSpec:
    """The domain value of a checked wire value."""
    return CpuSpec(
        id=wire.id,
        name=wire.name,
        segment=wire.segment,
        sockets=wire.sockets,
        cores=wire.cores,
        threads=wire.threads,
        isa=wire.isa,
        microarchitecture=wire.microarchitecture,
        base_hz=None if wire.base_ghz is None else wire.base_ghz * 1e9,
        ram_type=f"{wire.ram_type}-{wire.ram_mts}" if wire.ram_mts else wire.ram_type,
        ram_channels=wire.ram_channels,
        ram_bytes_per_s=_optional(wire.ram_gbps),
        measured_low_bytes_per_s=_optional(wire.measured_low_gbps),
        measured_high_bytes_per_s=_optional(wire.measured_high_gbps),
        pcie=wire.pcie,
        pcie_lanes=wire.pcie_lanes,
        max_ram_bytes=None if wire.max_ram_gib is None else gib(wire.max_ram_gib),
        aliases=wire.aliases,
        notes=wire.notes,
        sources=sources_of(wire.sources),
    )


def sources_of(wires: tuple[SourceWire, ...]) -> tuple[Source, ...]:
    """The provenance values of a ``sources:`` list."""
    return tuple(Source(wire.kind, wire.ref, wire.retrieved, wire.note) for wire in wires)


def rate(gb_per_s: float) -> float:
    """Whole bytes per second, so that a value written in GB/s reads back equal; SpecError below one."""
    bytes_per_s = float(round(gb_per_s * GB))
    if bytes_per_s < 1:
        raise SpecError(f"{gb_per_s} GB/s is less than a byte per second")
    return bytes_per_s


def gib(amount_gib: float) -> int:
    """Bytes of an amount in GiB; SpecError for an amount above zero but below a byte."""
    size = round(amount_gib * GIB)
    if size == 0 and amount_gib > 0:
        raise SpecError(f"{amount_gib} GiB is less than a byte")
    return size


def _optional(gb_per_s: float | None) -> float | None:
    return None if gb_per_s is None else rate(gb_per_s)
