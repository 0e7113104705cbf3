"""The second copy of 4-bit matrices that llama.cpp keeps when only the CPU computes."""

from __future__ import annotations

from moeplan.domain.graph import EXPERT_ROLES, ModelGraph, Tensor
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.traits import EngineTraits

# ggml-cpu repacks these on x86 with AVX2 or later (ggml/src/ggml-cpu/repack.cpp, November 2026): rows in
# groups of eight, so that their number must be a multiple of 8.
REPACKED_TYPES = frozenset({"q4_0", "q4_k", "iq4_nl", "mxfp4", "q2_k"})
_ROWS_TOGETHER = 8


_FILE_ALIGNMENT_BYTES = 32  # general.alignment of GGUF, its default


def repackable_bytes(graph: ModelGraph) -> int:
    """Bytes of the matrices that are repacked: those multiplied with activations, not looked up."""
    return sum(t.n_bytes for t in graph.tensors if _repacks(t))


def still_mapped_bytes(graph: ModelGraph) -> int:
    """Bytes of the file that stay mapped beside the copies.

    The engine unmaps what lies before the first and behind the last tensor that it did not copy. Only a
    file's own table says in which order they lie; without one it is all of them.
    """
    if graph.origin != "file":
        return graph.weights_bytes
    base = [t for t in graph.tensors if t.owner == "base"]
    kept = [i for i, t in enumerate(base) if not _repacks(t)]
    if not kept:
        return 0
    span = [t.n_bytes for t in base[kept[0] : kept[-1] + 1]]
    return sum(-(-size // _FILE_ALIGNMENT_BYTES) * _FILE_ALIGNMENT_BYTES for size in span[:-1]) + span[-1]


def _repacks(t: Tensor) -> bool:
    return (
        t.owner == "base" and t.qtype in REPACKED_TYPES and len(t.shape) > 1
        and t.role != "embedding" and t.shape[-2] % _ROWS_TOGETHER == 0
        and (len(t.shape) == 2 or t.role in EXPERT_ROLES)
    )  # fmt: skip


def repacked_bytes(
    graph: ModelGraph, hardware: HardwareSpec, workload: Workload, placement: Placement, engine: EngineTraits
) -> int:
    """Bytes of the rearranged copy beside a mapped file; none with a GPU in use or a file on disk."""
    wanted = workload.repack and engine.repacks_on_cpu and engine.mmap
    if not wanted or hardware.gpus or placement.kind == "disk":
        return 0
    return repackable_bytes(graph)
