"""Links between ranks, measured with torch.distributed (NCCL, RCCL, Gloo): start with torchrun.

Times by message size, and from them latency and bandwidth: t = latency + bytes / bandwidth, fitted on
relative errors so that small and large messages count alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from moeplan.domain.profile import Sample
from moeplan.errors import MeasurementError
from moeplan.measure.device import import_torch
from moeplan.measure.timing import sample_of

SIZES_BYTES = (4, 1024, 16384, 262_144, 1 << 20, 4 << 20, 16 << 20)
_TIMEOUT_S = 120.0


class Link(NamedTuple):
    """One kind of communication as a straight line over size."""

    kind: str
    latency_s: float
    bytes_per_s: float
    n: int


class Ranks:
    """The process group that torchrun set up; ``close`` leaves it."""

    def __init__(self) -> None:
        torch = import_torch()
        if not torch.distributed.is_available():
            raise MeasurementError("--distributed: this torch is built without torch.distributed")
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR") if name not in os.environ]
        if missing:
            raise MeasurementError(
                f"--distributed: {', '.join(missing)} not set; start with "
                "`torchrun --nproc-per-node N -m moeplan profile --distributed`"
            )
        self.torch, self.dist = torch, torch.distributed
        on_gpu = torch.cuda.is_available()
        self.backend = "nccl" if on_gpu else "gloo"
        self.device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if on_gpu else "cpu"
        if on_gpu:
            torch.cuda.set_device(self.device)
        try:
            self.dist.init_process_group(self.backend, timeout=timedelta(seconds=_TIMEOUT_S))
        except RuntimeError as error:
            raise MeasurementError(f"--distributed: the ranks did not meet: {str(error)[:200]}") from None
        self.rank, self.size = self.dist.get_rank(), self.dist.get_world_size()

    def close(self) -> None:
        """Leave the group."""
        self.dist.destroy_process_group()

    def time(self, work: Callable[[], object], n: int) -> list[float]:
        """Seconds of ``n`` repeats, each started together; the slowest rank counts."""
        work()
        found = []
        for _ in range(n):
            self.dist.barrier()
            self._sync()
            started = time.perf_counter()
            work()
            self._sync()
            found.append(time.perf_counter() - started)
        times = self.torch.tensor(found, dtype=self.torch.float64, device=self.device)
        self.dist.all_reduce(times, op=self.dist.ReduceOp.MAX)
        return [float(t) for t in times]

    def _sync(self) -> None:
        if self.device != "cpu":
            self.torch.cuda.synchronize()


def measure_links(ranks: Ranks, progress: Callable[[str], None], budget_s: float) -> list[Sample]:
    """All kinds by size, and an expert-parallel MoE layer; equal on every rank."""
    samples = []
    kinds = (("point to point", _ping), ("all-reduce", _all_reduce), ("all-to-all", _all_to_all))
    for kind, make in kinds:
        for n_bytes in SIZES_BYTES:
            progress(f"{kind}, {n_bytes:,} bytes")
            samples += _measure(ranks, kind, make, n_bytes, budget_s / (len(kinds) + 1) / len(SIZES_BYTES))
    progress("expert-parallel MoE layer")
    return [*samples, expert_parallel(ranks)]


def _measure(
    ranks: Ranks, kind: str, make: Callable[[Ranks, int], Callable[[], object]], n_bytes: int, budget_s: float
) -> list[Sample]:
    try:
        work = make(ranks, n_bytes)
        first = max(ranks.time(work, 1))
        n = max(3, min(50, int(budget_s / max(first, 1e-6))))
        seconds = ranks.time(work, n)
    except RuntimeError as error:
        raise MeasurementError(f"{kind} of {n_bytes} bytes failed: {str(error)[:200]}") from None
    trips = 2.0 if kind == "point to point" else 1.0
    setup: dict[str, str | int | float] = {
        "kind": kind, "backend": ranks.backend, "ranks": ranks.size, "bytes": n_bytes
    }  # fmt: skip
    return [sample_of("communication", setup, "s", [s / trips for s in seconds], best=min)]


def _ping(ranks: Ranks, n_bytes: int) -> Callable[[], object]:
    """Ranks 0 and 1 send a message there and back; the others wait."""
    buffer = ranks.torch.ones(n_bytes, dtype=ranks.torch.uint8, device=ranks.device)

    def work() -> None:
        if ranks.rank == 0:
            ranks.dist.send(buffer, 1)
            ranks.dist.recv(buffer, 1)
        elif ranks.rank == 1:
            ranks.dist.recv(buffer, 0)
            ranks.dist.send(buffer, 0)

    return work


def _all_reduce(ranks: Ranks, n_bytes: int) -> Callable[[], object]:
    buffer = ranks.torch.ones(max(1, n_bytes // 4), device=ranks.device)
    return lambda: ranks.dist.all_reduce(buffer)


def _all_to_all(ranks: Ranks, n_bytes: int) -> Callable[[], object]:
    """``n_bytes`` leave each rank, an equal share for every rank."""
    each = max(1, n_bytes // ranks.size)
    source = ranks.torch.ones(each * ranks.size, dtype=ranks.torch.uint8, device=ranks.device)
    target = ranks.torch.empty_like(source)
    return lambda: ranks.dist.all_to_all_single(target, source)


def expert_parallel(ranks: Ranks, hidden: int = 512, width: int = 512, tokens: int = 64) -> Sample:
    """One MoE layer whose experts are spread over the ranks: dispatch, compute, combine."""
    torch = ranks.torch
    n_experts, k = 8 * ranks.size, 2
    generator = torch.Generator().manual_seed(ranks.rank)
    x = torch.randn(tokens, hidden, generator=generator).to(ranks.device)
    router = torch.randn(n_experts, hidden, generator=torch.Generator().manual_seed(9)).to(ranks.device)
    local = [
        [torch.randn(width, hidden, device=ranks.device) * 0.02 for _ in range(2)]
        + [torch.randn(hidden, width, device=ranks.device) * 0.02]
        for _ in range(n_experts // ranks.size)
    ]

    def layer() -> Any:
        weight, chosen = (x @ router.T).softmax(-1).topk(k, dim=-1)
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        rank_of = flat[order] // len(local)
        sent = torch.bincount(rank_of, minlength=ranks.size)
        received = torch.empty_like(sent)
        ranks.dist.all_to_all_single(received, sent)
        give, take = sent.tolist(), received.tolist()
        inbox = x.new_empty(sum(take), hidden)
        ranks.dist.all_to_all_single(inbox, x[order // k], take, give)
        which = flat.new_empty(sum(take))
        ranks.dist.all_to_all_single(which, flat[order], take, give)
        done = torch.zeros_like(inbox)
        for i, (gate, up, down) in enumerate(local):
            rows = (which == ranks.rank * len(local) + i).nonzero()[:, 0]
            part = inbox[rows]
            done[rows] = (torch.nn.functional.silu(part @ gate.T) * (part @ up.T)) @ down.T
        back = x.new_empty(len(order), hidden)
        ranks.dist.all_to_all_single(back, done, give, take)
        scaled = back * weight.flatten()[order][:, None]
        return torch.zeros_like(x).index_add(0, order // k, scaled)

    setup: dict[str, str | int | float] = {
        "backend": ranks.backend, "ranks": ranks.size, "experts": n_experts, "active": k, "tokens": tokens,
        "hidden": hidden, "width": width,
    }  # fmt: skip
    with torch.inference_mode():
        return sample_of("expert-parallel layer", setup, "s", ranks.time(layer, 5), best=min)


def fit_links(samples: Sequence[Sample]) -> list[Link]:
    """Latency and bandwidth of every kind. Bytes of an all-reduce count as 2 (n - 1) / n, of an all-to-all
    as (n - 1) / n: what crosses the link of one rank (ring; Gloo and NCCL)."""
    kinds: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        if sample.name == "communication":
            ranks = float(sample.setup["ranks"])
            share = (ranks - 1) / ranks
            kind = str(sample.setup["kind"])
            factor = {"all-reduce": 2 * share, "all-to-all": share}.get(kind, 1.0)
            kinds.setdefault(kind, []).append((float(sample.setup["bytes"]) * factor, sample.median))
    return [_line(kind, points) for kind, points in kinds.items() if len(points) >= 2]


def _line(kind: str, points: list[tuple[float, float]]) -> Link:
    """Least squares of relative errors: minimise sum ((a + b x) / t - 1)^2."""
    w = [1.0 / t for _, t in points]
    saa = sum(v * v for v in w)
    sab = sum(v * v * x for v, (x, _) in zip(w, points, strict=True))
    sbb = sum((v * x) ** 2 for v, (x, _) in zip(w, points, strict=True))
    sa, sb = sum(w), sum(v * x for v, (x, _) in zip(w, points, strict=True))
    det = saa * sbb - sab * sab
    slope = (saa * sb - sab * sa) / det if det else 0.0
    latency = (sa - sab * slope) / saa
    if slope <= 0 or latency <= 0:
        raise MeasurementError(f"{kind}: times do not grow with size; run again on quiet machines")
    return Link(kind, latency, 1.0 / slope, len(points))
