"""Weights in RAM that a step copies to the GPU instead of computing them where they are."""

from __future__ import annotations

from moeplan.cost.ops import Op
from moeplan.cost.work import LayerGroup
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.model import MoeFfn
from moeplan.domain.workload import Placement
from moeplan.engines.offload import Batch, copies_experts, copies_weights
from moeplan.errors import NotModelled

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


def copy_op(hardware: HardwareSpec, engine_id: str, n_bytes: float) -> Op:
    """Copying ``n_bytes`` over PCIe. Raises NotModelled where the machine has no such link."""
    link = hardware.pcie
    if link is None:
        raise NotModelled("streaming weights to the GPU", "this machine has no link from host to GPU")
    return Op(
        "weights over PCIe",
        n_bytes / link.effective_bytes_per_s,
        ("local.stream.bandwidth", f"local.engine.{engine_id}.stream_bandwidth"),
        n_bytes=n_bytes,
        formula="bytes / effective link bandwidth",
        inputs={"link": link.id, "effective_bytes_per_s": link.effective_bytes_per_s},
    )
