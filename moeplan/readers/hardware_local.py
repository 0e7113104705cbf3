"""From what was found on this machine to catalog entries: names matched, gaps filled and said."""

from __future__ import annotations

import re

import msgspec

from moeplan.domain.hardware import CpuSpec, FoundGpu, FoundMachine, GpuSpec
from moeplan.errors import UnknownName
from moeplan.provenance import Source
from moeplan.readers.hardware_draft import Draft
from moeplan.readers.hardware_parts import Parts, cpu_names, gpu_names
from moeplan.units import GIB, fmt_bytes

# Drivers round and reserve: an RTX 4090 shows 24564 MiB of 24576, an L40S with ECC 46068 of 49152.
_SAME_MEMORY_FRAC = 0.10
_MIG_SLICES = 7  # compute slices of a whole GPU (NVIDIA MIG user guide)
_SERVER_WORDS = ("xeon", "epyc", "neoverse", "altra", "graviton", "grace", "power")
_WORKSTATION_WORDS = ("threadripper", "xeon(r) w")


def take_found(draft: Draft, found: FoundMachine) -> None:
    """Fill ``draft`` with this machine; what is not known stays open for ``draft.finish``."""
    parts = draft.parts
    draft.id, draft.name = "local", "this machine"
    draft.assumptions += found.notes
    draft.sources.append(Source("measured", "this machine's drivers and operating system"))
    used = 0
    for gpu in found.gpus:
        spec = _gpu(parts, gpu)
        if spec is None:
            draft.assumptions.append(f"{gpu.name} is left out: it is not in the catalog")
            continue
        if spec.unified_memory and any(not one.unified_memory for one in draft.gpus):
            draft.assumptions.append(f"{gpu.name} is left out: it shares RAM while other GPUs have their own")
            continue
        draft.gpus.append(spec)
        used = max(used, gpu.used_bytes)
    draft.cpu, draft.virtual = _cpu(draft, found), found.virtual
    _take_ram(draft, found)
    _take_links(draft, found)
    if used:
        draft.reserve_vram_bytes = used
        draft.assumptions.append(f"{fmt_bytes(used)} of GPU memory is in use by other programs now")


def _take_ram(draft: Draft, found: FoundMachine) -> None:
    if draft.unified:
        # An APU's driver shows a carve-out that the system does not count; the GPU may use both.
        carved = sum(gpu.memory_bytes or 0 for gpu in found.gpus if gpu.vendor == "amd")
        draft.set_unified_memory(found.ram_bytes + carved)
    else:
        draft.ram_bytes = found.ram_bytes
    cpu = draft.cpu
    assert cpu is not None
    if found.ram_mts and found.ram_modules:
        channels = full_channels(found.ram_modules, (cpu.ram_channels or found.ram_modules) * cpu.sockets)
        draft.ram_bytes_per_s = channels * found.ram_mts * 8e6
        draft.ram_basis = "theoretical"
        draft.assumptions.append(f"RAM: {channels:g} channels of 8 bytes at {found.ram_mts} MT/s (firmware)")


