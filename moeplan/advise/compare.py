"""Who is ahead on each axis of a comparison, by how much, and why: one sentence with its numbers.

Sizes and counts are exact. Speeds are ranges: where those of the first two overlap, the verdict says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from moeplan.domain.comparison import Axis, BatchPoint, ComparedModel, Verdict
from moeplan.domain.result import Estimate, Range
from moeplan.units import fmt_bytes, fmt_number, fmt_params, fmt_si

EVEN = 1.005
"""Ratios below this print as 1.0: nobody is ahead."""


def verdicts(models: Sequence[ComparedModel]) -> tuple[Verdict, ...]:
    """One verdict per axis, for two models or more."""
    return (
        _memory(models),
        _single_user(models),
        _batch_throughput(models),
        _offload(models),
        _training(models),
        _fine_tuning(models),
    )


# ── exact axes ──────────────────────────────────────────────────────────────────────────────────


def _memory(models: Sequence[ComparedModel]) -> Verdict:
    def words(m: ComparedModel) -> str:
        return fmt_bytes(m.estimate.weights_bytes)

    first, second, by = _least(models, [m.estimate.weights_bytes for m in models])
    why = f"{words(first)} of weights against {words(second)}"
    totals = [fmt_bytes(_memory_bytes(m.estimate)) for m in (first, second)]
    why += f"; with cache and buffers {totals[0]} against {totals[1]}"
    return _exact("memory", first, by, why)


def _memory_bytes(e: Estimate) -> int:
    return sum(device.total_bytes for device in e.memory.devices)


def _training(models: Sequence[ComparedModel]) -> Verdict:
    first, second, by = _least(models, [m.estimate.params.active for m in models])

    def flop(m: ComparedModel) -> str:
        return fmt_si(6.0 * m.estimate.params.active, "FLOP")

    why = f"{flop(first)} a token (6 N_active) against {flop(second)}, before routing and communication"
    return _exact("training compute", first, by, why)


def _fine_tuning(models: Sequence[ComparedModel]) -> Verdict:
    first, second, by = _least(models, [m.lora.unfused.trainable_params for m in models])

    def words(m: ComparedModel) -> str:
        lora = m.lora
        text = f"{fmt_params(lora.unfused.trainable_params)} in {lora.unfused.n_adapters:,} adapters"
        if lora.fused != lora.unfused:
            text += f" (fused {fmt_params(lora.fused.trainable_params)} in {lora.fused.n_adapters:,})"
        return text

    why = (
        f"rank {first.lora.rank} on every FFN trains {words(first)} against {words(second)}; frozen weights "
        f"{fmt_bytes(first.estimate.weights_bytes)} against {fmt_bytes(second.estimate.weights_bytes)}"
    )
    return _exact("fine-tuning", first, by, why)


def _least(
    models: Sequence[ComparedModel], values: Sequence[float]
) -> tuple[ComparedModel, ComparedModel, float]:
    """The model with the least of ``values``, the next, and how many times more that has."""
    (low, i), (high, j) = sorted((value, index) for index, value in enumerate(values))[:2]
    return models[i], models[j], high / low


def _exact(axis: Axis, first: ComparedModel, by: float, why: str) -> Verdict:
    if by < EVEN:
        return Verdict(axis=axis, better=None, by=None, why=f"even: {why}")
    return Verdict(axis=axis, better=first.key, by=by, why=why)


# ── speeds ──────────────────────────────────────────────────────────────────────────────────────


class _Run(NamedTuple):
    """How fast one model is, and under what condition; None: not at all."""

    model: ComparedModel
    rate: Range | None
    note: str = ""

    @property
    def words(self) -> str:
        """``'90.4 tok/s (62.5 to 134) at batch 8'``."""
        assert self.rate is not None
        low, expected, high = (fmt_number(x) for x in (self.rate.low, self.rate.expected, self.rate.high))
        return f"{expected} tok/s ({low} to {high}){self.note}"


def _race(axis: Axis, runs: Sequence[_Run], missing: str) -> Verdict:
    """The fastest; models that do not run at all are named behind ``missing``."""
    out = [run.model.label for run in runs if run.rate is None]
    rest = [f"{missing}: {', '.join(out)}"] if out else []
    ranked = sorted((-run.rate.expected, i) for i, run in enumerate(runs) if run.rate)
    if not ranked:
        return Verdict(axis=axis, better=None, by=None, why=rest[0])
    first = runs[ranked[0][1]]
    if len(ranked) == 1:
        why = "; ".join([f"alone, {first.words}", *rest])
        return Verdict(axis=axis, better=first.model.key, by=None, why=why)
    second = runs[ranked[1][1]]
    assert first.rate is not None and second.rate is not None
    by = first.rate.expected / second.rate.expected
    overlap = first.rate.low <= second.rate.high
    doubt = "even: " if by < EVEN else "within the uncertainty, " if overlap else ""
    return Verdict(
        axis=axis,
        better=None if by < EVEN else first.model.key,
        by=None if by < EVEN else by,
        why="; ".join([f"{doubt}{first.words} against {second.words}", *rest]),
        within_uncertainty=overlap,
    )


def _single_user(models: Sequence[ComparedModel]) -> Verdict:
    return _race("single-user speed", [_decode(m, m.estimate) for m in models], "does not fit")


def _offload(models: Sequence[ComparedModel]) -> Verdict:
    return _race("offload", [_decode(m, m.offloaded) for m in models], "no offloaded form here")


def _decode(model: ComparedModel, e: Estimate | None) -> _Run:
    """Decoding under ``e``; none where it does not fit."""
    if e is None or not e.fits:
        return _Run(model, None)
    note = " with weights read from disk" if e.placement.kind == "disk" else ""
    return _Run(model, e.decode_step_s.inverse(e.workload.n_sequences), note)


# ── batches ─────────────────────────────────────────────────────────────────────────────────────


def _batch_throughput(models: Sequence[ComparedModel]) -> Verdict:
    """The most each model reaches at any of the batches, and how coverage changes the lead of a MoE."""
    verdict = _race("batch throughput", [_best(m) for m in models], "does not fit in memory")
    story = _coverage_story(models)
    return replace(verdict, why=f"{verdict.why}; {story}") if story else verdict


def _best(model: ComparedModel) -> _Run:
    rates = [(rate, p.batch) for p in model.by_batch if (rate := _rate(p)) is not None]
    if not rates:
        return _Run(model, None)
    rate, batch = max(rates, key=lambda item: item[0].expected)
    return _Run(model, rate, f" at batch {batch:,}")


def _rate(point: BatchPoint) -> Range | None:
    """Tokens per second of a batch that memory holds."""
    if point.step_s is None or point.placement == "disk":
        return None
    return point.step_s.inverse(point.batch)


def _point(model: ComparedModel, batch: int) -> BatchPoint:
    return next(point for point in model.by_batch if point.batch == batch)


def lead(moe: ComparedModel, dense: ComparedModel, batch: int) -> float | None:
    """Tokens per second of ``moe`` over those of ``dense`` at ``batch``; None where either lacks memory."""
    ours, theirs = _rate(_point(moe, batch)), _rate(_point(dense, batch))
    return ours.expected / theirs.expected if ours and theirs else None


def _coverage_story(models: Sequence[ComparedModel]) -> str:
    """The lead of the one MoE over the one dense model at the smallest and largest batch both hold."""
    moes = [m for m in models if m.coverage is not None]
    dense = [m for m in models if m.coverage is None]
    if len(moes) != 1 or len(dense) != 1:
        return ""
    (moe,), (other,) = moes, dense
    leads = [(p, x) for p in moe.by_batch if (x := lead(moe, other, p.batch)) is not None]
    if len(leads) < 2:
        return ""
    (first, before), (last, after) = leads[0], leads[-1]
    rate, other_rate = _rate(last), _rate(_point(other, last.batch))
    unsure = rate and other_rate and rate.low <= other_rate.high and other_rate.low <= rate.high
    return (
        f"batch for batch {moe.label} is {fmt_number(before, 2)}x as fast at {first.batch:,}, where a step "
        f"reads {first.coverage_frac:.0%} of its experts, and {fmt_number(after, 2)}x at {last.batch:,}"
        f"{' (within the uncertainty)' if unsure else ''}, the most both hold, where it reads "
        f"{last.coverage_frac:.0%}"
    )
