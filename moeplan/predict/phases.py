"""Prefill and decode as steps of the cost law."""

from __future__ import annotations

import math
from typing import NamedTuple

from moeplan.cost.law import step_ops
from moeplan.cost.ops import Op
from moeplan.cost.timing import step_time, time_of
from moeplan.cost.work import Step
from moeplan.domain.calibration import Calibration
from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.model import ModelSpec
from moeplan.domain.result import PhaseTime
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.traits import EngineTraits
from moeplan.provenance import NULL_LEDGER, Ledger


def decode_step(workload: Workload, spec: ModelSpec) -> Step:
    """One token for every sequence, at the mean depth of the answer.

    A decoder beside an encoder has the start token before the answer instead of the prompt.
    """
    if spec.has_encoder:
        return _decoder_step(workload, _START_TOKENS + workload.output_tokens / 2)
    depth = workload.depth_tokens + workload.prompt_tokens + workload.output_tokens / 2
    n = workload.n_sequences
    return Step(n_tokens=n, n_sequences=n, first_depth=depth, n_head_rows=n)


_START_TOKENS = 1


def _decoder_step(workload: Workload, depth: float) -> Step:
    """One token of every sequence through a decoder that attends to the encoded prompt."""
    n = workload.n_sequences
    return Step(
        n_tokens=n, n_sequences=n, first_depth=workload.depth_tokens + depth, n_head_rows=n,
        stack="decoder", encoded_tokens=workload.prompt_tokens,
    )  # fmt: skip


def _encoder_step(workload: Workload, engine: EngineTraits) -> tuple[Step, int]:
    """(one pass of the encoder, how many): every prompt whole, as many as a micro-batch takes, or all."""
    prompt, n = max(1, workload.prompt_tokens), workload.n_sequences
    together = min(n, max(1, workload.ubatch_tokens // prompt)) if engine.chunks_prefill else n
    step = Step(prompt * together, together, 0, 0, stack="encoder")
    return step, math.ceil(n / together)


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


def overlap(graph: ModelGraph, workload: Workload, placement: Placement, engine: EngineTraits) -> float:
    """Share of a prompt's steps that follow each other in time."""
    if graph.spec.has_encoder:
        return 1.0
    n_steps = prefill_step(workload, engine)[1]
    return passes(n_steps, placement, engine) / n_steps


class PrefillWork(NamedTuple):
    """The operations of a prompt: ``n_steps`` times, of which ``n_passes`` follow each other in time."""

    ops: list[Op]
    flop: float
    bytes_read: float
    n_steps: float
    n_passes: float

    @property
    def in_time(self) -> list[Op]:
        """All of it, one after the other."""
        return [op.times(self.n_passes) for op in self.ops]


def prefill_work(
    graph: ModelGraph, hardware: HardwareSpec, workload: Workload, placement: Placement, engine: EngineTraits
) -> PrefillWork:
    """What the prompts of all sequences take until the first token of each is there.

    In an encoder-decoder model that is the encoder over the prompts, keys and values of its output for the
    decoder's cross-attention, and the decoder over one start token a sequence.
    """
    machine = (graph, hardware, workload, placement, engine)
    if not graph.spec.has_encoder:
        step, n_steps = prefill_step(workload, engine)
        return PrefillWork(*step_ops(*machine, step), n_steps, passes(n_steps, placement, engine))
    step, n_steps = _encoder_step(workload, engine)
    encoder, start = step_ops(*machine, step), step_ops(*machine, _decoder_step(workload, 0))
    return PrefillWork(
        [*(op.times(n_steps) for op in encoder[0]), *start[0]],
        encoder[1] * n_steps + start[1],
        encoder[2] * n_steps + start[2],
        1,
        1,
    )


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
    step = decode_step(workload, graph.spec)
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
    work = prefill_work(graph, hardware, workload, placement, engine)
    return time_of(
        work.ops, work.flop, work.bytes_read, hardware, calibration, ledger,
        name="prefill", n_steps=work.n_steps, n_passes=work.n_passes,
    )  # fmt: skip
