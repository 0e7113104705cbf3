"""From names and flags to a machine. Catalog values used here are checked in tests/contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.request import MachineFlags
from moeplan.errors import MoeplanError, SpecError, UnknownName
from moeplan.readers.catalog import Catalog
from moeplan.readers.hardware import resolve_hardware
from moeplan.readers.hardware_list import KINDS, find_hardware, list_hardware
from moeplan.readers.hardware_parts import Parts

GIB = 1024**3
PARTS = Parts(Catalog(user=Path("/nonexistent")))  # not what the person running the tests has at home


def resolve(name: str | None, **flags: Any) -> HardwareSpec:
    return resolve_hardware(name, MachineFlags(**flags), parts=PARTS)


def assumed(spec: HardwareSpec, words: str) -> bool:
    return any(words in line for line in spec.assumptions)


# ── a GPU alone ─────────────────────────────────────────────────────────────────────────────────


def test_consumer_gpu_implies_a_desktop() -> None:
    spec = resolve("rtx-4090")
    assert [gpu.id for gpu in spec.gpus] == ["rtx-4090"]
    assert spec.host.cpu.cores == 16
    # two channels of DDR5-5600: 2 x 8 bytes x 5600 MT/s
    assert spec.host.ram_bytes_per_s == 2 * 8 * 5600e6
    assert spec.host.ram_basis == "assumed"
    assert spec.host.ram_bytes == 64 * GIB
    assert spec.pcie is not None and spec.pcie.id == "pcie-4.0-x16"
    assert spec.peer_link is None
    for words in ("host CPU AMD Ryzen 9 9950X", "RAM 64.0 GiB", "RAM bandwidth 89.6 GB/s", "storage"):
        assert assumed(spec, words), words


def test_older_consumer_gpu_implies_ddr4() -> None:
    spec = resolve("gtx-1080-ti")
    assert spec.host.ram_bytes_per_s == 2 * 8 * 3200e6
    assert spec.pcie is not None and spec.pcie.id == "pcie-3.0-x16"


@pytest.mark.parametrize(
    ("gpu", "cpu", "channels"),
    [
        ("h100-sxm-80gb", "2x-intel-xeon-platinum-8480", 8),
        ("a100-sxm-80gb", "2x-epyc-7763", 8),
        ("l40s", "epyc-7763", 8),
        ("h100-nvl-94gb", "epyc-9354-genoa", 12),
    ],
)
def test_data_centre_gpu_implies_a_server(gpu: str, cpu: str, channels: int) -> None:
    spec = resolve(gpu)
    assert spec.host.cpu.id == cpu
    assert spec.host.cpu.ram_channels == channels


def test_unified_memory_is_its_own_host() -> None:
    spec = resolve("m2-ultra")
    assert spec.unified
    assert spec.host.cpu.id == "apple-m2-ultra-cpu-side"
    assert spec.host.ram_bytes == spec.gpus[0].memory_bytes == 192 * GIB
    # macOS lets the GPU wire three quarters above 36 GiB
    assert spec.gpus[0].usable_bytes == 144 * GIB
    assert spec.host.ram_bytes_per_s == spec.gpus[0].bandwidth_bytes_per_s == 800e9
    assert spec.pcie is None


def test_less_unified_memory() -> None:
    spec = resolve("m4-max", ram_gib=36)
    assert spec.host.ram_bytes == spec.gpus[0].memory_bytes == 36 * GIB
    # and two thirds up to 36 GiB; the rule is written with four digits
    assert spec.gpus[0].usable_bytes == pytest.approx(24 * GIB, rel=1e-3)


def test_two_machines_with_unified_memory() -> None:
    spec = resolve("dgx-spark-gb10", n_gpus=2)
    assert (len(spec.gpus), spec.n_nodes) == (2, 2)
    assert spec.peer_link is None
    assert spec.node_link is not None and spec.node_link.id == "roce-200gbe"


def test_grace_is_reached_over_nvlink() -> None:
    spec = resolve("gh200-96gb")
    assert spec.host.cpu.id == "grace"
    assert spec.pcie is not None and spec.pcie.kind == "c2c"


# ── several GPUs ────────────────────────────────────────────────────────────────────────────────


def test_sxm_gpus_are_joined_and_spread_over_nodes_of_eight() -> None:
    eight = resolve("h100-sxm-80gb", n_gpus=8)
    assert eight.peer_link is not None and eight.peer_link.id == "nvlink-4"
    assert (eight.n_nodes, eight.node_link) == (1, None)
    sixteen = resolve("h100-sxm-80gb", n_gpus=16)
    assert (len(sixteen.gpus), sixteen.n_nodes) == (16, 2)
    assert sixteen.node_link is not None and sixteen.node_link.id == "infiniband-ndr"
    assert assumed(sixteen, "2 machines with 8 GPUs each")


def test_a_bridge_is_not_assumed() -> None:
    spec = resolve("rtx-3090", n_gpus=2)
    assert spec.peer_link is None
    assert assumed(spec, "--link nvlink-3-bridge")
    # 56.25 GB/s each way: 4 links x 14.0625 (NVIDIA GA102 white paper)
    bridged = resolve("rtx-3090", n_gpus=2, link="nvlink-3-bridge")
    assert bridged.peer_link is not None and bridged.peer_link.bytes_per_s == 56.25e9


def test_desktop_gpus_share_sixteen_lanes() -> None:
    lanes = {n: resolve("rtx-3090", n_gpus=n).pcie for n in (1, 2, 3, 4)}
    assert [link.id if link else "" for link in lanes.values()] == [
        "pcie-4.0-x16",
        "pcie-4.0-x8",
        "pcie-4.0-x4",
        "pcie-4.0-x4",
    ]
    assert assumed(resolve("rtx-3090", n_gpus=2), "PCIe x8 for each of 2 GPUs")
    server = resolve("rtx-3090", n_gpus=4, cpu="epyc-7302")  # 128 lanes
    assert server.pcie is not None and server.pcie.id == "pcie-4.0-x16"


def test_pcie_is_as_old_as_the_older_end() -> None:
    new_card_old_board = resolve("rtx-5090", cpu="ryzen-9-5950x")
    assert new_card_old_board.pcie is not None and new_card_old_board.pcie.id == "pcie-4.0-x16"
    old_card_new_board = resolve("gtx-1080", cpu="ryzen-9-9950x")
    assert old_card_new_board.pcie is not None and old_card_new_board.pcie.id == "pcie-3.0-x16"


@pytest.mark.parametrize("text", ["rtx-5090+2x-rtx-3090", "RTX 5090 + RTX 3090 + rtx3090"])
def test_unlike_gpus(text: str) -> None:
    for spec in (resolve(text), resolve(None, gpu=text)):
        assert [gpu.id for gpu in spec.gpus] == ["rtx-5090", "rtx-3090", "rtx-3090"]
        assert spec.id == "rtx-5090+2x-rtx-3090"
        assert spec.name == "GeForce RTX 5090 + 2x GeForce RTX 3090"
    with pytest.raises(SpecError, match="unlike"):
        resolve(text, n_gpus=4)


# ── names ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("rtx-3060", "rtx-3060-12gb"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("RTX_4090", "rtx-4090"),
        ("h100", "h100-sxm-80gb"),
        ("AMD Radeon RX 7900 XTX", "rx-7900-xtx"),
        ("w7800", "radeon-pro-w7800"),
        ("strix-halo", "ryzen-ai-max-395"),
    ],
)
def test_gpu_names(name: str, gpu: str) -> None:
    assert resolve(name).gpus[0].id == gpu


@pytest.mark.parametrize(
    ("name", "cpu"),
    [
        ("xeon-platinum-8480+", "xeon-platinum-8480+"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "ryzen-9-7950x"),
        ("Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz", "intel-xeon-gold-6148-skylake"),
        ("13th Gen Intel(R) Core(TM) i9-13900K", "core-i9-13900k"),
        ("AMD EPYC 7302P 16-Core Processor", "epyc-7302"),
        ("EPYC 9355 (32C)", "epyc-9355"),
        ("2x EPYC 9654", "2x-epyc-9654"),
    ],
)
def test_cpu_names(name: str, cpu: str) -> None:
    assert resolve(None, cpu=name).host.cpu.id == cpu
    assert resolve(name).host.cpu.id == cpu


def test_cpu_only_machine() -> None:
    spec = resolve("epyc-9654")
    assert (spec.id, spec.gpus, spec.pcie, spec.n_nodes) == ("epyc-9654", (), None, 1)
    assert spec.host.ram_bytes_per_s == 12 * 8 * 4800e6
    assert assumed(spec, "typical server")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("rtx-4909", "rtx-4090"), ("rzyen-9-7950x", "ryzen-9-7950x"), ("dgx-h10", "dgx-h100")],
)
def test_unknown_names_list_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UnknownName) as caught:
        resolve(name)
    assert nearest in caught.value.candidates


def test_the_wrong_piece_of_a_sum_is_named() -> None:
    with pytest.raises(UnknownName, match="rtx-3909"):
        resolve("rtx-4090+rtx-3909")


# ── flags ───────────────────────────────────────────────────────────────────────────────────────


def test_flags_override_a_machine() -> None:
    spec = resolve(
        "desktop-rtx-4090-ddr5",
        n_gpus=2,
        cpu="epyc-7302",
        ram_gib="256GiB",
        ram_gbs=150,
        pcie="gen3x8",
        storage_gbs="3.5",
        reserve_vram_gib=1.5,
    )
    assert spec.id == "desktop-rtx-4090-ddr5"
    assert len(spec.gpus) == 2
    assert spec.host.cpu.id == "epyc-7302"
    assert spec.host.ram_bytes == 256 * GIB
    assert (spec.host.ram_bytes_per_s, spec.host.ram_basis) == (150e9, "stated")
    assert spec.pcie is not None and spec.pcie.id == "pcie-3.0-x8"
    assert spec.host.storage.read_bytes_per_s == 3.5e9
    assert spec.reserve_vram_bytes == 1.5 * GIB


def test_another_gpu_on_the_same_host() -> None:
    spec = resolve("desktop-rtx-4090-ddr5", gpu="gtx-1080")
    assert [gpu.id for gpu in spec.gpus] == ["gtx-1080"]
    assert spec.host.cpu.id == "ryzen-9-7950x"
    assert spec.pcie is not None and spec.pcie.id == "pcie-3.0-x16"  # not the old card's link
    assert spec.id == "desktop-rtx-4090-ddr5+gtx-1080"
    bridged = resolve("desktop-2x-rtx-3090-nvlink")
    assert bridged.pcie is not None and bridged.pcie.id == "pcie-4.0-x8" and bridged.peer_link is not None
    other = resolve("desktop-2x-rtx-3090-nvlink", gpu="rtx-4090")
    assert other.pcie is not None and other.pcie.id == "pcie-4.0-x16" and other.peer_link is None


def test_stated_bandwidth_of_unified_memory_is_the_gpus_too() -> None:
    spec = resolve("ryzen-ai-max-395", ram_gbs=212)
    assert spec.gpus[0].bandwidth_bytes_per_s == spec.host.ram_bytes_per_s == 212e9


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("gen4x16", "pcie-4.0-x16"),
        ("pcie-5.0-x8", "pcie-5.0-x8"),
        ("gen3", "pcie-3.0-x16"),
        ("gen5 x8", "pcie-5.0-x8"),
        ("x1", "pcie-4.0-x1"),  # of the card's own generation
        ("oculink", "oculink"),
    ],
)
def test_pcie_forms(text: str, link: str) -> None:
    spec = resolve("rtx-4090", pcie=text)
    assert spec.pcie is not None and spec.pcie.id == link


@pytest.mark.parametrize(
    ("text", "link"), [("nvlink4", "nvlink-4"), ("nvlink-5", "nvlink-5"), ("none", None)]
)
def test_link_forms(text: str, link: str | None) -> None:
    spec = resolve("h100-sxm-80gb", n_gpus=2, link=text)
    assert (spec.peer_link.id if spec.peer_link else None) == link


@pytest.mark.parametrize(
    ("flags", "option"),
    [
        ({"n_gpus": 0}, "--n-gpus"),
        ({"n_gpus": -1}, "--n-gpus"),
        ({"n_gpus": 10**9}, "--n-gpus"),
        ({"ram_gib": 0}, "--ram-gib"),
        ({"ram_gib": -1}, "--ram-gib"),
        ({"ram_gib": float("nan")}, "--ram-gib"),
        ({"ram_gib": 1e300}, "--ram-gib"),
        ({"ram_gbs": 1e300}, "--ram-gbs"),
        ({"ram_gbs": 1e-300}, "--ram-gbs"),
        ({"ram_gib": "inf"}, "--ram-gib"),
        ({"ram_gib": "64 furlongs"}, "--ram-gib"),
        ({"ram_gbs": 0}, "--ram-gbs"),
        ({"ram_gbs": float("nan")}, "--ram-gbs"),
        ({"storage_gbs": -7}, "--storage-gbs"),
        ({"reserve_vram_gib": -1}, "--reserve-vram-gib"),
        ({"reserve_vram_gib": 24}, "--reserve-vram-gib"),
        ({"pcie": "nvlink-5-nonsense"}, "link"),
        ({"pcie": "10gbe"}, "--pcie"),
    ],
)
def test_senseless_values_name_the_option(flags: dict[str, Any], option: str) -> None:
    with pytest.raises(MoeplanError, match=option):
        resolve("rtx-4090", **flags)


def test_count_without_gpu() -> None:
    with pytest.raises(SpecError, match="of which GPU"):
        resolve(None, cpu="ryzen-9-7950x", n_gpus=2)


def test_local_needs_somebody_to_look() -> None:
    with pytest.raises(SpecError, match="this machine"):
        resolve("local")
    with pytest.raises(SpecError, match="this machine"):
        resolve(None)


# ── list and show ───────────────────────────────────────────────────────────────────────────────


def test_every_kind_is_listed() -> None:
    for kind in KINDS:
        entries = list_hardware(PARTS.catalog, kind)
        assert [entry.id for entry in entries] == PARTS.catalog.ids(f"hardware/{kind}")


def test_find_prefers_machines_and_knows_aliases() -> None:
    assert find_hardware(PARTS.catalog, "dgx-spark")[0] == "node"
    assert find_hardware(PARTS.catalog, "GeForce RTX 3090")[1].id == "rtx-3090"
    assert find_hardware(PARTS.catalog, "gen4x16")[1].id == "pcie-4.0-x16"
    with pytest.raises(UnknownName, match="rtx-4090"):
        find_hardware(PARTS.catalog, "rtx-4091")
