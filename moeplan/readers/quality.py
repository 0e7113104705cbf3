"""configs/quality.yaml: published benchmark scores, each with its source."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from moeplan.domain.comparison import Score
from moeplan.provenance import Source, SourceKind
from moeplan.readers.paths import shipped_configs, user_configs
from moeplan.readers.yaml_convert import convert
from moeplan.readers.yaml_doc import Document, load_document

FILE_NAME = "quality.yaml"


class SourceWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Provenance as written in YAML."""

    kind: SourceKind
    ref: Annotated[str, Meta(min_length=3)]
    retrieved: str = ""
    note: str = ""


class RowWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Scores of one model in one variant from one source."""

    model: Annotated[str, Meta(min_length=1)]
    variant: Annotated[str, Meta(min_length=1)]
    source: str
    checked: Literal["re-read", "quoted", "recalled"]
    scores: dict[str, Annotated[float, Meta(ge=0, le=100)]]
    note: str = ""


class QualityWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    metrics: dict[str, str]
    sources: dict[str, SourceWire]
    rows: list[RowWire]


def read_quality(models: Iterable[str], configs: Path | None = None) -> dict[str, tuple[Score, ...]]:
    """Model id -> its scores, for ``models`` alone; from ``configs``, and the user's own file behind it.

    In the order of the file's ``metrics``, then of its rows. Raises SpecError with the place of a mistake.
    """
    wanted = set(models)
    found = _scores(load_document((configs or shipped_configs()) / FILE_NAME), wanted)
    own = user_configs() / FILE_NAME
    if own.is_file():
        for model, scores in _scores(load_document(own), wanted).items():
            found[model] = found.get(model, ()) + scores
    return found


def _scores(document: Document, wanted: set[str]) -> dict[str, tuple[Score, ...]]:
    wire = convert(document, QualityWire)
    found: dict[str, list[tuple[int, Score]]] = {}
    rank = {metric: i for i, metric in enumerate(wire.metrics)}
    for i, row in enumerate(wire.rows):
        if row.source not in wire.sources:
            raise document.error(
                f"no source `{row.source}` under `sources`", ("rows", i, "source"), value=True
            )
        for metric in row.scores:
            if metric not in rank:
                raise document.error(f"no metric `{metric}` under `metrics`", ("rows", i, "scores", metric))
        if row.model in wanted:
            found.setdefault(row.model, []).extend(_row_scores(row, wire, rank))
    return {
        model: tuple(score for _, score in sorted(ranked, key=lambda item: item[0]))
        for model, ranked in found.items()
    }


def _row_scores(row: RowWire, wire: QualityWire, rank: dict[str, int]) -> list[tuple[int, Score]]:
    stated = wire.sources[row.source]
    source = Source(stated.kind, stated.ref, stated.retrieved, stated.note)
    return [
        (
            rank[metric],
            Score(
                metric=wire.metrics[metric],
                value=value,
                variant=row.variant,
                source=source,
                checked=row.checked,
                note=row.note,
            ),
        )
        for metric, value in row.scores.items()
    ]
