"""Models side by side on one machine: what `moeplan compare` is asked and what it answers."""

from __future__ import annotations

from typing import Literal

from moeplan.domain.description import QuantSize
from moeplan.domain.request import EstimateRequest
from moeplan.domain.result import Estimate, Range
from moeplan.domain.textbook import TextbookModel
from moeplan.domain.value import Value
from moeplan.domain.workload import PlacementKind
from moeplan.provenance import Source

TwinKind = Literal["active", "total", "memory"]
Axis = Literal[
    "memory", "single-user speed", "batch throughput", "offload", "training compute", "fine-tuning"
]


class CompareRequest(Value):
    """Everything `moeplan compare` can be asked. ``base`` holds what all models share; its ``model``,
    batch and placement are left open."""

    models: tuple[str, ...]
    base: EstimateRequest
    twin: TwinKind | None = None
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    lora_rank: int = 16
    mfu_frac: float | None = None


class BatchPoint(Value):
    """One decode step of ``batch`` sequences; their cache holds prompt and answer."""

    batch: int
    coverage_frac: float | None
    """Expected share of a MoE layer's experts that the step reads; None for a dense model."""
    flop_per_token: float
    bytes_per_step: float
    fits: bool
    placement: PlacementKind
    step_s: Range | None
    """None where it does not fit."""
    not_modelled: tuple[str, ...] = ()


class Coverage(Value):
    """Smallest batch at which a step is expected to read this share of the experts of a layer."""

    batch_50: int
    batch_90: int
    batch_99: int


class LoraCount(Value):
    """Adapters (one pair of low-rank matrices each) and their parameters."""

    n_adapters: int
    trainable_params: int


class Lora(Value):
    """LoRA on every FFN: each routed expert, each shared one, each dense MLP. ``unfused``: gate, up and
    down of an expert have an adapter each; ``fused``: gate and up of an expert are one matrix."""

    rank: int
    n_expert_ffns: int
    """Routed experts, over all layers."""
    n_ffns: int
    unfused: LoraCount
    fused: LoraCount


class Score(Value):
    """A published score. ``checked``: how it was taken from its source."""

    metric: str
    value: float
    variant: str
    source: Source
    checked: Literal["re-read", "quoted", "recalled"]
    note: str = ""


class ComparedModel(Value):
    """One model of a comparison. ``estimate`` is one sequence as the machine runs it best."""

    key: str
    """Its id, with a number behind where two are the same."""
    label: str
    estimate: Estimate
    sizes: tuple[QuantSize, ...]
    by_batch: tuple[BatchPoint, ...]
    coverage: Coverage | None
    offloaded: Estimate | None
    """One sequence with as little in VRAM as the others need; None: see ``not_modelled``."""
    largest_context_tokens: int
    """That fits, at most the model's; 0 when none does."""
    textbook: TextbookModel | None
    """The textbook rules on this machine's rates; None where it has no GPU."""
    lora: Lora
    scores: tuple[Score, ...] = ()
    twin: TwinKind | None = None
    """What a made-up dense model has in common with the MoE ``twin_of``; None for real models."""
    twin_of: str = ""
    not_modelled: tuple[str, ...] = ()


class Verdict(Value):
    """Who is ahead on one axis. ``by`` is how many times, at least 1; None where no ratio exists."""

    axis: Axis
    better: str | None
    """Key of the model; None when nothing decides."""
    by: float | None
    why: str
    within_uncertainty: bool = False
    """The ranges of the first two overlap."""


class Comparison(Value):
    """The answer of ``moeplan compare``."""

    models: tuple[ComparedModel, ...]
    verdicts: tuple[Verdict, ...]
    level: float
    mfu_frac: float
    batch_context_tokens: int
    """Tokens the cache of a sequence holds in ``by_batch``."""
    assumptions: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = ()
