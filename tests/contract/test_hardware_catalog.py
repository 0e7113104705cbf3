"""The shipped hardware catalog: every entry loads, is sourced, and says what its data sheet says."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from msgspec.structs import replace

from moeplan.cost.gpu_units import peak_flop_per_s
from moeplan.domain.hardware import CpuSpec, GpuSpec, HardwareSpec, LinkSpec, StorageSpec
from moeplan.domain.request import MachineFlags
from moeplan.errors import NotModelled
from moeplan.readers.catalog import Catalog, build_index, fold
from moeplan.readers.hardware import resolve_hardware
from moeplan.readers.hardware_list import KINDS, HardwareEntry, Kind, list_hardware
from moeplan.readers.hardware_parts import Parts
from moeplan.readers.paths import shipped_configs
from moeplan.readers.yaml_doc import load_document
from moeplan.report.schemas import json_schema

GIB = 1024**3
CATALOG = Catalog(user=Path("/nonexistent"))
PARTS = Parts(CATALOG)
ENTRIES: dict[str, list[HardwareEntry]] = {kind: list_hardware(CATALOG, kind) for kind in KINDS}
GPUS = {gpu.id: gpu for gpu in ENTRIES["gpu"] if isinstance(gpu, GpuSpec)}
CPUS = {cpu.id: cpu for cpu in ENTRIES["cpu"] if isinstance(cpu, CpuSpec)}
LINKS = {link.id: link for link in ENTRIES["link"] if isinstance(link, LinkSpec)}
NODES = {node.id: node for node in ENTRIES["node"] if isinstance(node, HardwareSpec)}


def test_the_catalog_is_large_enough() -> None:
    sizes = {kind: len(entries) for kind, entries in ENTRIES.items()}
    assert sizes["gpu"] >= 160 and sizes["cpu"] >= 55 and sizes["node"] >= 40
    assert sizes["link"] >= 65 and sizes["storage"] >= 21


@pytest.mark.parametrize("kind", KINDS, ids=[f"{kind}s" for kind in KINDS])
def test_ids_are_file_names_and_everything_has_a_source(kind: Kind) -> None:
    for entry in ENTRIES[kind]:
        path = shipped_configs() / "hardware" / kind / f"{entry.id}.yaml"
        assert path.is_file(), entry.id
        assert entry.id == entry.id.lower() and " " not in entry.id
        assert entry.sources, f"{entry.id} has no source"
        for source in entry.sources:
            assert source.ref.strip()


def test_no_two_entries_share_a_name() -> None:
    index = build_index(shipped_configs())
    for kind in KINDS:
        for entry in ENTRIES[kind]:
            for alias in getattr(entry, "aliases", ()):
                assert index[f"hardware/{kind}"][fold(alias)] == entry.id


def test_the_index_is_fresh() -> None:
    for kind in KINDS:
        for entry in ENTRIES[kind]:
            assert CATALOG.resolve(f"hardware/{kind}", entry.name) is not None, (
                f"{entry.id}: run python -m moeplan.readers.catalog --write"
            )


# ── ranges: what a slipped unit or digit would leave ────────────────────────────────────────────


def test_gpus_are_within_what_exists() -> None:
    for gpu in GPUS.values():
        assert 4 * GIB <= gpu.memory_bytes <= 512 * GIB, gpu.id
        assert 50e9 <= gpu.bandwidth_bytes_per_s <= 8.1e12, gpu.id
        for dtype, peak in gpu.peak_flop_per_s.items():
            assert 3e10 <= peak <= 2e16, (gpu.id, dtype)
        # All of memory is read in 5 to 500 ms on anything that exists.
        assert 0.005 <= gpu.memory_bytes / gpu.bandwidth_bytes_per_s <= 0.7, gpu.id
        assert gpu.pcie == "" or gpu.pcie in LINKS, gpu.id
        assert gpu.peer_link == "" or gpu.peer_link in LINKS, gpu.id
        assert gpu.host_cpu == "" or gpu.host_cpu in CPUS, gpu.id
        if gpu.peer_bytes_per_s:
            assert gpu.peer_bytes_per_s == pytest.approx(LINKS[gpu.peer_link].bytes_per_s, rel=0.01), gpu.id
        assert gpu.unified_memory == bool(gpu.host_cpu) or gpu.architecture in (
            "Hopper",
            "Blackwell",
            "Blackwell Ultra",
        ), gpu.id
        assert 0.9 <= gpu.usable_bytes / gpu.memory_bytes <= 1, gpu.id


def test_rates_are_ordered_by_width() -> None:
    for gpu in GPUS.values():
        peaks = gpu.peak_flop_per_s
        if "fp16" in peaks and "fp8" in peaks:
            assert peaks["fp8"] >= peaks["fp16"], gpu.id
        if "fp16_acc16" in peaks:
            assert peaks["fp16_acc16"] >= peaks["fp16"], gpu.id
        if "fp4" in peaks and "fp8" in peaks:
            assert peaks["fp4"] > peaks["fp8"], gpu.id
        if gpu.architecture == "Pascal" and gpu.id.startswith("gtx"):
            # GP104 and its kin have FP16 at 1/64 of the FP32 rate (CUDA programming guide, throughput table)
            assert peaks["fp16"] == pytest.approx(peaks["fp32"] / 64, rel=0.01), gpu.id


def test_cpu_bandwidth_is_channels_times_rate() -> None:
    checked = 0
    for cpu in CPUS.values():
        assert cpu.cores <= cpu.threads <= 2 * cpu.cores, cpu.id
        assert cpu.ram_bytes_per_s is not None and 10e9 <= cpu.ram_bytes_per_s <= 5.4e12, cpu.id
        if cpu.measured_high_bytes_per_s:
            assert cpu.measured_high_bytes_per_s <= cpu.ram_bytes_per_s, cpu.id
        assert cpu.pcie == "" or cpu.pcie in LINKS, cpu.id
        kind, _, mts = cpu.ram_type.partition("-")
        # DDR channels are 64 bits wide; LPDDR and HBM come in other widths.
        if kind in ("DDR4", "DDR5", "MRDIMM") and cpu.ram_channels and mts:
            expected = cpu.sockets * cpu.ram_channels * 8 * int(mts) * 1e6
            assert cpu.ram_bytes_per_s == pytest.approx(expected, rel=0.005), cpu.id
            checked += 1
    assert checked > 150


def test_links_and_disks() -> None:
    for link in LINKS.values():
        assert 0.5 <= link.effective_bytes_per_s / link.bytes_per_s <= 1 or link.id in (
            "wifi-6", "thunderbolt-4-ip",
        ), link.id  # fmt: skip
        assert link.latency_s < 1e-3
        if link.kind == "pcie":
            generation, lanes = int(link.id[5]), int(link.id.split("-x")[1])
            gigatransfers = {1: 2.5, 2: 5, 3: 8, 4: 16, 5: 32, 6: 64}[generation]
            # 8b/10b, then 128b/130b; PCIe 6 sends 242 of 256 bytes of a FLIT (PCI-SIG)
            coding = {1: 0.8, 2: 0.8, 6: 242 / 256}.get(generation, 128 / 130)
            assert link.bytes_per_s == pytest.approx(gigatransfers * 1e9 / 8 * lanes * coding, rel=0.001)
    for disk in ENTRIES["storage"]:
        assert isinstance(disk, StorageSpec)
        assert 0.05e9 <= disk.read_bytes_per_s <= 60e9, disk.id


# ── hand-copied numbers ─────────────────────────────────────────────────────────────────────────

# memory GB, bandwidth GB/s, dense TFLOP/s. NVIDIA: "Ampere GA102 GPU Architecture" white paper, table 9
# (RTX 3090); "Ada GPU Architecture" white paper, appendix A (RTX 4090); A100 and H100 data sheets (SXM
# columns; H100's figures with sparsity halved); T4 data sheet. AMD: Instinct MI300X data sheet.
KNOWN = {
    "rtx-3090": (24, 936, {"fp32": 35.6, "fp16": 71, "bf16": 71, "tf32": 35.6, "int8": 284}),
    "rtx-4090": (24, 1008, {"fp32": 82.6, "fp16": 165.2, "fp16_acc16": 330.3, "fp8": 330.3, "int8": 660.6}),
    "a100-sxm-80gb": (80, 2039, {"fp32": 19.5, "tf32": 156, "fp16": 312, "bf16": 312, "int8": 624}),
    "h100-sxm-80gb": (80, 3350, {"fp32": 67, "tf32": 494.5, "bf16": 989.5, "fp8": 1979, "int8": 1979}),
    "t4": (16, 320, {"fp32": 8.1, "fp16": 65, "int8": 130}),
    "mi300x": (192, 5300, {"fp32": 163.4, "fp16": 1307.4, "bf16": 1307.4, "fp8": 2614.9, "int8": 2614.9}),
}


@pytest.mark.parametrize("id_", KNOWN)
def test_well_known_cards(id_: str) -> None:
    memory, bandwidth, peaks = KNOWN[id_]
    gpu = GPUS[id_]
    assert gpu.memory_bytes == memory * GIB
    assert gpu.bandwidth_bytes_per_s == pytest.approx(bandwidth * 1e9, rel=0.001)
    for dtype, tera in peaks.items():
        assert gpu.peak_flop_per_s[dtype] == pytest.approx(tera * 1e12, rel=0.01), dtype


def test_links_of_well_known_modules() -> None:
    # NVIDIA data sheets, both directions: A100 600 GB/s, H100 900, B200 1800
    for id_, both in (("a100-sxm-80gb", 600), ("h100-sxm-80gb", 900), ("b200-sxm-180gb", 1800)):
        assert LINKS[GPUS[id_].peer_link].bytes_per_s == both / 2 * 1e9


# ── every name is a machine ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n_gpus", [1, 2, 8])
def test_every_gpu_is_a_machine(n_gpus: int) -> None:
    for id_ in GPUS:
        spec = resolve_hardware(None, MachineFlags(gpu=id_, n_gpus=n_gpus), parts=PARTS)
        assert len(spec.gpus) == n_gpus
        assert spec.assumptions, id_
        assert spec.host.ram_bytes_per_s > 0 and spec.host.ram_bytes > 0
        if spec.pcie is not None:
            assert spec.pcie.bytes_per_s <= LINKS["nvlink-c2c"].bytes_per_s


def test_every_cpu_is_a_machine() -> None:
    for id_ in CPUS:
        spec = resolve_hardware(None, MachineFlags(cpu=id_), parts=PARTS)
        assert (spec.gpus, spec.host.cpu.id) == ((), id_)


def test_every_machine_states_what_matters() -> None:
    for node in NODES.values():
        host = node.host
        assert host.ram_bytes >= GIB and host.ram_bytes_per_s >= 10e9, node.id
        assert host.cpu.max_ram_bytes is None or host.ram_bytes <= host.cpu.max_ram_bytes * 36, node.id
        known = [f"{source.kind}" for source in node.sources]
        assert "datasheet" in known or "assumed" in known, node.id
        for gpu in node.gpus:
            assert node.reserve_vram_bytes < gpu.usable_bytes


def test_typical_hosts_name_their_sources() -> None:
    rules = PARTS.rules
    for rule in (*rules.gpu_hosts, *rules.cpu_hosts, *rules.unified):
        assert rule.sources
    for hosts in (rules.gpu_hosts, rules.cpu_hosts, rules.unified):
        when = hosts[-1].when
        assert all(getattr(when, key) is None for key in when.__struct_fields__), "the last rule catches all"


def test_every_gpu_has_a_rate_to_compute_with() -> None:
    for gpu in GPUS.values():
        assert peak_flop_per_s(gpu) > 0, gpu.id


def test_a_rate_that_is_unknown_is_missing_not_zero() -> None:
    unknown = replace(GPUS["arc-pro-b70"], peak_flop_per_s={})
    with pytest.raises(NotModelled):
        peak_flop_per_s(unknown)


def test_the_arithmetic_of_intels_gpus_follows_cores_and_clock() -> None:
    # XMX engines: 4096 int8 operations a core and clock, half as many in 16 bits; vectors: 256 in fp32.
    # (cores, GHz of the matrix rate, GHz of the vector rate) of Arc A380, A770, B580 and Pro B70
    sizes = {
        "arc-a380": (8, 2.0, 2.05), "arc-a770-16gb": (32, 2.0, 2.4), "arc-b580": (20, 2.85, 2.67),
        "arc-pro-b70": (32, 2.8, 2.8),
    }  # fmt: skip
    for id_, (cores, matrix_ghz, vector_ghz) in sizes.items():
        peaks = GPUS[id_].peak_flop_per_s
        assert peaks["int8"] == pytest.approx(cores * 4096 * matrix_ghz * 1e9, rel=0.01), id_
        assert peaks["fp16"] == peaks["bf16"] == pytest.approx(peaks["int8"] / 2, rel=0.01), id_
        assert peaks["fp32"] == pytest.approx(cores * 256 * vector_ghz * 1e9, rel=0.01), id_


def test_the_name_of_a_chip_means_its_gpu() -> None:
    """Where CPU and GPU are one chip with one memory, no name of it may mean a machine without the GPU."""
    for gpu in GPUS.values():
        if gpu.segment == "desktop-unified" and gpu.id != "radeon-890m":  # found in few of the HX 370's uses
            for alias in CPUS[gpu.host_cpu].aliases:
                assert CATALOG.resolve("hardware/gpu", alias) is not None, alias


@pytest.mark.parametrize("kind", KINDS, ids=[f"{kind}s" for kind in KINDS])
def test_the_shipped_schema_is_fresh_and_accepts_the_catalog(kind: Kind) -> None:
    path = shipped_configs() / "schema" / f"hardware-{kind}.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    assert schema == json.loads(json.dumps(json_schema(f"hardware-{kind}"))), (
        f"run moeplan schema hardware-{kind} --output {path.name}"
    )
    validator = jsonschema.Draft202012Validator(schema)
    for entry in ENTRIES[kind][::10]:
        file = shipped_configs() / "hardware" / kind / f"{entry.id}.yaml"
        validator.validate(load_document(file).data)
    assert not validator.is_valid({"id": "x", "name": "X", "topk": 2})
