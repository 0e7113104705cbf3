"""One budget against one estimate: the figure, the verdict, the reason in words."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from moeplan._version import __version__
from moeplan.api.check_sizing import pool_excess_bytes
from moeplan.check.policy import judge
from moeplan.domain.budget import Amount, Budget, CaseResult, Inputs
from moeplan.domain.result import Range
from moeplan.units import fmt_bytes, fmt_number, fmt_seconds

if TYPE_CHECKING:
    from moeplan.api.check_sizing import Sized, Sizer
    from moeplan.domain.result import DeviceMemory, Estimate

DEFAULT_LEVEL = 0.8
"""Of the interval where a budget names no confidence, as in `moeplan estimate`."""
_PARTS = ("weights", "kv", "state", "compute", "output", "overhead")
_WORDS = {"kv": "KV cache", "compute": "compute buffers", "output": "output", "overhead": "overhead"}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What all budgets of one case share."""

    id: str
    sized: Sized
    file: str
    line: int
    notes: tuple[str, ...] = ()
    least_context: int = 0
    impossible: str = ""


def result_of(case: Case, budget: Budget, sizer: Sizer, fix: str = "") -> CaseResult:
    """The result of ``budget``; ``fix`` is added later, when it is wanted."""
    amount, limit, where = _measure(case, budget, sizer)
    verdict, near = judge(budget, amount, limit)
    reason = _reason(budget, amount, limit, where, near)
    if budget.kind == "fits":
        if case.impossible:
            verdict, near, reason = "fail", False, case.impossible
        elif verdict == "pass" and case.sized.estimate.placement.kind == "disk":
            near, reason = False, _paging(case.sized.estimate)
        elif verdict == "pass" and case.least_context > case.sized.estimate.workload.context_tokens:
            context = case.sized.estimate.workload.context_tokens
            verdict, reason = (
                "fail",
                f"only {context:,} tokens of context fit, {case.least_context:,} are the least",
            )
    elif budget.kind in ("decode", "prefill", "ttft") and (case.impossible or not case.sized.fits):
        verdict, near, reason = "fail", False, "it does not fit, so it reaches no speed at all"
    return CaseResult(
        id=f"{case.id}/{budget.kind}",
        budget=budget.kind,
        verdict=verdict,
        amount=amount,
        limit=limit,
        confidence=budget.confidence,
        near=near,
        reason=reason,
        fix=fix,
        file=budget.file or case.file,
        line=budget.line or case.line,
        notes=case.notes,
        inputs=fingerprints(case.sized),
    )


# ── figures ─────────────────────────────────────────────────────────────────────────────────────


def _measure(case: Case, budget: Budget, sizer: Sizer) -> tuple[Amount, float, str]:
    """(figure, limit, where) of one budget, in its unit."""
    from msgspec.structs import replace

    sized = case.sized
    if budget.kind in ("fits", "memory"):
        return _memory(sized, budget, sizer)
    if budget.kind == "context":
        return _point(sizer.largest_context(sized), "tokens"), budget.limit, "longest context that fits"
    if budget.kind == "concurrency":
        context = sized.estimate.workload.context_tokens
        return (
            _point(sizer.most_sequences(sized), "sequences"),
            budget.limit,
            f"sequences of {context:,} tokens",
        )
    if budget.kind == "ttft" and sized.problem.workload.n_sequences > 1:
        sized = sizer.size(replace(sized.request, batch=1), sized.static_frac)
    level = budget.confidence if isinstance(budget.confidence, float) else DEFAULT_LEVEL
    estimate = sizer.at_level(sized, level)
    work = estimate.workload
    if budget.kind == "ttft":
        return _span(estimate.prefill_s, "s"), budget.limit, f"first token after {work.prompt_tokens:,}"
    if budget.kind == "decode":
        rate = estimate.decode_step_s.inverse(work.n_sequences)
        return _span(rate, "tokens/s"), budget.limit, "decode"
    rate = estimate.prefill_s.inverse(work.prompt_tokens * work.n_sequences)
    return _span(rate, "tokens/s"), budget.limit, "prefill"


def fills_gpus(sized: Sized) -> bool:
    """Whether moeplan chose how much of the model the GPUs hold, which is then as much as fits."""
    free = sized.request.gpu_layers is None and sized.request.cpu_moe is None
    return free and sized.estimate.placement.kind in ("layers", "experts", "mixed", "disk")


def _with_reserve(sized: Sized, budget: Budget, sizer: Sizer) -> tuple[Sized, Budget]:
    """A split that leaves the budget's headroom free on the GPUs, and the budget without it."""
    from msgspec.structs import replace

    gpus = sized.estimate.hardware.gpus
    reserve = max(
        (budget.headroom_bytes + round(g.memory_bytes * budget.headroom_frac) for g in gpus), default=0
    )
    if budget.limit:
        reserve = max(reserve, *(g.memory_bytes - int(budget.limit) for g in gpus))
    if budget.kind != "memory" or reserve <= 0:
        return sized, budget
    reserve += sized.estimate.hardware.reserve_vram_bytes
    machine = replace(sized.request.machine, reserve_vram_gib=f"{reserve}B")
    return sizer.size(replace(sized.request, machine=machine)), budget


