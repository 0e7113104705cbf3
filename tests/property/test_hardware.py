"""Composing machines: flags are obeyed, more of something is never less, and nothing else breaks out."""

from __future__ import annotations

from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.request import MachineFlags
from moeplan.errors import MoeplanError
from moeplan.readers.catalog import Catalog
from moeplan.readers.hardware import resolve_hardware
from moeplan.readers.hardware_draft import Draft
from moeplan.readers.hardware_dump import dump_hardware_yaml
from moeplan.readers.hardware_node import take_wire
from moeplan.readers.hardware_parts import Parts
from moeplan.readers.hardware_wire import NodeWire
from moeplan.readers.yaml_convert import convert
from moeplan.readers.yaml_doc import parse_document

GIB = 1024**3
PARTS = Parts(Catalog(user=Path("/nonexistent")))
DISCRETE = ("rtx-4090", "rtx-3090", "gtx-1080", "t4", "a100-sxm-80gb", "h100-nvl-94gb", "rx-7900-xtx", "l40s")
UNIFIED = ("m2-max", "ryzen-ai-max-395", "dgx-spark-gb10")
CPUS = ("ryzen-9-7950x", "epyc-7302", "raspberry-pi-5", "2x-epyc-9654", "xeon-platinum-8480+")

gpus = st.sampled_from(DISCRETE + UNIFIED)
discrete = st.sampled_from(DISCRETE)
cpus = st.sampled_from(CPUS)
counts = st.integers(1, 64)
gib = st.floats(1, 4096)
rates = st.floats(0.1, 20000)
flags = st.builds(
    MachineFlags,
    gpu=gpus,
    n_gpus=st.none() | counts,
    cpu=st.none() | cpus,
    ram_gib=st.none() | gib,
    ram_gbs=st.none() | rates,
    pcie=st.none() | st.sampled_from(["gen3x16", "gen5x8", "gen4x1", "thunderbolt-4"]),
    link=st.none() | st.sampled_from(["none", "nvlink4", "nvlink-3-bridge"]),
    storage_gbs=st.none() | rates,
    reserve_vram_gib=st.none() | st.floats(0, 0.5),
)


def resolve(name: str | None, asked: MachineFlags) -> HardwareSpec:
    return resolve_hardware(name, asked, parts=PARTS)


def error_of(name: str | None, asked: MachineFlags) -> str | None:
    """What ``resolve`` has against it, None if nothing; any other exception goes through."""
    try:
        resolve(name, asked)
    except MoeplanError as error:
        return str(error)
    return None


@given(gpu=discrete, n=counts, cpu=cpus, ram=gib, rate=rates, disk=rates)
def test_flags_are_obeyed_exactly(gpu: str, n: int, cpu: str, ram: float, rate: float, disk: float) -> None:
    spec = resolve(
        gpu, MachineFlags(n_gpus=n, cpu=cpu, ram_gib=ram, ram_gbs=rate, pcie="gen3x4", storage_gbs=disk)
    )
    assert [one.id for one in spec.gpus] == [gpu] * n
    assert spec.host.cpu.id == cpu
    assert spec.host.ram_bytes == round(ram * GIB)
    assert (spec.host.ram_bytes_per_s, spec.host.ram_basis) == (round(rate * 1e9), "stated")
    assert spec.pcie is not None and spec.pcie.id == "pcie-3.0-x4"
    assert spec.host.storage.read_bytes_per_s == round(disk * 1e9)


@given(gpu=discrete, cpu=st.none() | cpus, n=counts, m=counts)
def test_more_gpus_never_get_more_lanes_each(gpu: str, cpu: str | None, n: int, m: int) -> None:
    few, many = sorted((n, m))
    a = resolve(gpu, MachineFlags(n_gpus=few, cpu=cpu)).pcie
    b = resolve(gpu, MachineFlags(n_gpus=many, cpu=cpu)).pcie
    assert a is not None and b is not None
    assert b.bytes_per_s <= a.bytes_per_s


@given(asked=flags, ram=gib)
def test_ram_changes_nothing_but_ram(asked: MachineFlags, ram: float) -> None:
    plain = resolve(None, msgspec.structs.replace(asked, ram_gib=None))
    sized = resolve(None, msgspec.structs.replace(asked, ram_gib=ram))
    assert sized.host.ram_bytes == round(ram * GIB)
    assert [gpu.id for gpu in sized.gpus] == [gpu.id for gpu in plain.gpus]
    assert (sized.pcie, sized.peer_link, sized.n_nodes) == (plain.pcie, plain.peer_link, plain.n_nodes)
    assert sized.host.cpu == plain.host.cpu
    if not sized.unified:
        assert sized.gpus == plain.gpus


@given(gpu=st.sampled_from(UNIFIED), ram=gib, more=gib)
def test_the_gpus_share_of_unified_memory_never_exceeds_it(gpu: str, ram: float, more: float) -> None:
    spec = resolve(gpu, MachineFlags(ram_gib=ram))
    assert 0 < spec.gpus[0].usable_bytes <= spec.gpus[0].memory_bytes == spec.host.ram_bytes


@given(asked=flags)
def test_whatever_is_composed_can_be_written_and_read_back(asked: MachineFlags) -> None:
    spec = resolve(None, asked)
    document = parse_document(dump_hardware_yaml(spec), "x.yaml")
    draft = Draft(PARTS)
    take_wire(draft, document, convert(document, NodeWire))
    assert draft.finish() == spec


@given(
    text=st.text(max_size=40) | st.sampled_from(["2x", "+", "0x-rtx-4090", "local", "a" * 9999, "../x", "."])
)
def test_any_text_as_a_name_is_a_clear_error_or_a_machine(text: str) -> None:
    on_a_card = MachineFlags(gpu="rtx-4090", pcie=text)
    for asked in (MachineFlags(gpu=text), MachineFlags(cpu=text), on_a_card):
        message = error_of(None, asked)
        assert message is None or 0 < len(message) < 1000
    error_of(text, MachineFlags())


@given(
    value=st.text(max_size=12) | st.floats() | st.integers(),
    option=st.sampled_from(["ram_gib", "ram_gbs", "storage_gbs", "reserve_vram_gib"]),
)
def test_any_value_of_an_option_is_a_clear_error_or_taken(value: str | float, option: str) -> None:
    asked = MachineFlags(**{option: value})  # type: ignore[arg-type]
    message = error_of("rtx-4090", asked)
    if message is not None:
        assert "--" + option.replace("_", "-") in message
        return
    spec = resolve("rtx-4090", asked)
    assert spec.host.ram_bytes > 0 and spec.host.ram_bytes_per_s > 0
    assert spec.host.storage.read_bytes_per_s > 0
    assert 0 <= spec.reserve_vram_bytes < spec.gpus[0].memory_bytes
