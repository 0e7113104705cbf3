"""Machines in files: references, defaults, errors with their place, and writing one back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.request import MachineFlags
from moeplan.errors import SpecError
from moeplan.readers.catalog import Catalog
from moeplan.readers.hardware import resolve_hardware
from moeplan.readers.hardware_dump import dump_hardware_yaml
from moeplan.readers.hardware_parts import Parts

GIB = 1024**3
PARTS = Parts(Catalog(user=Path("/nonexistent")))

NODE = """\
id: my-box
name: My box
gpus:
  - {id: rtx-3090, count: 2}
  - {id: rtx-4090, memory_GiB: 48}
cpu: epyc-7302
ram_GiB: 256
ram_GBps: 150
ram_basis: measured
storage_GBps: 6.5
pcie: gen4x8
reserve_GiB: 1
reserve_ram_GiB: 4
notes: three cards
sources: [{kind: measured, ref: me}]
"""


def resolve(folder: Path, text: str, **flags: Any) -> HardwareSpec:
    path = folder / "my-box.yaml"
    path.write_text(text, encoding="utf-8")
    return resolve_hardware(str(path), MachineFlags(**flags), parts=PARTS)


def test_a_machine_as_written(tmp_path: Path) -> None:
    spec = resolve(tmp_path, NODE)
    assert (spec.id, spec.name, spec.notes) == ("my-box", "My box", "three cards")
    assert [gpu.id for gpu in spec.gpus] == ["rtx-3090", "rtx-3090", "rtx-4090"]
    assert [gpu.usable_bytes // GIB for gpu in spec.gpus] == [24, 24, 48]
    assert spec.host.cpu.id == "epyc-7302"
    assert spec.host.ram_bytes == 256 * GIB
    assert (spec.host.ram_bytes_per_s, spec.host.ram_basis) == (150e9, "measured")
    assert spec.host.storage.read_bytes_per_s == 6.5e9
    assert spec.pcie is not None and spec.pcie.id == "pcie-4.0-x8"
    assert (spec.reserve_vram_bytes, spec.reserve_ram_bytes) == (GIB, 4 * GIB)
    assert spec.assumptions == ()
    assert spec.sources[0].ref == "me"


def test_what_is_left_out_is_assumed(tmp_path: Path) -> None:
    spec = resolve(tmp_path, "id: b\nname: B\ngpu: rtx-4090\nn_gpus: 2\n")
    assert len(spec.gpus) == 2
    assert len(spec.assumptions) == 5  # CPU, RAM size, RAM rate, disk, lanes


def test_gpus_by_id_alone(tmp_path: Path) -> None:
    spec = resolve(tmp_path, "id: b\nname: B\ngpus: [rtx-3090, {id: rtx-3060-12gb, count: 2}]\n")
    assert [gpu.id for gpu in spec.gpus] == ["rtx-3090", "rtx-3060-12gb", "rtx-3060-12gb"]
    with pytest.raises(SpecError, match="rtx-3O90"):
        resolve(tmp_path, "id: b\nname: B\ngpus: [rtx-3O90]\n")


def test_unified_memory_of_the_machine(tmp_path: Path) -> None:
    spec = resolve(tmp_path, "id: b\nname: B\ngpu: apple-m2-max\nram_GiB: 32\n")
    assert spec.host.ram_bytes == spec.gpus[0].memory_bytes == 32 * GIB
    assert spec.gpus[0].usable_bytes < 22 * GIB  # two thirds


def test_part_of_a_server(tmp_path: Path) -> None:
    spec = resolve(tmp_path, "id: b\nname: B\ngpu: a10g\ncpu: epyc-7r32\nvcpus: 4\nram_GiB: 16\n")
    assert (spec.host.cpu.cores, spec.host.cpu.threads) == (2, 4)
    # two cores draw 14 GB/s each, not the socket's 204.8 (configs/hardware/typical_hosts.yaml)
    assert (spec.host.ram_bytes_per_s, spec.host.ram_basis) == (28e9, "assumed")


def test_parts_of_ones_own(tmp_path: Path) -> None:
    spec = resolve(
        tmp_path,
        """\
id: b
name: B
gpu: prototype
gpu_specs:
  - id: prototype
    name: Prototype
    vendor: other
    segment: pro
    architecture: X
    memory_GiB: 10
    bandwidth_GBps: 500
