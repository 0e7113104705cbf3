"""Finding and parsing a config.json, with errors that say where."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from moeplan.errors import SpecError

# The largest real ones, with a quantised layer list, are below 2 MB.
MAX_CONFIG_BYTES: Final = 5_000_000


def load_config(path: Path) -> tuple[Path, dict[str, Any], str]:
    """(file, parsed object, text) of ``path``, a config.json or a directory that holds one.

    Raises SpecError for a missing or unreadable file, one beyond MAX_CONFIG_BYTES, text that is not
    JSON (line and column given) and JSON that is not an object.
    """
    import json

    file = _locate(path)
    text = _read_text(file)
    try:
        data = json.loads(text, parse_int=_parse_int)
    except json.JSONDecodeError as error:
        raise SpecError(
            f"not valid JSON: {error.msg}",
            path=str(file),
            line=error.lineno,
            column=error.colno,
            snippet=_line(text, error.lineno),
        ) from None
    except RecursionError:
        raise SpecError("JSON nested too deeply for a config.json", path=str(file)) from None
    if not isinstance(data, dict):
        raise SpecError(f"a config.json must hold an object, got {_kind(data)}", path=str(file), line=1)
    return file, data, text


def model_name(file: Path) -> str:
    """What a model read from ``file`` is called: its directory, ``org/name`` in a hub cache, or the
    file itself where it is not called config.json."""
    folder = file.resolve().parent
    if file.name != "config.json" or not folder.name:
        return file.stem
    cached = folder.parent.parent.name  # models--org--name/snapshots/<commit>/config.json
    if folder.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/", 1)
    return folder.name


def _locate(path: Path) -> Path:
    if not path.exists():
        raise SpecError("no such file or directory", path=str(path))
    if not path.is_dir():
        return path
    file = path / "config.json"
    if not file.is_file():
        raise SpecError(
            "this directory has no config.json",
            path=str(path),
            hint="expected a Hugging Face model directory, or name the file itself",
        )
    return file


def _read_text(file: Path) -> str:
    try:
        size = file.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise SpecError(f"{size:,} bytes is too big for a config.json (limit 5 MB)", path=str(file))
        with file.open("rb") as stream:
            raw = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror or error}", path=str(file)) from None
    if len(raw) > MAX_CONFIG_BYTES:  # a device or a growing file: its stated size says nothing
        raise SpecError("too big for a config.json (limit 5 MB)", path=str(file))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text (byte {error.start})", path=str(file)) from None


def _parse_int(digits: str) -> int | float:
    """Integers of absurd length become infinity: converting them takes time, and nothing uses them."""
    return int(digits) if len(digits) <= 40 else float("inf")


def _line(text: str, number: int) -> str:
    return text.splitlines()[number - 1][:200] if text.strip() else ""


def _kind(value: object) -> str:
    return {list: "a list", str: "a string", type(None): "null", bool: "true or false"}.get(
        type(value), "a number"
    )
