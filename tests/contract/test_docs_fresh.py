"""No figure on a page is typed by hand: what docs/generate.py would print is what stands there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_outputs_and_tables_are_fresh(repo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=repo, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nrun: python docs/generate.py"


def test_a_stale_page_would_be_seen(repo: Path, tmp_path: Path) -> None:
    import shutil

    for name in ("docs", "configs", "moeplan", "README.md"):
        source = repo / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    page = tmp_path / "docs" / "formulas.md"
    page.write_text(page.read_text(encoding="utf-8").replace("70,272 |", "70,273 |"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "formulas.md" in done.stdout
