"""What an estimate leaves out, in words: every answer repeats what applies to it."""

from __future__ import annotations

from moeplan.domain.result import MemoryReport
from moeplan.domain.workload import Placement
from moeplan.memory.notes import uncounted_notes
from moeplan.predict.interval import is_uncharted
from moeplan.predict.problem import Problem
from moeplan.units import MIB, fmt_bytes

TIGHT_BYTES = 256 * MIB
"""Less than this left on a GPU is worth a word: a browser takes as much. A choice, not physics."""


def tight_notes(memory: MemoryReport, kept_bytes: int) -> tuple[str, ...]:
    """A fit by a hair is said: memory not modelled here can be larger than what is left."""
    return tuple(
        f"what other programs take on {d.device}: only {fmt_bytes(d.headroom_bytes + kept_bytes)} are left; "
        "--reserve-vram-gib keeps room"
        for d in memory.devices
        if d.device.startswith("gpu") and 0 <= d.headroom_bytes < TIGHT_BYTES - kept_bytes
    )


def left_out_notes(problem: Problem, placement: Placement) -> tuple[str, ...]:
    """What the formulas pass over for this model, machine, engine and placement."""
    spec = problem.graph.spec
    notes = [f"{part.kind} weights ({part.params:,} parameters) are not loaded" for part in spec.parts]
    notes += uncounted_notes(problem.graph, problem.engine)
    if spec.is_moe and problem.workload.n_sequences > 1:
        notes.append("expert popularity: routing is taken as uniform, so expert reads are an upper bound")
    if not problem.workload.kv_offload and any(tier.startswith("gpu") for tier in placement.dense_tiers):
        notes.append("a cache in RAM under layers on a GPU: speeds are those of a cache on the GPU")
    least = problem.engine.stream_prefill_min_tokens
    if placement.kind == "cpu" and problem.hardware.pcie is not None and least is not None:
        notes.append(
            f"copies to the GPU: a build with GPU support computes prompts of {least} tokens and more there "
            "even with no layer on it; this is one without"
        )
    if placement.kind == "layer-split":
        notes.append("uneven pipelines: micro-batches of a prompt are taken to overlap fully across GPUs")
    if placement.expert_parallel > 1:
        notes.append("uneven routing: GPUs that hold whole experts wait for the busiest longer than priced")
    gpus = problem.hardware.gpus
    if is_uncharted(problem.hardware):
        notes.append(
            f"kernels for {gpus[0].name}: no published speed here is of its maker, so the losses of other "
            "makers' GPUs are taken"
        )
    if placement.kind == "tensor-parallel" and any(gpu != gpus[0] for gpu in gpus):
        notes.append(
            "unequal GPUs under tensor parallelism: all are taken for the one with the least bandwidth"
        )
    if placement.kind == "tensor-parallel":
        notes.append("collectives other than two all-reduces a layer")
    if placement.kind in ("gpu", "layer-split", "tensor-parallel") and problem.workload.n_sequences > 1:
        notes.append("scheduling and queueing of a server under load")
    return tuple(notes)
