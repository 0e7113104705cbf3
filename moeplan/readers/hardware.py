"""From what a user says (a name, a file, flags) to a whole machine in SI units."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from moeplan.domain.hardware import FoundMachine, GpuSpec, HardwareSpec, LinkSpec
from moeplan.domain.request import MachineFlags
from moeplan.errors import SpecError, UnknownName
from moeplan.readers.catalog import Catalog
from moeplan.readers.hardware_draft import MAX_GPUS, Draft, stated_storage
from moeplan.readers.hardware_parts import Parts, cpu_names, gpu_names, pcie_shape
from moeplan.readers.hardware_wire import CpuWire, GpuWire
from moeplan.readers.hardware_yaml import cpu_of, gpu_of
from moeplan.units import GIB, fmt_bytes, parse_bytes, parse_rate

# What can carry data between a GPU and its host.
_HOST_LINK_KINDS = frozenset({"pcie", "c2c", "usb", "nvlink", "infinity-fabric"})
_NO_LINK = frozenset({"none", "no", "pcie", "off"})


NO_FLAGS = MachineFlags()


def resolve_hardware(
    name: str | None,
    flags: MachineFlags = NO_FLAGS,
    catalog: Catalog | None = None,
    *,
    detect: Callable[[], FoundMachine] | None = None,
    parts: Parts | None = None,
) -> HardwareSpec:
    """The machine that ``name`` and ``flags`` describe.

    ``name``: the id or alias of a machine, a GPU (``a+b`` and ``2x-a`` too) or a CPU, the path of a YAML
    file, ``local``, or None to compose from flags alone (without ``gpu`` or ``cpu``: this machine).
    ``detect`` looks at this machine (``moeplan.hw.detect.detect``); it is called for ``local`` only.
    ``parts`` keeps what was read, for callers that resolve many names.
    UnknownName lists the nearest names; SpecError names the option whose value makes no sense.
    """
    draft = Draft(parts or Parts(catalog or Catalog()))
    if name is None and flags.gpu is None and flags.cpu is None:
        name = "local"
    if name is not None:
        _take_name(draft, name, detect)
    _apply_flags(draft, flags)
    return draft.finish()


def _take_name(draft: Draft, name: str, detect: Callable[[], FoundMachine] | None) -> None:
    if name == "local":
        if detect is None:
            raise SpecError("this machine cannot be looked at here; name a machine instead")
        from moeplan.readers.hardware_local import take_found

        take_found(draft, detect())
        return
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        _take_file(draft, Path(name))
        return
    catalog = draft.parts.catalog
    if catalog.resolve("hardware/node", name) is not None:
        from moeplan.readers.hardware_node import take_node

        take_node(draft, catalog.find("hardware/node", name))
        return
    if any(catalog.resolve("hardware/gpu", form) is not None for form in gpu_names(name)):
        _take_gpus(draft, [draft.parts.gpu(name)])
        return
    if any(catalog.resolve("hardware/cpu", form) is not None for form in cpu_names(name)):
        draft.cpu = draft.parts.cpu(name)
        draft.id, draft.name = draft.cpu.id, draft.cpu.name
        return
    try:
        _take_gpus(draft, _gpus_of(draft.parts, name))
    except UnknownName as error:
        if "+" in name and error.name != name:
            raise
        if os.path.exists(name):  # noqa: PTH110 - Path raises for a name that is too long
            raise SpecError(
                "is no YAML file of a machine", path=name, help="moeplan schema hardware-node"
            ) from None
        raise UnknownName("hardware", error.name, _nearest(catalog, name), error.help) from None


def _nearest(catalog: Catalog, name: str) -> tuple[str, ...]:
    """Names of any kind of hardware that look like ``name``: GPUs first, as they are named most."""
    kinds = ("hardware/gpu", "hardware/node", "hardware/cpu")
    lists = [catalog.nearest(kind, name, n=2) for kind in kinds]
    return tuple(dict.fromkeys(candidate for names in lists for candidate in names))[:4]


def _take_file(draft: Draft, path: Path) -> None:
    """A machine's YAML file, or a single GPU's or CPU's."""
    from moeplan.readers.hardware_node import take_node
    from moeplan.readers.yaml_convert import convert
    from moeplan.readers.yaml_doc import load_document

    document = load_document(path)
    keys = document.data if isinstance(document.data, dict) else {}
    if "memory_GiB" in keys or "bandwidth_GBps" in keys or "tflops" in keys:
        wire = convert(document, GpuWire, help="moeplan schema hardware-gpu")
        _take_gpus(draft, [gpu_of(wire)])
    elif "cores" in keys or "threads" in keys:
        draft.cpu = cpu_of(convert(document, CpuWire, help="moeplan schema hardware-cpu"))
        draft.id, draft.name = draft.cpu.id, draft.cpu.name
    else:
        take_node(draft, path)


