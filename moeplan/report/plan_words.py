"""The wording that all renderers of a plan share."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.domain.plan import Change, Choice, Curve, CurvePoint, MachineOffer, Plan, Rejected
from moeplan.domain.workload import Workload
from moeplan.engines.traits import find_engine
from moeplan.predict.notes import TIGHT_BYTES
from moeplan.report import words
from moeplan.units import GIB, fmt_bytes, fmt_number, fmt_seconds

GOALS = {
    "decode": "the fastest decode",
    "ttft": "the earliest first token",
    "request": "the shortest request",
    "throughput": "the most tokens per second of all sequences",
    "context": "the longest context",
    "quality": "the widest weights above the speed floor",
    "cheapest": "the cheapest machine",
    "memory": "the least memory",
}
AXES = {
    "cpu_moe": "MoE layers with experts in RAM (--n-cpu-moe)",
    "gpu_layers": "layers on the GPU (-ngl)",
    "context": "context in tokens, decoding at its end",
    "batch": "sequences decoded together",
    "ubatch": "prompt tokens per step (-ub)",
}


SWAP = "~ within the range of the best: on your machine they may change places"
"""What the mark behind a runner-up means."""


def title(plan: Plan) -> str:
    """Model, machine and what is sought."""
    if plan.best is None:
        return f"No plan for {plan.request.base.model}: {GOALS[plan.request.objective]}"
    e = plan.best.estimate
    return f"{e.model.name} on {e.hardware.name}: {GOALS[plan.request.objective]}"


def headline(choice: Choice) -> str:
    """Quantisation, engine and placement."""
    e = choice.estimate
    return (
        f"{e.quant} ({choice.bits_per_weight:.1f} bits per weight) with {e.workload.engine}, "
        f"{words.placement_words(e.placement)}"
    )


def micro_batch(work: Workload) -> str:
    """How many tokens of a prompt go through at a time."""
    if not find_engine(work.engine).chunks_prefill:
        return "none: a prompt goes through in one pass"
    return f"{work.ubatch_tokens:,} tokens"


def short(choice: Choice, plan: Plan) -> str:
    """Quantisation and kind of placement in two words, with what else tells the choices of ``plan`` apart."""
    e = choice.estimate
    n, whole = e.placement.tensor_parallel, e.placement.expert_parallel
    kind = e.placement.kind if n == 1 else f"tp{n} ep{whole}" if whole > 1 else f"tp{n}"
    return ", ".join([f"{e.quant} {kind}", *_apart(choice, plan)])


def weights(choice: Choice, plan: Plan) -> str:
    """Quantisation, with what else tells the choices of ``plan`` apart."""
    return ", ".join([choice.estimate.quant, *_apart(choice, plan)])


def _apart(choice: Choice, plan: Plan) -> list[str]:
    """Engine and type of the cache of ``choice``, each where the choices shown have several."""
    work = choice.estimate.workload
    every = [c.estimate.workload for c in (plan.best, *plan.alternatives) if c is not None]
    engines, caches = {w.engine for w in every}, {words.kv_words(w) for w in every}
    return [work.engine] * (len(engines) > 1) + [f"KV {words.kv_words(work)}"] * (len(caches) > 1)


def none_words(plan: Plan) -> str:
    """Why there is no plan."""
    least = plan.request.limits.min_quant
    if not plan.n_candidates and least:
        return f"no type of weights that there is to try is as wide as --min-quant {least}"
    if any(not r.device for r in plan.rejected):
        return "no plan keeps the limits"
    return "no: every way to place it needs more memory than there is"


def speed(choice: Choice) -> str:
    """Decode with its range, and the first token."""
    e = choice.estimate
    r = e.decode_step_s.inverse(e.workload.n_sequences)
    span = f"{fmt_number(r.low)} to {fmt_number(r.high)}, {e.level:.0%} interval"
    text = f"decode {fmt_number(r.expected)} tok/s ({span})"
    if e.workload.n_sequences > 1:
        text += f", {fmt_number(1 / e.decode_step_s.expected)} a sequence"
    full = fmt_number(choice.full_decode_tokens_per_s)
    return f"{text}, {full} at a full context; first token after {fmt_seconds(e.prefill_s.expected)}"


def lost_by(choice: Choice) -> str:
    """Why it is not the best, and whether a measurement may say otherwise."""
    return choice.lost_by + (", within its range" if choice.within_range else "")


def decode_rate(choice: Choice) -> float:
    """Expected tokens per second of all sequences."""
    return choice.estimate.workload.n_sequences / choice.estimate.decode_step_s.expected


def memory(choice: Choice) -> str:
    """How full each device is, and a word where little is left."""
    devices = [d for d in choice.estimate.memory.devices if d.device != "disk"]
    text = ", ".join(
        f"{name} {fmt_bytes(d.total_bytes)} of {fmt_bytes(d.capacity_bytes)}"
        for name, d in words.device_groups(devices)
    )
    gpus = [d for d in devices if words.is_gpu(d.device)]
    least = min(gpus, key=lambda d: d.headroom_bytes, default=None)
    kept = choice.estimate.hardware.reserve_vram_bytes
    if least is not None and least.headroom_bytes + kept < TIGHT_BYTES:
        left = f"{fmt_bytes(least.headroom_bytes + kept)} left on {least.device}"
        text += f"; tight: {left}, --reserve-vram-gib keeps more free"
    return text


def vram(choice: Choice) -> str:
    """Memory of the fullest GPU."""
    gpus = [d.total_bytes for d in choice.estimate.memory.devices if d.device.startswith("gpu")]
    return f"{max(gpus) / GIB:.1f} GiB" if gpus else "-"


def rejection(r: Rejected) -> str:
    """Why, with what it needs and what there is."""
    if not r.device:
        return r.reason
    short = fmt_bytes(r.need_bytes - r.have_bytes)
    text = f"{fmt_bytes(r.need_bytes)} needed on {r.device}, {short} more than it has"
    return f"{text}; {r.hint}" if r.hint else text


def change_rows(changes: Sequence[Change]) -> list[tuple[str, str, str, str]]:
    """(change, decode, first token, plan) of each."""
    return [_change_row(c) for c in changes]


def _change_row(c: Change) -> tuple[str, str, str, str]:
    if c.decode_tokens_per_s is None or c.ttft_s is None:
        return c.what, "-", "-", "no plan"
    gain = "" if c.gain_frac is None else f" ({c.gain_frac:+.0%})".replace("-0%", "+0%")
    rate = f"{fmt_number(c.decode_tokens_per_s)} tok/s{gain}"
    return c.what, rate, fmt_seconds(c.ttft_s), f"{c.quant}, {c.placement}"


def machine_rows(machines: Sequence[MachineOffer]) -> list[tuple[str, str, str, str]]:
    """(machine, price, decode, plan or why there is none) of each."""
    rows = []
    for m in machines:
        price = "no price" if m.usd_per_hour is None else f"{m.usd_per_hour:.2f} USD/h"
        if m.choice is None:
            rows.append((m.hardware, price, "-", f"no plan: {m.why_not}"))
        else:
            rows.append((m.hardware, price, f"{fmt_number(decode_rate(m.choice))} tok/s", headline(m.choice)))
    return rows


def sampled(curve: Curve, most: int = 9) -> list[CurvePoint]:
    """A few points that show the shape: both ends, the chosen one, the knee, and some between."""
    n = len(curve.points)
    keep = {round(i * (n - 1) / max(1, most - 1)) for i in range(most)}
    marked = {curve.chosen, curve.knee}
    return [p for i, p in enumerate(curve.points) if i in keep or p.x in marked]


def mark(curve: Curve, x: int) -> str:
    """``chosen``, ``knee`` or both."""
    names = [name for name, at in (("chosen", curve.chosen), ("knee", curve.knee)) if at == x]
    return " and ".join(names)


def fold(command: str, width: int) -> list[str]:
    """A command on lines of at most ``width`` columns where its options allow it, ready to paste."""
    import shlex

    lines: list[str] = []
    option: list[str] = []
    for word in [*shlex.split(command), "-"]:
        if option and (word.startswith("-") or len(option) == 2):
            part = shlex.join(option)
            if lines and len(lines[-1]) + len(part) + 3 <= width:
                lines[-1] += f" {part}"
            else:
                lines.append(part if not lines else f"  {part}")
            option = []
        option.append(word)
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]
