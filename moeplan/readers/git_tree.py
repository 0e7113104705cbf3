"""The files of another commit, laid out in a directory, so that they can be read like any others."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

from moeplan.errors import SpecError

MAX_FILE_BYTES = 1_000_000
MAX_ARCHIVE_BYTES = 500_000_000
TIMEOUT_S = 120
# What a check may read: specifications, manifests, scripts.
_SUFFIXES = (".yaml", ".yml", ".json", ".sh", ".bash", ".env", ".modelfile", ".service", ".txt", ".command")
_NAMES = ("modelfile", ".env")


def repository_root(folder: Path) -> Path:
    """The top directory of the git work tree that ``folder`` lies in."""
    return Path(_git(folder, "rev-parse", "--show-toplevel").decode().strip())


def export_commit(root: Path, commit: str, target: Path) -> None:
    """Write the small text files of ``commit`` below ``target``. SpecError when git does not know it."""
    if commit.startswith("-") or not commit.strip():
        raise SpecError(f"--git-base: not a commit: {commit[:60]!r}")
    try:
        resolved = _git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").decode().strip()
    except SpecError:
        raise SpecError(
            f"--git-base: git does not know {commit[:60]!r}",
            help="fetch it first: git fetch --depth=1 origin main:refs/remotes/origin/main",
        ) from None
    archive = _git(root, "archive", "--format=tar", resolved)
    if len(archive) > MAX_ARCHIVE_BYTES:
        raise SpecError("--git-base: the commit is too large to be looked at")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile() and member.size <= MAX_FILE_BYTES and _wanted(member.name):
                tar.extract(member, target, filter="data")


def _wanted(name: str) -> bool:
    base = PurePosixPath(name).name.lower()
    return base.endswith(_SUFFIXES) or base.startswith(_NAMES) or "." not in base


def _git(folder: Path, *arguments: str) -> bytes:
    """stdout of a git command; SpecError says why there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise SpecError("--git-base needs git, which is not installed") from None
    except subprocess.TimeoutExpired:
        raise SpecError("--git-base: git did not answer in time") from None
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise SpecError(f"--git-base: {reason[-1] if reason else 'git failed'}")
    return done.stdout
