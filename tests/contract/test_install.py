"""moeplan as users get it: from a wheel, from an sdist and editable, in an environment without extras.

Slow: builds both distributions once and installs them with their dependencies from the package index.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from moeplan._version import __version__

pytestmark = pytest.mark.slow

EXTRAS = ("torch", "huggingface_hub", "plotille", "resvg_py", "numpy", "gguf", "pytest")
ESTIMATE = "estimate mixtral-8x7b --hardware rtx-4090 --ram-gib 64 --ram-gbs 80 --quant q4_k_m --format json"


class Distributions(NamedTuple):
    """The two files that a release consists of."""

    wheel: Path
    sdist: Path


def _run(command: list[str | Path], cwd: Path) -> str:
    """stdout of ``command``, run in ``cwd`` without the repository on the import path."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MOEPLAN_CONFIGS")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _pip(python: Path, *arguments: str | Path, cwd: Path) -> None:
    _run([python, "-m", "pip", "install", "--quiet", *arguments], cwd)


def _build(source: Path, target: Path, kind: str) -> Path:
    """The one file that ``hatchling build`` of ``kind`` writes to ``target``."""
    target.mkdir()
    _run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", target], source)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="session")
def distributions(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The wheel and the sdist of the working tree."""
    folder = tmp_path_factory.mktemp("dist")
    return Distributions(_build(repo, folder / "wheel", "wheel"), _build(repo, folder / "sdist", "sdist"))


@pytest.fixture(scope="session")
def environment(
    distributions: Distributions, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Path]]:
    """(interpreter, an unrelated directory): a new environment with moeplan's base dependencies alone."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    _pip(python, distributions.wheel, cwd=elsewhere)
    yield python, elsewhere
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=["wheel", "sdist", "editable"])
def installed(
    request: pytest.FixtureRequest, repo: Path, distributions: Distributions, environment: tuple[Path, Path]
) -> tuple[Path, Path]:
    """The environment with moeplan installed in the way of the parameter, which it replaces."""
    python, elsewhere = environment
    if request.param == "sdist":
        _pip(python, "--no-deps", "--force-reinstall", distributions.sdist, cwd=elsewhere)
    elif request.param == "editable":
        _pip(python, "--no-deps", "--force-reinstall", "--editable", repo, cwd=elsewhere)
    return python, elsewhere


def test_the_command_works_outside_the_repository(installed: tuple[Path, Path]) -> None:
    python, elsewhere = installed
    moeplan = python.with_name("moeplan")
    assert __version__ in _run([moeplan, "--version"], elsewhere)
    assert __version__ in _run([python, "-m", "moeplan", "--version"], elsewhere)

    listed = json.loads(_run([moeplan, "models", "list", "--format", "json"], elsewhere))
    assert "mixtral-8x7b" in json.dumps(listed)

    answer = json.loads(_run([moeplan, *ESTIMATE.split()], elsewhere))
    assert answer["schema"] == "moeplan/estimate@1"
    assert answer["fits"] is True


def test_the_library_works_without_extras(installed: tuple[Path, Path]) -> None:
    python, elsewhere = installed
    probe = (
        "import importlib.util, json, moeplan\n"
        "answer = moeplan.estimate('mixtral-8x7b', hardware='rtx-4090', quant='q4_k_m')\n"
        f"extras = [name for name in {EXTRAS!r} if importlib.util.find_spec(name)]\n"
        "print(json.dumps({'weights': answer.weights_bytes, 'extras': extras}))"
    )
    found = json.loads(_run([python, "-c", probe], elsewhere))
    assert found["extras"] == [], "the environment is not the bare one"
    assert found["weights"] > 20e9, "46.7e9 parameters at more than 3.5 bits each"


MAX_INSTALLED_BYTES = 40_000_000


def test_the_installation_is_small(environment: tuple[Path, Path], distributions: Distributions) -> None:
    python, elsewhere = environment
    site = Path(
        _run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], elsewhere).strip()
    )
    # Dependencies as installed; what every environment has before anything is installed does not count,
    # and moeplan itself is counted from its wheel, whichever way an earlier test installed it.
    dependencies = [
        path
        for path in site.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not path.relative_to(site).parts[0].startswith(("pip", "setuptools", "moeplan", "_moeplan"))
    ]
    assert any(path.relative_to(site).parts[0] == "typer" for path in dependencies)
    with zipfile.ZipFile(distributions.wheel) as wheel:
        own = sum(entry.file_size for entry in wheel.infolist())
    assert own > 1_000_000, "the wheel carries the catalog"
    assert own + sum(path.stat().st_size for path in dependencies) <= MAX_INSTALLED_BYTES


def _names(archive: Path) -> set[str]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return set(wheel.namelist())
    with tarfile.open(archive) as sdist:
        return {name.partition("/")[2] for name in sdist.getnames()}


def _files_under(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder.parent))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_wheel_and_sdist_carry_every_file(repo: Path, distributions: Distributions) -> None:
    modules, configs = _files_under(repo / "moeplan"), _files_under(repo / "configs")
    assert "moeplan/py.typed" in modules
    assert any(name.startswith("configs/models/") for name in configs)

    in_wheel = _names(distributions.wheel)
    expected = modules | {f"moeplan/{name}" for name in configs}
    assert {name for name in in_wheel if ".dist-info/" not in name} == expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in in_wheel)

    in_sdist = _names(distributions.sdist)
    assert modules | configs | {"README.md", "LICENSE", "pyproject.toml"} <= in_sdist


def test_the_sdist_builds_the_same_wheel(distributions: Distributions, tmp_path: Path) -> None:
    with tarfile.open(distributions.sdist) as sdist:
        sdist.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    rebuilt = _build(source, tmp_path / "wheel", "wheel")
    with zipfile.ZipFile(distributions.wheel) as one, zipfile.ZipFile(rebuilt) as other:
        assert {i.filename: i.CRC for i in one.infolist()} == {i.filename: i.CRC for i in other.infolist()}
