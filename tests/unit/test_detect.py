"""Looking at this machine: NVML through a stand-in module, /proc and /sys through made-up trees."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from moeplan.domain.hardware import FoundGpu, FoundMachine
from moeplan.domain.request import MachineFlags
from moeplan.hw.nvml import find_nvidia_gpus
from moeplan.readers.hardware import resolve_hardware
from moeplan.readers.hardware_dump import dump_hardware_yaml
from moeplan.readers.hardware_local import full_channels, match_gpu
from tests.support.matching import PARTS, match

GIB, MIB = 1024**3, 1024**2

# ── NVML ────────────────────────────────────────────────────────────────────────────────────────


class FakeNvml(types.ModuleType):
    """What nvidia-ml-py offers, for boards given as dictionaries; absent keys are "not supported"."""

    class NVMLError(Exception):
        pass

    class NVMLError_LibraryNotFound(NVMLError):
        pass

    def __init__(self, boards: list[dict[str, Any]], init_error: Exception | None = None) -> None:
        super().__init__("pynvml")
        self.boards = boards
        self.init_error = init_error
        self.shut_down = 0

    def nvmlInit(self) -> None:
        if self.init_error:
            raise self.init_error

    def nvmlShutdown(self) -> None:
        self.shut_down += 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        if self.boards[index].get("lost"):
            raise self.NVMLError("GPU is lost")
        return self.boards[index]

    def _get(self, handle: dict[str, Any], key: str) -> Any:
        if key not in handle:
            raise self.NVMLError("Not Supported")
        return handle[key]

    def nvmlDeviceGetName(self, handle: dict[str, Any]) -> Any:
        return self._get(handle, "name")

    def nvmlDeviceGetUUID(self, handle: dict[str, Any]) -> Any:
        return self._get(handle, "uuid")

    def nvmlDeviceGetMemoryInfo(self, handle: dict[str, Any]) -> Any:
        total, used = self._get(handle, "memory_mib")
        return types.SimpleNamespace(total=total * MIB, used=used * MIB, free=(total - used) * MIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: dict[str, Any]) -> Any:
        return self._get(handle, "capability")

    def nvmlDeviceGetPowerManagementLimit(self, handle: dict[str, Any]) -> Any:
        return self._get(handle, "power_mw")

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: dict[str, Any]) -> Any:
        return self._get(handle, "pcie")[0]

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle: dict[str, Any]) -> Any:
        return self._get(handle, "pcie")[1]

    def nvmlDeviceGetNvLinkState(self, handle: dict[str, Any], link: int) -> Any:
        links = self._get(handle, "nvlink")
        if link >= len(links):
            raise self.NVMLError("Invalid Argument")
        return links[link]

    def nvmlDeviceGetMigMode(self, handle: dict[str, Any]) -> Any:
        return (1, 1) if "mig" in handle else self._get(handle, "mig")

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: dict[str, Any]) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: dict[str, Any], index: int) -> Any:
        if index >= len(handle["mig"]):
            raise self.NVMLError("Not Found")
        return handle["mig"][index]

    def nvmlDeviceGetMaxClockInfo(self, handle: dict[str, Any], kind: int) -> Any:
        return self._get(handle, {1: "sm_mhz", 2: "memory_mhz"}[kind])

    def nvmlDeviceGetMemoryBusWidth(self, handle: dict[str, Any]) -> Any:
        return self._get(handle, "bus_bits")

    def nvmlDeviceGetNumGpuCores(self, handle: dict[str, Any]) -> Any:
        return self._get(handle, "cores")


RTX_3090 = {
    "name": b"NVIDIA GeForce RTX 3090",  # older bindings answer bytes
    "uuid": "GPU-3090aaaa-0000",
    "memory_mib": (24576, 512),
    "capability": (8, 6),
    "power_mw": 280_000,
    "pcie": (4, 8),
    "nvlink": [1, 1, 1, 1],
}
RTX_4090 = {
    "name": "NVIDIA GeForce RTX 4090",
    "uuid": "GPU-4090bbbb-0000",
    "memory_mib": (24564, 1024),
    "pcie": (4, 16),
}


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*boards: dict[str, Any], init_error: Exception | None = None) -> FakeNvml:
        fake = FakeNvml(list(boards), init_error)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


def test_two_gpus(nvml: Any) -> None:
    fake = nvml(RTX_3090, RTX_4090)
    gpus, notes = find_nvidia_gpus({})
    assert notes == []
    assert fake.shut_down == 1
    first, second = gpus
    assert first.name == "NVIDIA GeForce RTX 3090"
    assert (first.memory_bytes, first.used_bytes) == (24 * GIB, 512 * MIB)
    assert (first.pcie_gen, first.pcie_lanes, first.nvlink_links) == (4, 8, 4)
    assert (first.compute_capability, first.power_limit_w) == ("8.6", 280)
    assert (second.nvlink_links, second.power_limit_w, second.compute_capability) == (None, None, "")


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ("1", ["RTX 4090"]),
        ("1,0", ["RTX 4090", "RTX 3090"]),
        ("GPU-3090", ["RTX 3090"]),
        ("", []),
        ("-1", []),
        ("0,7,1", ["RTX 3090"]),  # CUDA stops at the first that does not exist
        ("0,0", ["RTX 3090"]),
    ],
)
def test_cuda_visible_devices(nvml: Any, chosen: str, names: list[str]) -> None:
    nvml(RTX_3090, RTX_4090)
    gpus, notes = find_nvidia_gpus({"CUDA_VISIBLE_DEVICES": chosen})
    assert [gpu.name.removeprefix("NVIDIA GeForce ") for gpu in gpus] == names
    assert "CUDA_VISIBLE_DEVICES" in notes[0]


def test_mig_slices(nvml: Any) -> None:
    slices = [
        {"name": "NVIDIA A100-SXM4-80GB MIG 3g.40gb", "memory_mib": (40192, 0)},
        {"name": "NVIDIA A100-SXM4-80GB MIG 1g.10gb", "memory_mib": (9728, 0)},
    ]
    nvml({"name": "NVIDIA A100-SXM4-80GB", "memory_mib": (81920, 0), "mig": slices})
    gpus, _ = find_nvidia_gpus({})
    assert [gpu.mig_slices for gpu in gpus] == [3, 1]
    spec = match(gpus)
    assert [gpu.id for gpu in spec.gpus] == ["a100-sxm-80gb-mig-3g", "a100-sxm-80gb-mig-1g"]
    assert spec.gpus[0].memory_bytes == 40192 * MIB
    # memory slices: 40192 of 81920 MiB of 2039 GB/s; compute: 3 of 7 slices of 312 TFLOP/s
    assert spec.gpus[0].bandwidth_bytes_per_s == pytest.approx(2039e9 * 40192 / 81920)
    assert spec.gpus[0].peak_flop_per_s["bf16"] == pytest.approx(312e12 * 3 / 7)


def test_one_gpu_is_lost(nvml: Any) -> None:
    nvml({"lost": True}, RTX_4090)
    gpus, notes = find_nvidia_gpus({})
    assert len(gpus) == 1
    assert "GPU 0" in notes[0] and "lost" in notes[0]


def test_no_driver_is_no_news_but_a_broken_one_is(nvml: Any) -> None:
    nvml(init_error=FakeNvml.NVMLError_LibraryNotFound("NVML Shared Library Not Found"))
    assert find_nvidia_gpus({}) == ([], [])
    nvml(init_error=FakeNvml.NVMLError("Driver/library version mismatch"))
    gpus, notes = find_nvidia_gpus({})
    assert gpus == [] and "version mismatch" in notes[0]


def test_package_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpus, notes = find_nvidia_gpus({})
    assert gpus == [] and "nvidia-ml-py" in notes[0]


# ── matching with the catalog ───────────────────────────────────────────────────────────────────


def test_a_machine_put_together(nvml: Any) -> None:
    nvml(RTX_3090, RTX_3090)
    spec = match(find_nvidia_gpus({})[0])
    assert [gpu.id for gpu in spec.gpus] == ["rtx-3090", "rtx-3090"]
    assert spec.gpus[0].peak_flop_per_s["fp16"] == 71.16e12  # the catalog's
    assert spec.gpus[0].tdp_w == 280  # this machine's
    assert spec.host.cpu.id == "ryzen-9-7950x"
    assert spec.host.ram_bytes == 62 * GIB
    assert spec.pcie is not None and spec.pcie.id == "pcie-4.0-x8"
    assert spec.peer_link is not None and spec.peer_link.id == "nvlink-3-bridge"  # its links are active
    assert spec.reserve_vram_bytes == 512 * MIB
    assert any("RAM bandwidth 83.2 GB/s" in line for line in spec.assumptions)


def test_without_active_links_there_is_no_bridge(nvml: Any) -> None:
    cut = {"name": "NVIDIA A100-SXM4-80GB", "memory_mib": (81920, 0), "nvlink": [0] * 12}
    nvml(cut, cut)
    assert match(find_nvidia_gpus({})[0]).peer_link is None
    nvml(cut | {"nvlink": [1] * 12}, cut | {"nvlink": [1] * 12})
    joined = match(find_nvidia_gpus({})[0]).peer_link
    assert joined is not None and joined.id == "nvlink-3"


def test_a_board_with_more_memory_than_the_catalog_knows(nvml: Any) -> None:
    nvml(RTX_3090 | {"memory_mib": (48 * 1024, 0)})
    gpu = match(find_nvidia_gpus({})[0]).gpus[0]
    assert (gpu.id, gpu.memory_bytes, gpu.usable_bytes) == ("rtx-3090", 48 * GIB, 48 * GIB)


def test_another_gpu_is_not_in_use(nvml: Any) -> None:
    nvml(RTX_3090)
    found = FoundMachine(
        gpus=tuple(find_nvidia_gpus({})[0]),
        cpu_name="x",
        sockets=1,
        cores=8,
        threads=8,
        isa=(),
        ram_bytes=8 * GIB,
    )
    here = resolve_hardware("local", parts=PARTS, detect=lambda: found)
    assert here.reserve_vram_bytes == 512 * MIB
    other = resolve_hardware("local", MachineFlags(gpu="rtx-4090"), parts=PARTS, detect=lambda: found)
    assert (other.gpus[0].id, other.reserve_vram_bytes, other.host.ram_bytes) == ("rtx-4090", 0, 8 * GIB)


def test_memory_modules_give_the_bandwidth() -> None:
    spec = match([], ram_mts=6000, ram_modules=2)
    assert (spec.host.ram_bytes_per_s, spec.host.ram_basis) == (2 * 8 * 6000e6, "theoretical")
    four = match([], ram_mts=3600, ram_modules=4)  # two channels all the same
    assert four.host.ram_bytes_per_s == 2 * 8 * 3600e6


@pytest.mark.parametrize(
    ("n_modules", "n_channels", "worth"),
    [(1, 2, 1), (2, 2, 2), (3, 2, 1.5), (4, 2, 2), (8, 6, 4), (12, 6, 6), (16, 12, 8), (23, 24, 23)],
)
def test_modules_that_do_not_fill_channels_alike_are_slower(
    n_modules: int, n_channels: int, worth: float
) -> None:
    assert full_channels(n_modules, n_channels) == worth


def test_a_server_with_half_its_channels_doubled_has_two_thirds_of_the_bandwidth() -> None:
    cpu = "Intel(R) Xeon(R) Gold 6138 CPU @ 2.00GHz"
    full = match([], cpu_name=cpu, sockets=2, cores=40, threads=80, ram_mts=2666, ram_modules=12).host
    more = match([], cpu_name=cpu, sockets=2, cores=40, threads=80, ram_mts=2666, ram_modules=16).host
    assert full.ram_bytes_per_s == 12 * 8 * 2666e6
    assert more.ram_bytes_per_s == pytest.approx(full.ram_bytes_per_s * 2 / 3)


def test_an_unknown_cpu_is_said_and_assumed_by_class() -> None:
    spec = match([], cpu_name="Fancy 9000", cores=8, threads=16)
    assert (spec.host.cpu.id, spec.host.cpu.name) == ("fancy-9000", "Fancy 9000")
    assert spec.host.ram_bytes_per_s == 51.2e9  # two channels of DDR4-3200
    assert spec.host.ram_basis == "assumed"
    assert any("typical desktop" in line for line in spec.assumptions)


def test_cores_of_a_virtual_machine() -> None:
    spec = match([], cpu_name="AMD EPYC 7763 64-Core Processor", cores=2, threads=4, virtual=True)
    assert (spec.host.cpu.id, spec.host.cpu.cores) == ("epyc-7763", 2)
    assert spec.host.ram_bytes_per_s == 28e9  # 14 GB/s a core, not the socket's 204.8
    assert spec.host.guess_factor == 2.0
    said = match([], cpu_name="AMD EPYC 7763 64-Core Processor", cores=64, threads=128).host
    assert (said.ram_bytes_per_s, said.guess_factor) == (204.8e9, 1.0), "the usual memory of a known one"


def test_two_sockets_of_a_cpu_listed_as_one() -> None:
    spec = match([], cpu_name="Intel(R) Xeon(R) Gold 6342 CPU @ 2.80GHz", sockets=2, cores=48, threads=96)
    assert spec.host.cpu.name == "2x Intel Xeon Gold 6342"
    assert spec.host.ram_bytes_per_s == 2 * 8 * 8 * 3200e6


def test_a_gpu_the_catalog_lacks(nvml: Any) -> None:
    new = {"name": "NVIDIA GeForce RTX 7090", "memory_mib": (48000, 0), "pcie": (5, 16)}
    # 2 transfers a clock x 14000 MHz x 512 bit / 8 = 1792 GB/s; 2 x 20000 cores x 2500 MHz = 100 TFLOP/s
    rates = {"memory_mhz": 14000, "bus_bits": 512, "cores": 20000, "sm_mhz": 2500}
    nvml(new | rates)
    gpu = match(find_nvidia_gpus({})[0]).gpus[0]
    assert (gpu.id, gpu.bandwidth_bytes_per_s) == ("nvidia-geforce-rtx-7090", 1792e9)
    assert gpu.peak_flop_per_s == {"fp32": 100e12}
    nvml(new)  # an old driver that does not tell its bus width
    spec = match(find_nvidia_gpus({})[0])
    assert spec.gpus == ()
    assert any("RTX 7090 is left out" in line for line in spec.assumptions)


@pytest.mark.parametrize(
    ("name", "mib", "id_"),
    [
        ("NVIDIA GeForce RTX 4060 Ti", 16380, "rtx-4060-ti-16gb"),
        ("NVIDIA GeForce RTX 4060 Ti", 8188, "rtx-4060-ti-8gb"),
        ("NVIDIA GeForce RTX 3080", 12288, "rtx-3080-12gb"),
        ("NVIDIA GeForce RTX 4090", 49140, "rtx-4090-48gb"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, "rtx-4090-laptop"),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-sxm-80gb"),
        ("NVIDIA A100 80GB PCIe", 81920, "a100-pcie-80gb"),
        ("NVIDIA H100 80GB HBM3", 81559, "h100-sxm-80gb"),
        ("NVIDIA H100 PCIe", 81559, "h100-pcie-80gb"),
        ("NVIDIA RTX 6000 Ada Generation", 49140, "rtx-6000-ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 97887, "rtx-pro-6000-blackwell-max-q"),
        ("Tesla T4", 15360, "t4"),
        ("NVIDIA GB10", None, "dgx-spark-gb10"),
        ("AMD Radeon RX 7900 XTX", 24560, "rx-7900-xtx"),
        ("Intel(R) Arc(TM) A770 Graphics", 16384, "arc-a770-16gb"),
        ("Apple M3 Max 30-core", 98304, "apple-m3-max-30-core"),
        ("Apple M2 Ultra 76-core", None, "apple-m2-ultra"),
    ],
)
def test_driver_names(name: str, mib: int | None, id_: str) -> None:
    found = FoundGpu(name=name, vendor="nvidia", memory_bytes=None if mib is None else mib * MIB)
    gpu = match_gpu(PARTS, found)
    assert gpu is not None and gpu.id == id_


def test_an_apu_uses_the_systems_memory() -> None:
    apu = FoundGpu(name="Radeon 8060S Graphics", vendor="amd", memory_bytes=32 * GIB)
    spec = match([apu], cpu_name="AMD RYZEN AI MAX+ 395 w/ Radeon 8060S", ram_bytes=31 * GIB)
    assert spec.unified
    # a 64 GB machine with half of it set aside for the GPU in the firmware's menu
    assert spec.host.ram_bytes == spec.gpus[0].memory_bytes == 63 * GIB
    assert spec.host.cpu.id == "ryzen-ai-max-395"


def test_found_machines_are_written_and_read_back(nvml: Any, tmp_path: Path) -> None:
    nvml(RTX_3090, RTX_4090, RTX_3090 | {"memory_mib": (24000, 0)})
    spec = match(find_nvidia_gpus({})[0])
    path = tmp_path / "here.yaml"
    path.write_text(dump_hardware_yaml(spec), encoding="utf-8")
    assert resolve_hardware(str(path), parts=PARTS) == spec
