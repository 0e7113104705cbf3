"""Reads a machine's YAML file into a draft, and writes one."""

from __future__ import annotations

from pathlib import Path

import msgspec

from moeplan.domain.hardware import GpuSpec
from moeplan.errors import UnknownName
from moeplan.readers.hardware_draft import MAX_GPUS, Draft, stated_storage
from moeplan.readers.hardware_wire import GpuCountWire, NodeWire
from moeplan.readers.hardware_yaml import cpu_of, gib, gpu_of, rate, read_node, sources_of
from moeplan.readers.yaml_doc import Document, KeyPath

_NO_LINK = "none"


def take_node(draft: Draft, path: Path) -> None:
    """Fill ``draft`` with what the machine's file says; SpecError points at what makes no sense."""
    take_wire(draft, *read_node(path))


def take_wire(draft: Draft, document: Document, wire: NodeWire) -> None:
    """Fill ``draft`` with a machine as written; ``document`` gives errors their place."""
    _check(document, wire)
    draft.id, draft.name, draft.notes = wire.id, wire.name, wire.notes
    own = {gpu.id: gpu_of(gpu) for gpu in wire.gpu_specs}
    if sum(counted.count for counted in _counted(wire)) > MAX_GPUS:
        raise document.error(f"more than {MAX_GPUS:,} GPUs", ("gpus",))
    for index, counted in enumerate(_counted(wire)):
        where: KeyPath = ("gpu",) if wire.gpu else ("gpus", index, "id")
        draft.gpus += [_gpu(draft, document, counted, where, own)] * counted.count
    parts = draft.parts
    try:
        where = ("cpu",)
        if wire.cpu_spec is not None:
            draft.cpu = cpu_of(wire.cpu_spec)
        elif wire.cpu:
            draft.cpu = parts.cpu(wire.cpu)
        where = ("storage",)
        if wire.storage:
            draft.storage = parts.storage(wire.storage)
        where = ("pcie",)
        draft.pcie = parts.link(wire.pcie) if wire.pcie else None
        where = ("peer_link",)
        draft.no_peer_link = wire.peer_link == _NO_LINK
        if wire.peer_link and not draft.no_peer_link:
            draft.peer_link = parts.link(wire.peer_link)
        where = ("node_link",)
        draft.node_link = parts.link(wire.node_link) if wire.node_link else None
    except UnknownName as error:
        raise document.error(str(error), where, value=True, help=error.help) from None
    if wire.storage_gbps is not None:
        draft.storage = stated_storage(rate(wire.storage_gbps))
    _take_memory(draft, wire)
    draft.vcpus = wire.vcpus
    draft.n_nodes = wire.n_nodes
    draft.reserve_vram_bytes = gib(wire.reserve_gib)
    draft.reserve_ram_bytes = gib(wire.reserve_ram_gib)
    draft.assumptions += wire.assumptions
    draft.sources += sources_of(wire.sources)


def _take_memory(draft: Draft, wire: NodeWire) -> None:
    if wire.ram_gib is not None:
        draft.ram_bytes = gib(wire.ram_gib)
        if draft.unified and any(gpu.memory_bytes != draft.ram_bytes for gpu in draft.gpus):
            draft.set_unified_memory(draft.ram_bytes)
    if wire.ram_gbps is not None:
        draft.ram_bytes_per_s = rate(wire.ram_gbps)
        draft.ram_basis = wire.ram_basis or "stated"
        draft.guess_factor = wire.ram_factor or 1.0


def _check(document: Document, wire: NodeWire) -> None:
    """What the types cannot say."""
    if wire.gpu and wire.gpus is not None:
        raise document.error("give either `gpu` or `gpus`, not both", ("gpu",))
    if wire.n_gpus is not None and not wire.gpu:
        raise document.error("`n_gpus` goes with `gpu`; in `gpus` use `count`", ("n_gpus",))
    if wire.cpu and wire.cpu_spec is not None:
        raise document.error("give either `cpu` or `cpu_spec`, not both", ("cpu",))
    if wire.storage and wire.storage_gbps is not None:
        raise document.error("give either `storage` or `storage_GBps`, not both", ("storage",))
    if wire.ram_basis is not None and wire.ram_gbps is None:
        raise document.error("`ram_basis` says how `ram_GBps` is known, which is missing", ("ram_basis",))
    if wire.ram_factor is not None and wire.ram_basis != "assumed":
        raise document.error("`ram_factor` goes with `ram_basis: assumed`", ("ram_factor",))
    if not wire.gpu and not wire.gpus and not wire.cpu and wire.cpu_spec is None:
        raise document.error("a machine needs `gpu`, `gpus` or `cpu`")


def _counted(wire: NodeWire) -> tuple[GpuCountWire, ...]:
    if wire.gpu:
        return (GpuCountWire(id=wire.gpu, count=wire.n_gpus or 1),)
    return tuple(GpuCountWire(id=gpu) if isinstance(gpu, str) else gpu for gpu in wire.gpus or ())


def _gpu(
    draft: Draft, document: Document, counted: GpuCountWire, where: KeyPath, own: dict[str, GpuSpec]
) -> GpuSpec:
    gpu = own.get(counted.id)
    if gpu is None:
        try:
            gpu = draft.parts.gpu(counted.id)
        except UnknownName as error:
            raise document.error(str(error), where, value=True, help=error.help) from None
    changes: dict[str, object] = {}
    if counted.memory_gib is not None:
        changes = {"memory_bytes": gib(counted.memory_gib), "visible_bytes": None}
    if counted.visible_gib is not None:
        changes["visible_bytes"] = gib(counted.visible_gib)
    if counted.bandwidth_gbps is not None:
        changes["bandwidth_bytes_per_s"] = rate(counted.bandwidth_gbps)
    return msgspec.structs.replace(gpu, **changes) if changes else gpu
