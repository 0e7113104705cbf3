"""Where specifications live, and reading a small text file without being hurt by it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from moeplan.errors import SpecError

MAX_TEXT_BYTES = 1_000_000


def shipped_configs() -> Path:
    """The catalog that comes with moeplan: inside an installed package, else the checkout's ``configs/``."""
    package = Path(__file__).resolve().parent.parent
    packed = package / "configs"
    return packed if packed.is_dir() else package.parent / "configs"


def user_configs() -> Path:
    """The user's own specifications: ``$XDG_CONFIG_HOME/moeplan``, by default ``~/.config/moeplan``."""
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    # The XDG base directory specification: a relative value is invalid and ignored.
    if not base.is_absolute():
        base = Path(os.path.expanduser("~"), ".config")  # noqa: PTH111 - Path's raises where there is no home
    return base / "moeplan"


def require_file(path: Path) -> int:
    """Size in bytes of the regular file ``path``; SpecError for anything else (never opens it)."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise SpecError("no such file", path=str(path)) from None
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot be read: {_reason(error)}", path=str(path)) from None
    if stat.S_ISDIR(status.st_mode):
        raise SpecError("is a directory, expected a file", path=str(path))
    if not stat.S_ISREG(status.st_mode):
        raise SpecError("is not a regular file (a device, pipe or socket)", path=str(path))
    return status.st_size


def read_text(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """The UTF-8 text of a regular file of at most ``max_bytes``; SpecError says what else it is."""
    size = require_file(path)
    try:
        # One byte more than allowed: files under /proc state no size.
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1) if size <= max_bytes else None
    except OSError as error:
        raise SpecError(f"cannot be read: {_reason(error)}", path=str(path)) from None
    if raw is None or len(raw) > max_bytes:
        raise SpecError(
            f"is too large for a specification: {size:,} bytes, at most {max_bytes:,} are read",
            path=str(path),
        )
    if not raw:
        raise SpecError("is empty", path=str(path))
    if b"\0" in raw:
        raise SpecError("is not a text file (it holds NUL bytes)", path=str(path))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError(
            f"is not UTF-8 text (byte 0x{raw[error.start]:02x} at offset {error.start})",
            path=str(path),
            line=line,
        ) from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
