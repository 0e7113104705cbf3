"""Prefill and decode as steps of the cost law."""

from __future__ import annotations

import math

from moeplan.cost.timing import step_time
from moeplan.cost.work import Step
from moeplan.domain.calibration import Calibration
from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.result import PhaseTime
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.traits import EngineTraits
from moeplan.provenance import NULL_LEDGER, Ledger


def decode_step(workload: Workload) -> Step:
    """One token for every sequence, at the mean depth of the answer."""
    depth = workload.depth_tokens + workload.prompt_tokens + workload.output_tokens / 2
    n = workload.n_sequences
    return Step(n_tokens=n, n_sequences=n, first_depth=depth, n_head_rows=n)


def prefill_step(workload: Workload, engine: EngineTraits) -> tuple[Step, int]:
    """(one micro-batch of the prompt, how many of them): equal chunks at the mean depth.

    Attention grows linearly with depth, so equal chunks at the mean depth cost what the real ones do. An
    engine that does not chunk takes the prompts of all sequences at once, as it holds them in memory.
    """
    prompt = max(1, workload.prompt_tokens)
    if not engine.chunks_prefill:
        rows, sequences, n_steps = float(prompt), workload.n_sequences, 1
    elif prompt >= workload.ubatch_tokens:
        chunks = math.ceil(prompt / workload.ubatch_tokens)
        rows, sequences, n_steps = prompt / chunks, 1, chunks * workload.n_sequences
    else:
        sequences = min(workload.n_sequences, max(1, workload.ubatch_tokens // prompt))
        rows, n_steps = float(prompt), math.ceil(workload.n_sequences / sequences)
    first = workload.depth_tokens + (prompt - rows) / 2
    n_tokens = round(rows * sequences)
    return Step(n_tokens=n_tokens, n_sequences=sequences, first_depth=first, n_head_rows=sequences), n_steps


def passes(n_steps: int, placement: Placement, engine: EngineTraits) -> float:
    """Steps one after another that ``n_steps`` micro-batches take: GPUs that hold a share of the layers each
    work on micro-batches in turn, like a pipeline of as many stages (llama.cpp, GGML_SCHED_MAX_COPIES)."""
    if placement.kind != "layer-split" or engine.pipeline_copies < 2:
        return n_steps
    stages = min(len(set(placement.dense_tiers)), engine.pipeline_copies)
    return (n_steps + stages - 1) / stages


def decode_time(
    graph: ModelGraph,
    hardware: HardwareSpec,
    workload: Workload,
    placement: Placement,
    engine: EngineTraits,
    calibration: Calibration,
    ledger: Ledger = NULL_LEDGER,
) -> PhaseTime:
    """Expected time of one decode step."""
    step = decode_step(workload)
    return step_time(
        graph, hardware, workload, placement, engine, calibration, step, ledger, name="decode step"
    )


def prefill_time(
    graph: ModelGraph,
    hardware: HardwareSpec,
    workload: Workload,
    placement: Placement,
    engine: EngineTraits,
    calibration: Calibration,
    ledger: Ledger = NULL_LEDGER,
) -> PhaseTime:
    """Expected time of the whole prompt of every sequence."""
    step, n_steps = prefill_step(workload, engine)
    return step_time(
        graph, hardware, workload, placement, engine, calibration, step, ledger,
        name="prefill", n_steps=n_steps, n_passes=passes(n_steps, placement, engine),
    )  # fmt: skip