def _take_gpus(draft: Draft, gpus: list[GpuSpec]) -> None:
    draft.replace_gpus(gpus)
    draft.id, draft.name = _label([gpu.id for gpu in gpus], "x-"), _label([gpu.name for gpu in gpus], "x ")


def _label(names: list[str], times: str) -> str:
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    joint = "+" if times == "x-" else " + "
    return joint.join(name if count == 1 else f"{count}{times}{name}" for name, count in counts.items())


def _gpus_of(parts: Parts, text: str) -> list[GpuSpec]:
    """The GPUs of ``rtx-5090+2x-rtx-4090``, in that order."""
    if "," in text:
        raise SpecError(
            f"{text[:80]!r}: GPUs of one machine are joined by +, not by commas",
            help="moeplan plan --hardware A,B compares machines",
        )
    gpus: list[GpuSpec] = []
    for piece in text.split("+"):
        count, name = _count_of(piece.strip())
        if len(gpus) + count > MAX_GPUS:
            raise SpecError(f"--gpu: more than {MAX_GPUS:,} GPUs")
        gpus += [parts.gpu(name)] * count
    return gpus


def _count_of(piece: str) -> tuple[int, str]:
    """(2, 'rtx-3090') of ``2x-rtx-3090``, ``2x rtx-3090`` or ``2xrtx-3090``."""
    digits = len(piece) - len(piece.lstrip("0123456789"))
    rest = piece[digits:]
    if 0 < digits <= 6 and rest[:1] in ("x", "X", "*") and len(rest) > 1:
        count = int(piece[:digits])
        if count == 0:
            raise SpecError(f"--gpu: zero GPUs in {piece!r}")
        return count, rest[1:].lstrip(" -_")
    return 1, piece


def _apply_flags(draft: Draft, flags: MachineFlags) -> None:
    _apply_gpus(draft, flags)
    _apply_host(draft, flags)
    if flags.pcie is not None:
        draft.pcie = _host_link(draft, flags.pcie)
    if flags.link is not None:
        draft.no_peer_link = flags.link.casefold() in _NO_LINK
        draft.peer_link = None if draft.no_peer_link else draft.parts.link(flags.link)
    if flags.reserve_vram_gib is not None:
        _set_reserve(draft, _reserve_bytes(draft, flags.reserve_vram_gib))


def _apply_gpus(draft: Draft, flags: MachineFlags) -> None:
    parts = draft.parts
    if flags.gpu is not None:
        try:
            gpus = [parts.gpu(flags.gpu)]
        except UnknownName:
            gpus = _gpus_of(parts, flags.gpu)
        host_id, host_name = (draft.id, draft.name) if draft.cpu is not None else ("", "")
        _take_gpus(draft, gpus)
        if host_id:
            draft.id, draft.name = f"{host_id}+{draft.id}", f"{host_name} with {draft.name}"
    if flags.n_gpus is not None:
        _set_count(draft, flags.n_gpus)


def _apply_host(draft: Draft, flags: MachineFlags) -> None:
    if flags.cpu is not None:
        draft.cpu = draft.parts.cpu(flags.cpu)
        if not draft.gpus:
            draft.id, draft.name = draft.cpu.id, draft.cpu.name
    if flags.ram_gib is not None:
        _set_ram(draft, parse_bytes(flags.ram_gib, "gib", "--ram-gib"))
    if flags.ram_gbs is not None:
        draft.ram_bytes_per_s = _rate(flags.ram_gbs, "--ram-gbs")
        draft.ram_basis = flags.ram_basis
        if draft.unified:
            rate = draft.ram_bytes_per_s
            draft.gpus = [msgspec.structs.replace(gpu, bandwidth_bytes_per_s=rate) for gpu in draft.gpus]
    if flags.storage_gbs is not None:
        draft.storage = stated_storage(_rate(flags.storage_gbs, "--storage-gbs"))