def full_channels(n_modules: int, n_channels: int) -> float:
    """Channels' worth of bandwidth that equal modules give when they are spread as evenly as they can be.

    Memory is used evenly, so that all wait for the channels with the most of it: 8 modules on 6 channels
    are as fast as 4 channels (Dell, "Balanced Memory with 2nd Generation Xeon Scalable": a third is lost).
    """
    most_on_one = -(-n_modules // n_channels)
    return n_modules / most_on_one


def _take_links(draft: Draft, found: FoundMachine) -> None:
    discrete = [gpu for gpu in found.gpus if gpu.pcie_gen and gpu.pcie_lanes]
    if draft.gpus and not draft.unified and len(discrete) >= len(draft.gpus):
        generation = min(gpu.pcie_gen or 0 for gpu in discrete)
        lanes = min(gpu.pcie_lanes or 0 for gpu in discrete)
        try:
            draft.pcie = draft.parts.link(f"pcie-{generation}.0-x{lanes}")
        except UnknownName:
            draft.assumptions.append(f"PCIe {generation}.0 x{lanes} is not in the catalog")
    if len(draft.gpus) < 2:
        return
    links = [gpu.nvlink_links or 0 for gpu in found.gpus if gpu.vendor == "nvidia"]
    names = {gpu.peer_link for gpu in draft.gpus}
    if len(links) == len(draft.gpus) and all(links) and len(names) == 1 and "" not in names:
        draft.peer_link = draft.parts.link(names.pop())
    elif links:
        draft.no_peer_link = True


def _gpu(parts: Parts, found: FoundGpu) -> GpuSpec | None:
    """The catalog's GPU with what the driver says put over it; None when nothing is known of it."""
    base = match_gpu(parts, found)
    if base is None:
        return _unknown_gpu(found)
    changes: dict[str, object] = {}
    size = found.memory_bytes
    if found.mig_slices and size:
        share, slices = size / base.usable_bytes, found.mig_slices / _MIG_SLICES
        changes = {
            "id": f"{base.id}-mig-{found.mig_slices}g",
            "name": found.name,
            "memory_bytes": size,
            "visible_bytes": None,
            "bandwidth_bytes_per_s": float(round(base.bandwidth_bytes_per_s * min(1.0, share))),
            "peak_flop_per_s": {dtype: peak * slices for dtype, peak in base.peak_flop_per_s.items()},
            "sources": (*base.sources, Source("derived", "NVIDIA MIG user guide: shares of a whole GPU")),
        }
    elif size and not base.unified_memory:
        changes["visible_bytes"] = size
        if abs(size - base.memory_bytes) > _SAME_MEMORY_FRAC * base.memory_bytes:
            changes["memory_bytes"] = size
    if found.power_limit_w:
        changes["tdp_w"] = found.power_limit_w
    return msgspec.structs.replace(base, **changes) if changes else base


def match_gpu(parts: Parts, found: FoundGpu) -> GpuSpec | None:
    """The catalog entry of the driver's name, e.g. ``NVIDIA GeForce RTX 4060 Ti`` with 16 GiB."""
    name = found.name.split(" MIG ")[0].replace("(TM)", "").replace("(R)", "").strip()
    sizes: tuple[str, ...] = ("",)
    if found.memory_bytes:
        # 15.99 GiB, 22.5 GiB with ECC: boards come in whole GB that a driver never exceeds.
        whole = -(-found.memory_bytes // GIB)
        sizes = (f"-{whole}gb", "")
    for size in sizes:
        for form in (*gpu_names(name), name.removesuffix(" Graphics")):
            if parts.catalog.resolve("hardware/gpu", form + size) is not None:
                return parts.gpu(form + size)
    head, _, tail = name.rpartition(" ")
    if tail.endswith("-core"):
        return match_gpu(parts, msgspec.structs.replace(found, name=head))
    return None


def _unknown_gpu(found: FoundGpu) -> GpuSpec | None:
    """A GPU the catalog lacks, from its own clocks, bus width and core count."""
    if not found.memory_bytes or not found.bandwidth_bytes_per_s:
        return None
    peaks = {} if found.fp32_flop_per_s is None else {"fp32": found.fp32_flop_per_s}
    return GpuSpec(
        id=slug(found.name),
        name=found.name,
        vendor=found.vendor,
        segment="consumer",
        architecture="",
        memory_bytes=found.memory_bytes,
        bandwidth_bytes_per_s=found.bandwidth_bytes_per_s,
        peak_flop_per_s=peaks,
        pcie=f"pcie-{found.pcie_gen}.0-x{found.pcie_lanes}" if found.pcie_gen and found.pcie_lanes else "",
        tdp_w=found.power_limit_w,
        compute_capability=found.compute_capability,
        notes="not in the catalog; rates of tensor cores are unknown",
        sources=(Source("derived", "clocks, bus width and cores as the driver reports them"),),
    )


def _cpu(draft: Draft, found: FoundMachine) -> CpuSpec:
    if draft.unified and draft.gpus[0].host_cpu:
        base: CpuSpec | None = draft.parts.cpu(draft.gpus[0].host_cpu)
    else:
        base = match_cpu(draft.parts, found.cpu_name, found.sockets)
    if base is None:
        base = CpuSpec(
            id=slug(found.cpu_name),
            name=found.cpu_name,
            segment=_segment(found),
            sockets=found.sockets,
            cores=found.cores,
            threads=found.threads,
            isa=found.isa,
            base_hz=_stated_hz(found.cpu_name),
        )
    sources = (*base.sources, Source("measured", "/proc/cpuinfo or its like", note="cores, threads, isa"))
    return msgspec.structs.replace(
        base,
        cores=found.cores,
        threads=found.threads,
        isa=found.isa or base.isa,
        sources=sources,
    )


def _stated_hz(name: str) -> float | None:
    """The clock in a brand string: ``Intel(R) Xeon(R) CPU @ 2.50GHz``."""
    found = re.search(r"@ *(\d+(?:\.\d+)?) *GHz", name)
    return float(found[1]) * 1e9 if found else None


def match_cpu(parts: Parts, name: str, sockets: int) -> CpuSpec | None:
    """The catalog entry of a brand string, e.g. ``Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz``."""
    forms = cpu_names(name)
    if sockets > 1:
        forms = [f"{sockets}x {form}" for form in forms]
    for form in forms:
        if parts.catalog.resolve("hardware/cpu", form) is not None:
            return parts.cpu(form)
    return _several(parts, name, sockets) if sockets > 1 else None


def _several(parts: Parts, name: str, sockets: int) -> CpuSpec | None:
    """Several sockets of a CPU that the catalog has as one."""
    one = match_cpu(parts, name, 1)
    if one is None or one.sockets != 1:
        return None
    bandwidth = one.ram_bytes_per_s
    return msgspec.structs.replace(
        one,
        id=f"{sockets}x-{one.id}",
        name=f"{sockets}x {one.name}",
        sockets=sockets,
        ram_bytes_per_s=None if bandwidth is None else bandwidth * sockets,
        measured_low_bytes_per_s=None,
        measured_high_bytes_per_s=None,
        sources=(*one.sources, Source("derived", f"{sockets} sockets of one")),
    )


def _segment(found: FoundMachine) -> str:
    name = found.cpu_name.casefold()
    if any(word in name for word in _WORKSTATION_WORDS):
        return "workstation"
    if any(word in name for word in _SERVER_WORDS):
        return "server"
    return "edge" if "raspberry" in name or "jetson" in name else "desktop"


def slug(name: str) -> str:
    """``name`` as an id: lower case, single dashes, at most 60 characters."""
    kept = "".join(char if char.isalnum() and char.isascii() else "-" for char in name.casefold())
    return "-".join(part for part in kept.split("-") if part)[:60] or "unknown"
