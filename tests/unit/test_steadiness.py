"""Whether a machine was itself while it was measured, on looks at the canary as they were recorded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from msgspec.structs import replace

from moeplan.calibrate.overlay import overlay
from moeplan.calibrate.steadiness import compared, marked, slow_spells, slower_than, unsteady_log, widened
from moeplan.domain.calibration import Residuals
from moeplan.domain.profile import Sample
from moeplan.hw.pressure import Pressure, read_pressure, throttle_events
from moeplan.measure.canary import Watch
from moeplan.measure.looks import Look, reading_pace, speed, usual
from moeplan.measure.run import run_jobs
from moeplan.measure.timing import sample_of
from moeplan.provenance import Source
from moeplan.readers.calibration import read_calibration
from tests.unit.test_profile_host import calibration, engine_run, rate, target_of

RECORDED = json.loads((Path(__file__).parents[1] / "data/canary_looks.json").read_text())


def looks(name: str, first: int = 0, last: int | None = None, after_s: float = 0.0) -> list[Look]:
    """Those that were recorded, ``after_s`` later."""
    found = []
    for at, until, rates, waiting, stolen in RECORDED[name][first:last]:
        kinds = {(key.split()[0], int(key.split()[1])): value * 1e9 for key, value in rates.items()}
        found.append(Look(at + after_s, until + after_s, kinds, waiting, stolen))
    return found


QUIET = looks("alone", 0, 10)
"""Eight seconds in which nothing was slow."""
SPELL = looks("alone", 19, 22)
"""Three looks in which both cores together multiplied as fast as one."""


def test_a_quiet_run_says_nothing() -> None:
    assert slow_spells(QUIET, virtual=True) == ""
    # one hiccup is not a spell: 1 of 11
    assert slow_spells([*QUIET, SPELL[0]], virtual=True) == ""
    assert slow_spells([*QUIET[:2], SPELL[0]], virtual=True) == "", "nor is one of three"
    assert slow_spells([*QUIET, *SPELL[:2]], virtual=True) == "", "2 of 12: less than a quarter"


def test_a_slow_spell_that_nothing_here_explains_is_the_hosts() -> None:
    said = slow_spells([*QUIET[:7], *SPELL], virtual=True)
    # 3 of 10; 100.7 GFLOP/s beside the upper quarter of (161 196.8 190.1 180.2 183.2 180.8 173.1 100.7 104
    # 108.7): position 6.75 between 180.8 and 183.2, 182.6: 55%
    assert "slow in 3 of 10 looks" in said
    assert "a matrix product on 2 threads fell to 55%" in said
    assert "host of this virtual machine" in said and "run again" in said
    assert "heat or power" in slow_spells([*QUIET[:7], *SPELL], virtual=False)


def test_a_disturbed_run_names_the_other_programs() -> None:
    said = slow_spells([*QUIET, *looks("disturbed", after_s=8.0)], virtual=True)
    assert "other programs here wanted the same cores" in said
    assert "host" not in said


def test_time_that_the_host_takes_is_named() -> None:
    stolen = [look._replace(stolen_cores=0.4) for look in SPELL]
    assert "the host took 0.40 cores" in slow_spells([*QUIET[:7], *stolen], virtual=True)


def test_only_what_was_measured_beside_a_slow_look_is_marked() -> None:
    seen = [*QUIET[:7], *looks("alone", 19, 22)]  # the last begins at 15.9 s
    good, poor = rate("matrix product", 1e9, "FLOP/s", threads=2), rate("attention", 1e9, "B/s", threads=2)
    alone = rate("read bandwidth", 1e9, "B/s", threads=1)
    # between the looks at 1.5 and 3.0 s; across the one at 14.4 s; after the last
    one, other, third = marked([good, poor, alone], [(1.6, 2.9), (7.0, 15.1), (16.1, 17.0)], seen)
    assert one == good
    assert not other.stable and "slow meanwhile (55% of its usual speed)" in other.remedy
    # 108.7 GFLOP/s on both cores is slow, and a look says of one core what it says of all or of one: too
    assert not third.stable


def test_the_looks_just_before_and_just_after_count() -> None:
    work = rate("attention", 1.0, "B/s", threads=2)
    slow_first = [SPELL[0]._replace(at_s=-2.0, until_s=-1.0), *QUIET]
    slow_last = [*QUIET, SPELL[0]]  # the last good one ends at 6.8 s, the slow one begins at 14.4
    assert not marked([work], [(-0.5, -0.1)], slow_first)[0].stable
    assert marked([work], [(0.1, 0.7)], slow_first)[0].stable
    assert not marked([work], [(7.0, 14.0)], slow_last)[0].stable
    assert marked([work], [(6.1, 6.7)], slow_last)[0].stable


def test_looks_that_touch_a_job_are_its_neighbours_and_hide_those_beyond() -> None:
    """Slow, good, job, good, slow: with no time between them the good ones are beside the job."""
    good, slow = QUIET[0], SPELL[0]
    times = [(0.0, 1.0, slow), (1.0, 2.0, good), (3.0, 4.0, good), (4.0, 5.0, slow)]
    seen = [look._replace(at_s=at, until_s=until) for at, until, look in times]
    work = rate("attention", 1.0, "B/s", threads=2)
    assert marked([work], [(2.0, 3.0)], seen)[0].stable
    assert not marked([work], [(1.9, 3.0)], seen)[0].stable
    assert not marked([work], [(2.0, 3.1)], seen)[0].stable


def reading(*rates: float, product: float = 190.0, waiting: float = 0.0) -> list[Look]:
    """Looks of a second each, in which two threads read at ``rates`` and multiply at ``product``."""
    return [
        Look(i, i + 0.1, {("read", 1): 22.0, ("read", 2): r, ("product", 2): product}, waiting)
        for i, r in enumerate(rates)
    ]


def test_what_was_read_in_a_quick_moment_says_so() -> None:
    seen = reading(45.0, 44.0, 43.0, 31.0, 31.0, 30.0, 31.0, 32.0)  # the median: 31.5
    work = [rate("engine decode", 1.0, "tokens/s", threads=n) for n in (2, 2, 2, 1)]
    spans = [(0.2, 0.9), (2.2, 2.9), (4.2, 4.9), (0.2, 0.9)]
    # the slower of the looks at 0 and 1 s; one of a quick and a usual look is not quick; nor is one thread
    assert [s.pace for s in marked(work, spans, seen)] == pytest.approx([44.0 / 31.5, 1.0, 1.0, 1.0])
    assert reading_pace(seen, seen[:2], 16) == pytest.approx(44.0 / 31.5), "as of most threads"
    steady = reading(31.0, 33.0, 32.0, 34.0)  # 34 / 32.5: as looks differ
    assert reading_pace(steady, steady[3:], 2) == 1.0
    assert reading_pace([], [], 2) == 1.0


def test_moments_in_which_others_wanted_the_cores_are_not_the_usual_ones() -> None:
    free = reading(31.0, 32.0, 31.0)
    for others in (
        reading(16.0, 17.0, 16.0, 15.0, product=60.0),
        reading(16.0, 17.0, 16.0, 15.0, waiting=0.5),
    ):
        assert reading_pace([*others, *free], free, 2) == 1.0
    alone = reading(16.0, 17.0, 16.0, 15.0, waiting=0.5)
    assert reading_pace(alone, alone[1:2], 2) == 1.0, "no other looks: 17 / 16"


def test_work_on_all_threads_is_not_judged_by_one() -> None:
    good = usual(QUIET)
    slow_alone = QUIET[0]._replace(rates={**good, ("read", 1): good["read", 1] / 2})
    assert speed(slow_alone, good, 1) == pytest.approx(0.5)
    assert speed(slow_alone, good, 2) == pytest.approx(1.0)
    assert speed(slow_alone, good, 8) == pytest.approx(1.0), "more threads than the canary has"


# ── the watch ─────────────────────────────────────────────────────────────────────────────────────


class Clock:
    """A second, or ``step_s``, for each time that it is asked."""

    def __init__(self, step_s: float = 1.0) -> None:
        self.now, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


def test_jobs_wait_while_the_canary_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("moeplan.measure.canary.time.sleep", slept.append)
    monkeypatch.setattr("moeplan.measure.canary.read_pressure", lambda: Pressure(0.0, 0.0))
    rates = iter([10.0, 10.0, 4.0, 5.0, 10.0, 10.0])
    watch = Watch(lambda: {("read", 2): next(rates)}, Clock())
    for wanted in (0, 0, 2):  # good, good, slow twice and good again
        slept.clear()
        watch.settle(100.0)
        assert len(slept) == wanted
    assert [s.median for s in watch.samples() if s.name == "canary"] == [10.0]


def watched(
    monkeypatch: pytest.MonkeyPatch, waiting_s: float = 0.0, stolen_s: float = 0.0, step_s: float = 1.0
) -> Watch:
    """A watch whose looks take ``step_s``, in which so much is counted; nothing else slows them."""
    counted = [0]

    def pressure() -> Pressure:  # once at the start, then before and after each look
        counted[0] += 1
        done = (counted[0] - 1) // 2
        return Pressure(stolen_s * done, waiting_s * done)

    monkeypatch.setattr("moeplan.measure.canary.time.sleep", lambda seconds: None)
    monkeypatch.setattr("moeplan.measure.canary.read_pressure", pressure)
    return Watch(lambda: {("read", 2): 10.0}, Clock(step_s))


def test_a_look_counts_what_was_waited_and_taken_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watched(monkeypatch, waiting_s=0.5, stolen_s=0.8)
    first, second = watch.look(), watch.look()
    # the clock says 1 at the start, 2 and 3 around the first look, 4 and 5 around the second: waiting is a
    # share of the look's one second, what the host took a share of the two since the count before
    assert (first.at_s, first.until_s, second.at_s, second.until_s) == (2.0, 3.0, 4.0, 5.0)
    assert (first.waiting_frac, second.waiting_frac) == (0.5, 0.5)
    assert (first.stolen_cores, second.stolen_cores) == (0.4, 0.4)
    assert watched(monkeypatch, waiting_s=3.0).look().waiting_frac == 1.0, "counted late: not above all of it"
    assert watched(monkeypatch, stolen_s=-1.0).look().stolen_cores == 0.0, "a counter that was set back"


@pytest.mark.parametrize(("waiting_s", "n_looks"), [(0.0, 1), (0.24, 1), (0.25, 1), (0.26, 4), (0.9, 4)])
def test_others_on_the_cores_for_a_quarter_of_a_look_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, waiting_s: float, n_looks: int
) -> None:
    watch = watched(monkeypatch, waiting_s)
    # The question whether to go on comes 1, 4, 7 and 10 seconds after the first look: three times it may.
    watch.settle(10.0)
    assert len(watch.looks) == n_looks


@pytest.mark.parametrize(("rate", "n_looks"), [(7.6, 3), (7.5, 3), (7.4, 4)])
def test_work_below_three_quarters_of_its_speed_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, rate: float, n_looks: int
) -> None:
    monkeypatch.setattr("moeplan.measure.canary.time.sleep", lambda seconds: None)
    monkeypatch.setattr("moeplan.measure.canary.read_pressure", lambda: Pressure(0.0, 0.0))
    rates = iter([10.0, 10.0, rate, 10.0])
    watch = Watch(lambda: {("read", 2): next(rates)}, Clock())
    watch.look(), watch.look()
    watch.settle(100.0)  # the upper quartile of (10, 10, rate) is 10
    assert len(watch.looks) == n_looks


@pytest.mark.parametrize(("apart_s", "n_looks"), [(0.0, 1), (0.79, 1), (0.8, 2), (0.81, 2)])
def test_looks_are_most_of_a_second_apart(
    monkeypatch: pytest.MonkeyPatch, apart_s: float, n_looks: int
) -> None:
    monkeypatch.setattr("moeplan.measure.canary.read_pressure", lambda: Pressure(0.0, 0.0))
    now = [0.0]

    def canary() -> dict[tuple[str, int], float]:
        now[0] += 0.5
        return {("read", 2): 10.0}

    watch = Watch(canary, lambda: now[0])
    watch.settle(1.0)
    now[0] = 0.5 + apart_s
    watch.settle(1.0)
    assert len(watch.looks) == n_looks


@pytest.mark.parametrize(("limit_s", "pause_s"), [(10.0, 0.15), (0.1, 0.1)])
def test_a_pause_between_slow_looks_is_short_and_within_the_limit(
    monkeypatch: pytest.MonkeyPatch, limit_s: float, pause_s: float
) -> None:
    slept: list[float] = []
    watch = watched(monkeypatch, waiting_s=limit_s, step_s=limit_s / 10)  # ten times the length of a look
    monkeypatch.setattr("moeplan.measure.canary.time.sleep", slept.append)
    watch.settle(limit_s)
    assert slept and set(slept) == {pause_s}


def test_spans_name_the_job_of_each_sample() -> None:
    one, two = rate("a", 1.0, "B/s"), rate("b", 1.0, "B/s")
    outcome = run_jobs([("x", 1.0, lambda s: [one, two]), ("y", 1.0, lambda s: [two])], 0.1)
    assert len(outcome.spans) == len(outcome.samples) == 3
    assert outcome.spans[0] == outcome.spans[1]
    assert outcome.spans[1][1] <= outcome.spans[2][0]


def test_the_systems_counters(tmp_path: Path) -> None:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/stat").write_text("cpu  10 20 30 40 50 60 70 250 90 100\ncpu0 1 2 3\n")
    (tmp_path / "proc/pressure/cpu").write_text(
        "some avg10=2.51 avg60=2.12 avg300=0.94 total=1500000\nfull avg10=0.00 total=7\n"
    )
    for cpu, n in (("cpu0", "2"), ("cpu1", "3")):
        folder = tmp_path / f"sys/devices/system/cpu/{cpu}/thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(n)
    # 250 ticks of a hundredth of a second; microseconds
    assert read_pressure(tmp_path) == Pressure(2.5, 1.5)
    assert throttle_events(tmp_path) == 5
    assert read_pressure(tmp_path / "nowhere") == Pressure(0.0, 0.0)
    assert throttle_events(tmp_path / "nowhere") == 0


# ── beside an earlier calibration ─────────────────────────────────────────────────────────────────


def slower(samples: tuple[Sample, ...], factor: float) -> tuple[Sample, ...]:
    """Rates a ``factor`` lower."""
    return tuple(replace(s, median=s.median * factor) for s in samples)


def test_figures_that_fell_are_named() -> None:
    before = calibration()
    said = slower_than(before, slower(before.samples, 0.8))
    # four figures; the disk is not the machine's cores
    assert "4 of 4 figures" in said and before.date in said
    assert "read bandwidth t1 -20%" in said
    assert "run again" in said and "profile diff" in said


def test_noise_and_a_faster_machine_are_not_worth_a_word() -> None:
    before = calibration()
    assert slower_than(before, slower(before.samples, 0.9)) == ""
    assert slower_than(before, slower(before.samples, 1.5)) == ""
    # one of four is enough, one of ten is not
    one = (slower(before.samples[:1], 0.5)[0], *before.samples[1:])
    assert "1 of 4" in slower_than(before, one)
    more = tuple(rate("gather", 1.0, "B/s", rows=i) for i in range(6))
    assert slower_than(replace(before, samples=before.samples + more), one + more) == ""


def test_the_same_run_made_twice_counts_by_its_best_and_times_turn_round() -> None:
    twice = (
        rate("engine decode", 10.0, "tokens/s", depth=12.0),
        rate("engine decode", 8.0, "tokens/s", depth=12.0),
    )
    other_depth = rate("engine decode", 1.0, "tokens/s", depth=136.0)
    found = compared(twice, (*twice, other_depth))
    assert [(f.before, f.now) for f in found] == [(10.0, 10.0)]
    step = sample_of("reference decode", {"threads": 2}, "s", [0.5] * 5)
    found = compared([step], [replace(step, median=1.0)])
    assert found[0].share == pytest.approx(0.5)


# ── ranges ────────────────────────────────────────────────────────────────────────────────────────


def canary(kind: str, low: float, median: float, high: float) -> Sample:
    sample = rate("canary", median, "B/s", kind=kind, threads=2)
    return replace(sample, low=low, high=high)


def test_ranges_are_wider_by_how_far_the_speed_moved() -> None:
    steady = (canary("read", 27.0, 30.0, 33.0), canary("product", 180.0, 190.0, 195.0))
    assert unsteady_log(steady, 2) == {}
    moved = (canary("read", 15.0, 30.0, 33.0), steady[1])
    assert unsteady_log(moved, 2) == {"decode": pytest.approx(math.log(2.0))}
    # half of the looks and more were slow: then the good ones are as far from the median
    mostly_slow = (steady[0], canary("product", 98.0, 100.0, 200.0))
    assert unsteady_log(mostly_slow, 2) == {"prefill": pytest.approx(math.log(2.0))}


def test_the_machines_own_error_is_added_as_independent() -> None:
    source = Source("measured", "a test")
    one = Residuals(
        n_setups=9, n_sources=3, levels=(0.1, 0.5, 0.7, 0.9), log_ratios=(-0.3, 0.01, 0.1, 0.3), source=source
    )
    found = widened({"decode/cpu/moe": one, "prefill/cpu/moe": one}, {"decode": 0.4})
    assert found["prefill/cpu/moe"] == one
    # 3-4-5 at the tenths; the median stays; half of 0.4 at 0.7: sqrt(0.1^2 + 0.2^2)
    assert found["decode/cpu/moe"].log_ratios == pytest.approx((-0.5, 0.01, math.sqrt(0.05), 0.5))


def test_an_unsteady_run_widens_the_range_and_nothing_else() -> None:
    shipped = read_calibration()
    host = calibration((engine_run("decode", 50.0), engine_run("prefill", 100.0)))
    target = target_of("llama.cpp", "f16", threads=1)
    plain = overlay(shipped, host, target)
    assert plain.residuals == shipped.residuals
    unsteady = replace(host, samples=(*host.samples, canary("read", 15.0, 30.0, 33.0)))
    wide = overlay(shipped, unsteady, target)
    assert wide.coefficients == plain.coefficients
    for key, one in shipped.residuals.items():
        width = one.log_ratios[-1] - one.log_ratios[0]
        moved = wide.residuals[key].log_ratios[-1] - wide.residuals[key].log_ratios[0]
        assert moved > width if key.startswith("decode/") else moved == width