def _set_count(draft: Draft, n_gpus: int) -> None:
    if isinstance(n_gpus, bool) or not 0 < n_gpus <= MAX_GPUS:
        raise SpecError(
            f"--n-gpus: must be between 1 and {MAX_GPUS:,}, got {n_gpus}",
            hint="for a machine without GPU name its CPU" if n_gpus == 0 else None,
        )
    if not draft.gpus:
        raise SpecError(f"--n-gpus: {n_gpus} of which GPU?", hint="add --gpu NAME")
    if len(draft.gpus) == n_gpus:
        return
    if any(gpu.id != draft.gpus[0].id for gpu in draft.gpus):
        raise SpecError(f"--n-gpus: the machine has unlike GPUs; list all {n_gpus} with --gpu a+b")
    was_named_by_gpu = draft.id == _label([gpu.id for gpu in draft.gpus], "x-")
    gpus = draft.gpus[:1] * n_gpus
    if was_named_by_gpu:
        _take_gpus(draft, gpus)
    else:
        draft.replace_gpus(gpus)


def _rate(value: str | float, option: str) -> float:
    """Whole bytes per second, as the catalog has them, so that a machine written to a file reads back."""
    bytes_per_s = float(round(parse_rate(value, "gb/s", option)))
    if bytes_per_s < 1:
        raise SpecError(f"{option}: {value} GB/s is less than a byte per second")
    return bytes_per_s


def _set_ram(draft: Draft, ram_bytes: int) -> None:
    if ram_bytes <= 0:
        raise SpecError("--ram-gib: must be above zero")
    if draft.unified:
        draft.set_unified_memory(ram_bytes)
    else:
        draft.ram_bytes = ram_bytes


# What a screen takes of the GPU that drives it, in GiB; single reports, rounded up to a tenth.
_SCREENS = {
    "linux": (1.6, "KDE on Wayland with a browser: 1.6 GiB (ollama issue 8723, 2025-02)"),
    "windows": (1.3, "an RTX 3090 has 22.7 of 24 GiB left (ollama issue 8723, 2025-01)"),
    "wsl": (1.2, "a 4060 laptop has 6.9 of 8 GiB left (ollama issue 8723, 2025-02)"),
}


def _reserve_bytes(draft: Draft, asked: str | float) -> int:
    """Bytes to leave free on each GPU: a size, or the system whose screen it drives."""
    screen = _SCREENS.get(str(asked).strip().casefold())
    if screen is None:
        return parse_bytes(asked, "gib", "--reserve-vram-gib")
    size_gib, why = screen
    draft.assumptions.append(f"{size_gib} GiB of VRAM kept free: {why}")
    return round(size_gib * GIB)


def _set_reserve(draft: Draft, reserve_bytes: int) -> None:
    for gpu in draft.gpus:
        if reserve_bytes >= gpu.usable_bytes:
            raise SpecError(
                f"--reserve-vram-gib: {fmt_bytes(reserve_bytes)} reserved of the "
                f"{fmt_bytes(gpu.usable_bytes)} of {gpu.name}"
            )
    draft.reserve_vram_bytes = reserve_bytes


def _host_link(draft: Draft, text: str) -> LinkSpec:
    """``gen4x16``, ``pcie-4.0-x8``, ``gen3``, ``x1`` (the GPU's generation) or another host link."""
    name = text.replace(" ", "").casefold()
    if name[:1] == "x" and name[1:].isdigit():
        slots = [gpu.pcie for gpu in draft.gpus if gpu.pcie]
        if not slots:
            raise SpecError(f"--pcie: {text} of which generation?", hint="write e.g. gen4x16")
        name = f"pcie-{min(pcie_shape(slot)[0] for slot in slots)}.0-{name}"
    try:
        link = draft.parts.link(name)
    except UnknownName:
        link = draft.parts.link(text)
    if link.kind not in _HOST_LINK_KINDS:
        raise SpecError(f"--pcie: {link.name} does not join a GPU and its host")
    return link