def _memory(sized: Sized, budget: Budget, sizer: Sizer) -> tuple[Amount, float, str]:
    """The device with the least room, and what it may hold."""
    excess = pool_excess_bytes(sized.estimate, sized.static_frac)
    if sized.static_frac is not None and excess > 0 and budget.kind == "fits":
        gpu = sized.estimate.hardware.gpus[0]
        pool = int(gpu.memory_bytes * sized.static_frac)
        return _point(pool + excess, "bytes"), pool, "weights and cache on gpu0"
    if fills_gpus(sized):
        sized, budget = _with_reserve(sized, budget, sizer)
    devices = [d for d in sized.estimate.memory.devices if d.device != "disk"]
    if fills_gpus(sized) and sized.estimate.fits:
        # The GPUs are full on purpose; one that shares its memory with the host stands for both.
        devices = [d for d in devices if d.device == "ram"] or devices
    allowed = {d.device: _allowed(d, budget) for d in devices}
    tightest = min(
        devices,
        key=lambda d: (allowed[d.device] - d.resident_bytes - d.margin_bytes) / max(d.capacity_bytes, 1),
    )
    need = float(tightest.resident_bytes)
    amount = Amount(low=need, expected=need, high=need + tightest.margin_bytes, unit="bytes")
    return amount, allowed[tightest.device], f"{tightest.device} {_shares(tightest)}"


def _allowed(device: DeviceMemory, budget: Budget) -> int:
    room = device.capacity_bytes - budget.headroom_bytes - round(device.capacity_bytes * budget.headroom_frac)
    if budget.kind == "memory" and budget.limit and device.device.startswith("gpu"):
        room = min(room, int(budget.limit))
    return max(room, 0)


def _point(value: float, unit: str) -> Amount:
    return Amount(low=float(value), expected=float(value), high=float(value), unit=unit)


def _span(span: Range, unit: str) -> Amount:
    return Amount(low=span.low, expected=span.expected, high=span.high, unit=unit)


# ── words ───────────────────────────────────────────────────────────────────────────────────────


def shown(value: float, unit: str) -> str:
    """A figure with its unit, as a person reads it."""
    if unit == "bytes":
        return fmt_bytes(value)
    if unit == "s":
        return fmt_seconds(value)
    return f"{fmt_number(value)} {unit}" if unit == "tokens/s" else f"{value:,.0f} {unit}"


def _reason(budget: Budget, amount: Amount, limit: float, where: str, near: bool) -> str:
    if budget.kind in ("fits", "memory"):
        device, _, parts = where.partition(" (")
        room = limit - amount.expected
        if room >= 0:
            share = f", only {room / limit:.1%}" if near and limit else ""
            if limit < amount.high:
                kept = fmt_bytes(amount.high - amount.low)
                share += f": less than the {kept} that the engine may need beyond what is predicted"
            return f"{fmt_bytes(room)} left on {device}{share}"
        need, have = fmt_bytes(amount.expected), fmt_bytes(limit)
        detail = f" ({parts}" if parts else ""
        return f"{fmt_bytes(-room)} short on {device}: needs {need} of {have}{detail}"
    expected = shown(amount.expected, amount.unit)
    if amount.low != amount.high:
        level = budget.confidence if isinstance(budget.confidence, float) else DEFAULT_LEVEL
        low, high = (shown(v, amount.unit).removesuffix(" tokens/s") for v in (amount.low, amount.high))
        expected += f" ({low} to {high} at {level:.0%})" if budget.confidence != "expected" else ""
    return f"{where}: {expected}, budget {shown(limit, amount.unit)}"


def _shares(device: DeviceMemory) -> str:
    """The two largest parts of what a device holds: ``(weights 43.5 GiB, KV cache 2.0 GiB)``."""
    parts = [(name, int(getattr(device, f"{name}_bytes"))) for name in _PARTS]
    largest = sorted((p for p in parts if p[1]), key=lambda p: -p[1])[:2]
    return "(" + ", ".join(f"{_WORDS.get(name, name)} {fmt_bytes(n)}" for name, n in largest) + ")"


def _paging(estimate: Estimate) -> str:
    """How slow a model is that does not fit in RAM and is read from a mapped file."""
    on_disk = next((d.weights_bytes for d in estimate.memory.devices if d.device == "disk"), 0)
    rate = estimate.decode_step_s.inverse(estimate.workload.n_sequences)
    return (
        f"fits only with mmap: {fmt_bytes(on_disk)} of the weights do not fit in memory and are read from "
        f"disk, about {fmt_number(rate.expected, 2)} tokens/s"
    )


# ── fingerprints ────────────────────────────────────────────────────────────────────────────────


def fingerprints(sized: Sized) -> Inputs:
    """Hashes of everything the result was made from."""
    from msgspec.structs import replace

    graph, hardware, _, _, calibration = sized.problem
    # Ids stand for files: where a checkout lies changes nothing.
    asked = replace(sized.request, model=graph.spec.id, hardware=hardware.id)
    return Inputs(
        request=digest(asked, sized.static_frac),
        model=digest(graph.spec, graph.quant, graph.weights_bytes),
        hardware=digest(hardware),
        calibration=digest(calibration.id, calibration.date, calibration.coefficients, calibration.residuals),
        program=__version__,
    )


def digest(*values: object) -> str:
    """Twelve hex digits of the SHA-256 of the values' JSON."""
    hashed = hashlib.sha256()
    for value in values:
        hashed.update(msgspec.json.encode(value, order="deterministic"))
    return hashed.hexdigest()[:12]
