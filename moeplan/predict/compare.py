"""What a comparison shows of one model: batches, expert coverage, the offloaded form, the textbook's view."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from moeplan.cost.gpu_units import peak_flop_per_s
from moeplan.cost.textbook import textbook_model
from moeplan.domain.comparison import BatchPoint, Coverage
from moeplan.domain.graph import ModelGraph
from moeplan.domain.model import MoeFfn
from moeplan.domain.result import DeviceMemory, Estimate
from moeplan.domain.textbook import TextbookModel
from moeplan.domain.workload import Placement
from moeplan.memory.report import memory_report
from moeplan.predict.choice import choose_placement
from moeplan.predict.estimate import estimate, experts_touched
from moeplan.predict.placement import moe_layers, on_cpu, split
from moeplan.predict.problem import Problem

_MOST_TOKENS = 1 << 24
"""No batch is larger; coverage is searched up to here."""


def batch_points(problem: Problem, batches: Sequence[int], level: float) -> tuple[BatchPoint, ...]:
    """One decode step at each batch, each with the placement that suits it best."""
    return tuple(_batch_point(problem, batch, level) for batch in batches)


def batch_context_tokens(problem: Problem) -> int:
    """What the cache of each sequence of a batch has to hold: all it will ever read or write."""
    work = problem.workload
    return work.depth_tokens + work.prompt_tokens + work.output_tokens


def _batch_point(problem: Problem, batch: int, level: float) -> BatchPoint:
    work = replace(problem.workload, n_sequences=batch, context_tokens=batch_context_tokens(problem))
    trial = problem._replace(workload=work)
    placement = choose_placement(trial, kind=None, gpu_layers=None, cpu_moe=None)
    e = estimate(trial, placement, level=level)
    return BatchPoint(
        batch=batch,
        coverage_frac=coverage_frac(problem.graph, batch),
        flop_per_token=e.flop_decode_per_token,
        bytes_per_step=e.decode.bytes_read,
        fits=e.fits,
        placement=placement.kind,
        step_s=e.decode_step_s if e.fits else None,
        not_modelled=e.not_modelled,
    )


# ── coverage ────────────────────────────────────────────────────────────────────────────────────


def coverage_frac(graph: ModelGraph, n_tokens: int) -> float | None:
    """Expected share of the experts of a MoE layer that ``n_tokens`` tokens read; None for a dense model."""
    touched = experts_touched(graph, n_tokens)
    if touched is None:
        return None
    counts = [b.ffn.n_experts for b in graph.spec.layer_blocks() if isinstance(b.ffn, MoeFfn)]
    return touched * len(counts) / sum(counts)


def coverage(graph: ModelGraph) -> Coverage | None:
    """The batches that read half, 90% and 99% of the experts; None for a dense model."""
    if experts_touched(graph, 1) is None:
        return None
    return Coverage(
        batch_50=_batch_for(graph, 0.50), batch_90=_batch_for(graph, 0.90), batch_99=_batch_for(graph, 0.99)
    )


def _batch_for(graph: ModelGraph, wanted_frac: float) -> int:
    """Smallest batch with that coverage, which grows with the batch."""
    low, high = 1, _MOST_TOKENS
    while low < high:
        middle = (low + high) // 2
        if (coverage_frac(graph, middle) or 0.0) >= wanted_frac:
            high = middle
        else:
            low = middle + 1
    return low


# ── offload ─────────────────────────────────────────────────────────────────────────────────────


def experts_in_ram(problem: Problem) -> Placement:
    """A MoE with all routed experts in RAM and the rest in VRAM: the least VRAM that splits experts off."""
    spec = problem.graph.spec
    return split(problem.graph, problem.hardware, problem.engine, spec.n_layers + 1, len(moe_layers(spec)))


def layers_within(problem: Problem, vram_bytes: int) -> Placement:
    """The most whole layers that ``vram_bytes`` of all GPUs together hold; the rest is in RAM."""
    low, high = 0, problem.graph.spec.n_layers + 1
    while low < high:
        middle = (low + high + 1) // 2
        if vram_needed_bytes(problem, _first_layers(problem, middle)) <= vram_bytes:
            low = middle
        else:
            high = middle - 1
    return _first_layers(problem, low)


def _first_layers(problem: Problem, gpu_layers: int) -> Placement:
    if gpu_layers == 0:
        return on_cpu(problem.graph)
    return split(problem.graph, problem.hardware, problem.engine, gpu_layers, 0)


def vram_needed_bytes(problem: Problem, placement: Placement) -> int:
    """What all GPUs together hold under ``placement``."""
    graph, hardware, workload, engine, _ = problem
    report = memory_report(graph, hardware, workload, placement, engine)
    return sum(device.total_bytes for device in gpu_memory(report.devices))


def gpu_memory(devices: Sequence[DeviceMemory]) -> tuple[DeviceMemory, ...]:
    """Those of ``devices`` that are GPUs."""
    return tuple(device for device in devices if device.device.startswith("gpu"))


# ── textbook ────────────────────────────────────────────────────────────────────────────────────


def textbook_view(e: Estimate, mfu_frac: float, batches: Sequence[int]) -> TextbookModel | None:
    """The textbook rules with this model's numbers and the data-sheet rates of all GPUs of the machine.

    Bytes a parameter are the quantisation's mean; None for a machine without GPU. Raises NotModelled where
    no peak rate is known.
    """
    gpus = e.hardware.gpus
    if not gpus:
        return None
    return textbook_model(
        e.params.total,
        e.params.active,
        bandwidth_bytes_per_s=sum(gpu.bandwidth_bytes_per_s for gpu in gpus),
        peak_flop_per_s=sum(peak_flop_per_s(gpu) for gpu in gpus),
        n_gpus=1,
        mfu_frac=mfu_frac,
        bytes_per_param=e.weights_bytes / e.params.total,
        batches=batches,
    )
