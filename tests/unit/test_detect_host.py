"""This machine without a driver: GPUs through the kernel, CPU and memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from moeplan.hw import host
from moeplan.hw.detect import detect
from moeplan.hw.drm import find_drm_gpus
from moeplan.readers.hardware import resolve_hardware
from tests.support.matching import PARTS, match

GIB, MIB = 1024**3, 1024**2

# ── AMD and Intel through the kernel ────────────────────────────────────────────────────────────


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_amd_gpus(tmp_path: Path) -> None:
    card = "sys/class/drm/card0/device/"
    root = tree(
        tmp_path,
        {
            card + "vendor": "0x1002\n",
            card + "device": "0x744c\n",
            card + "revision": "0xc8\n",
            card + "mem_info_vram_total": str(24560 * MIB),
            card + "mem_info_vram_used": str(100 * MIB),
            card + "max_link_speed": "16.0 GT/s PCIe",
            card + "current_link_width": "16",
            "sys/class/drm/card0-DP-1/status": "connected",
            "sys/class/drm/card1/device/vendor": "0x10de",  # NVML's
            "usr/share/libdrm/amdgpu.ids": "1.0.0\n744C,\tCC,\tAMD Radeon RX 7900 XT\n"
            "744C,\tC8,\tAMD Radeon RX 7900 XTX\n",
        },
    )
    gpus, notes = find_drm_gpus(root)
    assert notes == []
    assert [(gpu.name, gpu.memory_bytes, gpu.used_bytes) for gpu in gpus] == [
        ("AMD Radeon RX 7900 XTX", 24560 * MIB, 100 * MIB)
    ]
    assert (gpus[0].pcie_gen, gpus[0].pcie_lanes) == (4, 16)
    assert match(gpus).gpus[0].id == "rx-7900-xtx"


def test_intel_gpus(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "sys/class/drm/card0/device/vendor": "0x8086",  # an integrated one: no Arc
            "sys/class/drm/card0/device/device": "0x4680",
            "sys/class/drm/card1/device/vendor": "0x8086",
            "sys/class/drm/card1/device/device": "0x56a0",
            "sys/class/drm/card1/lmem_total_bytes": str(16 * GIB),
            "usr/share/misc/pci.ids": "# comment\n1002  AMD\n\t56a0  not this\n8086  Intel\n"
            "\t4680  AlderLake-S GT1 [UHD Graphics 770]\n\t56a0  DG2 [Arc A770]\n",
        },
    )
    gpus, _ = find_drm_gpus(root)
    assert [(gpu.name, gpu.memory_bytes) for gpu in gpus] == [("Arc A770", 16 * GIB)]


def test_a_nameless_gpu_is_noted(tmp_path: Path) -> None:
    card = "sys/class/drm/card0/device/"
    files = {card + "vendor": "0x1002", card + "device": "0xffff", card + "mem_info_vram_total": str(GIB)}
    gpus, notes = find_drm_gpus(tree(tmp_path, files))
    assert gpus == [] and "left out" in notes[0]


# ── CPU and memory ──────────────────────────────────────────────────────────────────────────────


def test_linux_cpu(tmp_path: Path) -> None:
    block = (
        "processor\t: {n}\nmodel name\t: Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz\nphysical id\t: {s}\n"
        "core id\t\t: {c}\nflags\t\t: fpu avx2 avx512f hypervisor\n\n"
    )
    text = "".join(block.format(n=n, s=n // 4, c=n % 2) for n in range(8))  # 2 sockets x 2 cores x 2
    cpu = host.linux_cpu(tree(tmp_path, {"proc/cpuinfo": text}))
    assert cpu.name == "Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz"
    assert (cpu.sockets, cpu.cores, cpu.threads) == (2, 4, 8)
    assert cpu.isa == ("avx2", "avx512")
    assert cpu.virtual


def test_arm_cpu(tmp_path: Path) -> None:
    text = "".join(f"processor\t: {n}\nFeatures\t: fp asimd sve2\nCPU part\t: 0xd0b\n\n" for n in range(4))
    files = {"proc/cpuinfo": text, "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"}
    cpu = host.linux_cpu(tree(tmp_path, files))
    assert cpu.name == "Raspberry Pi 5 Model B Rev 1.0"
    assert (cpu.sockets, cpu.cores, cpu.threads, cpu.isa) == (1, 4, 4, ("neon", "sve2"))
    assert not cpu.virtual


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/memory.max": "max"}, None),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/memory.max": "4096"}, 4096),
        (  # a parent's limit binds too
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/memory.max": "8192",
                "sys/fs/cgroup/a/memory.max": "4096",
            },
            4096,
        ),
        # inside a container the group's own path is the mount
        ({"proc/self/cgroup": "0::/../host/path", "sys/fs/cgroup/memory.max": "4096"}, 4096),
        (
            {
                "proc/self/cgroup": "5:cpu:/x\n4:memory,blkio:/docker/1",
                "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "4096",
            },
            4096,
        ),
        (  # v1 without a limit
            {
                "proc/self/cgroup": "4:memory:/",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            },
            None,
        ),
        ({}, None),
    ],
)
def test_cgroup_limits(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    assert host.cgroup_limit_bytes(tree(tmp_path, files)) == limit


def test_dmidecode() -> None:
    # the layout of dmidecode 3.4: one filled slot faster than the other, one empty
    text = """\
Handle 0x003D, DMI type 17, 92 bytes
Memory Device
\tTotal Width: 64 bits
\tSize: 32 GB
\tSpeed: 6000 MT/s
\tConfigured Memory Speed: 4800 MT/s
Memory Device
\tSize: No Module Installed
Memory Device
\tSize: 32768 MB
\tConfigured Clock Speed: 5600 MT/s
"""
    assert host.parse_dmidecode(text) == (4800, 2)
    assert host.parse_dmidecode("") == (None, None)


def test_wsl_is_noted(tmp_path: Path) -> None:
    files = {"proc/version": "Linux version 5.15.0-microsoft-standard-WSL2"}
    assert any("Windows" in note for note in host.surroundings(tree(tmp_path, files)))
    assert host.surroundings(tmp_path / "elsewhere") == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="compares with /proc")
def test_this_machine() -> None:
    found = detect()
    total_kib = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.startswith("MemTotal")
    )
    assert 0 < found.ram_bytes <= total_kib * 1024
    assert found.threads == len(os.sched_getaffinity(0))
    assert 1 <= found.cores <= found.threads
    spec = resolve_hardware(None, parts=PARTS, detect=lambda: found)
    assert (spec.id, spec.host.ram_bytes > 0, spec.host.ram_bytes_per_s > 0) == ("local", True, True)


def test_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        ("sysctl", "-n", "machdep.cpu.brand_string"): "Apple M3 Max",
        ("sysctl", "-n", "hw.physicalcpu"): "14",
        ("ioreg", "-rc", "AGXAccelerator"): '    |   "gpu-core-count" = 30\n',
    }
    monkeypatch.setattr(host, "run", lambda *command: answers[command])
    monkeypatch.setattr(sys, "platform", "darwin")
    found = detect()
    spec = resolve_hardware("local", parts=PARTS, detect=lambda: found)
    assert spec.gpus[0].id == "apple-m3-max-30-core"
    assert spec.host.cpu.id == "apple-m3-max-30-core-cpu-side"
    assert spec.host.cpu.cores == 14
    assert spec.host.ram_bytes == found.ram_bytes
