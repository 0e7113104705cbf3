"""The best way to run a model on a machine: what `moeplan plan` is asked and what it answers."""

from __future__ import annotations

from typing import Literal

from moeplan.domain.request import EstimateRequest
from moeplan.domain.result import Estimate
from moeplan.domain.value import Value
from moeplan.domain.workload import PlacementKind

Objective = Literal[
    "decode", "ttft", "request", "throughput", "context", "quality", "cheapest", "memory"
]  # fmt: skip


class Limits(Value):
    """What a plan must keep. Tokens per second are those of one sequence."""

    max_vram_bytes: int | None = None
    """Of each GPU."""
    min_tokens_per_s: float | None = None
    min_context_tokens: int | None = None
    min_quant: str | None = None
    """The narrowest type of weights; None: q4_k_m, or 4 bits per weight for servers."""
    max_ttft_s: float | None = None


class PlanRequest(Value):
    """Everything `moeplan plan` can be asked. ``base`` holds what `estimate` shares; of it, what is left
    open (quantisation, placement, micro-batch ...) is the plan's to choose."""

    base: EstimateRequest
    objective: Objective = "decode"
    limits: Limits = Limits()
    quants: tuple[str, ...] = ()
    """Choose among these; empty: the usual ones of the engine."""
    engines: tuple[str, ...] = ()
    kv_types: tuple[str, ...] = ()
    ubatches: tuple[int, ...] = ()
    hardware: tuple[str, ...] = ()
    """Machines to choose among; empty: that of ``base``."""
    what_if: str = ""
    n_alternatives: int = 5
    curves: bool = True


class Command(Value):
    """Text to paste: a command line, or the content of ``file``. ``version`` is the engine's it is for."""

    engine: str
    purpose: Literal["serve", "measure", "file"]
    text: str
    version: str = ""
    file: str = ""
    note: str = ""


class Choice(Value):
    """One way to run it: the estimate with its placement, and the tensors moved by name."""

    estimate: Estimate
    bits_per_weight: float
    full_decode_tokens_per_s: float
    """Expected decode speed of all sequences with the cache nearly full."""
    tensor_overrides: tuple[str, ...] = ()
    """``pattern=buffer`` as llama.cpp's -ot takes them."""
    lost_by: str = ""
    """Why it is not the best; empty for the best."""
    within_range: bool = False
    """Its expected decode speed lies in the range of the best: a measurement may swap them."""
    commands: tuple[Command, ...] = ()


class Rejected(Value):
    """A near miss: the closest of its kind that is no plan. ``device`` is empty where bytes do not decide."""

    quant: str
    engine: str
    kind: PlacementKind
    placement: str
    reason: str
    need_bytes: int = 0
    have_bytes: int = 0
    device: str = ""
    hint: str = ""
    """The option that would make it fit, where one does."""


class CurvePoint(Value):
    """One setting on a curve. Speeds are expected values; None where it does not fit."""

    x: int
    fits: bool
    decode_tokens_per_s: float | None
    """All sequences together."""
    prefill_tokens_per_s: float | None
    ttft_s: float | None
    vram_bytes: int
    """Of the fullest GPU."""


class Curve(Value):
    """The best plan with one setting varied; ``knee`` is where more of it stops paying."""

    name: Literal["cpu_moe", "gpu_layers", "context", "batch", "ubatch"]
    points: tuple[CurvePoint, ...]
    chosen: int | None
    """None where the choice has no place on this curve."""
    knee: int | None
    why: str = ""
    """What the knee is."""


class Change(Value):
    """A change of the request or the machine, and what becomes possible with it. Speeds are None where
    nothing does."""

    what: str
    placement: str = ""
    quant: str = ""
    decode_tokens_per_s: float | None = None
    ttft_s: float | None = None
    gain_frac: float | None = None
    """Decode speed over that of the best plan, minus one; None where nothing fits without it."""


class MachineOffer(Value):
    """One of several machines: its best plan, and its price."""

    hardware: str
    choice: Choice | None
    usd_per_hour: float | None
    """None where no price is known."""
    price_source: str = ""
    why_not: str = ""


class Plan(Value):
    """The answer of ``moeplan plan``. ``best`` is None when nothing fits; ``changes`` then say what would."""

    request: PlanRequest
    best: Choice | None
    alternatives: tuple[Choice, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    curves: tuple[Curve, ...] = ()
    changes: tuple[Change, ...] = ()
    """Nothing fits: the smallest that would make it fit."""
    what_if: tuple[Change, ...] = ()
    machines: tuple[MachineOffer, ...] = ()
    n_candidates: int = 0
    search_s: float = 0.0
    assumptions: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = ()
