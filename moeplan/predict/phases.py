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

    Attention grows linearly with depth, so equal chunks at the mean depth cost what the real ones do. Prompts
    of which several fit in one are spread evenly: no step computes more than there is.
    """
    prompt, n = max(1, workload.prompt_tokens), workload.n_sequences
    most = _micro_batch(workload, engine)
    if prompt >= most:
        chunks = math.ceil(prompt / most)
        rows, sequences, n_steps = prompt / chunks, 1.0, chunks * n
    else:
        n_steps = math.ceil(n / (most // prompt))
        rows, sequences = float(prompt), n / n_steps
    first = workload.depth_tokens + (prompt - rows) / 2
    step = Step(n_tokens=rows * sequences, n_sequences=sequences, first_depth=first, n_head_rows=sequences)
    return step, n_steps


def _micro_batch(workload: Workload, engine: EngineTraits) -> int:
    """Tokens that go through at once at most."""
    whole = max(1, workload.prompt_tokens) * workload.n_sequences
    return min(whole, workload.ubatch_tokens) if engine.chunks_prefill else whole


def passes(workload: Workload, placement: Placement, engine: EngineTraits) -> float:
    """Steps one after another that the micro-batches of a prompt take: GPUs that hold a share of the layers
    each work on micro-batches in turn, like a pipeline of as many stages (llama.cpp, GGML_SCHED_MAX_COPIES).

    The last to leave waits behind a full micro-batch in each other stage, however little it holds itself.
    """
    step, n_steps = prefill_step(workload, engine)
    if placement.kind != "layer-split" or engine.pipeline_copies < 2:
        return n_steps
    stages = min(len(set(placement.dense_tiers)), engine.pipeline_copies)
    prompt, most = max(1, workload.prompt_tokens), _micro_batch(workload, engine)
    full = most if prompt >= most else most // prompt * prompt
    return min(float(n_steps), (n_steps + (stages - 1) * full / step.n_tokens) / stages)


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
        name="prefill", n_steps=n_steps, n_passes=passes(workload, placement, engine),
    )  # fmt: skip
