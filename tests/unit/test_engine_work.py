"""What llama.cpp's runs tell beside weights: time a head and cached token, the FFN that a prompt skips."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import pytest

from moeplan.api.profile_engine import gguf_facts
from moeplan.api.resolve import Session
from moeplan.calibrate.engine_runs import from_engine
from moeplan.calibrate.engine_work import Attention, Parts, passed_frac
from moeplan.calibrate.overlay import overlay
from moeplan.domain.profile import HostCalibration, HostCoefficient, Sample
from moeplan.measure.llama_cpp import Child, Engine, measure_gguf
from moeplan.measure.random_gguf import Shape, write_random_gguf
from moeplan.measure.timing import sample_of
from moeplan.readers.calibration import read_calibration
from moeplan.readers.catalog import Catalog
from tests.unit.test_profile_host import FACTS, target_of

READ = {"read.t1.bytes_per_s": HostCoefficient(value=20e9, low=20e9, high=20e9, unit="B/s", n=1)}


def run(phase: str, seconds: float, **changes: int | float | str) -> Sample:
    """``seconds`` of a decode step or of a prompt of 100, of 200 MB in f16."""
    setup: dict[str, str | int | float] = {
        "engine": "llama.cpp", "model": "a", "quant": "f16", "threads": 1, "prompt_tokens": 100,
        "layers": 2, "moe_layers": 0, "dense_bytes": 180_000_000, "dense_elements": 90_000_000,
        "expert_bytes": 0, "expert_elements": 0, "experts": 0, "active": 0, "vocab": 1000,
        "head_bytes": 20_000_000, "head_elements": 10_000_000,
        "heads": 20.0, "decode_heads": 40.0, "last_dense_elements": 0.0, "last_expert_elements": 0.0,
    }  # fmt: skip
    setup |= changes
    rows = float(setup["prompt_tokens"]) if phase == "prefill" else 1.0
    return sample_of(f"engine {phase}", setup, "tokens/s", [rows / seconds] * 5)


def test_time_a_head_is_what_a_longer_cache_takes() -> None:
    # 40 heads x 100 more tokens in 80 us more: 20 ns. The file whose 4 MB stay in the CPU's caches
    # (0.2 of 1 ms reading) says 5 ns and is not asked.
    runs = [run("decode", 12e-3, depth=10), run("decode", 12.08e-3, depth=110)]
    near = {"model": "bare", "dense_bytes": 4_000_000, "head_bytes": 0}
    bare = [run("decode", 1e-3, depth=10, **near), run("decode", 1.02e-3, depth=110, **near)]
    assert from_engine(runs + bare, READ)["llama.cpp.t1.head.s"].value == pytest.approx(20e-9)
    # 10 ms of reading and 40 x 10 x 20 ns = 8 us of attention: 1.992 ms are left for 2 x 100e6 FLOP
    rate = from_engine(runs, READ)["llama.cpp.t1.f16.decode.flop_per_s"].value
    assert rate == pytest.approx(200e6 / 1.992e-3, rel=1e-3)


def test_a_prompt_passes_one_ffn_less() -> None:
    # of 90e6 elements 40e6 are in the last FFN: 2 x (50e6 x 100 + 40e6 + head 10e6) = 10.1 GFLOP; 0.11 s
    # less 10 ms of reading 200 MB leave 0.1 s
    found = from_engine([run("prefill", 0.11, last_dense_elements=40e6)], READ)
    assert found["llama.cpp.t1.f16.prefill.flop_per_s"].value == pytest.approx(101e9)


def test_time_a_head_of_a_prompt_is_what_longer_prompts_take_a_token() -> None:
    # 20 heads see (300 + 1) / 2 - (100 + 1) / 2 = 100 tokens more: 2,000 x 5 ns = 10 us a token
    found = from_engine([run("prefill", 0.1), run("prefill", 300 * 1.01e-3, prompt_tokens=300)], READ)
    assert found["llama.cpp.t1.prompt-head.s"].value == pytest.approx(5e-9)


def test_the_law_counts_flops_and_gets_the_measured_time() -> None:
    samples = [
        run("decode", 12e-3, depth=10), run("decode", 12.08e-3, depth=110),
        run("prefill", 0.11, last_dense_elements=40e6),
    ]  # fmt: skip
    host = HostCalibration(
        date="2026-11-30T10:00:00Z", version="0", mode="quick", host=FACTS, samples=tuple(samples),
        coefficients=READ | from_engine(samples, READ),
    )  # fmt: skip
    model = Attention(heads=20.0, rows=4.0, decode_flop=5000.0, prompt_flop=5000.0, cache_bytes=2000.0)
    target = target_of("llama.cpp", "f16", threads=1)._replace(attention=model, prompt_frac=Parts(0.5, 1.0))
    found = overlay(read_calibration(), host, target).coefficients
    decode, prefill = target.law

    def product(names: tuple[str, ...]) -> float:
        value = 1.0
        for name in names:
            value *= found[name].value if name in found else 1.0
        return value

    # 20 query heads at 20 ns: 400 ns for 5,000 FLOP; 4 rows like 5 heads each: 400 ns for 2,000 bytes
    assert 5000.0 / product(decode.cache[1]) == pytest.approx(400e-9)
    read = host.coefficients["read.t1.bytes_per_s"].value  # what the law multiplies its moving names with
    assert 2000.0 / (read * product(decode.cache[0])) == pytest.approx(400e-9, rel=1e-3)
    # half of what the law counts is passed through: 101 GFLOP/s look like 202
    assert product(prefill.weights[1]) == pytest.approx(202e9)


def test_heads_and_last_ffn_are_counted_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_random_gguf(path, Shape(512, 3, 4, 2, 256, 512, n_experts=4, n_active=2), "q8_0")
    facts, vocab = gguf_facts(path, Catalog())
    assert vocab == 512
    # 3 layers of 4 query heads of 128; 2 rows like 5 heads each on top
    assert facts["heads"] == 12
    assert facts["decode_heads"] == 12 + 3 * 2 * 5
    # 4 experts of 3 matrices; the router is dense
    assert facts["last_expert_elements"] == 4 * 3 * 512 * 256
    assert facts["last_dense_elements"] == 4 * 512


def test_a_model_of_one_layer_still_passes_one_token(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_random_gguf(path, Shape(512, 1, 4, 2, 256, 512, n_experts=4, n_active=2), "q8_0")
    session = Session(Catalog())
    share = passed_frac(session.graph(str(path), "q8_0"), 100)
    # all experts are in the last FFN: of 100 tokens one passes them
    assert share.expert_elements == pytest.approx(0.01)
    # attention has 2 x 512 x 512 + 2 x 512 x 256 elements, the router 4 x 512
    assert share.dense_elements == pytest.approx(1 - 0.99 * 2048 / (786_432 + 2048))
    assert passed_frac(session.graph(str(path), "q8_0"), 1) == (1.0, 1.0)


class _Canned:
    """Stands for a process that has a file loaded."""

    cpu_s = 0.0

    def __init__(self, rows: list[dict[str, float]]) -> None:
        self.rows = rows

    def ask(self, request: dict[str, Any], timeout_s: float) -> list[dict[str, float]]:
        return self.rows


def test_the_first_token_takes_no_step(tmp_path: Path) -> None:
    # 9 tokens counted, 8 of them after the first: 80 ms are 10 ms a step
    row = {"prompt_n": 128.0, "prompt_ms": 500.0, "predicted_n": 9.0, "predicted_ms": 80.0}
    child = cast(Child, _Canned([row, row | {"prompt_n": 4.0, "predicted_ms": 40.0}]))
    prefill, deep, near = measure_gguf(
        Engine("package", ""), tmp_path / "a.gguf", 1, vocab=512, repeats=1, more_decode=1, child=child
    )
    assert (prefill.median, deep.median, near.median) == (256.0, 100.0, 200.0)
    assert (deep.setup["depth"], near.setup["depth"]) == (132.5, 8.5)


BENCH = """#!{python}
import json, sys
if "-d" in sys.argv and not {knows}:
    sys.exit("error: invalid parameter for argument: -d")
