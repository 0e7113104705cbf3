"""Load logs, each document left out: rules of builds chosen on the others, scored on the one left out.

    python docs/memory_rules.py memory.csv

Nothing numeric is fitted to load logs, but which behaviour belongs to which build of an engine was read off
them: from when on llama.cpp's masks arrive in f16 and its quantised caches are rotated, whether it pipelines
and copies matrices to the GPU, and which of six traits ik_llama.cpp has. Here they are chosen again, by the
mean error of the compute and KV buffers on GPUs.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

from msgspec.structs import replace

import moeplan.api.validate_memory as scoring
from moeplan.api.resolve import Session
from moeplan.engines.traits import EngineTraits
from moeplan.readers.catalog import Catalog
from moeplan.readers.corpus_memory import MemoryRow, read_memory

Aged = Callable[[EngineTraits, MemoryRow], EngineTraits]
Errors = dict[str, tuple[str, float]]
"""Scored buffer -> (regime, predicted / measured)."""

MASKS = (
    "0000",
    "2024-09",
    "2025-01",
    "2025-05",
    "2025-07",
    "2025-09",
    "2025-11",
    "2026-01",
    "2026-03",
    "9999",
)
ROTATIONS = ("0000", "2025-09", "2026-01", "2026-03", "9999")
_CAP = 1.0  # a wrong placement should not choose the rules


def _dated(masks: str, rotations: str, copies: int, streams: int | None) -> Aged:
    def aged(engine: EngineTraits, row: MemoryRow) -> EngineTraits:
        engine = replace(engine, pipeline_copies=copies, stream_prefill_min_tokens=streams)
        if row.date and row.date < masks:
            engine = replace(engine, casts_mask=True, reserves_embeddings=False)
        if row.date and row.date < rotations:
            engine = replace(engine, rotates_quantised_cache=False, crops_late=frozenset())
        return engine

    return aged


def _with(fuses: bool, expands: bool, casts: bool, reserves: bool, scales: bool, window: str) -> Aged:
    changes = {
        "stream_scales_with_experts": scales,
        "window_cache": window,
        "fuses_up_gate": fuses,
        "expands_latent": expands,
        "casts_mask": casts,
        "reserves_embeddings": reserves,
    }
    return lambda engine, row: replace(engine, **changes)


# Where the other documents cannot tell, the first wins: for copies and offload what llama.cpp's source says
# (GGML_SCHED_MAX_COPIES, ggml_backend_cuda_device_offload_op).
CANDIDATES: dict[str, dict[tuple[object, ...], Aged]] = {
    "llama.cpp": {rule: _dated(*rule) for rule in product(MASKS, ROTATIONS, (4, 1), (32, None))},
    "ik_llama.cpp": {rule: _with(*rule) for rule in product(*[(False, True)] * 5, ("full", "padded"))},
}


def errors_of(rows: tuple[MemoryRow, ...], session: Session, aged: Aged) -> Errors:
    """Every buffer of ``rows`` with engines aged by ``aged``."""
    shipped, scoring.aged = scoring.aged, aged
    try:
        return {s.id: (s.regime, s.predicted / s.measured) for s in scoring.score_memory(rows, session)[0]}
    finally:
        scoring.aged = shipped


def loss(errors: Errors, ids: Iterable[str]) -> float:
    """Mean absolute log error of the GPUs' compute and KV buffers among ``ids``."""
    judged = ("compute/gpu", "kv/gpu")
    found = [abs(math.log(errors[i][1])) for i in ids if i in errors and errors[i][0] in judged]
    return round(sum(min(x, _CAP) for x in found) / max(1, len(found)), 9)


def left_out(
    rows: tuple[MemoryRow, ...], sources: dict[str, str], session: Session
) -> tuple[Errors, Counter[object]]:
    """Errors of every document under the rules that the others choose, and how often each rule was chosen."""
    result: Errors = {}
    chosen: Counter[object] = Counter()
    for engine, candidates in CANDIDATES.items():
        mine = tuple(row for row in rows if row.engine == engine)
        tried = {rule: errors_of(mine, session, aged) for rule, aged in candidates.items()}
        ids = list(next(iter(tried.values())))
        for document in sorted({sources[i.split(":")[0]] for i in ids}):
            others = [i for i in ids if sources[i.split(":")[0]] != document]
            rule = min(tried, key=lambda r: loss(tried[r], others))
            chosen[engine, rule] += 1
            result |= {i: e for i, e in tried[rule].items() if sources[i.split(":")[0]] == document}
    return result, chosen


def table(errors: Errors, grades: dict[str, str]) -> dict[str, str]:
    """Median and 90th percentile of the factor error by regime, grades A and B."""
    by: dict[str, list[float]] = defaultdict(list)
    for i, (regime, ratio) in errors.items():
        if grades[i.split(":")[0]] in ("A", "B"):
            by[regime].append(max(ratio, 1 / ratio) - 1)
    told = {}
    for regime, found in sorted(by.items()):
        found.sort()
        median, p90 = (found[min(len(found) - 1, int(share * len(found)))] for share in (0.5, 0.9))
        told[regime] = f"{len(found)} | {median:.2%} | {p90:.1%}"
    return told


def main(path: Path) -> None:
    """Print both tables: as shipped, and with documents left out."""
    import csv

    rows, session = read_memory(path), Session(Catalog())
    with path.open(newline="") as file:
        # A forum thread is one document wherever in it the log stands; a benchmark repository is one.
        documents = {
            r["id"]: re.sub(r" L\d+$|:.*\.ipynb$|:.*\.jsonl$", "", r["source"]) for r in csv.DictReader(file)
        }
    grades = {row.id: row.grade for row in rows}
    shipped = table(
        errors_of(tuple(r for r in rows if r.engine in CANDIDATES), session, scoring.aged), grades
    )
    errors, chosen = left_out(rows, documents, session)
    print("| buffer | rows | median | p90 | rows | median | p90, documents left out |")
    print("|---" * 7 + "|")
    for regime, told in table(errors, grades).items():
        print(f"| {regime} | {shipped[regime]} | {told} |")
    print()
    for (engine, rule), n in sorted(chosen.items(), key=str):
        print(f"- {engine} {rule}: chosen for {n} documents")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
