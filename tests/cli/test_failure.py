"""From exceptions to exit codes, and the generated files."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from moeplan.api import estimate as api
from moeplan.cli import docs, failure
from moeplan.cli.tree import app
from moeplan.errors import SpecError

RUN = ["estimate", "mixtral-8x7b", "--hardware", "rtx-4090", "--quant", "q4_k_m"]


def raising(error: BaseException) -> object:
    def fail(*arguments: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "starts"),
    [
        (SpecError("wrong"), 2, "error: wrong\n"),
        (typer.Exit(7), 7, ""),
        (KeyboardInterrupt(), 130, ""),
        (PermissionError(13, "Permission denied", "x.yaml"), 2, "error: x.yaml: Permission denied\n"),
        (failure.PipeClosed(), 141, ""),
        (RecursionError("deep"), 101, "error: internal error: RecursionError: deep\n"),
        (ValueError("a\nb"), 101, "error: internal error: ValueError: a b\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, starts: str) -> None:
    monkeypatch.delenv("MOEPLAN_DEBUG", raising=False)
    monkeypatch.setattr(api, "run_estimate", raising(error))
    monkeypatch.setattr(failure, "close_stdout", lambda: failure.PIPE_CLOSED)
    ran = CliRunner().invoke(app, RUN)
    assert ran.exit_code == code
    assert ran.stderr.startswith(starts)
    assert "Traceback" not in ran.stderr
    if code == 101:
        assert "please report" in ran.stderr


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEPLAN_DEBUG", "1")
    monkeypatch.setattr(api, "run_estimate", raising(ValueError("x")))
    ran = CliRunner().invoke(app, RUN)
    assert ran.exit_code == 101
    assert "Traceback" in ran.stderr


def test_stale_files_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    path = docs.REPO / "docs" / "cli.md"
    text = path.read_text(encoding="utf-8")
    monkeypatch.setattr(docs, "files", lambda: {path: text})
    assert docs.stale() == []
    monkeypatch.setattr(docs, "files", lambda: {path: text + " "})
    assert docs.stale() == [path]
    assert docs.main(["--check"]) == 1
    assert docs.main([]) == 2
