"""Small, careful reads of what the system tells: nothing here raises for a missing file or program."""

from __future__ import annotations

from pathlib import Path

_MAX_READ_BYTES = 4 << 20


def read(path: Path) -> str:
    """The text of a file of /proc or /sys, or an empty string."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_READ_BYTES).decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""


def read_int(path: Path) -> int | None:
    """The whole number (decimal, or hexadecimal with 0x) in a file, or None."""
    try:
        return int(read(path), 0)
    except ValueError:
        return None


def folders(path: Path, prefix: str = "") -> list[Path]:
    """The entries of a directory whose names start with ``prefix``, sorted; empty where there is none."""
    try:
        return sorted(entry for entry in path.iterdir() if entry.name.startswith(prefix))
    except OSError:
        return []


def run(*command: str, timeout_s: float = 5.0) -> str:
    """What a program prints, or an empty string when it is absent, fails or hangs."""
    import subprocess

    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout_s, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace").strip()
