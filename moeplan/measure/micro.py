"""Micro-benchmarks of one device: bandwidth, arithmetic, attention, latencies, copies, experts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from moeplan.domain.profile import Sample
from moeplan.measure.device import Device
from moeplan.measure.linear import linear_kernel
from moeplan.measure.pages import large_pages
from moeplan.measure.timing import Span, rate_sample, repeat, time_sample
from moeplan.units import GIB, MIB

# Past the caches: sixteen times the last-level cache that the system shows (of a smaller buffer a part stays
# in it: 256 MiB beside 32 MiB read 14% too fast), within what takes a fraction of a second to fill.
_CACHE_MULTIPLE, _MIN_READ_BYTES, _MAX_READ_BYTES = 16, 512 * MIB, 2 * GIB
# Enough that matrices met in turn do not stay in a cache.
_MIN_BUFFER_BYTES = 256 * MIB
# Read in one repeat: a few milliseconds, many times what it takes to start and to read the clock.
_TURN_BYTES = 64 * MIB
_TOKENS = 8
"""Whose experts are read in one repeat."""
# Of a decode step in which one to many sequences run, of the experts of a prompt, and of a prompt.
_ROWS = (1, 2, 4, 8, 16, 32, 128, 512)
# Of square products on a CPU.
_SIZES = (512, 1024, 2048)
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

Job = Callable[[float], list[Sample]]
"""Takes its share of the time in seconds, returns what it measured."""


def thread_counts(n: int) -> tuple[int, ...]:
    """1, 2, 4 ... and all: what the bandwidth curve is measured at."""
    counts = {1 << i for i in range(n.bit_length())} | {n}
    return tuple(sorted(count for count in counts if 1 <= count <= n))


def jobs(device: Device, n_threads: int, *, quick: bool = False) -> Iterator[tuple[str, float, Job]]:
    """(what, weight in time, job) of the micro-benchmarks that predictions need."""
    counts = _counts(device, n_threads)
    # large pages tell what the memory itself gives; predictions take what an engine was seen to read
    yield "read bandwidth", float(len(counts)), _reading(device, counts, large=not quick)
    for threads in sorted({counts[0], counts[-1]}):
        work = partial(gemm, sizes=_SIZES[:2]) if device.is_cpu and quick else gemm
        yield f"matrix products{_of(threads)}", 1.0 if quick else 1.5, _bound(work, device, threads)
    yield "matrix times few and many rows", 1.5, _bound(few_rows, device, counts[-1])
    yield "attention", 0.5, _bound(attention, device, counts[-1])


def more_jobs(device: Device, n_threads: int, *, quick: bool = False) -> Iterator[tuple[str, float, Job]]:
    """The others: what predictions do without, in a quick run or on a machine that others keep busy."""
    if quick:
        return
    counts = _counts(device, n_threads)
    ends = sorted({counts[0], counts[-1]})
    # once more: memory that others kept busy the first time may be free now, and other pages are
    yield "read bandwidth again", 0.5 * len(ends), _reading(device, ends, large=True)
    for threads in ends:
        yield f"matrix times one row{_of(threads)}", 0.8, _bound(gemv, device, threads)
    yield "experts", 0.6, _bound(experts, device, counts[-1])
    yield "latencies", 0.2, _bound(latencies, device, counts[-1])
    yield "copies", 0.4, _bound(copies, device, counts[-1])


def _reading(device: Device, counts: Sequence[int], *, large: bool) -> Job:
    return lambda budget_s: read_bandwidth(device, counts, budget_s, large=large)


def _counts(device: Device, n_threads: int) -> tuple[int, ...]:
    return thread_counts(n_threads) if device.is_cpu else (0,)


def _of(threads: int) -> str:
    return f", {threads} thread{'s' if threads > 1 else ''}" if threads else ""


def _bound(work: Callable[[Device, int, float], list[Sample]], device: Device, threads: int) -> Job:
    def job(budget_s: float) -> list[Sample]:
        with torch_threads(device.torch, threads), device.torch.inference_mode():
            return work(device, threads, budget_s)

    return job


@contextmanager
def torch_threads(torch: Any, threads: int) -> Iterator[None]:
    """Run with ``threads`` CPU threads (0: as it is), and put the number back."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _setup(device: Device, threads: int, **more: str | int | float) -> dict[str, str | int | float]:
    where: dict[str, str | int | float] = {"device": device.name}
    if threads:
        where["threads"] = threads
    return where | more


