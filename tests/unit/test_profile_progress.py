"""Progress of `moeplan profile`: parts that follow each other are one whole."""

from __future__ import annotations

import pytest

from moeplan.api.profile import _LEAST_S, _LEAVING_S, _budget_s, _Part, _shown, time_left_s
from moeplan.api.profile_engine import _Runs
from moeplan.api.profile_request import ProfileRequest
from moeplan.measure.run import run_jobs


def test_percentages_never_go_back() -> None:
    jobs = [(name, 1.0, lambda s: []) for name in ("a", "b")]
    parts = [_Part(jobs, 1.0, 0.25), _Part(jobs, 1.0, 0.5), _Part(jobs, 1.0, 0.25)]
    seen: list[float] = []
    for part, shown in zip(parts, _shown(parts, lambda what, share: seen.append(share)), strict=True):
        run_jobs(part.jobs, 1.0, shown)
    # each job starts at its share of its part, each part where the one before ends
    assert seen == [0.0, 0.125, 0.25, 0.5, 0.75, 0.875]


def test_what_took_longer_than_its_share_leaves_less_for_the_others() -> None:
    parts = [_Part([], 1.0, 0.25), _Part([], 1.0, 0.5), _Part([], 1.0, 0.25)]
    assert _budget_s(parts, 12.0, 0.0) == 3.0
    # 12 - 6 s are left for shares of 0.5 and 0.25
    assert _budget_s(parts[1:], 12.0, 6.0) == 4.0
    assert _budget_s(parts[2:], 12.0, 10.0) == 2.0
    assert _budget_s(parts[2:], 12.0, 13.0) == 0.5, "late, it still gets a moment"


def test_a_file_that_was_named_takes_nothing_from_the_others() -> None:
    parts = [_Part([], 1.0, 0.4), _Part([], 3.0, 1.0, promised=False), _Part([], 1.0, 0.6)]
    assert _budget_s(parts, 10.0, 0.0) == 4.0
    assert _budget_s(parts[1:], 10.0, 4.0) == 10.0
    assert _budget_s(parts[2:], 10.0, 4.0) == 6.0


def test_what_was_promised_counts_from_the_command() -> None:
    request = ProfileRequest(mode="quick", age_s=0.4)
    assert time_left_s(request, 2.0) == pytest.approx(15.0 - 0.4 - 2.0 - _LEAVING_S)
    assert time_left_s(request, 60.0) == pytest.approx(_LEAST_S), "something is measured however late it is"


def test_runs_made_again_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # every run takes 0.5 s: of 1.2 s two; the third would end at 1.5. Late, one is made all the same
    for budget_s, expected in ((1.2, 2), (0.1, 1)):
        clock = [0.0]
        monkeypatch.setattr("time.perf_counter", lambda clock=clock: clock[0])
        runs = object.__new__(_Runs)
        runs.request = ProfileRequest(mode="quick")
        runs.prompts = {("slow", 1): [100.0], ("slow", 2): [100.0]}
        runs.took_s, runs.files = {("slow", 2): 0.5}, {"slow": None}  # type: ignore[dict-item] # not run

        def run(file: object, threads: int, clock: list[float] = clock) -> list[str]:
            clock[0] += 0.5
            return ["sample"]

        monkeypatch.setattr(runs, "_run", run)
        assert len(runs.again(2, budget_s)) == expected
