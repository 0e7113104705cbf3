"""The figures that budgets are about: memory, speed, longest context, most sequences, and what would help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from moeplan.domain.request import EstimateRequest
from moeplan.errors import MoeplanError

if TYPE_CHECKING:
    from moeplan.api.resolve import Session
    from moeplan.domain.result import Estimate
    from moeplan.domain.workload import Placement
    from moeplan.predict.problem import Problem

MAX_SEQUENCES = 4096
"""Beyond, no server schedules them together."""


class Sized(NamedTuple):
    """One request worked out; ``problem`` is what it was made from."""

    request: EstimateRequest
    problem: Problem
    estimate: Estimate
    static_frac: float | None = None

    @property
    def fits(self) -> bool:
        """Whether every device has room, and SGLang's pool too."""
        return self.estimate.fits and pool_excess_bytes(self.estimate, self.static_frac) <= 0


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
        from moeplan.api import solve

        if request not in self._sized:
            assumptions: list[str] = []
            problem = self.session.problem(request, assumptions)
            self._sized[request] = Sized(request, *solve(problem, request, assumptions))
        return self._sized[request]._replace(static_frac=static_frac)

    def largest_context(self, sized: Sized) -> int:
        """Longest context of every sequence that fits in memory, up to the model's; 0 when none does."""
        from moeplan.predict.estimate import with_context

        limit = max(sized.problem.graph.spec.context_tokens, sized.problem.workload.context_tokens)

        def ok(blocks: int) -> bool:
            workload = with_context(sized.problem.workload, min(limit, blocks * 256))
            return self._fits(sized, sized.problem._replace(workload=workload))

        return min(limit, 256 * _most(-(-limit // 256), ok))

    def most_sequences(self, sized: Sized) -> int:
        """Sequences of the request's context whose cache fits together; 0 when not even one does."""
        from msgspec.structs import replace

        def ok(n: int) -> bool:
            workload = replace(sized.problem.workload, n_sequences=n)
            return self._fits(sized, sized.problem._replace(workload=workload))

        return _most(MAX_SEQUENCES, ok)

    def _fits(self, sized: Sized, problem: Problem) -> bool:
        from moeplan.memory.report import memory_report

        placement = self._place(sized, problem)
        if placement.kind == "disk":
            return False
        report = memory_report(problem.graph, problem.hardware, problem.workload, placement, problem.engine)
        if sized.static_frac is None or not report.fits:
            return report.fits
        held = [
            d.weights_bytes + d.kv_bytes + d.state_bytes for d in report.devices if d.device.startswith("gpu")
        ]
        room = [int(gpu.memory_bytes * sized.static_frac) for gpu in problem.hardware.gpus]
        return all(need <= have for need, have in zip(held, room, strict=False))

    def _place(self, sized: Sized, problem: Problem) -> Placement:
        from moeplan.predict.estimate import choose_placement

        request = sized.request
        return choose_placement(
            problem, kind=request.placement, gpu_layers=request.gpu_layers, cpu_moe=request.cpu_moe
        )

    def tries(
        self, sized: Sized, changes: Iterator[tuple[str, dict[str, Any]]]
    ) -> Iterator[tuple[str, Sized]]:
        """(what was changed, the outcome) for every change that can be worked out at all."""
        from msgspec.structs import replace

        for name, fields in changes:
            try:
                yield name, self.size(replace(sized.request, **fields), sized.static_frac)
            except MoeplanError:
                continue


def _most(limit: int, ok: Callable[[int], bool]) -> int:
    """Largest n in 1..limit for which ``ok``, which turns from True to False once; 0 if none."""
    if not ok(1):
        return 0
    if ok(limit):
        return limit
    low, high = 1, 2
    while high < limit and ok(high):
        low, high = high, high * 2
    high = min(high, limit)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ok(middle) else (low, middle)
    return low
