"""The fit on rows made by a law whose coefficients are known, and intervals on known residuals."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from moeplan.calibrate.fit import fit, held_out, setup_weights
from moeplan.calibrate.priors import ALWAYS, prior
from moeplan.calibrate.spread import (
    RESIDUAL_LEVELS,
    SetupErrors,
    conformal_level,
    independent,
    setup_errors,
    spreads,
    weighted_quantile,
    widened,
)
from moeplan.calibrate.system import Sample, System, names_of
from moeplan.cost.ops import OVERLAP, SUM, Op, Scales
from moeplan.domain.calibration import Calibration, Coefficient, Residuals
from moeplan.errors import NotModelled, SpecError
from moeplan.provenance import Source
from moeplan.readers.calibration import dump_calibration, read_calibration

TEST = Source("assumed", "made up for a test")


def _scales(**values: float) -> Scales:
    return Scales({name: Coefficient(value=value, unit="1", source=TEST) for name, value in values.items()})


def _sample(i: int, *ops: Op, seconds: float, source: str = "s", device: str = "d") -> Sample:
    return Sample(
        f"r{i}", f"setup{i}", source, device, "decode/gpu/dense", "decode/gpu/dense", "2026-01", seconds, ops
    )


def test_a_name_divides_unless_it_is_of_time() -> None:
    scales = _scales(rate=0.5, wait_s=2.0, slow_time=3.0)
    assert scales.factor(("rate",)) == 2.0
    assert scales.factor(("rate", "rate")) == 4.0
    assert scales.factor(("wait_s", "slow_time", "unknown")) == 6.0
    assert scales.missing(("rate", "local.engine.new.bandwidth")) == ("local.engine.new.bandwidth",)
    with pytest.raises(NotModelled, match="base"):
        scales.factor(("base", "rate"))


def test_norms_add_or_overlap() -> None:
    scales = _scales(b=1.0, c=1.0, w=1.0)
    assert Op("t", 3.0, ("b",), 4.0, ("c",)).seconds(scales) == 7.0
    # (3^4 + 4^4)^(1/4) = 337^(1/4)
    assert Op("t", 3.0, ("b",), 4.0, ("c",), norm=OVERLAP).seconds(scales) == pytest.approx(337**0.25)
    # power joins computing first: (4^4 + 4^4)^(1/4) = 4 x 2^(1/4); then the bytes are added
    both = Op("t", 3.0, ("b",), 4.0, ("c",), 4.0, ("w",))
    assert both.seconds(scales) == pytest.approx(3.0 + 4.0 * 2**0.25)
    assert Op("t", 3.0, ("b",), 4.0, ("c",)).times(2).seconds(scales) == 14.0
    # launched from Python in 7 s meanwhile: (7^4 + 7^4)^(1/4)
    launched = Op("t", 3.0, ("b",), 4.0, ("c",), waiting_s=7.0, waiting=("w",))
    assert launched.seconds(scales) == pytest.approx(7.0 * 2**0.25)
    assert launched.times(2).seconds(scales) == pytest.approx(14.0 * 2**0.25)
    # and where the host waits for the work, one after the other
    assert launched._replace(waiting_norm=SUM).seconds(scales) == pytest.approx(14.0)
    # 2 s of unpacking before or after the bytes, both beside the arithmetic: ((3 + 2)^4 + 4^4)^(1/4)
    widened = Op("t", 3.0, ("b",), 4.0, ("c",), norm=OVERLAP, unpacking_s=2.0, unpacking=("w",))
    assert widened.seconds(scales) == pytest.approx(881**0.25)
    # half hidden behind the bytes: ((3^2 + 2^2)^2 + 4^4)^(1/4)
    assert widened._replace(unpacking_norm=2.0).seconds(scales) == pytest.approx(425**0.25)
    assert widened.times(2).seconds(scales) == pytest.approx(2 * widened.seconds(scales))


def test_arrays_and_single_operations_agree_and_slopes_are_slopes() -> None:
    import numpy as np

    names = ("local.bandwidth", "local.compute", "local.flop_per_joule", "local.layer_s")
    ops = (
        Op("a", 2.0, names[:1], 3.0, names[1:2], 2.5, names[2:3], OVERLAP),
        Op("b", 5.0, ("local.layer_s",)),
        Op("c", 2.0, names[:1], 3.0, names[1:2], norm=OVERLAP, waiting_s=4.0, waiting=("local.layer_s",)),
        Op(
            "c",
            2.0,
            names[:1],
            3.0,
            names[1:2],
            norm=OVERLAP,
            waiting_s=4.0,
            waiting=("local.layer_s",),
            waiting_norm=SUM,
        ),
        Op("c", 0.5, ("local.bandwidth",), 0.7, ("local.compute",)),
        Op(
            "d",
            2.0,
            names[:1],
            3.0,
            names[1:2],
            2.5,
            names[2:3],
            OVERLAP,
            unpacking_s=1.5,
            unpacking=names[1:2],
        ),
    )
    system = System([_sample(0, *ops, seconds=1.0)], names)
    values = np.log([0.8, 0.5, 1.3, 0.1])
    scales = _scales(**dict(zip(names, np.exp(values), strict=True)))
    expected = sum(op.seconds(scales) for op in ops)
    log_times, slopes = system.with_slopes(values)
    assert float(np.exp(log_times[0])) == pytest.approx(expected)
    for i in range(len(names)):
        step = np.zeros(4)
        step[i] = 1e-6
        rise = (system.log_times(values + step)[0] - system.log_times(values - step)[0]) / 2e-6
        assert slopes[0, i] == pytest.approx(rise, abs=1e-6)


def _world(efficiency: float, layer_s: float) -> list[Sample]:
    """Twelve setups of three sources on two devices, timed exactly by two coefficients."""
    scales = _scales(**{"local.bandwidth": efficiency, "local.layer_s": layer_s})
    samples = []
    for i in range(12):
        ops = (Op("w", 1e-3 * (i + 1), ("local.bandwidth",)), Op("l", 32.0, ("local.layer_s",)))
        seconds = sum(op.seconds(scales) for op in ops)
        samples.append(_sample(i, *ops, seconds=seconds, source=f"s{i % 3}", device=f"d{i % 2}"))
    return samples


def test_a_fit_finds_the_coefficients_that_made_the_rows_and_ignores_an_outlier() -> None:
    import numpy as np

    samples = _world(0.86, 6e-5)
    samples[3] = samples[3]._replace(measured_s=samples[3].measured_s * 20)
    names = list(names_of(samples))
    values = np.exp(fit(samples, System(samples, names), names))
    assert names == ["local.bandwidth", "local.layer_s"]
    # both are held near their priors (0.9 and 2e-5), which twelve rows outweigh
    assert values == pytest.approx([0.86, 6e-5], rel=0.03)


def test_a_past_year_is_never_faster_than_those_since() -> None:
    """Rows of an old build on quick machines must not slow every newer build down there."""
    old = "local.engine.llama.cpp.2024"
    names = ["local.bandwidth", f"{old}.bandwidth", "local.layer_s", f"{old}.layer_time"]

    def ops(*, dated: bool) -> tuple[Op, Op]:
        n = 2 if dated else 1
        return Op("w", 1.0, tuple(names[:n])), Op("f", 1e5, tuple(names[2 : 2 + n]))

    rows = [_sample(i, *ops(dated=i < 4), seconds=2.0 if i < 4 else 4.0) for i in range(8)]
    values = dict(zip(names, fit(rows, System(rows, names), names), strict=True))
    assert values[names[1]] <= 0.0 <= values[names[3]]
    # and what was slower still is
    rows = [_sample(i, *ops(dated=i < 4), seconds=8.0 if i < 4 else 4.0) for i in range(8)]
    values = dict(zip(names, fit(rows, System(rows, names), names), strict=True))
    assert values[names[1]] < -0.01 and values[names[3]] > 0.1


def test_a_year_of_builds_has_what_later_ones_gained_left_out() -> None:
    from moeplan.cost.rates import engine_eras

    assert [engine_eras(date) for date in ("2023-12", "2024", "2024-12", "2025", "")] == [
        (".2024", ".2023"), (".2024",), (".2024",), (), (),
    ]  # fmt: skip


def test_held_out_rows_do_not_inform_their_own_prediction() -> None:
    samples = _world(0.86, 6e-5)
    samples = [s._replace(measured_s=s.measured_s * 2) if s.source == "s0" else s for s in samples]
    names = list(names_of(samples))
    system = System(samples, names)
    residuals = held_out(samples, system, names, fit(samples, system, names), lambda s: s.source)
    # the others say half of what s0 measured, whatever s0 says
    for sample, residual in zip(samples, residuals, strict=True):
        if sample.source == "s0":
            assert residual == pytest.approx(math.log(2), abs=0.05)


def test_rows_of_a_setup_and_setups_of_a_sweep_share_a_weight() -> None:
    samples = _world(0.9, 2e-5)[:3]
    twice = [samples[0], samples[0]._replace(id="again"), samples[1]]
    assert list(setup_weights(twice, lambda _: True)) == [0.5, 0.5, 1.0]
    sweep = [s._replace(source="one", sweep=True) for s in samples]
    assert list(setup_weights(sweep, lambda _: True)) == pytest.approx([1 / 3] * 3)
    assert list(setup_weights(twice, lambda s: s.id != "again"))[1] == 0.0


def test_every_base_coefficient_has_a_prior_of_its_own() -> None:
    assert all(prior(name).value > 0 and prior(name).spread > 0 for name in ALWAYS)
    assert prior("local.bandwidth").value == 0.9
    assert prior("local.gpu.newest.bandwidth").value == 1.0
    assert prior("local.eager_layer_s").value == 6e-4


def test_rows_without_a_group_are_never_left_out() -> None:
    samples = _world(0.86, 6e-5)
    names = list(names_of(samples))
    system = System(samples, names)
    fitted = fit(samples, system, names)
    residuals = held_out(samples, system, names, fitted, lambda s: s.source if s.source == "s1" else "")
    assert {s.source for s, r in zip(samples, residuals, strict=True) if r} == {"s1"}


def test_levels_of_few_values_are_further_out() -> None:
    # 0.1 x 100/99 - 1/99 = 0.0909...
    assert conformal_level(0.1, 99) == pytest.approx(0.1 * 100 / 99 - 1 / 99)
    assert conformal_level(0.9, 99) == pytest.approx(1 - conformal_level(0.1, 99))
    assert conformal_level(0.5, 3) == 0.5
    assert conformal_level(0.1, 5) == 0.0  # five independent ones cannot bound a tenth
    assert independent(36, 4) == 12.0


def test_weighted_quantiles_stand_in_the_middle_of_their_share() -> None:
    # shares 0 to 1/4, 1/4 to 3/4, 3/4 to 1: the values stand at 1/8, 1/2, 7/8
    values = [(3.0, 1.0), (1.0, 1.0), (2.0, 2.0)]
    assert [weighted_quantile(values, level) for level in (0.0, 0.125, 0.5, 0.875, 1.0)] == [1, 1, 2, 3, 3]
    assert weighted_quantile(values, 0.3125) == pytest.approx(1.5)  # halfway from 1/8 to 1/2
    assert weighted_quantile([(7.0, 1.0)], 0.9) == 7.0


def test_setups_count_once_with_the_median_of_their_rows() -> None:
    samples = [
        _sample(0, seconds=1.0),
        _sample(0, seconds=1.0),
        _sample(0, seconds=1.0),
        _sample(1, seconds=1.0),
    ]
    samples.append(_sample(2, seconds=1.0)._replace(spread=""))
    found = setup_errors(samples, ([0.1, 0.9, 0.2, 0.5, 9.0], [0.0] * 5))
    assert [s.errors for s in found] == [(0.2, 0.0), (0.5, 0.0)]


def _errors(regime: str, source: str, *errors: float) -> list[SetupErrors]:
    return [SetupErrors(regime, source, (e,)) for e in errors]


def test_a_regime_is_as_wide_as_its_errors_and_its_class_say() -> None:
    wide, narrow = "decode/experts/dense", "decode/gpu/dense"
    sources = [f"s{i}" for i in range(45)]
    setups = [e for s in sources for e in _errors(narrow, s, -0.1) + _errors(narrow, s, 0.1)]
    setups += [e for s in sources for e in _errors(wide, s, -0.4) + _errors(wide, s, 0.4)]
    found = spreads(setups)
    assert set(found) == {wide, narrow, "decode/*/dense", "decode/*/*"}
    assert found[narrow][:2] == (90, 45) and found["decode/*/*"][:2] == (180, 45)
    # Two setups of a source count as 2^0.75: 45 x 1.6818 = 75.68 setups in a regime. The phase has four a
    # source, mean |error| 0.25, and so has its class. Scales: (75.68 x 0.1 + 5 x 0.25) / 80.68 = 0.1093
    # and (75.68 x 0.4 + 5 x 0.25) / 80.68 = 0.3907. Their ratio is that of the ranges at every level.
    ratio = found[wide].log_ratios[0] / found[narrow].log_ratios[0]
    assert ratio == pytest.approx(0.3907 / 0.1093, rel=1e-3)
    # every residual over its scale is +-0.9149 or +-1.0238: the outermost levels meet the latter
    assert found[wide].log_ratios[0] == pytest.approx(-0.4, rel=1e-2)
    assert list(found[wide].log_ratios) == sorted(found[wide].log_ratios)
    assert len(found[wide].log_ratios) == len(RESIDUAL_LEVELS)


def test_a_handful_of_setups_does_not_make_a_narrow_range() -> None:
    def outer(*sources: str) -> tuple[float, float]:
        setups = [e for name in sources for e in _errors("decode/gpu/dense", name, 0.01, -0.01)]
        ratios = widened(spreads(setups))["decode/gpu/dense"].log_ratios
        return ratios[RESIDUAL_LEVELS.index(0.1)], ratios[RESIDUAL_LEVELS.index(0.9)]

    # two setups of one source count as sqrt(2) of the eight that are enough; without any: a factor of three
    own = math.sqrt(2) / 8
    assert outer("a")[1] == pytest.approx((1 - own) * math.log(3) + own * 0.01, abs=0.01)
    assert outer("a")[0] == pytest.approx(-outer("a")[1], abs=0.01)
    assert outer(*"abcdefgh")[1] < 0.02  # sixteen setups of eight sources: their own


def test_one_setup_moves_a_regime_a_sixth_of_the_way_and_a_crowd_of_one_source_counts_less() -> None:
    base = [e for i in range(50) for e in _errors("decode/gpu/moe", f"s{i}", -0.2, 0.2)]
    scale = _width(spreads(base)["decode/*/*"].log_ratios)
    lone = spreads([*base, *_errors("decode/disk/moe", "new", 2.0)])
    assert _width(lone["decode/disk/moe"].log_ratios) > 1.5 * scale  # (2.0 + 5 x 0.2) / 6 = 2.5 x 0.2
    assert _width(lone["decode/gpu/moe"].log_ratios) < 1.5 * scale
    # sixteen setups of one source weigh as 16^0.75 = 8 of sources of their own
    crowd = spreads([*base, *_errors("decode/disk/moe", "new", *[0.8] * 16)])["decode/disk/moe"]
    eight = [e for s in "abcdefgh" for e in _errors("decode/disk/moe", s, 0.8)]
    apart = spreads([*base, *eight])["decode/disk/moe"]
    assert (crowd.n_setups, crowd.n_sources) == (16, 1)
    assert _width(crowd.log_ratios) == pytest.approx(_width(apart.log_ratios), rel=0.02)


def _width(log_ratios: tuple[float, ...]) -> float:
    return log_ratios[8] - log_ratios[2]  # the levels 0.9 and 0.1


def _calibration() -> Calibration:
    spread = Residuals(n_setups=8, n_sources=2, levels=(0.1, 0.9), log_ratios=(-0.5, 0.5), source=TEST)
    coefficient = Coefficient(value=0.9, unit="1", source=TEST, n_setups=3, n_sources=2, dates="2025..2026")
    return Calibration(
        id="c", date="2026-11-22", coefficients={"local.bandwidth": coefficient},
        residuals={"decode/*/*": spread}, sources=(TEST,),
    )  # fmt: skip


def test_a_calibration_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(dump_calibration(_calibration(), 'a "note"'), encoding="utf-8")
    assert read_calibration(path) == _calibration()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("value: 0.9", "value: 0.0", "above zero"),
        ("[0.1, 0.9]", "[0.9, 0.1]", "must rise"),
        ("[-0.500, 0.500]", "[-0.5]", "1 log_ratios for 2"),
        ("source: s1", "source: s9", "'s9' is not among"),
        ("kind: assumed", "kind: heard", "'heard'"),
    ],
)
def test_a_wrong_calibration_is_told_what_is_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = dump_calibration(_calibration())
    assert old in text
    path = tmp_path / "c.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        read_calibration(path)


def test_every_shipped_coefficient_says_where_it_comes_from() -> None:
    shipped = read_calibration()
    assert set(ALWAYS) <= set(shipped.coefficients)
    for name, c in shipped.coefficients.items():
        assert c.source.ref and c.source.retrieved, name
        assert c.n_setups or c.source.kind == "assumed", name
    for regime, r in shipped.residuals.items():
        assert list(r.log_ratios) == sorted(r.log_ratios), regime
    # efficiencies of memory cannot exceed what memory does
    assert 0.5 < shipped.coefficients["local.bandwidth"].value <= 1.0
