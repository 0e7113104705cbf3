"""Hardware files: units, and errors that name the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeplan.errors import SpecError
from moeplan.readers.hardware_yaml import read_cpu, read_gpu, read_link, read_storage

GPU = """\
id: my-gpu
name: My GPU
vendor: nvidia
segment: consumer
architecture: Ampere
launched: 2020-09
memory_GiB: 24
visible_GiB: 22.5
bandwidth_GBps: 936.2
tflops: {fp32: 35.58, int8: 284.6}
pcie: pcie-4.0-x16
peer_GBps: 56.25
tdp_W: 350
compute_capability: "8.6"
sources: [{kind: datasheet, ref: white paper, retrieved: 2026-11-22}]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "my-gpu.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_gpu_in_si_units(tmp_path: Path) -> None:
    gpu = read_gpu(write(tmp_path, GPU))
    assert gpu.memory_bytes == 24 * 1024**3
    assert gpu.visible_bytes == gpu.usable_bytes == 22.5 * 1024**3
    assert gpu.bandwidth_bytes_per_s == 936_200_000_000  # 936.2 x 10^9, no rounding residue
    assert gpu.peak_flop_per_s == {"fp32": 35.58e12, "int8": 284.6e12}
    assert gpu.peer_bytes_per_s == 56.25e9
    assert (gpu.launched, gpu.compute_capability) == ("2020-09", "8.6")
    assert gpu.sources[0][:3] == ("datasheet", "white paper", "2026-11-22")


def test_without_visible_memory_all_of_it_is_usable(tmp_path: Path) -> None:
    gpu = read_gpu(write(tmp_path, GPU.replace("visible_GiB: 22.5\n", "")))
    assert gpu.usable_bytes == 24 * 1024**3


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("bandwidth_GBps: 936.2", "bandwidth_gbs: 936.2", 9, "unknown key `bandwidth_gbs`"),
        ("memory_GiB: 24", "memory_GiB: -24", 7, "> 0"),
        ("memory_GiB: 24", 'memory_GiB: "24"', 7, "expected a number"),
        ("memory_GiB: 24", "memory_GiB: 1e300", 7, "<= 1000000000"),
        ("memory_GiB: 24", "memory_GiB: .nan", 7, "not a usable number"),
        ("visible_GiB: 22.5", "visible_GiB: 25", 8, "more memory is visible"),
        ("vendor: nvidia", "vendor: nvdia", 3, "nvdia"),
        ("fp32: 35.58", "fp23: 35.58", 10, "fp23"),
    ],
)
def test_errors_point_at_the_line(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_gpu(write(tmp_path, GPU.replace(old, new)))
    assert caught.value.line == line
    assert words in str(caught.value)


def test_cpu(tmp_path: Path) -> None:
    text = """\
id: my-cpu
name: My CPU
segment: server
sockets: 2
cores: 64
threads: 128
isa: [avx2, avx512]
ram_type: DDR5
ram_MTps: 4800
ram_channels: 12
ram_GBps: 921.6
measured_low_GBps: 700
measured_high_GBps: 790
pcie: pcie-5.0-x16
pcie_lanes: 160
max_ram_GiB: 1536
"""
    cpu = read_cpu(write(tmp_path, text))
    assert cpu.ram_type == "DDR5-4800"
    assert cpu.ram_bytes_per_s == 921.6e9
    assert cpu.max_ram_bytes == 1536 * 1024**3
    assert (cpu.cores, cpu.threads, cpu.sockets, cpu.ram_channels) == (64, 128, 2, 12)
    with pytest.raises(SpecError, match="upside down"):
        read_cpu(write(tmp_path, text.replace("measured_low_GBps: 700", "measured_low_GBps: 800")))
    with pytest.raises(SpecError, match="fewer threads"):
        read_cpu(write(tmp_path, text.replace("threads: 128", "threads: 32")))


def test_link_and_storage(tmp_path: Path) -> None:
    text = "id: l\nname: L\nkind: pcie\nrate_GBps: 31.508\neffective_GBps: 26.15\nlatency_us: 1.4\n"
    link = read_link(write(tmp_path, text))
    assert (link.bytes_per_s, link.effective_bytes_per_s) == (31.508e9, 26.15e9)
    assert link.latency_s == pytest.approx(1.4e-6)
    with pytest.raises(SpecError, match="faster than the line rate"):
        read_link(write(tmp_path, text.replace("26.15", "32")))
    disk = read_storage(write(tmp_path, "id: s\nname: S\nread_GBps: 7.3\nrandom_read_GBps: 4.096\n"))
    assert (disk.read_bytes_per_s, disk.random_read_bytes_per_s) == (7.3e9, 4.096e9)
