"""Prefill and decode as steps of the cost law."""

from __future__ import annotations

from moeplan.cost.timing import joined, step_time
from moeplan.cost.work import Step
from moeplan.domain.calibration import Calibration
from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.model import ModelSpec
from moeplan.domain.result import PhaseTime
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.traits import EngineTraits
from moeplan.provenance import NULL_LEDGER, Ledger

_START_TOKENS = 1


def decode_step(workload: Workload, spec: ModelSpec) -> Step:
    """One token for every sequence, at the mean depth of the answer.

    A decoder beside an encoder has the start token before the answer instead of the prompt.
    """
    if spec.has_encoder:
        return _decoder_step(workload, _START_TOKENS + workload.output_tokens / 2)
    depth = workload.depth_tokens + workload.prompt_tokens + workload.output_tokens / 2
    n = workload.n_sequences
    return Step(n_tokens=n, n_sequences=n, first_depth=depth, n_head_rows=n)


def _decoder_step(workload: Workload, depth: float) -> Step:
    """One token of every sequence through a decoder that attends to the encoded prompt."""
    n = workload.n_sequences
    return Step(
        n_tokens=n, n_sequences=n, first_depth=workload.depth_tokens + depth, n_head_rows=n,
        stack="decoder", encoded_tokens=workload.prompt_tokens,
    )  # fmt: skip


def _encoder_steps(workload: Workload, engine: EngineTraits) -> list[tuple[Step, int]]:
    """Every prompt whole, as many as a micro-batch takes, or all."""
    prompt, n = max(1, workload.prompt_tokens), workload.n_sequences
    together = min(n, max(1, workload.ubatch_tokens // prompt)) if engine.chunks_prefill else n
    full, rest = divmod(n, together)
    steps = [(Step(prompt * together, together, 0, 0, stack="encoder"), full)]
    return [*steps, (Step(prompt * rest, rest, 0, 0, stack="encoder"), 1)] if rest else steps


def prefill_steps(spec: ModelSpec, workload: Workload, engine: EngineTraits) -> tuple[tuple[Step, int], ...]:
    """(step, how many of them): full micro-batches of the prompts, and what is left over as a last one.

    Attention grows linearly with depth, so full ones at their mean depth cost what the real ones do. In an
    encoder-decoder model the encoder runs over the prompts, makes keys and values of its output for the
    decoder's cross-attention, and the decoder runs over one start token a sequence.
    """
    if spec.has_encoder:
        return (*_encoder_steps(workload, engine), (_decoder_step(workload, 0), 1))
    prompt, n, depth = max(1, workload.prompt_tokens), workload.n_sequences, workload.depth_tokens
    most = _micro_batch(workload, engine)
    if prompt >= most:
        full, rest = divmod(prompt, most)
        steps = [(Step(most, 1, depth + (full - 1) * most / 2, 1), full * n)]
        steps += [(Step(rest, 1, depth + full * most, 1), n)] if rest else []
        return tuple(steps)
    at_once = min(n, most // prompt)
    full, rest = divmod(n, at_once)
    steps = [(Step(prompt * at_once, at_once, depth, at_once), full)]
    return (*steps, (Step(prompt * rest, rest, depth, rest), 1)) if rest else tuple(steps)


def _micro_batch(workload: Workload, engine: EngineTraits) -> int:
    """Tokens that go through at once at most."""
    whole = max(1, workload.prompt_tokens) * workload.n_sequences
    return min(whole, workload.ubatch_tokens) if engine.chunks_prefill else whole


def overlap_frac(spec: ModelSpec, workload: Workload, placement: Placement, engine: EngineTraits) -> float:
    """Time over the sum of the steps: GPUs that hold a share of the layers each work on micro-batches in
    turn, like a pipeline of as many stages (llama.cpp, GGML_SCHED_MAX_COPIES).

    The last to leave waits behind a full micro-batch in each other stage, however little it holds itself.
    """
    if placement.kind != "layer-split" or engine.pipeline_copies < 2 or spec.has_encoder:
        return 1.0
    stages = min(len(set(placement.dense_tiers)), engine.pipeline_copies)
    steps = prefill_steps(spec, workload, engine)
    total = sum(step.n_tokens * n for step, n in steps)
    return (total + (stages - 1) * steps[0][0].n_tokens) / (stages * total)


def _part(step: Step, *, first: bool) -> str:
    """What one of several kinds of steps of a prompt is called."""
    if step.stack != "whole":
        return f"the {step.stack}"
    return "full micro-batches" if first else "the rest of the prompts"


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
    share = overlap_frac(graph.spec, workload, placement, engine)
    steps = prefill_steps(graph.spec, workload, engine)

    def time(step: Step, n: int, name: str) -> PhaseTime:
        return step_time(
            graph, hardware, workload, placement, engine, calibration, step, ledger,
            name=name, n_steps=n, n_passes=n * share,
        )  # fmt: skip

    if len(steps) == 1:
        return time(*steps[0], "prefill")
    ledger.open()
    told = joined([time(step, n, _part(step, first=step is steps[0][0])) for step, n in steps])
    ledger.close("prefill", told.seconds, "s")
    return told
