"""Progress of `moeplan profile`: parts that follow each other are one whole."""

from __future__ import annotations

from moeplan.api.profile import _Part, _shown
from moeplan.measure.run import run_jobs


def test_percentages_never_go_back() -> None:
    jobs = [(name, 1.0, lambda s: []) for name in ("a", "b")]
    parts = [_Part(jobs, 1.0, 0.25), _Part(jobs, 1.0, 0.5), _Part(jobs, 1.0, 0.25)]
    seen: list[float] = []
    for part, shown in zip(parts, _shown(parts, lambda what, share: seen.append(share)), strict=True):
        run_jobs(part.jobs, 1.0, shown)
    # each job starts at its share of its part, each part where the one before ends
    assert seen == [0.0, 0.125, 0.25, 0.5, 0.75, 0.875]
