"""The search: every legal layout of every variant, memory first, then time; the best and the near misses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from moeplan.domain.plan import Limits, Objective, Rejected
from moeplan.domain.workload import Placement, PlacementKind
from moeplan.engines.shards import undivided
from moeplan.predict.placement import on_gpus
from moeplan.predict.problem import Problem
from moeplan.search.candidates import explore, whole_placements
from moeplan.search.chain import chained
from moeplan.search.layout import RAM, Layout, Shape, several_gpus, shape_of
from moeplan.search.objective import Score, aim_of, broken, score
from moeplan.search.pricing import Priced, Table, exact_memory, needed_bytes
from moeplan.search.several import Climber, Rank
from moeplan.search.two import TwoGpus


class Variant(NamedTuple):
    """One choice of everything but the placement. ``bits`` is the mean width of the weights."""

    problem: Problem
    bits: float


class Found(NamedTuple):
    """The best of one group: the same quantisation, engine, cache type and kind of placement."""

    score: Score
    problem: Problem
    bits: float
    placement: Placement
    decode_s: float
    prefill_s: float


Group = tuple[str, str, str, str]


class Search:
    """Collects over variants. ``found`` and ``missed`` keep one entry per group."""

    def __init__(self, objective: Objective, limits: Limits) -> None:
        self.objective, self.limits = objective, limits
        self.n_candidates = 0
        self.found: dict[Group, Found] = {}
        self._missed: dict[Group, tuple[float, Rejected]] = {}

    @property
    def best(self) -> Found | None:
        """The best of all."""
        return min(self.found.values(), key=lambda f: f.score, default=None)

    @property
    def missed(self) -> list[Rejected]:
        """The nearest miss of every group without a plan, nearest first, then those of the others."""
        order = sorted(self._missed.items(), key=lambda item: (item[0] in self.found, item[1][0]))
        return [rejected for _, (_, rejected) in order]

    def run(self, variants: Iterable[Variant]) -> None:
        """Search ``variants``, one after the other."""
        for variant in variants:
            _VariantSearch(self, variant).run()

    def offer(self, group: Group, found: Found) -> None:
        """Keep ``found`` if it is the best of its group."""
        best = self.found.get(group)
        if best is None or found.score < best.score:
            self.found[group] = found

    def miss(self, group: Group, distance: float, make: Rejected) -> None:
        """Keep the nearest miss of its group."""
        nearest = self._missed.get(group)
        if nearest is None or distance < nearest[0]:
            self._missed[group] = (distance, make)

    def nearest(self, group: Group) -> float:
        """How far the nearest miss of the group is; infinite without one."""
        entry = self._missed.get(group)
        return float("inf") if entry is None else entry[0]


class _VariantSearch:
    """One variant: its table of prices and the layouts shown to it."""

    def __init__(self, search: Search, variant: Variant) -> None:
        self.search, self.problem, self.bits = search, variant.problem, variant.bits
        self.table = Table(variant.problem, search.limits.max_vram_bytes)
        self._workload = variant.problem.workload
        w = self._workload
        self._group = (variant.problem.graph.quant, w.engine, f"{w.kv_type_k},{w.kv_type_v}")
        self._leader: dict[str, tuple[Score, Layout, float, float]] = {}

    def run(self) -> None:
        """Price everything that may be tried."""
        explore(self.problem, self.visit, self._several)
        for kind, (best, layout, decode_s, prefill_s) in self._leader.items():
            placement = self.table.placement(layout)
            found = Found(best, self.problem, self.bits, placement, decode_s, prefill_s)
            self.search.offer((*self._group, kind), found)
        for trial, placement in whole_placements(self.problem):
            self._whole(trial, placement)
        self._reject_parallel()

    def _several(self, shape: Shape) -> None:
        """A climb for layouts over several GPUs; over two, then all that may be better than what it found."""
        engine, table, n_gpus = self.problem.engine, self.table, len(self.problem.hardware.gpus)
        hosts, leaves = bool(shape.moe) and "experts" in engine.splits, "layers" in engine.splits
        aim = aim_of(self.search.objective, self._workload)
        starts = chained(table, aim, leaves=leaves, hosts=hosts) if aim and n_gpus > 2 else ()
        Climber(shape, engine, self.visit, self._room(), starts).run()
        if aim and n_gpus == 2 and hosts:
            TwoGpus(table, aim, self.search.limits, self.visit, self._best_s).run(leaves=leaves)

    def _best_s(self, kind: PlacementKind) -> tuple[float, float] | None:
        """Seconds of (decode, prefill) of the best plan of ``kind`` so far."""
        leader = self._leader.get(kind)
        return leader and leader[2:]

    def visit(self, layout: Layout) -> Rank:
        """How good ``layout`` is; remembers the best of every kind and the nearest miss."""
        self.search.n_candidates += 1
        table = self.table
        need = table.need(layout)
        kind = table.kind(layout)
        over = 0.0
        for n, have in zip(need, table.capacity_bytes, strict=True):
            if n > have:
                over += n - have
        if over > 0.0:
            if over < self.search.nearest((*self._group, kind)):
                self._too_large(layout, need, over, kind)
            return (2.0, over)
        decode_s, prefill_s = table.seconds(layout)
        limits = self.search.limits
        if limits.min_tokens_per_s is not None or limits.max_ttft_s is not None:
            miss = broken(limits, decode_s, prefill_s)
            if miss is not None:
                self._too_slow(table.placement(layout), miss, decode_s, prefill_s)
                return (1.0, decode_s if miss == "too slow" else prefill_s)
        result = score(self.search.objective, self._workload, self.bits, decode_s, prefill_s, sum(need))
        leader = self._leader.get(kind)
        if leader is None or result < leader[0]:
            self._leader[kind] = (result, layout, decode_s, prefill_s)
        return (0.0, *result)

    def _whole(self, problem: Problem, placement: Placement) -> None:
        self.search.n_candidates += 1
        table = self.table if problem is self.problem else Table(problem, self.search.limits.max_vram_bytes)
        priced = table.exact(placement)
        if priced is None:
            self._whole_too_large(problem, placement)
            return
        miss = broken(self.search.limits, priced.decode_s, priced.prefill_s)
        if miss is not None:
            self._too_slow(placement, miss, priced.decode_s, priced.prefill_s)
            return
        self._offer(problem, placement, priced)

    def _offer(self, problem: Problem, placement: Placement, priced: Priced) -> None:
        total = sum(priced.need_bytes)
        args = (self.search.objective, problem.workload, self.bits, priced.decode_s, priced.prefill_s)
        found = Found(score(*args, total), problem, self.bits, placement, priced.decode_s, priced.prefill_s)
        kind = placement.kind
        label = f"{kind}-{placement.tensor_parallel}" if placement.tensor_parallel > 1 else kind
        label += "-ep" * (placement.expert_parallel > 1)
        self.search.offer((*self._group, label), found)

    # ── near misses ──────────────────────────────────────────────────────────────────────────────

    def _too_large(self, layout: Layout, need: Sequence[float], over: float, kind: PlacementKind) -> None:
        have = self.table.capacity_bytes
        worst = max(range(len(need)), key=lambda i: need[i] - have[i])
        reason = f"needs more memory than {self.table.devices[worst]} has"
        rejected = self._rejected(self.table.placement(layout), reason)
        rejected = _with_bytes(rejected, round(need[worst]), round(have[worst]), self.table.devices[worst])
        self.search.miss((*self._group, kind), over, rejected)

    def _whole_too_large(self, problem: Problem, placement: Placement) -> None:
        limits = dict(zip(self.table.devices, self.table.capacity_bytes, strict=True))
        devices = [
            (needed_bytes(d), min(d.capacity_bytes, limits.get(d.device, d.capacity_bytes)), d.device)
            for d in exact_memory(problem, placement).devices
        ]
        over = sum(max(0.0, need - have) for need, have, _ in devices)
        need, have, device = max(devices, key=lambda d: d[0] - d[1])
        rejected = self._rejected(placement, f"needs more memory than {device} has")
        group = (*self._group, placement.kind)
        self.search.miss(group, over, _with_bytes(rejected, need, round(have), device))

    def _too_slow(self, placement: Placement, miss: str, decode_s: float, prefill_s: float) -> None:
        limits = self.search.limits
        if miss == "too slow":
            floor = limits.min_tokens_per_s or 0.0
            reason = f"{1 / decode_s:.3g} tok/s a sequence, --min-tps asks for {floor:.3g}"
            distance = decode_s * floor
        else:
            most = limits.max_ttft_s or 0.0
            reason = f"first token after {prefill_s * 1e3:.4g} ms, --max-ttft-ms allows {most * 1e3:.4g}"
            distance = prefill_s / most
        # Too slow comes after too large by a byte: a plan that fits is nearer than one that does not.
        self.search.miss((*self._group, placement.kind), -1 / distance, self._rejected(placement, reason))

    def _reject_parallel(self) -> None:
        engine, hardware = self.problem.engine, self.problem.hardware
        n = len(hardware.gpus)
        if engine.multi_gpu != "tensor-parallel" or n < 2 or hardware.unified:
            return
        what = undivided(self.problem.graph.spec, n, self.problem.graph.expert_group)
        if what is not None:
            sliced = replace(on_gpus(self.problem.graph, hardware, engine), expert_parallel=1)
            reason = f"{n} GPUs cannot share {what} evenly"
            self.search.miss((*self._group, "tensor-parallel"), 0.0, self._rejected(sliced, reason))

    def _rejected(self, placement: Placement, reason: str) -> Rejected:
        return Rejected(
            quant=self.problem.graph.quant,
            engine=self.problem.workload.engine,
            kind=placement.kind,
            placement=describe(placement),
            reason=reason,
        )

    # ── room of one GPU, for the climb ───────────────────────────────────────────────────────────

    def _room(self) -> Sequence[tuple[float, float, float]]:
        """Of each GPU: bytes left for layers, and what an average layer takes whole and with hosted experts.

        Buffers are those of a layout that has every kind of them.
        """
        table, n = self.table, shape_of(self.problem.graph).n_layers
        n_gpus = len(self.problem.hardware.gpus)
        ends = [n * (g + 1) // n_gpus for g in range(n_gpus)]
        need = table.need(several_gpus(n, 0, ends, [n] * n_gpus))
        room, start = [], 0
        for g, end in enumerate(ends):
            tier = f"gpu{g}"
            taken = table.layer_bytes(tier, RAM, start, end).get(tier, 0.0)
            whole, hosted = (table.layer_bytes(tier, e, 0, n).get(tier, 0.0) / n for e in (tier, RAM))
            room.append((table.capacity_bytes[g] - need[g] + taken, whole, hosted))
            start = end
        return room


_WITHOUT_COUNTS: dict[PlacementKind, str] = {
    "gpu": "all on one GPU",
    "unified": "unified memory",
    "cpu": "CPU only",
    "stream": "streamed from RAM",
    "disk": "paged from disk",
}


def describe(placement: Placement) -> str:
    """A placement in a few words, with the counts that engines take."""
    n = len(placement.dense_tiers)
    gpus = sorted({tier for tier in placement.dense_tiers if tier.startswith("gpu")})
    if placement.kind in _WITHOUT_COUNTS:
        return _WITHOUT_COUNTS[placement.kind]
    if placement.kind == "tensor-parallel":
        whole = ", experts whole" if placement.expert_parallel > 1 else ""
        return f"tensor parallel over {placement.tensor_parallel} GPUs{whole}"
    parts = []
    if placement.gpu_layers <= n:
        parts.append(f"{n + 1 - placement.gpu_layers} of {n} layers in RAM")
    if placement.cpu_moe:
        parts.append(f"experts of {placement.cpu_moe} layer{'s' * (placement.cpu_moe > 1)} in RAM")
    if len(gpus) > 1:
        counts = "+".join(str(placement.dense_tiers.count(gpu)) for gpu in gpus)
        parts.append(f"layers {counts} over {len(gpus)} GPUs")
    return ", ".join(parts)


def _with_bytes(rejected: Rejected, need: int, have: int, device: str) -> Rejected:
    return replace(rejected, need_bytes=need, have_bytes=have, device=device)
