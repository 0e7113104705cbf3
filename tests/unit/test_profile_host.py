"""Calibration files of this machine: from samples to coefficients, to a file, and to the cost law."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from msgspec.structs import replace

from moeplan.calibrate.host import Kernels, derive
from moeplan.calibrate.overlay import Target, measured_machine, overlay
from moeplan.cost.host_rates import host_rates
from moeplan.domain.profile import HostCalibration, HostFacts, Sample, host_differences
from moeplan.engines.traits import find_engine
from moeplan.errors import SpecError
from moeplan.measure.random_gguf import profile_files
from moeplan.measure.run import run_jobs
from moeplan.measure.timing import quantile, sample_of
from moeplan.readers.calibration import read_calibration
from moeplan.readers.calibration_host import (
    dump_host_calibration,
    is_host_calibration,
    read_host_calibration,
    require_same_host,
    write_host_calibration,
)
from tests.support.problems import machine

FACTS = HostFacts(cpu="Some CPU", isa=("avx2",), sockets=1, cores=2, threads=2, ram_bytes=24 * 2**30)
KERNELS = Kernels(
    engine="llama.cpp",
    rates={
        "decode": {"f16": 1.2}, "prefill": {"f16": 0.4}, "experts-decode": {"f16": 0.6},
        "experts-prefill": {"f16": 0.2},
    },
    layer_flop=1e7, moe_layer_flop=5e6, vocab_flop=1e5, source="a test",
)  # fmt: skip


def rate(name: str, value: float, unit: str, **setup: str | int | float) -> Sample:
    return sample_of(name, {"device": "cpu", **setup}, unit, [value] * 5)


def samples() -> tuple[Sample, ...]:
    return (
        rate("read bandwidth", 20e9, "B/s", threads=1),
        rate("read bandwidth", 32e9, "B/s", threads=2),
        rate("matrix product", 100e9, "FLOP/s", threads=1, dtype="float32", size=1024),
        rate("matrix product", 90e9, "FLOP/s", threads=1, dtype="float32", size=512),
        rate("storage read", 1e9, "B/s", order="sequential"),
    )


def calibration(extra: tuple[Sample, ...] = ()) -> HostCalibration:
    found = (*samples(), *extra)
    return HostCalibration(
        date="2026-11-22T10:00:00Z", version="0", mode="quick", host=FACTS, samples=found,
        coefficients=derive(found, [KERNELS]), notes=("a note: with a colon",),
    )  # fmt: skip


def test_rates_of_an_engine_that_was_not_run_follow_the_machine() -> None:
    found = calibration().coefficients
    assert found["product.float32.t1.flop_per_s"].value == 100e9, "the quickest of the sizes"
    # 1.2 x 100 GFLOP/s, 0.4 x 100; fixed work of 1e7 FLOP takes 100 us
    assert found["llama.cpp.f16.decode.flop_per_s"].value == pytest.approx(120e9)
    assert found["llama.cpp.f16.prefill.flop_per_s"].value == pytest.approx(40e9)
    assert found["llama.cpp.layer.s"].value == pytest.approx(1e-4)


def target_of(
    engine: str, quant: str, *, threads: int, has_gpu: bool = False, eras: tuple[str, ...] = ()
) -> Target:
    hardware = measured_machine(machine(), calibration())
    engine_traits = find_engine(engine)
    law = tuple(host_rates(hardware, threads, engine_traits, eras, quant, decode=d) for d in (True, False))
    return Target(engine, quant, threads=threads, has_gpu=has_gpu, vocab=1000, law=law)


def engine_run(phase: str, tokens_per_s: float, **changes: int) -> Sample:
    setup = {
        "engine": "llama.cpp", "quant": "f16", "threads": 1, "prompt_tokens": 100,
        "layers": 10, "moe_layers": 0,
        "dense_bytes": 180_000_000, "dense_elements": 90_000_000, "expert_bytes": 0, "expert_elements": 0,
        "experts": 0, "active": 0, "head_bytes": 20_000_000, "vocab": 1000, "head_elements": 10_000_000,
    } | changes  # fmt: skip
    return sample_of(f"engine {phase}", setup, "tokens/s", [tokens_per_s] * 5)


def test_an_engine_that_was_run_gives_its_own_rate() -> None:
    # 200 MB at 20 GB/s: 10 ms; fixed 10 x 0.1 + 1 ms = 2 ms; 50 steps a second leave 20 - 12 = 8 ms
    # for 2 x 100e6 FLOP: 25 GFLOP/s
    found = calibration((engine_run("decode", 50.0),)).coefficients
    assert found["llama.cpp.t1.f16.decode.flop_per_s"].value == pytest.approx(25e9)
    assert found["llama.cpp.t1.f16.decode.flop_per_s"].note == "from the engine's own runs"
    assert found["llama.cpp.t1.read.bytes_per_s"].value == pytest.approx(20e9)


def test_expert_time_is_what_the_dense_part_leaves() -> None:
    # 4 of 16 experts a token: dense 12 ms as above (dense rate 120 GFLOP/s: 1.67 ms more), experts
    # read 800 MB x 4/16 = 200 MB in 10 ms and compute 2 x 400e6 x 4/16 = 200 MFLOP, moe layers 10 x 50 us.
    run = engine_run(
        "decode",
        25.0,
        experts=16,
        active=4,
        moe_layers=10,
        expert_bytes=800_000_000,
        expert_elements=400_000_000,
    )
    # 40 - 10 - 10 - 2 - 0.5 - 1.6667 ms = 15.8333 ms
    found = calibration((run,)).coefficients
    assert found["llama.cpp.t1.f16.experts-decode.flop_per_s"].value == pytest.approx(
        200e6 / 15.8333e-3, rel=1e-4
    )


def test_a_run_faster_than_the_plain_sum_shows_what_the_memory_gives() -> None:
    # 200 MB in 10 - 2 ms: 25 GB/s where the sum read 20; reading is given 95% of it (25 / 0.95), computing
    # 5% of 8 ms for 200 MFLOP: 500 GFLOP/s; both together are the 8 ms again
    found = calibration((engine_run("decode", 100.0),)).coefficients
    assert found["llama.cpp.t1.read.bytes_per_s"].value == pytest.approx(25e9 / 0.95)
    assert found["llama.cpp.t1.f16.decode.flop_per_s"].value == pytest.approx(500e9)


def test_bare_files_tell_the_fixed_times() -> None:
    # 1 ns a byte, 50 us a layer, 20 us more where it routes, 3 ns an entry of the vocabulary
    shapes = [
        {"layers": 8, "dense_bytes": 9_000_000, "vocab": 1000},
        {"layers": 32, "dense_bytes": 500_000, "vocab": 1000},
        {"layers": 2, "dense_bytes": 500_000, "vocab": 60_000},
        {"layers": 32, "dense_bytes": 500_000, "vocab": 1000, "moe_layers": 32, "experts": 16, "active": 4,
         "expert_bytes": 1_600_000},
        {"layers": 4, "dense_bytes": 500_000, "vocab": 1000, "moe_layers": 4, "experts": 16, "active": 4,
         "expert_bytes": 40_000_000},
    ]  # fmt: skip
    runs = []
    for i, shape in enumerate(shapes):
        seconds = (shape["dense_bytes"] + shape.get("expert_bytes", 0) / 4) * 1e-9
        seconds += shape["layers"] * 5e-5 + shape.get("moe_layers", 0) * 2e-5 + shape["vocab"] * 3e-9
        run = engine_run("decode", 1 / seconds, head_bytes=0, **shape)
        runs.append(replace(run, setup={**run.setup, "model": str(i)}))
    found = calibration(tuple(runs)).coefficients
    assert found["llama.cpp.t1.layer.s"].value == pytest.approx(5e-5, rel=1e-3)
    assert found["llama.cpp.t1.moe-layer.s"].value == pytest.approx(2e-5, rel=1e-3)
    assert found["llama.cpp.t1.vocab.s"].value == pytest.approx(3e-9, rel=1e-3)


def test_of_the_same_run_made_twice_the_quicker_counts() -> None:
    one, other = (calibration((engine_run("decode", 50.0), engine_run("decode", r))) for r in (30.0, 50.0))
    assert one.coefficients == other.coefficients


def test_a_run_in_a_quick_moment_counts_as_with_memory_as_it_mostly_is() -> None:
    usual, quick = engine_run("decode", 50.0), replace(engine_run("decode", 60.0), pace=1.5)
    both = calibration((usual, replace(engine_run("decode", 90.0), pace=1.5))).coefficients
    assert both == calibration((usual,)).coefficients, "the run at the usual pace counts"
    # alone: 200 MB at 1.5 x 20 GB/s are 6.67 of its 16.67 ms and take 10 at the usual pace: 20 ms, as 50/s
    alone = calibration((quick,)).coefficients["llama.cpp.t1.f16.decode.flop_per_s"]
    assert alone.value == pytest.approx(
        calibration((usual,)).coefficients["llama.cpp.t1.f16.decode.flop_per_s"].value
    )
    # no more than the whole step takes half as long again: 4 ms become 6, 2 of them fixed, 5% compute
    faster = replace(engine_run("decode", 250.0), pace=1.5)
    read = calibration((faster,)).coefficients["llama.cpp.t1.read.bytes_per_s"]
    assert read.value == pytest.approx(200e6 / (0.95 * 4e-3))


def test_memory_that_was_read_in_a_quick_moment_is_taken_as_it_mostly_is() -> None:
    quick = replace(rate("read bandwidth", 45e9, "B/s", threads=2), pace=1.5)
    found = derive([quick])["read.t2.bytes_per_s"]
    assert (found.value, found.high) == (pytest.approx(30e9), pytest.approx(45e9))
    assert "50% quicker meanwhile" in found.note


def test_a_type_that_was_not_run_keeps_its_place_among_the_others() -> None:
    rates = {what: {**known, "q8_0": 2 * known["f16"]} for what, known in KERNELS.rates.items()}
    found = derive((*samples(), engine_run("decode", 50.0)), [KERNELS._replace(rates=rates)])
    # f16 came out at 25 of 120 GFLOP/s; q8_0, twice as fast elsewhere, at 50 of 240
    assert found["llama.cpp.t1.q8_0.decode.flop_per_s"].value == pytest.approx(50e9)


def test_the_law_takes_the_runs_with_as_many_threads() -> None:
    host = calibration((engine_run("decode", 100.0), engine_run("prefill", 50.0)))
    target = target_of("llama.cpp", "f16", threads=2, has_gpu=False)
    found = overlay(read_calibration(), host, target).coefficients
    # one thread is the nearest that was run; 32 GB/s is what two read
    assert found["local.ram.bandwidth"].value == pytest.approx(25 / 0.95 / 32)
    rate = found["local.cpu.flop_per_s_per_core.avx2"].value * found["host.decode.compute"].value
    assert rate == pytest.approx(500e9)


def test_a_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "this-machine.yaml"
    wrote = calibration()
    write_host_calibration(wrote, path)
    assert is_host_calibration(path)
    assert read_host_calibration(path) == wrote
    assert [p.name for p in path.parent.iterdir()] == ["this-machine.yaml"], "no temporary file is left"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.yaml"
    write_host_calibration(calibration(), path)
    before = path.read_text(encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SpecError, match="No space left"):
        write_host_calibration(calibration(), path)
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_another_machine_is_refused_with_the_difference_named() -> None:
    here = replace(FACTS, cores=8, ram_bytes=2 * FACTS.ram_bytes)
    with pytest.raises(SpecError, match=r"cores: measured on 2, here 8; RAM: measured with 25,769,803,776"):
        require_same_host(calibration(), here, "c.yaml")


def test_what_changes_between_boots_is_no_difference() -> None:
    here = replace(FACTS, ram_bytes=FACTS.ram_bytes - 10**8, torch="9", system="Linux 99", notes=("x",))
    assert host_differences(FACTS, here) == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('schema: "moeplan/calibration@1"', 'schema: "moeplan/calibration@9"', "run `moeplan profile` again"),
        ("coefficients:", "coeficients:", "unknown key"),
        ('"value": 20000000000', '"value": 1', "low <= value <= high"),
        ('"value": 20000000000', '"value": .nan', "not a usable number"),
    ],
)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    text = dump_host_calibration(calibration())
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        read_host_calibration(path)


def test_the_law_takes_what_was_measured() -> None:
    shipped = read_calibration()
    host = calibration()
    target = target_of("llama.cpp", "f16", threads=1, has_gpu=False)
    found = overlay(shipped, host, target).coefficients
    assert found["local.step_s"].value == pytest.approx(1e-3), "1000 entries of 1e5 FLOP at 100 GFLOP/s"
    # one of two threads reads 20 of 32 GB/s
    assert found["local.ram.bandwidth"].value == pytest.approx(20 / 32)
    assert found["local.cpu.flop_per_s_per_core.avx2"].value == pytest.approx(40e9)
    assert found["host.decode.compute"].value == pytest.approx(120 / 40)
    assert found["host.experts.decode.compute"].value == pytest.approx(60 / 120)
    assert found["host.experts.prefill.compute"].value == pytest.approx(20 / 40)
    assert found["local.ram.bandwidth"].source.kind == "measured"
    hardware = measured_machine(machine(), host)
    assert hardware.host.ram_bytes_per_s == 32e9
    assert hardware.host.ram_basis == "measured"
    assert hardware.host.storage.read_bytes_per_s == 1e9


def test_what_was_not_measured_stays_as_shipped() -> None:
    shipped = read_calibration()
    target = target_of("vllm", "fp8", threads=64, has_gpu=True)
    assert overlay(shipped, calibration(), target) is shipped


@pytest.mark.parametrize("eras", [(), (".2024",), (".2024", ".2023")])
def test_every_name_that_the_law_multiplies_is_set_or_one(eras: tuple[str, ...]) -> None:
    target = target_of("llama.cpp", "f16", threads=1, eras=eras)
    names = {n for r in target.law for n in (*r.weights[0], *r.weights[1], *r.experts[1], *r.fixed)}
    base = read_calibration()
    # every name has a value that would be seen if it were left
    loud = {name: replace(base.coefficients["local.ram.bandwidth"], value=7.0) for name in names}
    loud_base = replace(base, coefficients={**base.coefficients, **loud})
    found = overlay(loud_base, calibration(), target).coefficients

    def product(names: tuple[str, ...]) -> float:
        return math.prod(found[name].value for name in names)

    decode, prefill = target.law
    # 20 of the 32 GB/s that all threads read
    assert product(decode.weights[0]) == product(prefill.weights[0]) == pytest.approx(20 / 32)
    # 1.2, 0.4, 0.6 and 0.2 times 100 GFLOP/s; a layer takes 1e7 FLOP
    assert product(decode.weights[1]) == pytest.approx(120e9)
    assert product(prefill.weights[1]) == pytest.approx(40e9)
    assert product(decode.experts[1]) == pytest.approx(60e9)
    assert product(prefill.experts[1]) == pytest.approx(20e9)
    assert product(decode.fixed) == pytest.approx(1e-4)


def test_gpu_coefficients_are_left_alone() -> None:
    shipped = read_calibration()
    target = target_of("llama.cpp", "f16", threads=2, has_gpu=True)
    found = overlay(shipped, calibration(), target).coefficients
    changed = {name for name, c in shipped.coefficients.items() if found[name].value != c.value}
    assert changed, "nothing was measured"
    assert {
        name
        for name in changed
        if not name.startswith(("local.ram.", "local.cpu.", "local.engine.", "local.quant"))
    } == set()


def test_what_an_engine_is_timed_on_does_not_stay_in_a_cache() -> None:
    files = {f.label: f for f in profile_files(every_type=False, cache_bytes=32 * 2**20)}
    # FFN of a layer in q4_K: 3 x 1792 x 4608 x 144 / 256 bytes = 13.9 MB; 2 x 33.6 MB take 5; f16 49.5 MB: 2
    assert files["random dense q4_k"].shape.layers == 5
    assert files["random dense f16"].shape.layers == 2
    assert len(files) == 3 + 2 * 3
    huge = profile_files(every_type=True, cache_bytes=2**30)
    assert max(f.shape.layers for f in huge if f.label.startswith("random")) == 24
    assert sum(f.qtype == "q6_k" for f in huge) == 2


def test_verdicts() -> None:
    assert sample_of("x", {}, "B/s", [10.0, 10.1, 9.9, 10.0, 10.0]).stable
    assert "differ widely" in sample_of("x", {}, "B/s", [10.0, 20.0, 5.0, 10.0, 15.0]).remedy
    assert "only 2 repeats" in sample_of("x", {}, "B/s", [10.0, 10.0]).remedy
    assert "other programs used 1.0 cores" in sample_of("x", {}, "B/s", [10.0] * 9, foreign_cores=1.0).remedy
    assert quantile([4.0, 1.0, 2.0, 3.0], 0.5) == 2.5


def test_an_interrupted_run_keeps_what_it_has() -> None:
    def stop(budget_s: float) -> list[Sample]:
        raise KeyboardInterrupt

    first = rate("read bandwidth", 1e9, "B/s", threads=1)
    outcome = run_jobs(
        [("one", 1.0, lambda s: [first]), ("two", 1.0, stop), ("three", 1.0, lambda s: [first])], 0.2
    )
    assert outcome.samples == (first,)
    assert outcome.interrupted
    assert outcome.notes == ("interrupted during 'two': what had been measured until then is kept",)


def test_out_of_memory_and_failures_become_notes() -> None:
    def memory(budget_s: float) -> list[Sample]:
        raise MemoryError

    def torch_says(budget_s: float) -> list[Sample]:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB\nmore")

    good = rate("read bandwidth", 1e9, "B/s", threads=1)
    outcome = run_jobs([("a", 1.0, memory), ("b", 1.0, torch_says), ("c", 1.0, lambda s: [good])], 0.2)
    assert outcome.notes == (
        "a: out of memory, left out",
        "b: CUDA out of memory. Tried to allocate 20 GiB",
    )
    assert outcome.samples == (good,)


def test_a_slow_machine_leaves_the_rest_out() -> None:
    import time

    outcome = run_jobs([("slow", 1.0, lambda s: time.sleep(0.2) or []), ("late", 1.0, lambda s: [])], 0.1)  # type: ignore[func-returns-value]
    assert "no time was left for late" in outcome.notes[0]
