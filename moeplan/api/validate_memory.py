"""Score a memory corpus: every buffer that an engine logged against the one moeplan predicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from moeplan.api.resolve import Session
from moeplan.api.validate import Skipped
from moeplan.domain.result import DeviceMemory, MemoryReport
from moeplan.domain.workload import Placement
from moeplan.errors import MoeplanError
from moeplan.memory.report import memory_by_tier, twice_held_bytes
from moeplan.predict.choice import choose_placement
from moeplan.predict.problem import Problem
from moeplan.readers.corpus_memory import MemoryRow
from moeplan.validate.memory import aged, buffers_of, check_size, request_of, split_unknown
from moeplan.validate.score import Scored


def score_memory(rows: Iterable[MemoryRow], session: Session) -> tuple[list[Scored], list[Skipped]]:
    """One scored row for each stated buffer, with id ``ID:buffer``; what cannot be predicted, with why."""
    loads: dict[str, list[MemoryRow]] = defaultdict(list)
    for row in rows:
        loads[row.setup].append(row)
    scored: list[Scored] = []
    skipped: list[Skipped] = []
    for load in loads.values():
        try:
            report, embedding_bytes, guessed = predict_load(load, session)
        except MoeplanError as error:
            skipped += [Skipped(row.id, str(error)) for row in load]
            continue
        unknown = guessed or split_unknown(load, report.devices)
        apart = {row.device_kind for row in load if row.model_mib} >= {"host", "cpu"}
        pinned = embedding_bytes if apart else None
        for row in load:
            try:
                found = _scored(row, report, pinned)
            except MoeplanError as error:
                skipped.append(Skipped(row.id, str(error)))
                continue
            weights = [s for s in found if unknown and s.id.endswith((":model", ":total"))]
            scored += [s for s in found if s not in weights]
            skipped += [Skipped(s.id, "which tensors each device holds is not stated") for s in weights]
    return scored, skipped


def predict_load(load: Sequence[MemoryRow], session: Session) -> tuple[MemoryReport, int, bool]:
    """(memory of every device of one load, the input embedding's bytes, whether the split is a guess).

    Raises a MoeplanError.
    """
    from msgspec.structs import replace

    request = request_of(load)
    problem = session.problem(request, [], measured=True)
    work = replace(problem.workload, engine_date=load[0].date)
    problem = problem._replace(engine=aged(problem.engine, load[0]), workload=work)
    check_size(load[0], problem.graph.weights_bytes)
    cpu_moe = request.cpu_moe
    # What GPUs cannot hold was moved by overrides that are not stated: experts are what people move.
    guessed = cpu_moe is None and request.placement is None and not _holds_all(problem)
    if guessed and problem.graph.spec.is_moe:
        cpu_moe = "all"
    placement = place(problem, request.gpu_layers, cpu_moe, request.placement)
    if placement.kind == "unified":
        # One memory, yet logged apart: the input embedding is in the host's buffer.
        placement = replace(placement, embedding_tier="ram")
    graph = problem.graph
    rows = memory_by_tier(graph, problem.hardware, problem.workload, placement, problem.engine)
    devices = tuple(_as_logged(row, twice_held_bytes(graph, placement, row.device)) for row in rows)
    return MemoryReport(devices=devices), graph.embedding_bytes, guessed


def _as_logged(device: DeviceMemory, copy_bytes: int) -> DeviceMemory:
    """``device`` with the copy of a tied embedding among its weights, where logs count it."""
    from msgspec.structs import replace

    weights, overhead = device.weights_bytes + copy_bytes, device.overhead_bytes - copy_bytes
    return replace(device, weights_bytes=weights, overhead_bytes=overhead)


def place(
    problem: Problem, gpu_layers: int | str | None, cpu_moe: int | str | None, kind: str | None
) -> Placement:
    """The placement of the log: everything on the GPUs unless it says otherwise."""
    if kind is None and gpu_layers is None and cpu_moe is None:
        gpu_layers = "all"
    return choose_placement(problem, kind=kind, gpu_layers=gpu_layers, cpu_moe=cpu_moe)


def _holds_all(problem: Problem) -> bool:
    room = sum(gpu.memory_bytes for gpu in problem.hardware.gpus)
    return problem.graph.weights_bytes <= room


def _scored(row: MemoryRow, report: MemoryReport, pinned_bytes: int | None) -> list[Scored]:
    device = "host" if row.device_kind in ("host", "cpu") else "gpu"
    return [
        Scored(
            id=f"{row.id}:{name}",
            setup=f"{row.setup}:{row.device_kind}:{name}",
            source_family=row.source_family,
            regime=f"{name}/{device}",
            about=f"{row.model} {row.quant}, {row.engine}, {row.device_kind}",
            measured=logged,
            predicted=max(predicted, 1 / 1024),
            low=predicted,
            high=predicted,
        )
        for name, (logged, predicted) in buffers_of(row, report.devices, pinned_bytes).items()
    ]