def read_bandwidth(
    device: Device, counts: Sequence[int], budget_s: float, *, large: bool = True
) -> list[Sample]:
    """Bytes per second of summing a buffer past the caches from one end to the other, as STREAM reads.

    On a CPU with each of ``counts`` threads, on pages as an allocation gets them and, if asked, on ``large``
    ones (see ``large_pages``). On an accelerator the quicker of two reductions counts.
    """
    torch, n_bytes = device.torch, read_bytes(device)
    if device.is_cpu:
        return _read_ram(device, counts, n_bytes, budget_s, large=large)
    words = torch.ones(n_bytes // 8, dtype=torch.int64, device=device.name)
    kernels = {"sum of int64": words.sum, "max of fp32": words.view(torch.float32).amax}
    setup = _setup(device, 0, bytes=n_bytes)
    found = []
    for kernel, work in kernels.items():
        span = repeat(work, budget_s=budget_s / len(kernels), sync=device.sync)
        found.append(rate_sample("read bandwidth", setup | {"kernel": kernel}, "B/s", n_bytes, span))
    return [max(found, key=lambda sample: sample.median)]


def read_bytes(device: Device) -> int:
    """Size of a buffer that bandwidth is read from."""
    n_bytes = max(_MIN_READ_BYTES, min(_MAX_READ_BYTES, _CACHE_MULTIPLE * last_cache_bytes()))
    return min(n_bytes, device.budget_bytes // 2) // 4096 * 4096


def _read_ram(
    device: Device, counts: Sequence[int], n_bytes: int, budget_s: float, *, large: bool
) -> list[Sample]:
    torch, found = device.torch, list[Sample]()
    each_s = budget_s / ((1 + large) * len(counts))

    def read(words: Any, more: dict[str, str]) -> None:
        for threads in counts:
            with torch_threads(torch, threads):
                span = repeat(words.sum, budget_s=each_s)
            setup = _setup(device, threads, bytes=n_bytes, kernel="sum of int64", **more)
            found.append(rate_sample("read bandwidth", setup, "B/s", n_bytes, span))

    read(torch.ones(n_bytes // 8, dtype=torch.int64), {})
    buffer = large_pages(n_bytes) if large else None
    if buffer is not None:
        read(torch.frombuffer(buffer, dtype=torch.int64), {"pages": "large"})
    return found


def gemm(device: Device, threads: int, budget_s: float, sizes: tuple[int, ...] | None = None) -> list[Sample]:
    """FLOP/s of square products by dtype and size."""
    torch, found = device.torch, []
    sizes = sizes or (_SIZES if device.is_cpu else (1024, 4096, 8192))
    cases = [(dtype, size) for dtype in _DTYPE_BYTES for size in sizes if _is_worth_it(device, dtype, size)]
    for dtype, size in cases:
        kind = getattr(torch, dtype)
        try:
            a, b = (torch.randn(size, size, device=device.name).to(kind) for _ in range(2))
            span = repeat(
                partial(torch.matmul, a, b), budget_s=budget_s / len(cases), sync=device.sync, max_n=50
            )
        except RuntimeError:  # a dtype that this device does not compute in
            continue
        setup = _setup(device, threads, dtype=dtype, size=size)
        found.append(rate_sample("matrix product", setup, "FLOP/s", 2.0 * size**3, span))
    return found


def _is_worth_it(device: Device, dtype: str, size: int) -> bool:
    """A CPU without half-precision units needs a second for one larger product: one small size tells."""
    return not device.is_cpu or dtype == "float32" or (dtype == "bfloat16" and size == 512)


def gemv(device: Device, threads: int, budget_s: float) -> list[Sample]:
    """Bytes per second of weights when one row meets many matrices in turn (none stays in a cache)."""
    torch, linear, found = device.torch, linear_kernel(), []
    cases = [(dtype, rows) for dtype in ("float32", "bfloat16") for rows in (512, 2048, 8192)]
    for dtype, rows in cases:
        columns, width = 2048, _DTYPE_BYTES[dtype]
        held = min(_MIN_BUFFER_BYTES, device.budget_bytes // 4)
        n = max(2, held // (rows * columns * width))
        weights = torch.empty(n, rows, columns, dtype=getattr(torch, dtype), device=device.name).fill_(0.01)
        x = torch.ones(1, columns, dtype=weights.dtype, device=device.name)
        each = max(1, _TURN_BYTES // (rows * columns * width))
        turns = cycle([partial(_all_of, linear, x, group) for group in weights.split(each)])
        span = repeat(partial(_take_turn, turns), budget_s=budget_s / len(cases), sync=device.sync)
        setup = _setup(device, threads, dtype=dtype, rows=rows, columns=columns)
        found.append(rate_sample("matrix times row", setup, "B/s", weights[:each].numel() * width, span))
    return found


def _take_turn(turns: Iterator[Callable[[], None]]) -> None:
    next(turns)()


def _all_of(linear: Callable[[Any, Any], Any], x: Any, weights: Any) -> None:
    for weight in weights:
        linear(x, weight)


def few_rows(device: Device, threads: int, budget_s: float) -> list[Sample]:
    """Seconds of a matrix that meets 1, 2, 4 ... rows: what waits for memory, what for arithmetic."""
    torch, linear, found = device.torch, linear_kernel(), []
    size = 2048
    n = max(2, min(_MIN_BUFFER_BYTES, device.budget_bytes // 4) // (size * size * 4))
    weights = torch.empty(n, size, size, device=device.name).fill_(0.01)
    for n_rows in _ROWS:
        x = torch.ones(n_rows, size, device=device.name)
        turns = cycle([partial(_all_of, linear, x, pair) for pair in weights.split(2)])
        span = repeat(partial(_take_turn, turns), budget_s=budget_s / len(_ROWS), sync=device.sync)
        each = Span(tuple(s / 2 for s in span.seconds), span.foreign_cores)
        setup = _setup(device, threads, dtype="float32", rows=n_rows, elements=size * size)
        found.append(time_sample("matrix times rows", setup, each))
    return found


def attention(device: Device, threads: int, budget_s: float) -> list[Sample]:
    """Scaled dot-product attention: FLOP/s over a prompt, bytes of cache per second in decode."""
    torch, found = device.torch, []
    attend = torch.nn.functional.scaled_dot_product_attention
    heads, head_dim = 16, 128
    for rows, depth in ((512, 512), (1, 2048), (1, 8192)):
        q = torch.randn(1, heads, rows, head_dim, device=device.name)
        k, v = (torch.randn(1, heads, depth, head_dim, device=device.name) for _ in range(2))
        span = repeat(
            partial(attend, q, k, v, is_causal=rows > 1),
            budget_s=budget_s / 3,
            sync=device.sync,
        )
        setup = _setup(device, threads, dtype="float32", rows=rows, depth=depth, heads=heads)
        if rows > 1:  # causal: half of the square
            flop = 2.0 * 2.0 * heads * head_dim * rows * depth / 2
            found.append(rate_sample("attention, prompt", setup, "FLOP/s", flop, span))
        else:
            n_bytes = 2.0 * heads * depth * head_dim * 4
            found.append(rate_sample("attention, decode", setup, "B/s", n_bytes, span))
    return found


def experts(device: Device, threads: int, budget_s: float) -> list[Sample]:
    """Bytes per second of one row through k random experts out of N, of equal active size each time."""
    torch, linear, found = device.torch, linear_kernel(), []
    hidden, k = 1024, 4
    for n_experts in (8, 32, 128):
        width = 512
        if n_experts * width * hidden * 4 > device.budget_bytes // 2:
            continue
        weights = torch.empty(n_experts, width, hidden, device=device.name).fill_(0.01)
        x = torch.ones(1, hidden, device=device.name)
        picks = torch.rand(64, n_experts).argsort(1)[:, :k].tolist()

        turns = cycle(
            [partial(_all_of, linear, x, [weights[e] for token in few for e in token])
             for few in (picks[i : i + _TOKENS] for i in range(0, len(picks), _TOKENS))]
        )  # fmt: skip
        span = repeat(partial(_take_turn, turns), budget_s=budget_s / 3, sync=device.sync)
        n_bytes = float(_TOKENS) * k * width * hidden * 4
        setup = _setup(device, threads, experts=n_experts, active=k)
        found.append(rate_sample("expert gather", setup, "B/s", n_bytes, span))
    return found


def latencies(device: Device, threads: int, budget_s: float) -> list[Sample]:
    """Seconds of one tiny operation, and of waiting for the device."""
    torch = device.torch
    one = torch.ones(1, device=device.name)
    launch = repeat(lambda: one.add_(1), budget_s=budget_s / 2)
    device.sync()
    found = [time_sample("launch latency", _setup(device, threads), launch)]
    if not device.is_cpu:
        both = repeat(lambda: one.add_(1), budget_s=budget_s / 2, sync=device.sync)
        found.append(time_sample("launch and sync latency", _setup(device, threads), both))
    return found


def copies(device: Device, threads: int, budget_s: float) -> list[Sample]:
    """Bytes per second of copies: within RAM, or between host and device both ways, under compute too."""
    torch = device.torch
    n_bytes = min(_MIN_BUFFER_BYTES, device.budget_bytes // 4)
    host = torch.ones(n_bytes, dtype=torch.uint8)
    if device.is_cpu:
        target = torch.empty_like(host)
        span = repeat(lambda: target.copy_(host), budget_s=budget_s)
        return [rate_sample("copy", _setup(device, threads, bytes=n_bytes), "B/s", n_bytes, span)]
    found, there = [], torch.ones(n_bytes, dtype=torch.uint8, device=device.name)
    for kind in ("pageable", "pinned"):
        source = host.pin_memory() if kind == "pinned" else host
        for way, target, origin in (("to device", there, source), ("to host", source, there)):
            span = repeat(
                partial(target.copy_, origin, non_blocking=True),
                budget_s=budget_s / 8,
                sync=device.sync,
            )
            found.append(_copy_sample(device, way, kind, n_bytes, span))
    return found + _copies_beside(device, host.pin_memory(), there, budget_s / 4) + _peers(device, there)


def _copies_beside(device: Device, source: Any, there: Any, budget_s: float) -> list[Sample]:
    """A pinned copy while the device multiplies on another stream."""
    torch = device.torch
    if not hasattr(torch, "Stream"):
        return []
    a = torch.randn(4096, 4096, device=device.name)
    stream = torch.Stream(device.name)

    def work() -> None:
        with stream:
            a @ a
        there.copy_(source, non_blocking=True)

    span = repeat(work, budget_s=budget_s, sync=device.sync)
    return [_copy_sample(device, "to device", "pinned, beside a product", source.numel(), span)]


def _peers(device: Device, there: Any) -> list[Sample]:
    torch, found = device.torch, []
    for other in range(1, torch.accelerator.device_count()):
        target = torch.empty_like(there, device=f"{device.name}:{other}")
        span = repeat(partial(target.copy_, there, non_blocking=True), budget_s=0.5, sync=device.sync)
        found.append(_copy_sample(device, f"to peer {other}", "device", there.numel(), span))
    return found


def _copy_sample(device: Device, way: str, kind: str, n_bytes: int, span: Span) -> Sample:
    setup = _setup(device, 0, way=way, memory=kind, bytes=n_bytes)
    return rate_sample("copy", setup, "B/s", n_bytes, span)


def last_cache_bytes() -> int:
    """The largest cache of the first core (Linux), else 0."""
    from moeplan.hw.probe import folders, read

    sizes = [read(entry / "size") for entry in folders(Path("/sys/devices/system/cpu/cpu0/cache"), "index")]
    return max(
        (int(size[:-1]) * 1024 for size in sizes if size[:-1].isdigit() and size.endswith("K")), default=0
    )


def usable_threads() -> int:
    """Cores that this process may use; two hardware threads of a core read no faster than one."""
    from moeplan.hw.detect import detect

    machine = detect()
    return max(
        1, min(machine.cores, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 10**6)
    )
