"""Weights in RAM that a step copies to a GPU instead of computing them where they are."""

from __future__ import annotations

from moeplan.cost.ops import OVERLAP, Op
from moeplan.cost.work import LayerGroup
from moeplan.domain.hardware import CpuSpec, HardwareSpec
from moeplan.domain.model import MoeFfn
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.offload import Batch, copies_experts, copies_weights, pins_weights
from moeplan.engines.traits import EngineTraits
from moeplan.errors import NotModelled

# The driver copies memory that is not pinned into a buffer of its own, on one core, while it sends what is
# there ("The GPU cannot access data directly from pageable host memory", NVIDIA's "How to Optimize Data
# Transfers in CUDA C/C++"). RTX 4090: 12.9 to 18.4 GB/s of the 23.9 of pinned memory (NVlabs/cuda-oxide PR
# 976); gpt-oss-20b with its experts in RAM, 128 tokens at a time: 15 of 28 (llama.cpp PR 20978). In no fit.
_ONE_CORE_BYTES_PER_S = 16e9
_HOST_TIERS = frozenset({"ram", "disk"})


def streams(placement: Placement, batch: Batch, group: LayerGroup | None) -> bool:
    """Whether ``batch`` has weights in RAM copied: experts of ``group``, or without one dense matrices."""
    if placement.streamed:
        return True
    if placement.head_tier in _HOST_TIERS:
        return False  # nothing runs on a GPU
    ffn = group.block.ffn if group else None
    if group is None or not isinstance(ffn, MoeFfn):
        return copies_weights(batch)
    stored = max(group.weights.bytes_by_qtype, key=lambda held: held[1], default=("", 0))[0]
    return copies_experts(batch, stored, ffn.n_experts / ffn.n_active)


def stream_op(
    hardware: HardwareSpec, engine: EngineTraits, workload: Workload, placement: Placement, n_bytes: float
) -> Op:
    """Copying ``n_bytes`` of weights to a GPU. Raises NotModelled where no link is known."""
    link = hardware.pcie
    if link is None:
        raise NotModelled("streaming weights to the GPU", "this machine has no link from host to GPU")
    op = Op(
        "weights over PCIe",
        n_bytes / link.effective_bytes_per_s,
        ("local.stream.bandwidth", f"local.engine.{engine.id}.stream_bandwidth"),
        n_bytes=n_bytes,
        formula="bytes / effective link bandwidth",
        inputs={"link": link.id, "effective_bytes_per_s": link.effective_bytes_per_s},
    )
    overridden = placement.kind in ("experts", "mixed")
    if placement.streamed or pins_weights(engine, workload.engine_date, overridden=overridden):
        return op
    return op._replace(
        moving=op.moving[:1],
        computing_s=n_bytes / _ONE_CORE_BYTES_PER_S,
        computing=("local.staged.bandwidth", f"local.staged.{_maker(hardware.host.cpu)}.bandwidth"),
        norm=OVERLAP,
        formula=f"{op.formula}, overlapping bytes / copies of one core",
        inputs={**op.inputs, "one_core_bytes_per_s": _ONE_CORE_BYTES_PER_S},
    )


def _maker(cpu: CpuSpec) -> str:
    """Servers of Intel apart: one core of theirs reads twice what it did in 2010, one of AMD's five times
    (McCalpin, "The evolution of single-core bandwidth in multicore processors", 2023)."""
    return "xeon" if "xeon" in cpu.name.casefold() else cpu.segment
