"""`moeplan profile` from outside: what every install can do (tests/crosscheck has what needs torch)."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from moeplan.api.profile import earlier_calibration, save, shared_rows
from moeplan.domain.profile import HostCalibration
from moeplan.hw.facts import local_facts
from moeplan.readers.calibration_host import write_host_calibration
from tests.unit.test_profile_host import calibration

HAS_TORCH = find_spec("torch") is not None


def here() -> HostCalibration:
    """The made-up calibration as if it had been measured on this machine."""
    return replace(calibration(), host=local_facts())


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A calibration of this machine and one of another."""
    mine, other = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    write_host_calibration(here(), mine)
    write_host_calibration(calibration(), other)
    return mine, other


def test_show_prints_the_file(inside: Callable[..., Any], files: tuple[Path, Path]) -> None:
    ran = inside("profile", "show", files[1], "--format", "json")
    assert ran.code == 0
    shown = ran.json
    assert shown["schema"] == "moeplan/calibration@1"
    assert {"host", "samples", "coefficients"} <= set(shown)
    assert shown["coefficients"]["read.t2.bytes_per_s"]["value"] == 32e9
    table = inside("profile", "show", files[1]).out
    assert "Some CPU" in table and "32.0 GB/s" in table


def test_show_without_a_calibration_says_what_to_do(inside: Callable[..., Any]) -> None:
    ran = inside("profile", "show")
    assert ran.code == 2
    assert "run `moeplan profile`" in ran.err


def test_diff_names_what_changed(
    inside: Callable[..., Any], files: tuple[Path, Path], tmp_path: Path
) -> None:
    slower = calibration()
    c = slower.coefficients["read.t2.bytes_per_s"]
    changed = {**slower.coefficients, "read.t2.bytes_per_s": replace(c, value=16e9, low=15e9, high=17e9)}
    after = tmp_path / "after.yaml"
    write_host_calibration(replace(slower, coefficients=changed), after)
    rows = {r["name"]: r for r in inside("profile", "diff", files[1], after, "--format", "json").json["rows"]}
    assert rows["read.t2.bytes_per_s"]["change_frac"] == -0.5
    assert rows["read.t2.bytes_per_s"]["beyond_spread"] is True
    assert [name for name, row in rows.items() if row["beyond_spread"]] == ["read.t2.bytes_per_s"]


def test_the_calibration_that_was_replaced_stays_to_be_compared(
    inside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert earlier_calibration(None) is None
    assert inside("profile", "diff").code == 2
    save(calibration(), None)
    assert earlier_calibration(None) is None, "of another machine"
    save(here(), None)
    assert earlier_calibration(None) == here()
    elsewhere = str(tmp_path / "new.yaml")
    assert earlier_calibration(elsewhere) == here(), "what other commands use, beside a new file"
    save(replace(here(), date="later"), elsewhere)
    assert getattr(earlier_calibration(elsewhere), "date", "") == "later"
    assert "cpu: measured on Some CPU" in str(inside("profile", "diff", "--format", "json").json["machine"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--quick", "--full"), ["exclude"]),
        (("--memory-share", "2"), ["--memory-share"]),
        (("--memory-share", "nan"), ["--memory-share"]),
        (("--concurrency", "1,x", "--endpoint", "http://127.0.0.1:9"), ["--concurrency"]),
        (("--endpoint", "gopher://x"), ["--endpoint", "http://HOST:PORT"]),
        (("--endpoint", "http://127.0.0.1:9", "--timeout", "2"), ["127.0.0.1:9", "refuses connections"]),
        (("--engine", "vllm"), ["--endpoint"]),
        (("--engine", "llama.cpp", "--binary", "/nowhere/llama-bench"), ["--binary"]),
        (("--share", "/nowhere/rows.csv"), ["--share"]),
        (("--gpu", "--quick"), ["torch"]),
    ],
)
def test_wrong_use_is_one_clear_error(
    inside: Callable[..., Any], arguments: tuple[str, ...], words: list[str]
) -> None:
    ran = inside("profile", *arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert [word for word in words if word not in ran.err] == []
    assert "Traceback" not in ran.err


@pytest.mark.skipif(HAS_TORCH, reason="torch is installed")
def test_without_torch_the_extra_is_named(inside: Callable[..., Any]) -> None:
    ran = inside("profile", "--quick")
    assert ran.code == 2
    assert "pip install 'moeplan[profile]'" in ran.err


ESTIMATE = ("estimate", "llama-3.2-1b", "--quant", "f16", "--format", "json")


def test_estimate_uses_the_calibration_of_this_machine(
    inside: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    plain = inside(*ESTIMATE, "--calibration", "none")
    measured = inside(*ESTIMATE, "--calibration", files[0])
    assert plain.code in (0, 1) and measured.code in (0, 1), measured.err
    assert measured.json["decode"]["step_ms"] != plain.json["decode"]["step_ms"]
    assert any("measured on this machine" in text for text in measured.json["assumptions"])


def test_a_calibration_of_another_machine_is_refused(
    inside: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    ran = inside(*ESTIMATE, "--calibration", files[1])
    assert ran.code == 2
    assert "another machine" in ran.err and "cpu: measured on Some CPU" in ran.err


def test_a_calibration_does_not_go_with_other_hardware(
    inside: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    ran = inside(*ESTIMATE, "--calibration", files[0], "--hardware", "rtx-4090")
    assert ran.code == 2
    assert "holds for it alone" in ran.err


def test_the_users_own_file_is_found_and_a_foreign_one_left_out(
    inside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "moeplan" / "calibration" / "this-machine.yaml"
    write_host_calibration(here(), path)
    assert any("measured on this machine" in text for text in inside(*ESTIMATE).json["assumptions"])
    write_host_calibration(calibration(), path)
    left_out = inside(*ESTIMATE).json["assumptions"]
    assert any("not used" in text and "another machine" in text for text in left_out)
    other = inside(*ESTIMATE, "--hardware", "rtx-4090").json["assumptions"]
    assert not any("calibration" in text for text in other)


def test_shared_rows_name_neither_machine_nor_model() -> None:
    from tests.unit.test_profile_host import engine_run

    run = engine_run("decode", 50.0)
    named = replace(run, setup={**run.setup, "model": "secret-model.gguf"})
    text = shared_rows(calibration((named,)))
    assert text.splitlines()[1].startswith("P0001,avx2,2,1,decode,llama.cpp,f16,0,10,")
    assert "secret" not in text and "Some CPU" not in text


def test_a_random_gguf_reads_back(tmp_path: Path, inside: Callable[..., Any]) -> None:
    from moeplan.measure.random_gguf import Shape, write_random_gguf

    path = tmp_path / "r.gguf"
    shape = Shape(hidden=256, layers=2, heads=4, kv_heads=2, width=256, vocab=512, n_experts=4, n_active=2)
    write_random_gguf(path, shape, "q4_k")
    shown = inside("models", "show", path, "--format", "json").json
    # 2 x 512 x 256 + 256 + 2 x (2 x 256 + 2 x 256 x 256 + 2 x 128 x 256 + 4 x 256 + 4 x 3 x 256 x 256)
    assert shown["model"]["params_total"] == 2 * 512 * 256 + 256 + 2 * (512 + 131072 + 65536 + 1024 + 786432)
    assert json.dumps(shown).count("q4_k") > 0