rows = [dict(n_gen=0, n_depth=0, samples_ts=[300.0]), dict(n_gen=16, n_depth=0, samples_ts=[50.0])]
if "-d" in sys.argv:
    rows += [dict(n_gen=0, n_depth=128, samples_ts=[1.0]), dict(n_gen=16, n_depth=128, samples_ts=[40.0])]
print(json.dumps(rows))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands for the program")
@pytest.mark.parametrize(("knows", "depths"), [(True, [(136.0, 40.0), (8.0, 50.0)]), (False, [(8.0, 50.0)])])
def test_llama_bench_is_asked_for_both_lengths_where_it_can(
    tmp_path: Path, knows: bool, depths: list[tuple[float, float]]
) -> None:
    program = tmp_path / "llama-bench"
    program.write_text(BENCH.format(python=sys.executable, knows=knows), encoding="utf-8")
    program.chmod(0o755)
    prefill, *decode = measure_gguf(Engine("binary", str(program)), tmp_path / "a.gguf", 1, vocab=512)
    assert prefill.median == 300.0
    assert [(s.setup["depth"], s.median) for s in decode] == depths


def test_attention_without_a_rate_of_the_type_stays_as_shipped() -> None:
    samples = [run("decode", 12e-3, depth=10), run("decode", 12.08e-3, depth=110), run("prefill", 0.11)]
    found = from_engine(samples, READ)
    decode = [name for name in found if name.endswith("decode.flop_per_s")]
    assert decode
    host = HostCalibration(
        date="2026-11-30T10:00:00Z", version="0", mode="quick", host=FACTS, samples=tuple(samples),
        coefficients=READ | {name: value for name, value in found.items() if name not in decode},
    )  # fmt: skip
    model = Attention(heads=20.0, rows=4.0, decode_flop=5000.0, prompt_flop=5000.0, cache_bytes=2000.0)
    target = target_of("llama.cpp", "f16", threads=1)._replace(attention=model)
    shipped, name = read_calibration(), "local.cpu.attention.compute"
    assert overlay(shipped, host, target).coefficients[name] == shipped.coefficients[name]
