"""Sums over the GPUs of a tensor-parallel group."""

from __future__ import annotations

import math

from moeplan.domain.hardware import HardwareSpec, LinkSpec

# Below these bytes each GPU of up to so many reads what all others have and adds it up itself, which takes
# one wait; above, each adds up a share and the shares are gathered, which takes two (vLLM
# csrc/custom_all_reduce.cuh, which SGLang shares; read 2026-11-30). Two GPUs always read directly.
_DIRECT_BYTES = ((2, math.inf), (4, 512 * 1024), (8, 256 * 1024))


def all_reduce_work(n_gpus: int, n_bytes: float, *, direct: bool) -> tuple[float, float]:
    """(waits for the others, bytes that each GPU receives) of one sum of ``n_bytes`` over ``n_gpus``.

    ``direct``: every GPU reads every other's memory over a switch. Then a wait is as long for 8 GPUs as for 2
    (4.3, 4.6 and 4.7 us for 2, 4 and 8 H100, vLLM 0.24; aiconfigurator's tables); without, data hop from GPU
    to GPU over PCIe, and the wait about doubles with their number (5, 13, 25 us for L40S).
    """
    ring_bytes = 2.0 * (n_gpus - 1) / n_gpus * n_bytes
    if not direct:
        return math.log2(n_gpus), ring_bytes
    most = next((limit for gpus, limit in _DIRECT_BYTES if n_gpus <= gpus), 0)
    return (1.0, (n_gpus - 1) * n_bytes) if n_bytes < most else (2.0, ring_bytes)


def joined(hardware: HardwareSpec, n_gpus: int) -> tuple[bool, LinkSpec | None]:
    """(whether each of ``n_gpus`` is linked to every other, the link that their sums go over).

    Engines leave their own kernels off where a pair has no link of its own (vLLM custom_all_reduce.py, "not
    supported on more than two PCIe-only GPUs", asks is_fully_connected): NCCL then sends data around a ring.
    In a mesh such as that of eight V100 it stays on NVLink; beyond the pairs of a bridge it is on PCIe.
    """
    peer = hardware.peer_link
    if peer is None:
        return False, hardware.pcie
    if peer.direct_gpus is None or n_gpus <= peer.direct_gpus:
        return True, peer
    bridged = peer.kind == "nvlink-bridge" and hardware.pcie is not None
    return False, hardware.pcie if bridged else peer
