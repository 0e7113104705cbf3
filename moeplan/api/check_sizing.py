"""The figures that budgets are about: memory, speed, longest context, most sequences, and what would help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from moeplan.domain.request import EstimateRequest
from moeplan.errors import MoeplanError, SpecError

if TYPE_CHECKING:
    from moeplan.api.resolve import Session
    from moeplan.domain.result import Estimate
    from moeplan.domain.workload import Placement
    from moeplan.predict.problem import Problem

MAX_SEQUENCES = 4096
"""Beyond, no server schedules them together."""
MAX_LLAMA_SEQUENCES = 256
"""llama.cpp refuses more (LLAMA_MAX_SEQ, src/llama-cparams.h, November 2026)."""


class Sized(NamedTuple):
    """One request worked out; ``problem`` is what it was made from."""

    request: EstimateRequest
    problem: Problem
    estimate: Estimate
    static_frac: float | None = None

    @property
    def fits(self) -> bool:
        """Whether every device has room, and SGLang's pool too; no margin is kept here."""
        room = all(d.resident_bytes <= d.capacity_bytes for d in self.estimate.memory.devices)
        return room and pool_excess_bytes(self.estimate, self.static_frac) <= 0


def pool_excess_bytes(estimate: Estimate, static_frac: float | None) -> int:
    """Bytes of weights and cache beyond the share of a device that they may take; at most 0 when they fit."""
    if static_frac is None:
        return 0
    excess = -(2**62)
    for device, gpu in zip(
        (d for d in estimate.memory.devices if d.device.startswith("gpu")),
        estimate.hardware.gpus,
        strict=False,
    ):
        held = device.weights_bytes + device.kv_bytes + device.state_bytes
        excess = max(excess, held - int(gpu.memory_bytes * static_frac))
    return excess


class Sizer:
    """Answers for many requests in one session: specifications are read and hashed once."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._sized: dict[EstimateRequest, Sized] = {}

    def size(self, request: EstimateRequest, static_frac: float | None = None) -> Sized:
        """The estimate that ``request`` asks for."""
        from moeplan.api.estimate import solve

        if request not in self._sized:
            assumptions: list[str] = []
            problem = self.session.problem(request, assumptions)
            self._sized[request] = Sized(request, *solve(problem, request, assumptions, advise=False))
        return self._sized[request]._replace(static_frac=static_frac)

    def at_level(self, sized: Sized, level: float) -> Estimate:
        """The same answer with an interval of another level."""
        from moeplan.predict.estimate import estimate

        tails = [r.levels[0] for r in sized.problem.calibration.residuals.values() if r.levels]
        highest = 1 - 2 * min(tails, default=0.0)
        if level > highest + 1e-9:
            raise SpecError(
                f"`confidence: {level:g}`: the calibration knows its errors up to {highest:g}",
                hint=f"ask for {highest:g} at most",
            )
        if level == sized.estimate.level:
            return sized.estimate
        return estimate(sized.problem, sized.estimate.placement, level=level, advise=False)

    def holds(self, sized: Sized, *, context: int | None = None, n_sequences: int | None = None) -> bool:
        """Whether it also fits with this context, or with so many sequences."""
        from msgspec.structs import replace

        from moeplan.predict.capacity import with_context

        workload = sized.problem.workload
        if context is not None:
            workload = with_context(workload, context)
        if n_sequences is not None:
            workload = replace(workload, n_sequences=n_sequences)
        return self.fits(sized, sized.problem._replace(workload=workload))

    def largest_context(self, sized: Sized) -> int:
        """Longest context of every sequence that fits in memory, up to the model's; 0 when none does."""
        limit = max(sized.problem.graph.spec.context_tokens, sized.problem.workload.context_tokens)

        blocks = _most(-(-limit // 256), lambda n: self.holds(sized, context=min(limit, n * 256)))
        return min(limit, 256 * blocks)

    def most_sequences(self, sized: Sized) -> int:
        """Sequences of the request's context whose cache fits together; 0 when not even one does."""
        limit = MAX_LLAMA_SEQUENCES if sized.problem.engine.gguf else MAX_SEQUENCES
        return _most(limit, lambda n: self.holds(sized, n_sequences=n))

    def fits(self, sized: Sized, problem: Problem) -> bool:
        """Whether ``problem`` has a placement that fits without reading weights from disk again and again."""
        from moeplan.predict.choice import feasible

        request = sized.request
        placements = feasible(
            problem, kind=request.placement, gpu_layers=request.gpu_layers, cpu_moe=request.cpu_moe
        )
        return any(p.kind != "disk" and self._in_pool(sized, problem, p) for p in placements)

    def _in_pool(self, sized: Sized, problem: Problem, placement: Placement) -> bool:
        """SGLang's own limit: weights and cache together in their share of each GPU."""
        if sized.static_frac is None:
            return True
        from moeplan.memory.report import memory_report

        graph, hardware, workload, engine, _ = problem
        report = memory_report(graph, hardware, workload, placement, engine)
        held = [
            d.weights_bytes + d.kv_bytes + d.state_bytes for d in report.devices if d.device.startswith("gpu")
        ]
        room = [int(gpu.memory_bytes * sized.static_frac) for gpu in hardware.gpus]
        return all(need <= have for need, have in zip(held, room, strict=False))

    def tries(
        self, sized: Sized, changes: Iterator[tuple[str, dict[str, Any]]]
    ) -> Iterator[tuple[str, Sized]]:
        """(what was changed, the outcome) for every change with which it fits."""
        from msgspec.structs import replace

        for name, fields in changes:
            request = replace(sized.request, **fields)
            try:
                if request.context == "max" or self.fits(
                    sized._replace(request=request), self.session.problem(request, [])
                ):
                    yield name, self.size(request, sized.static_frac)
            except MoeplanError:
                continue


def _most(limit: int, ok: Callable[[int], bool]) -> int:
    """Largest n in 1..limit for which ``ok``, which turns from True to False once; 0 if none."""
    if not ok(1):
        return 0
    low, high = 1, min(64, limit)
    while high < limit and ok(high):
        low, high = high, min(high * 8, limit)
    if high == limit and ok(limit):
        return limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ok(middle) else (low, middle)
    return low
