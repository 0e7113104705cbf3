"""Writes a machine as YAML that people can edit and that reads back equal."""

from __future__ import annotations

from itertools import groupby
from typing import Any, cast

import msgspec

from moeplan.domain.hardware import CpuSpec, GpuSpec, HardwareSpec
from moeplan.provenance import Source
from moeplan.readers.hardware_wire import (
    CpuSegment,
    CpuWire,
    GpuCountWire,
    GpuSegment,
    GpuWire,
    NodeWire,
    SourceWire,
    TflopsWire,
)
from moeplan.readers.yaml_write import scalar
from moeplan.units import GB, GIB

_FLAT = frozenset({"tflops", "aliases", "isa"})
_LAST = ("aliases", "notes", "sources")
_HEADER = (
    "# A machine for moeplan: edit what is wrong, then use it with --hardware FILE.\n"
    "# GB/s is 10^9 bytes per second. Schema: moeplan schema hardware-node\n"
)


def dump_hardware_yaml(spec: HardwareSpec) -> str:
    """YAML of ``spec`` with its GPUs and CPU written out, so that it does not depend on the catalog."""
    host = spec.host
    stated = host.storage.id == "stated"
    distinct = {gpu.id: gpu for gpu in reversed(spec.gpus)}
    wire = NodeWire(
        id=spec.id,
        name=spec.name,
        gpus=tuple(_count(gpu, len(list(run)), distinct[gpu.id]) for gpu, run in groupby(spec.gpus)) or None,
        ram_gib=host.ram_bytes / GIB,
        ram_gbps=host.ram_bytes_per_s / GB,
        ram_basis=host.ram_basis,
        ram_factor=host.guess_factor if host.guess_factor > 1.0 else None,
        storage="" if stated else host.storage.id,
        storage_gbps=host.storage.read_bytes_per_s / GB if stated else None,
        pcie=spec.pcie.id if spec.pcie else "",
        peer_link=spec.peer_link.id if spec.peer_link else "none",
        node_link=spec.node_link.id if spec.node_link else "",
        n_nodes=spec.n_nodes,
        reserve_gib=spec.reserve_vram_bytes / GIB,
        reserve_ram_gib=spec.reserve_ram_bytes / GIB,
        notes=spec.notes,
        assumptions=spec.assumptions,
        cpu_spec=_cpu(host.cpu),
        gpu_specs=tuple(_gpu(gpu) for gpu in reversed(distinct.values())),
        sources=_sources(spec.sources),
    )
    return _HEADER + "".join(_block(msgspec.to_builtins(wire), 0))


def _count(gpu: GpuSpec, count: int, base: GpuSpec) -> GpuCountWire:
    """``count`` GPUs like ``base`` apart from what a machine may change."""
    return GpuCountWire(
        id=gpu.id,
        count=count,
        memory_gib=gpu.memory_bytes / GIB if gpu.memory_bytes != base.memory_bytes else None,
        visible_gib=gpu.usable_bytes / GIB if gpu.visible_bytes != base.visible_bytes else None,
        bandwidth_gbps=gpu.bandwidth_bytes_per_s / GB
        if gpu.bandwidth_bytes_per_s != base.bandwidth_bytes_per_s
        else None,
    )


def _gpu(gpu: GpuSpec) -> GpuWire:
    return GpuWire(
        id=gpu.id,
        name=gpu.name,
        vendor=gpu.vendor,
        segment=cast("GpuSegment", gpu.segment),
        architecture=gpu.architecture,
        memory_gib=gpu.memory_bytes / GIB,
        visible_gib=None if gpu.visible_bytes is None else gpu.visible_bytes / GIB,
        memory_type=gpu.memory_type,
        bandwidth_gbps=gpu.bandwidth_bytes_per_s / GB,
        tflops=TflopsWire(**{dtype: peak / 1e12 for dtype, peak in gpu.peak_flop_per_s.items()}),
        unified_memory=gpu.unified_memory,
        host_cpu=gpu.host_cpu,
        pcie=gpu.pcie,
        peer_link=gpu.peer_link,
        peer_gbps=None if gpu.peer_bytes_per_s is None else gpu.peer_bytes_per_s / GB,
        tdp_w=gpu.tdp_w,
        compute_capability=gpu.compute_capability,
        launched=gpu.launched,
        msrp_usd=gpu.msrp_usd,
        aliases=gpu.aliases,
        notes=gpu.notes,
        sources=_sources(gpu.sources),
    )


def _cpu(cpu: CpuSpec) -> CpuWire:
    rates = (cpu.ram_bytes_per_s, cpu.measured_low_bytes_per_s, cpu.measured_high_bytes_per_s)
    ram, low, high = (None if rate is None else rate / GB for rate in rates)
    return CpuWire(
        id=cpu.id,
        name=cpu.name,
        segment=cast("CpuSegment", cpu.segment),
        sockets=cpu.sockets,
        cores=cpu.cores,
        threads=cpu.threads,
        isa=cpu.isa,
        microarchitecture=cpu.microarchitecture,
        base_ghz=None if cpu.base_hz is None else cpu.base_hz / 1e9,
        ram_type=cpu.ram_type,
        ram_channels=cpu.ram_channels,
        ram_gbps=ram,
        measured_low_gbps=low,
        measured_high_gbps=high,
        pcie=cpu.pcie,
        pcie_lanes=cpu.pcie_lanes,
        max_ram_gib=None if cpu.max_ram_bytes is None else cpu.max_ram_bytes / GIB,
        aliases=cpu.aliases,
        notes=cpu.notes,
        sources=_sources(cpu.sources),
    )


def _sources(sources: tuple[Source, ...]) -> tuple[SourceWire, ...]:
    return tuple(SourceWire(kind=s.kind, ref=s.ref, retrieved=s.retrieved, note=s.note) for s in sources)


def _block(data: dict[str, Any], indent: int) -> list[str]:
    """Block style for what is edited, one line per source and assumption."""
    pad = " " * indent
    lines: list[str] = []
    last = {key: data[key] for key in _LAST if key in data}
    for key, value in ({key: value for key, value in data.items() if key not in last} | last).items():
        if isinstance(value, dict) and key not in _FLAT:
            lines += [f"{pad}{key}:\n", *_block(value, indent + 2)]
        elif isinstance(value, (list, tuple)) and value and key not in _FLAT:
            lines.append(f"{pad}{key}:\n")
            for item in value:
                lines += _item(key, item, indent + 2)
        else:
            lines.append(f"{pad}{key}: {_flow(value)}\n")
    return lines


def _item(key: str, item: Any, indent: int) -> list[str]:
    pad = " " * indent
    if key == "gpu_specs":
        first, *rest = _block(item, indent + 2)
        return [f"{pad}- {first.lstrip()}", *rest]
    return [f"{pad}- {_flow(item)}\n"]


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flow(part) for part in value) + "]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return repr(value) if isinstance(value, float) else scalar(value)