cpu_spec: {id: c, name: C, segment: desktop, cores: 4, threads: 4, ram_GBps: 40}
ram_GiB: 8
""",
    )
    assert (spec.gpus[0].name, spec.host.cpu.name, spec.pcie) == ("Prototype", "C", None)
    assert spec.host.ram_bytes_per_s == 40e9


def test_a_gpu_or_cpu_file_is_a_machine_too(tmp_path: Path) -> None:
    gpu = """\
id: p
name: P
vendor: amd
segment: consumer
architecture: X
memory_GiB: 10
bandwidth_GBps: 500
pcie: pcie-4.0-x16
"""
    spec = resolve(tmp_path, gpu, n_gpus=2)
    assert (spec.id, len(spec.gpus), spec.host.cpu.cores) == ("2x-p", 2, 16)
    cpu = resolve(tmp_path, "id: c\nname: C\nsegment: desktop\ncores: 4\nthreads: 8\nram_GBps: 40\n")
    assert (cpu.id, cpu.gpus, cpu.host.ram_bytes_per_s) == ("c", (), 40e9)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("{id: rtx-3090, count: 2}", "{id: rtx-3900, count: 2}", 4, "rtx-3090"),
        ("{id: rtx-3090, count: 2}", "{id: rtx-3090, count: 0}", 4, "count"),
        ("{id: rtx-3090, count: 2}", "{id: rtx-3090, n: 2}", 4, "unknown key `n`"),
        ("cpu: epyc-7302", "cpu: epic-7302", 6, "epyc-7302"),
        ("pcie: gen4x8", "pcie: gen4x12", 11, "gen4x12"),
        ("storage_GBps: 6.5", "storage: nvme-gen9", 10, "nvme-gen"),
        ("storage_GBps: 6.5", "storage_GBps: 6.5\nstorage: nvme", 11, "either `storage`"),
        ("cpu: epyc-7302", "gpu: rtx-4090", 6, "either `gpu` or `gpus`"),
        ("cpu: epyc-7302", "n_gpus: 2", 6, "goes with `gpu`"),
        ("ram_GBps: 150\n", "", 8, "`ram_GBps`"),
        ("ram_GiB: 256", "ram_GiB: 0", 7, "> 0"),
        ("reserve_GiB: 1", "reserve_GiB: -1", 12, ">= 0"),
    ],
)
def test_errors_point_at_the_place(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    assert old in NODE
    with pytest.raises(SpecError) as caught:
        resolve(tmp_path, NODE.replace(old, new))
    assert caught.value.line == line
    assert words in str(caught.value)


def test_a_machine_needs_something(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="needs `gpu`"):
        resolve(tmp_path, "id: b\nname: B\nram_GiB: 8\n")


def test_too_many_gpus_take_no_memory(tmp_path: Path) -> None:
    lines = "  - {id: rtx-3090, count: 65536}\n" * 100
    with pytest.raises(SpecError, match="more than 65,536 GPUs"):
        resolve(tmp_path, f"id: b\nname: B\ngpus:\n{lines}")


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("rtx-4090", {}),
        (
            "rtx-4090",
            {"n_gpus": 2, "ram_gib": 63.7, "ram_gbs": 77.7, "storage_gbs": 5, "reserve_vram_gib": 0.3},
        ),
        ("rtx-5090+2x-rtx-3090", {"link": "none"}),
        ("h100-sxm-80gb", {"n_gpus": 16}),
        ("m2-ultra", {"ram_gib": 64}),
        ("epyc-9654", {}),
        ("dgx-b300", {}),
        ("aws-g5-xlarge", {}),
    ],
)
def test_written_and_read_back(tmp_path: Path, name: str, flags: dict[str, Any]) -> None:
    spec = resolve_hardware(name, MachineFlags(**flags), parts=PARTS)
    text = dump_hardware_yaml(spec)
    assert resolve(tmp_path, text) == spec
    # and it can be edited: the file holds its GPUs and CPU, so it needs no catalog entry
    edited = resolve(tmp_path, text.replace(f"\n  id: {spec.host.cpu.id}\n", "\n  id: mine\n"))
    assert edited.host.cpu.id == "mine"


def test_names_that_yaml_would_misread(tmp_path: Path) -> None:
    for name in ("no", "1e9", "2025-01-01", "~", 'a "b": c # d', "né\u0085\u2028x"):
        spec = resolve_hardware("rtx-4090", parts=PARTS)
        odd = msgspec.structs.replace(spec, name=name, notes=name)
        assert resolve(tmp_path, dump_hardware_yaml(odd)) == odd
