"""Score any corpus file: which kind it is, every row beside its prediction, summaries, limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moeplan.api.resolve import Session
from moeplan.api.validate import Skipped, score_speed
from moeplan.domain.value import Value
from moeplan.errors import NotModelled, SpecError
from moeplan.readers.catalog import Catalog
from moeplan.readers.corpus import read_serving, read_speed
from moeplan.readers.csv_rows import columns, lines, unlike_any
from moeplan.validate.score import Scored, Summary, regroup, summarise

KINDS = ("speed", "serving", "memory", "training", "finetune")
# The columns that tell one kind of corpus from another.
_MARKS = (
    ("serving", {"metric", "concurrency"}),
    ("memory", {"device_kind", "n_ctx"}),
    ("finetune", {"trainable_params"}),
    ("training", {"mfu"}),
    ("speed", {"phase", "placement"}),
)


class Validation(Value):
    """What `moeplan validate` found."""

    kind: str
    level: float
    calibration: str
    rows: tuple[Scored, ...]
    skipped: tuple[Skipped, ...]
    summary: tuple[Summary, ...]

    @property
    def ranged(self) -> bool:
        """Whether predictions of this kind come with a range."""
        return self.kind != "memory"


def run_validation(
    path: Path,
    catalog: Catalog,
    *,
    kind: str | None = None,
    by: Sequence[str] = (),
    level: float = 0.8,
    calibration: str | None = None,
) -> Validation:
    """Every row of ``path`` beside its prediction. Raises SpecError, or NotModelled for a kind not built."""
    if not 0 < level < 1:
        raise SpecError(f"--level must lie between 0 and 1, got {level}")
    session = Session(catalog, calibration)
    found = kind or _kind_of(path)
    if found in ("speed", "serving"):
        rows, skipped = _score_speeds(path, found, session, level)
    elif found == "memory":
        from moeplan.api.validate_memory import score_memory
        from moeplan.readers.corpus_memory import read_memory

        rows, skipped = score_memory(read_memory(path), session)
    else:
        raise NotModelled(f"{found} corpora", "no prediction is built for them yet")
    if by:
        rows = regroup(rows, _keys(path, by))
    return Validation(
        kind=found,
        level=level,
        calibration=session.calibration.id,
        rows=tuple(rows),
        skipped=tuple(skipped),
        summary=summarise(rows),
    )


def _score_speeds(
    path: Path, kind: str, session: Session, level: float
) -> tuple[list[Scored], list[Skipped]]:
    """Flagged rows and metrics that are not the speed of a step are listed as skipped."""
    every = read_speed(path) if kind == "speed" else read_serving(path)
    flagged = [Skipped(row.id, "flagged by its collector (grade C)") for row in every if row.grade == "C"]
    rows, skipped = score_speed([row for row in every if row.grade != "C"], session, level)
    if kind == "serving":
        known = {row.id for row in every}
        skipped += [
            Skipped(id, f"{metric}: throughput or waiting under load is not a speed of one step")
            for id, metric in _ids(path, "metric")
            if id not in known
        ]
    return rows, flagged + skipped


def _kind_of(path: Path) -> str:
    names = columns(path)
    for kind, marks in _MARKS:
        if marks <= set(names):
            return kind
    raise unlike_any(path, names)


def _ids(path: Path, column: str) -> list[tuple[str, str]]:
    return [(row["id"], row.get(column) or "") for row, _ in lines(path, (column,))]


def _keys(path: Path, by: Sequence[str]) -> dict[str, str]:
    """Row id -> its values in the columns ``by``, joined by slashes."""
    known = columns(path)
    for name in by:
        if name not in known:
            raise SpecError(f"--by: the corpus has no column {name!r}", path=str(path), line=1)
    rows = lines(path, ())
    return {row["id"]: "/".join(row.get(name) or "-" for name in by) for row, _ in rows}
