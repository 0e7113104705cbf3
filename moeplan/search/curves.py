"""One setting varied, the others as chosen: where speed and memory turn."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.domain.plan import Curve, CurvePoint
from moeplan.domain.workload import Placement, Workload
from moeplan.predict.capacity import with_context
from moeplan.predict.phases import decode_time, prefill_time
from moeplan.predict.placement import moe_layers, split
from moeplan.predict.problem import Problem
from moeplan.search.layout import Layout, several_gpus
from moeplan.search.overrides import n_cpu_moe
from moeplan.search.pricing import Table, exact_memory

CONTEXTS = tuple(2**k for k in range(10, 21))
BATCHES = tuple(2**k for k in range(11))
UBATCHES = (64, 128, 256, 512, 1024, 2048, 4096)


def curves(problem: Problem, placement: Placement, max_vram_bytes: int | None) -> tuple[Curve, ...]:
    """The curves that exist for this choice: experts or layers on the CPU, context, batch, micro-batch."""
    found = []
    engine, hardware = problem.engine, problem.hardware
    hybrid = bool(hardware.gpus) and not hardware.unified and "layers" in engine.splits
    experts = hybrid and bool(moe_layers(problem.graph.spec)) and "experts" in engine.splits
    if experts:
        found.append(_cpu_moe(problem, placement, max_vram_bytes))
    if hybrid and (not experts or placement.kind == "layers"):
        found.append(_gpu_layers(problem, placement, max_vram_bytes))
    found.append(_context(problem, placement, max_vram_bytes))
    found.append(_batch(problem, placement, max_vram_bytes))
    if engine.gguf:
        found.append(_ubatch(problem, placement, max_vram_bytes))
    return tuple(found)


def _cpu_moe(problem: Problem, placement: Placement, most: int | None) -> Curve:
    n_layers, n_moe = problem.graph.spec.n_layers, len(moe_layers(problem.graph.spec))
    first_ones = n_cpu_moe(problem.graph, placement) is not None
    if len(problem.hardware.gpus) == 2:
        placements = _over_two(problem, most)
    else:
        placements = [
            split(problem.graph, problem.hardware, problem.engine, n_layers + 1, n) for n in range(n_moe + 1)
        ]
    points = tuple(_point(n, problem, p, most) for n, p in enumerate(placements))
    return Curve(
        name="cpu_moe",
        points=points,
        chosen=placement.cpu_moe if placement.gpu_layers > n_layers and first_ones else None,
        knee=next((p.x for p in points if p.fits), None),
        why="the fewest that let the rest fit; each one more costs speed",
    )


def _over_two(problem: Problem, most: int | None) -> list[Placement]:
    """Experts of the first MoE layers in RAM, of none to of all: each with the fastest split over two GPUs,
    or where none fits with the one that lacks the fewest bytes."""
    table, n = Table(problem, most), problem.graph.spec.n_layers

    def rank(layout: Layout) -> tuple[float, ...]:
        need = table.need(layout)
        over = sum(max(0.0, a - b) for a, b in zip(need, table.capacity_bytes, strict=True))
        return (1.0, over) if over else (0.0, *table.seconds(layout))

    found = []
    for until in (0, *(i + 1 for i in moe_layers(problem.graph.spec))):
        layouts = (
            several_gpus(n, 0, (end, n), (min(until, end), max(0, until - end))) for end in range(n, -1, -1)
        )
        found.append(table.placement(min(layouts, key=rank)))
    return found


def _gpu_layers(problem: Problem, placement: Placement, most: int | None) -> Curve:
    n_layers = problem.graph.spec.n_layers
    points = tuple(
        _point(n, problem, split(problem.graph, problem.hardware, problem.engine, n, 0), most)
        for n in range(n_layers + 2)
    )
    return Curve(
        name="gpu_layers",
        points=points,
        chosen=placement.gpu_layers,
        knee=max((p.x for p in points if p.fits), default=None),
        why="the most that fit; each one less costs speed",
    )


def _context(problem: Problem, placement: Placement, most: int | None) -> Curve:
    limit, chosen = problem.graph.spec.context_tokens, problem.workload.context_tokens
    points = []
    for tokens in sorted({*(c for c in CONTEXTS if c <= limit), chosen, limit}):
        trial = problem._replace(workload=filled(problem, tokens))
        points.append(_point(tokens, trial, placement, most))
    points = _until_full(points)
    return Curve(
        name="context",
        points=tuple(points),
        chosen=chosen,
        knee=max((p.x for p in points if p.fits), default=None),
        why="the longest of these that fits with this placement; speed is that of a full context",
    )


def filled(problem: Problem, tokens: int) -> Workload:
    """The workload at a context of ``tokens``, decoding at its end: what a long conversation feels."""
    from msgspec.structs import replace

    work = with_context(problem.workload, tokens)
    depth = max(0, tokens - work.prompt_tokens - work.output_tokens)
    return replace(work, depth_tokens=depth)


def _batch(problem: Problem, placement: Placement, most: int | None) -> Curve:
    from msgspec.structs import replace

    points = _until_full(
        [
            _point(n, problem._replace(workload=replace(problem.workload, n_sequences=n)), placement, most)
            for n in sorted({*BATCHES, problem.workload.n_sequences})
        ]
    )
    return Curve(
        name="batch",
        points=tuple(points),
        chosen=problem.workload.n_sequences,
        knee=elbow([(p.x, p.decode_tokens_per_s or 0.0) for p in points if p.fits]),
        why="where one more sequence starts to bring less than it did on average",
    )


def _ubatch(problem: Problem, placement: Placement, most: int | None) -> Curve:
    from msgspec.structs import replace

    points = []
    for n in sorted({*UBATCHES, problem.workload.ubatch_tokens}):
        work = replace(problem.workload, ubatch_tokens=n, batch_tokens=max(n, 2048))
        points.append(_point(n, problem._replace(workload=work), placement, most))
    points = _until_full(points)
    return Curve(
        name="ubatch",
        points=tuple(points),
        chosen=problem.workload.ubatch_tokens,
        knee=elbow([(p.x, p.prefill_tokens_per_s or 0.0) for p in points if p.fits]),
        why="where more stops speeding up the prompt in proportion",
    )


def _until_full(points: list[CurvePoint]) -> list[CurvePoint]:
    """``points`` up to the first that does not fit: those behind it say nothing new."""
    end = next((i for i, point in enumerate(points) if not point.fits), len(points))
    return points[: end + 1]


def elbow(points: Sequence[tuple[float, float]]) -> int | None:
    """The x farthest above the straight line from the first to the last point; None below three points.

    Reference: Satopaa et al., "Finding a kneedle in a haystack", 2011, without smoothing.

    >>> elbow([(1, 10.0), (2, 18.0), (4, 20.0), (8, 21.0)])
    2
    """
    if len(points) < 3:
        return None
    (x0, y0), (x1, y1) = points[0], points[-1]
    if x1 == x0 or y1 <= y0:
        return None
    above = [((y - y0) / (y1 - y0) - (x - x0) / (x1 - x0), x) for x, y in points[1:-1]]
    height, x = max(above)
    return int(x) if height > 0.0 else None


def _point(x: int, problem: Problem, placement: Placement, most: int | None) -> CurvePoint:
    memory = exact_memory(problem, placement)
    gpus = [d.total_bytes for d in memory.devices if d.device.startswith("gpu")]
    vram = max(gpus, default=0)
    fits = memory.fits and (most is None or vram <= most)
    if not fits:
        return CurvePoint(
            x=x, fits=False, decode_tokens_per_s=None, prefill_tokens_per_s=None, ttft_s=None, vram_bytes=vram
        )
    args = (problem.graph, problem.hardware, problem.workload, placement, problem.engine, problem.calibration)
    decode_s, prefill_s = decode_time(*args).seconds, prefill_time(*args).seconds
    work = problem.workload
    return CurvePoint(
        x=x,
        fits=True,
        decode_tokens_per_s=work.n_sequences / decode_s,
        prefill_tokens_per_s=work.prompt_tokens * work.n_sequences / prefill_s,
        ttft_s=prefill_s,
        vram_bytes=vram,
    )
