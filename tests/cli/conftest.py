"""Running the program as a user does: a process of its own, with what it used."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from moeplan.api.check import Checker, Options
from moeplan.readers.catalog import Catalog
from moeplan.readers.paths import shipped_configs
from tests.support.check_budgets import BUDGETS, changed

REPO = Path(__file__).resolve().parents[2]

# Runs the program and reports the most memory that it ever had in use, in KiB. Not from getrusage where there
# is another way: its peak is inherited from the process that started this one.
PROBE = """
import atexit, os, resource, sys
def peak_kib():
    if not os.path.exists("/proc/self/status"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
atexit.register(lambda: sys.__stderr__.write("\\nMAXRSS %d\\n" % peak_kib()))
from moeplan.cli.app import main
main()
"""


class Ran(NamedTuple):
    """What one run left behind."""

    code: int
    out: str
    err: str
    cpu_s: float
    max_rss_bytes: int

    @property
    def json(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    """Run ``moeplan ARGUMENTS`` in this process: fast, for what is not about processes."""
    from typer.testing import CliRunner

    from moeplan.cli.tree import app

    for name in ("NO_COLOR", "FORCE_COLOR", "MOEPLAN_DEBUG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp() / "no-home"))

    def run(*arguments: str | Path) -> Ran:
        before = resource.getrusage(resource.RUSAGE_SELF)
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Ran(done.exit_code, done.stdout, done.stderr, cpu_s, 0)

    return run


@pytest.fixture(scope="session")
def moeplan(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    """Run ``moeplan ARGUMENTS`` with a home directory of its own."""
    home = tmp_path_factory.mktemp("home")

    def run(*arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> Ran:
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "MOEPLAN_DEBUG", "XDG_CONFIG_HOME")
        }
        environment |= {"HOME": str(home), "PYTHONPATH": str(REPO), "COLUMNS": "80", **(env or {})}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", PROBE, *map(str, arguments)],
            cwd=cwd or REPO,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        err, _, rss = done.stderr.rpartition("\nMAXRSS ")
        return Ran(
            code=done.returncode,
            out=done.stdout,
            err=err,
            cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            max_rss_bytes=int(rss) * 1024,
        )

    return run


@pytest.fixture(scope="session")
def budgets(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The budget file with speeds that today's calibration meets by a twentieth or two.

    The tests are about budgets, not about speeds: a better calibration must not break them.
    """
    path = tmp_path_factory.mktemp("budgets") / "moeplan.check.yaml"
    loose = BUDGETS.replace("DECODE", "0.001").replace("PREFILL", "0.001").replace("TTFT", "1e9")
    path.write_text(loose, encoding="utf-8")
    results = Checker(Catalog(user=shipped_configs()), Options()).check([str(path)]).results
    low = {result.budget: result.amount.low for result in results if result.amount}
    high = {result.budget: result.amount.high for result in results if result.amount}
    text = BUDGETS.replace("DECODE", f"{low['decode'] * 0.9:.4f}")
    text = text.replace("PREFILL", f"{low['prefill'] * 0.9:.4f}")
    return text.replace("TTFT", f"{high['ttft'] * 1000 * 1.1:.4f}")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budgets: str) -> Path:
    """A directory with a budget file, as the current one."""
    (tmp_path / "moeplan.check.yaml").write_text(budgets, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_STEP_SUMMARY",):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def failing(here: Path) -> Path:
    """A budget file with one failure, one near miss and the rest fine, whose names need escaping."""
    changed(here, "prefill: {min_tokens_per_s: #", "prefill: {min_tokens_per_s: 100000000")
    changed(here, "  chat:", '  "a<b>&\\"c%,:|d": {model: mixtral-8x7b, quant: awq, engine: vllm}\n  chat:')
    return here
