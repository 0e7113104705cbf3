"""Hardware and quantisations as lists, cards and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from moeplan.domain.hardware import CpuSpec, GpuSpec, HardwareSpec, LinkSpec, StorageSpec
from moeplan.domain.quant import QuantScheme, QuantTable
from moeplan.provenance import Source
from moeplan.report.listing import Card, Column, Listing
from moeplan.report.words import machine_facts
from moeplan.units import fmt_bytes, fmt_si

HardwareEntry = GpuSpec | CpuSpec | LinkSpec | StorageSpec | HardwareSpec
"""Whatever the catalog lists as hardware."""

KINDS: dict[str, type] = {
    "gpu": GpuSpec,
    "cpu": CpuSpec,
    "node": HardwareSpec,
    "link": LinkSpec,
    "storage": StorageSpec,
}
"""Kinds of hardware in the catalog, by the name of their directory."""


def kind_of(entry: HardwareEntry) -> str:
    """The kind of ``entry``, a key of KINDS."""
    return next(kind for kind, cls in KINDS.items() if isinstance(entry, cls))


# ── hardware ────────────────────────────────────────────────────────────────────────────────────


def hardware_listing(entries: Sequence[HardwareEntry]) -> Listing:
    """One row an entry: memory and rate are those that bind inference."""
    columns = [
        Column("kind"),
        Column("id"),
        Column("memory", "r", 1),
        Column("rate", "r"),
        Column("name", "l", 2),
    ]
    return Listing(columns, [_row(entry) for entry in entries], "no hardware matches")


def _row(entry: HardwareEntry) -> tuple[str, str, str, str, str]:
    memory, rate = "", ""
    match entry:
        case GpuSpec():
            memory, rate = fmt_bytes(entry.memory_bytes), _rate(entry.bandwidth_bytes_per_s)
        case CpuSpec():
            memory = entry.ram_type
            rate = _rate(entry.ram_bytes_per_s) if entry.ram_bytes_per_s else ""
        case LinkSpec():
            rate = _rate(entry.bytes_per_s)
        case StorageSpec():
            rate = _rate(entry.read_bytes_per_s)
        case HardwareSpec():
            memory = fmt_bytes(sum(g.memory_bytes for g in entry.gpus) or entry.host.ram_bytes)
            rate = _rate(entry.gpus[0].bandwidth_bytes_per_s if entry.gpus else entry.host.ram_bytes_per_s)
    return kind_of(entry), entry.id, memory, rate, entry.name


def hardware_list_json(entries: Sequence[HardwareEntry]) -> dict[str, Any]:
    """The wire form of the list."""
    rows = [{"kind": kind_of(entry), **_entry_json(entry)} for entry in entries]
    return {"schema": "moeplan/hardware-list@1", "hardware": rows}


def _entry_json(entry: HardwareEntry) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(entry)
    if isinstance(entry, LinkSpec):
        built["link_kind"] = built.pop("kind")
    return built


def hardware_json(entry: HardwareEntry) -> dict[str, Any]:
    """The wire form of one entry, in SI units."""
    return {
        "schema": "moeplan/hardware@1",
        "kind": kind_of(entry),
        "hardware": _entry_json(entry),
    }


def hardware_card(entry: HardwareEntry) -> Card:
    """One entry in full."""
    lists: dict[str, Sequence[str]] = {"sources": [source_words(source) for source in entry.sources]}
    match entry:
        case GpuSpec():
            facts = _gpu_facts(entry)
        case CpuSpec():
            facts = _cpu_facts(entry)
        case LinkSpec():
            facts = [
                ("kind", entry.kind),
                ("line rate", f"{_rate(entry.bytes_per_s)} each way"),
                ("large copies", _rate(entry.effective_bytes_per_s)),
                ("latency", f"{entry.latency_s * 1e6:g} us" if entry.latency_s else ""),
                ("joins directly", f"{entry.direct_gpus} GPUs" if entry.direct_gpus else ""),
            ]
        case StorageSpec():
            random = entry.random_read_bytes_per_s
            facts = [
                ("reads", _rate(entry.read_bytes_per_s)),
                ("random 4 KiB", _rate(random) if random else ""),
            ]
        case HardwareSpec():
            facts = _machine_rows(entry)
            lists = {"assumed": entry.assumptions, **lists}
    notes = getattr(entry, "notes", "")
    return Card(f"{entry.name} ({entry.id})", [*facts, ("notes", notes)], lists)


def _gpu_facts(gpu: GpuSpec) -> list[tuple[str, str]]:
    peaks = ", ".join(f"{dtype} {fmt_si(rate, 'FLOP/s')}" for dtype, rate in gpu.peak_flop_per_s.items())
    visible = f", {fmt_bytes(gpu.visible_bytes)} usable" if gpu.visible_bytes else ""
    peer = gpu.peer_link + (f", {_rate(gpu.peer_bytes_per_s)} each way" if gpu.peer_bytes_per_s else "")
    unified = ", shared with the CPU" if gpu.unified_memory else ""
    return [
        ("vendor", f"{gpu.vendor}, {gpu.architecture}, {gpu.segment}"),
        ("memory", f"{fmt_bytes(gpu.memory_bytes)} {gpu.memory_type}{visible}{unified}"),
        ("bandwidth", _rate(gpu.bandwidth_bytes_per_s)),
        ("dense peaks", peaks),
        ("host link", gpu.pcie),
        ("peer link", peer),
        ("power", f"{gpu.tdp_w:g} W" if gpu.tdp_w else ""),
        ("launched", gpu.launched),
        ("list price", f"{gpu.msrp_usd:,.0f} USD" if gpu.msrp_usd else ""),
        ("also called", ", ".join(gpu.aliases)),
    ]


def _cpu_facts(cpu: CpuSpec) -> list[tuple[str, str]]:
    low, high = cpu.measured_low_bytes_per_s, cpu.measured_high_bytes_per_s
    sockets = f"{cpu.sockets} sockets, " if cpu.sockets > 1 else ""
    clock = f", {cpu.base_hz / 1e9:g} GHz base" if cpu.base_hz else ""
    return [
        ("segment", cpu.segment),
        ("cores", f"{sockets}{cpu.cores} cores, {cpu.threads} threads"),
        ("core", f"{cpu.microarchitecture}{clock}".removeprefix(", ")),
        ("instructions", ", ".join(cpu.isa)),
        ("RAM", f"{cpu.ram_type}, {_rate(cpu.ram_bytes_per_s)}" if cpu.ram_bytes_per_s else cpu.ram_type),
        ("measured", f"{_rate(low)} to {_rate(high)}" if low and high else ""),
        ("most RAM", fmt_bytes(cpu.max_ram_bytes) if cpu.max_ram_bytes else ""),
        ("widest slot", cpu.pcie),
        ("also called", ", ".join(cpu.aliases)),
    ]


def _machine_rows(machine: HardwareSpec) -> list[tuple[str, str]]:
    gpus: dict[str, int] = {}
    for gpu in machine.gpus:
        gpus[gpu.name] = gpus.get(gpu.name, 0) + 1
    host = machine.host
    reserves = [
        f"{fmt_bytes(n)} of {what}"
        for n, what in ((machine.reserve_vram_bytes, "each GPU"), (machine.reserve_ram_bytes, "RAM"))
        if n
    ]
    return [
        ("GPUs", ", ".join(f"{n} x {name}" if n > 1 else name for name, n in gpus.items()) or "none"),
        ("CPU", host.cpu.name),
        ("memory", machine_facts(machine)),
        ("RAM rate is", host.ram_basis),
        (
            "host link",
            f"{machine.pcie.name}, {_rate(machine.pcie.effective_bytes_per_s)}" if machine.pcie else "",
        ),
        ("peer link", machine.peer_link.name if machine.peer_link else ""),
        ("nodes", f"{machine.n_nodes}" if machine.n_nodes > 1 else ""),
        ("disk", f"{host.storage.name}, {_rate(host.storage.read_bytes_per_s)}"),
        ("kept free", ", ".join(reserves)),
    ]


# ── quantisations ───────────────────────────────────────────────────────────────────────────────


def scheme_bits(scheme: QuantScheme, table: QuantTable) -> float | None:
    """Bits per weight of most matrices under ``scheme``; None where it depends on the model alone."""
    layout = table.types.get(scheme.base_type)
    if layout is not None:
        return layout.bits_per_weight
    name = scheme.weights.get("default", "")
    storage = scheme.storages.get(name)
    if storage is not None:
        return storage.bits_per_weight
    return table.types[name].bits_per_weight if name in table.types else None


def quant_listing(schemes: Sequence[QuantScheme], table: QuantTable) -> Listing:
    """One row a scheme."""
    columns = [
        Column("id"),
        Column("bits", "r"),
        Column("kind", "l", 1),
        Column("engine", "l", 2),
        Column("also called", "l", 3),
    ]
    rows = [
        (
            scheme.id,
            _bits(scheme_bits(scheme, table)),
            scheme.kind,
            "llama.cpp" if scheme.kind != "method" else scheme.engine,
            ", ".join(scheme.aliases),
        )
        for scheme in schemes
    ]
    return Listing(columns, rows, "no quantisation matches")


def quants_json(schemes: Sequence[QuantScheme], table: QuantTable) -> dict[str, Any]:
    """The wire form of the list."""
    return {
        "schema": "moeplan/quants@1",
        "quants": [_scheme_json(scheme, table) for scheme in schemes],
        "families": [family.pattern for family in table.families],
        "not_modelled": dict(table.not_modelled),
    }


def quant_json(scheme: QuantScheme, table: QuantTable) -> dict[str, Any]:
    """The wire form of one scheme."""
    return {"schema": "moeplan/quant@1", "quant": _scheme_json(scheme, table)}


def quant_card(scheme: QuantScheme, table: QuantTable) -> Card:
    """One scheme in full."""
    layout = table.types.get(scheme.base_type)
    block = f"{layout.block_elements} weights in {layout.block_bytes} bytes" if layout else ""
    recipe = [f"{name}: {kind}" for name, kind in scheme.weights.items()]
    recipe += [f"dense model, {name}: {kind}" for name, kind in scheme.dense_recipe.items()]
    recipe += [f"MoE model, {name}: {kind}" for name, kind in scheme.moe_recipe.items()]
    recipe += [f"MoE model of 2026, {name}: {kind}" for name, kind in scheme.moe_2026_recipe.items()]
    storages = [
        f"{name}: {storage.bits_per_weight:.3g} bits a weight, "
        + (f"groups of {storage.group}" if storage.group > 0 else "no groups")
        for name, storage in scheme.storages.items()
    ]
    facts = [
        ("kind", scheme.kind),
        ("bits", f"{_bits(scheme_bits(scheme, table))} per weight in most matrices"),
        ("base type", f"{scheme.base_type} ({block})" if block else scheme.base_type),
        ("engine", "llama.cpp" if scheme.kind != "method" else scheme.engine),
        ("also called", ", ".join(scheme.aliases)),
        ("notes", scheme.note),
    ]
    lists = {"recipe": recipe, "storage": storages, "source": [source_words(scheme.source)]}
    return Card(scheme.id, facts, lists)


def _scheme_json(scheme: QuantScheme, table: QuantTable) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(scheme)
    built["source"] = scheme.source._asdict()
    built["bits_per_weight"] = scheme_bits(scheme, table)
    return built


def source_words(source: Source) -> str:
    """``[kind] where it stands, when it was read (a remark)``."""
    retrieved = f", {source.retrieved}" if source.retrieved else ""
    return f"[{source.kind}] {source.ref}{retrieved}" + (f" ({source.note})" if source.note else "")


def _bits(bits: float | None) -> str:
    return f"{bits:.2f}" if bits is not None else "varies"


def _link(link: LinkSpec | None) -> str:
    return f"{link.name}, {_rate(link.effective_bytes_per_s)} in large copies" if link else ""


def _rate(bytes_per_s: float) -> str:
    return fmt_si(bytes_per_s, "B/s")
