"""`import moeplan` offers what the documentation names, and the documentation names what it offers."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import moeplan


def documented_names(text: str) -> set[str]:
    """The names used as ``moeplan.NAME`` in Python blocks and inline code, submodules left out."""
    blocks = re.findall(r"^```(?:python|pycon)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    code = "\n".join(blocks + re.findall(r"`([^`\n]+)`", prose))
    names = set(re.findall(r"(?<![\w/.-])moeplan\.([A-Za-z_]\w*)", code))
    for imported in re.findall(r"^from moeplan import (\([^)]*\)|.*)$", code, re.MULTILINE):
        names |= set(re.findall(r"\w+", imported))
    return {name for name in names if find_spec(f"moeplan.{name}") is None}


def test_every_public_name_is_documented_and_the_reverse(repo: Path) -> None:
    pages = [repo / "README.md", *sorted((repo / "docs").glob("*.md"))]
    documented = set().union(*(documented_names(page.read_text(encoding="utf-8")) for page in pages))
    assert documented == set(moeplan.__all__) - {"__version__"}


def test_every_public_name_exists() -> None:
    assert {name for name in moeplan.__all__ if not hasattr(moeplan, name)} == set()


def test_names_are_found_where_they_are_used() -> None:
    text = "`moeplan.one` moeplan.not_code\n```python\nfrom moeplan import two, three\nmoeplan.four(1)\n```\n"
    assert documented_names(text) == {"one", "two", "three", "four"}
