"""CSV files of measurements: their columns, and every row with its line number."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from moeplan.errors import SpecError
from moeplan.readers.paths import require_file

# Spreadsheets put a byte order mark in front of UTF-8; without it the first column would have another name.
_ENCODING = "utf-8-sig"
_HINT = "docs/corpus.md has the columns"


def columns(path: Path) -> tuple[str, ...]:
    """The names in the first line. Raises SpecError."""
    _require(path)
    try:
        with path.open(newline="", encoding=_ENCODING) as file:
            names = tuple(next(csv.reader(file), ()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error
    return names


def lines(path: Path, required: Sequence[str]) -> Iterator[tuple[dict[str, str], int]]:
    """(cells by column, line number) of every row; a file without ids gets ``line N``.

    Raises SpecError that names all of the columns ``required`` that are missing.
    """
    _require(path)
    try:
        with path.open(newline="", encoding=_ENCODING) as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or ()
            missing = [name for name in required if name not in names]
            if missing:
                raise SpecError(_without(names, missing), path=str(path), line=1, hint=_HINT)
            for row in reader:
                if not row.get("id"):
                    row["id"] = f"line {reader.line_num}"
                yield row, reader.line_num
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error


def unlike_any(path: Path, names: Sequence[str]) -> SpecError:
    """The error for a file whose columns are those of no kind of corpus."""
    why = _separated(names) or "its columns are those of no kind of corpus"
    return SpecError(why, path=str(path), line=1, hint=f"{_HINT}; --kind says which kind is meant")


class Cells:
    """One row; numbers are read with their line in the error."""

    def __init__(self, row: dict[str, str], path: Path, line: int) -> None:
        self.row, self.path, self.line = row, path, line

    def text(self, name: str) -> str:
        """The cell, empty where it or its column is."""
        return self.row.get(name) or ""

    def number(self, name: str) -> float | None:
        """The cell as a finite number. Raises SpecError with its line."""
        text = self.text(name)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise SpecError(f"{name}: {text!r} is not a number", path=str(self.path), line=self.line)
        return value

    def count(self, name: str) -> int | None:
        """The cell as a whole number."""
        value = self.number(name)
        return None if value is None else int(value)


def _require(path: Path) -> None:
    """Raise for what is no file, or an empty one: a pipe would be waited for."""
    if require_file(path) == 0:
        raise SpecError("is empty", path=str(path))


def _unreadable(path: Path, error: Exception) -> SpecError:
    return SpecError(f"cannot read the corpus: {error}", path=str(path))


def _without(names: Sequence[str], missing: Sequence[str]) -> str:
    listed = ", ".join(repr(name) for name in missing)
    return _separated(names) or f"not a corpus of this kind: no column {listed}"


def _separated(names: Sequence[str]) -> str:
    """What to say where one column holds them all, since another sign than a comma parts them."""
    sign = next((s for s in (";", "\t", "|") if len(names) == 1 and s in names[0]), "")
    return sign and f"columns are separated by {sign!r}, where a comma was expected"
