"""What must hold for every file of the repository, whoever writes it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from moeplan.provenance import KINDS

MAX_LINES = 400

# Paths of somebody's machine and addresses of package indexes: both work here and nowhere else.
# The look-behind lets URLs and repository ids pass (org/home/..., example.com/root/...).
LOCAL = re.compile(
    r"(?<![\w.~:/-])/(?:work|home|root|Users)/\w"
    r"|(?:pypi|pythonhosted|npmjs|crates)\.(?:org|com|io)\b",
)


def repository_files(root: Path) -> Iterator[Path]:
    """Every file a person wrote: no caches, no virtual environments, no build outputs."""
    for folder, subfolders, names in os.walk(root):
        here = Path(folder)
        subfolders[:] = [
            name
            for name in subfolders
            if name not in {"__pycache__", "build", "dist", "venv"}
            and (not name.startswith(".") or name in {".ci", ".github"})
            and not (here / name / "pyvenv.cfg").exists()
        ]
        # in a git worktree .git is a file
        yield from (here / name for name in names if name != ".git")


def local_words(text: str) -> list[str]:
    """The lines of ``text`` that name a local path or a package index."""
    return [line.strip()[:120] for line in text.splitlines() if LOCAL.search(line)]


def test_no_python_file_is_longer_than_400_lines(repo: Path) -> None:
    modules = [path for path in repository_files(repo) if path.suffix == ".py"]
    long = {
        str(path.relative_to(repo)): n
        for path in modules
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert len(modules) > 300
    assert long == {}


def test_no_file_names_a_local_path_or_a_package_index(repo: Path) -> None:
    found = {}
    for path in repository_files(repo):
        words = local_words(path.read_bytes().decode("utf-8", errors="replace"))
        if words:
            found[str(path.relative_to(repo))] = words[:3]
    assert found == {}


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("cd /home" + "/me/moeplan", True),
        ("open('/work" + "/data.csv')", True),
        ("index-url = https://pypi" + ".org/simple", True),
        ("https://example.com/home/page", False),
        ("~/.config/moeplan and /proc/meminfo", False),
        ("hf:org/root/model", False),
    ],
)
def test_the_search_for_local_words_finds_and_spares(text: str, is_found: bool) -> None:
    assert bool(local_words(text)) is is_found


def test_the_shipped_licence_is_the_declared_one(repo: Path) -> None:
    import tomllib

    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0"
    text = (repo / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_no_dependency_is_the_retired_pynvml(repo: Path) -> None:
    import tomllib

    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    requirements = project["dependencies"] + [line for extra in extras for line in extra]
    names = {re.split(r"[\[<>=!~; ]", line)[0].lower() for line in requirements}
    assert "nvidia-ml-py" in names
    assert "pynvml" not in names


def _sources(node: object) -> Iterator[object]:
    """Every source in a document: what stands under ``source`` or in ``sources`` (a list, or named)."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "source":
                yield value
            elif key == "sources":
                yield from value.values() if isinstance(value, dict) else value
            yield from _sources(value)
    elif isinstance(node, list):
        for value in node:
            yield from _sources(value)


def source_fault(document: dict[str, Any], is_entry: bool) -> str | None:
    """What is wrong with the sources of a catalog file: an entry states them at its top, a table anywhere."""
    named = document.get("sources") or {}
    if is_entry and not named:
        return "states no source at its top"
    sources = list(_sources(document))
    for source in sources:
        stated = named.get(source) if isinstance(source, str) and isinstance(named, dict) else source
        if not isinstance(stated, dict) or stated.get("kind") not in KINDS or len(stated.get("ref", "")) < 3:
            return f"{source} is not a source"
    return None if sources else "states no source"


def catalog_files(repo: Path) -> list[Path]:
    """The YAML files that state facts; examples/ and schema/ state none."""
    parts = ("models", "hardware", "engines", "calibration")
    files = [path for part in parts for path in (repo / "configs" / part).rglob("*.yaml")]
    return sorted(files + list((repo / "configs").glob("*.yaml")))


def test_every_catalog_file_has_a_source(repo: Path) -> None:
    files = catalog_files(repo)
    assert len(files) > 100, "the catalog is missing"
    faults = {}
    for path in files:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        name = str(path.relative_to(repo / "configs"))
        fault = source_fault(
            document, is_entry=name.startswith(("models/", "hardware/")) and "id" in document
        )
        if fault:
            faults[name] = fault
    assert faults == {}


@pytest.mark.parametrize(
    ("document", "is_entry", "is_good"),
    [
        ({"id": "a", "sources": [{"kind": "paper", "ref": "Table 3"}]}, True, True),
        ({"rows": [{"value": 1, "source": {"kind": "paper", "ref": "Table 3"}}]}, False, True),
        ({"id": "a", "rows": [{"source": {"kind": "paper", "ref": "Table 3"}}]}, True, False),
        ({"id": "a", "sources": [{"kind": "hearsay", "ref": "Table 3"}]}, True, False),
        ({"id": "a", "sources": [{"kind": "paper", "ref": "x"}]}, True, False),
        ({"id": "a", "sources": []}, True, False),
        ({"sources": {"b": {"kind": "paper", "ref": "Table 3"}}, "rows": [{"source": "b"}]}, False, True),
        ({"sources": {"b": {"kind": "paper", "ref": "Table 3"}}, "rows": [{"source": "c"}]}, False, False),
        ({"rows": [{"value": 1}]}, False, False),
    ],
)
def test_a_missing_source_is_found(document: dict[str, Any], is_entry: bool, is_good: bool) -> None:
    assert (source_fault(document, is_entry) is None) is is_good
