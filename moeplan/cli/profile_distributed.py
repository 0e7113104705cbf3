"""`torchrun ... -m moeplan profile --distributed`: links between ranks; the first rank prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeplan.api.profile_request import ProfileRequest


def measure_links(request: ProfileRequest, format: str, output: str | None) -> None:
    """Measure on every rank, print on rank 0."""
    from moeplan.api.profile_request import BUDGET_S
    from moeplan.cli.output import emit_json, emit_listing, note
    from moeplan.measure.distributed import Ranks, fit_links, measure_links

    ranks = Ranks()
    try:
        samples = measure_links(
            ranks, lambda what: note(what) if ranks.rank == 0 else None, BUDGET_S[request.mode]
        )
    finally:
        ranks.close()
    if ranks.rank != 0:
        return
    found: dict[str, Any] = {
        "schema": "moeplan/links@1",
        "backend": ranks.backend,
        "ranks": ranks.size,
        "links": [link._asdict() for link in fit_links(samples)],
        "samples": _plain(samples),
    }
    if format == "json":
        emit_json(found, output)
        return
    from moeplan.report.profile_links import links_listing

    emit_listing(lambda: links_listing(found), lambda: found, format, output)


def _plain(samples: list[Any]) -> Any:
    import msgspec

    return msgspec.to_builtins(samples)
