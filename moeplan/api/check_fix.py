"""The smallest change that would make a failing case pass, found by trying."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from moeplan.domain.budget import Budget
from moeplan.units import fmt_bytes

if TYPE_CHECKING:
    from moeplan.api.check_results import Case
    from moeplan.api.check_sizing import Sized, Sizer
    from moeplan.check.launch import Sizing

MAX_GPUS = 16
# A context cut to less than this share of what was asked is another service, not a fix.
LEAST_SHARE = 0.25
# Where nobody asked for a length, any that serves a chat is a fix.
LEAST_TOKENS = 2048
_SMALLER = ("fp8", "awq-int4-g128")
_SMALLER_GGUF = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")


def fix_for(case: Case, budget: Budget, sizer: Sizer, sizing: Sizing | None = None) -> str:
    """What would help, in words; empty when nothing that was tried does."""
    if case.impossible:
        return ""
    if budget.kind in ("fits", "memory"):
        found = list(_memory_fixes(case, budget, sizer, sizing))
    else:
        found = list(_other_fixes(case, budget, sizer, sizing))
    return " or ".join(found[:2])


def _memory_fixes(case: Case, budget: Budget, sizer: Sizer, sizing: Sizing | None) -> Iterator[str]:
    sized = case.sized
    if budget.kind == "fits":
        asked = sized.estimate.workload.context_tokens
        longest = sizer.largest_context(sized)
        stated = sizing is None or any(sizing.settings.get(m) for m in ("context", "context_total"))
        least = LEAST_SHARE * asked if stated else LEAST_TOKENS
        if least <= longest < asked:
            yield _context_words(longest, sized, sizing)
    yield from _that_pass(case, budget, sizer, _smaller_cache(sized, sizing))
    yield from _that_pass(case, budget, sizer, _more_gpus(sized, sizing))
    yield from _that_pass(case, budget, sizer, _smaller_weights(sized))
    short = min(sized.estimate.memory.devices, key=lambda d: d.headroom_bytes)
    if short.headroom_bytes < 0:
        yield f"{fmt_bytes(-short.headroom_bytes)} more on {short.device}"


def _other_fixes(case: Case, budget: Budget, sizer: Sizer, sizing: Sizing | None) -> Iterator[str]:
    if budget.kind in ("context", "concurrency"):
        yield from _that_pass(case, budget, sizer, _smaller_cache(case.sized, sizing))
    yield from _that_pass(case, budget, sizer, _smaller_weights(case.sized))
    yield from _that_pass(case, budget, sizer, _more_gpus(case.sized, sizing))


def _that_pass(
    case: Case, budget: Budget, sizer: Sizer, changes: Iterator[tuple[str, dict[str, Any]]]
) -> Iterator[str]:
    """The first of ``changes`` with which the budget holds."""
    from msgspec.structs import replace

    from moeplan.api.check_results import result_of

    for words, sized in sizer.tries(case.sized, changes):
        if budget.kind == "context":
            holds = sizer.holds(sized, context=int(budget.limit))
        elif budget.kind == "concurrency":
            holds = sizer.holds(sized, n_sequences=int(budget.limit))
        else:
            trial = replace(case, sized=sized)
            holds = sized.fits and result_of(trial, budget, sizer).verdict == "pass"
        if holds:
            yield words
            return


def _context_words(tokens: int, sized: Sized, sizing: Sizing | None) -> str:
    if sizing is None:
        return f"context {tokens:,}"
    flag = _flag(sizing, "context" if sized.request.engine not in ("llama.cpp",) else "context_total")
    total = tokens * sized.estimate.workload.n_sequences if sized.request.engine == "llama.cpp" else tokens
    return f"{flag} {total}"


def _smaller_cache(sized: Sized, sizing: Sizing | None) -> Iterator[tuple[str, dict[str, Any]]]:
    engine = sized.problem.engine
    if sized.problem.workload.kv_type_k not in ("f16", "bf16"):
        return
    if engine.family == "server":
        flag = _flag(sizing, "kv_type") if sizing else "kv_type"
        yield f"{flag} fp8", {"kv_type": "fp8"}
    else:
        words = "-ctk q8_0 -ctv q8_0" if sizing and sizing.request.engine == "llama.cpp" else "kv_type q8_0"
        yield words, {"kv_type": "q8_0"}


def _more_gpus(sized: Sized, sizing: Sizing | None) -> Iterator[tuple[str, dict[str, Any]]]:
    from msgspec.structs import replace

    request, n = sized.request, len(sized.estimate.hardware.gpus)
    if not n:
        return
    kind = sized.estimate.hardware.gpus[0].name
    server = sized.problem.engine.multi_gpu == "tensor-parallel"
    while (n := n * 2) <= MAX_GPUS:
        flags = replace(request.machine, n_gpus=n)
        changes: dict[str, Any] = {"machine": flags, "tensor_parallel": n if server else None}
        flag = f" ({_flag(sizing, 'tensor_parallel')} {n})" if sizing and server else ""
        yield f"{n} x {kind}{flag}", changes


def _smaller_weights(sized: Sized) -> Iterator[tuple[str, dict[str, Any]]]:
    gguf = sized.problem.engine.gguf
    now = sized.estimate.weights_bytes
    for quant in _SMALLER_GGUF if gguf else _SMALLER:
        if _weights(sized, quant) < now:
            yield f"quantisation {quant}", {"quant": quant}


def _weights(sized: Sized, quant: str) -> float:
    """A coarse size, only to leave out what is no smaller: bits of the name over bits of now."""
    bits = {"fp8": 8.0, "awq-int4-g128": 4.2, "q8_0": 8.5, "q6_k": 6.6, "q5_k_m": 5.7, "q4_k_m": 4.8,
            "q3_k_m": 3.9, "q2_k": 3.0}[quant]  # fmt: skip
    return sized.estimate.params.total * bits / 8


def _flag(sizing: Sizing | None, means: str) -> str:
    from moeplan.engines.flags import long_flag, option_that_means

    if sizing is None:
        return means
    setting = sizing.settings.get(means)
    option = option_that_means(sizing.settings.table, means)
    if setting is not None and setting.flag.startswith("-"):
        return setting.flag
    return long_flag(option) if option else means
