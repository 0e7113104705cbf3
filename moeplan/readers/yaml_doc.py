"""YAML read strictly, with a line and column for every complaint.

The dialect is what people expect of a specification file rather than all of YAML 1.1:
only ``true`` and ``false`` are booleans (``no`` and ``on`` are text), ``1e9`` and ``1_000`` are numbers,
dates stay text, ``010`` stays text. Refused: duplicate keys, anchors and aliases, tags, keys that are not
text, NaN and infinity, more than one document, nesting deeper than 40.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moeplan.errors import SpecError
from moeplan.readers.parsed import shipped_data
from moeplan.readers.paths import MAX_TEXT_BYTES, read_text

MAX_DEPTH = 40
MAX_SNIPPET_CHARS = 160

KeyPath = tuple[str | int, ...]

_NOT_FINITE = frozenset({".nan", ".inf", "+.inf", "-.inf"})
_CONSTANTS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}


class Document:
    """A parsed YAML document: plain Python ``data`` and where each piece of it stands."""

    __slots__ = ("_places", "data", "path", "text")

    def __init__(self, text: str, path: Path, data: Any = None) -> None:
        """``data`` is what ``text`` says, where that is known already."""
        self.text = text
        self.path = path
        self._places: dict[KeyPath, _Place] | None = None
        self.data: Any = _Builder(self, None).build() if data is None else data

    def location(self, path: KeyPath, *, value: bool = False) -> tuple[int, int]:
        """(line, column), 1-based, of the key at ``path`` (of its value with ``value``).

        A path that does not exist answers with its nearest existing parent.
        """
        if self._places is None:
            # Marks are wanted only by error messages, so they cost a second pass instead of every read.
            self._places = {}
            _Builder(self, self._places).build()
        while path and path not in self._places:
            path = path[:-1]
        key_line, key_column, line, column = self._places[path]
        return (line, column) if value else (key_line, key_column)

    def snippet(self, line: int) -> str | None:
        """Source line ``line`` (1-based), or None where it is absent or too long to show."""
        lines = self.text.splitlines()
        if not 1 <= line <= len(lines) or len(lines[line - 1]) > MAX_SNIPPET_CHARS:
            return None
        return lines[line - 1]

    def error(
        self,
        message: str,
        path: KeyPath = (),
        *,
        value: bool = False,
        hint: str | None = None,
        help: str | None = None,
    ) -> SpecError:
        """A SpecError that points at ``path`` (at its value with ``value``)."""
        line, column = self.location(path, value=value)
        return self.error_at(message, line, column, hint=hint, help=help)

    def error_at(
        self, message: str, line: int, column: int, *, hint: str | None = None, help: str | None = None
    ) -> SpecError:
        """A SpecError at a 1-based line and column."""
        return SpecError(
            message,
            path=str(self.path),
            line=line,
            column=column,
            snippet=self.snippet(line),
            hint=hint,
            help=help,
        )


def load_document(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> Document:
    """Read and parse one YAML file; SpecError for anything but a small, sound YAML text."""
    text = read_text(path, max_bytes=max_bytes)
    return Document(text, path, shipped_data(path, text))


def parse_document(text: str, path: Path | str) -> Document:
    """Parse YAML ``text``; ``path`` names it in errors."""
    return Document(text, Path(path))


_Place = tuple[int, int, int, int]  # line and column of the key, line and column of the value


class _Builder:
    """Builds plain Python values from libyaml's events; optionally records where each stood."""

    __slots__ = ("document", "events", "places")

    def __init__(self, document: Document, places: dict[KeyPath, _Place] | None) -> None:
        self.document = document
        self.events = _events(document)
        self.places = places

    def build(self) -> Any:
        """The value of the only document in the stream."""
        next(self.events)  # stream start
        if type(next(self.events)).__name__ == "StreamEndEvent":
            raise SpecError("holds no data (only comments or blank lines)", path=str(self.document.path))
        data = self.value(next(self.events), (), None)
        next(self.events)  # document end
        after = next(self.events)
        if type(after).__name__ != "StreamEndEvent":
            raise self.refuse("a second document starts here; one file holds one", after)
        return data

    def value(self, event: Any, path: KeyPath, key: Any) -> Any:
        """The value that starts with ``event`` and stands at ``path`` under the key event ``key``."""
        if self.places is not None:
            mark, key_mark = event.start_mark, (key or event).start_mark
            self.places[path] = (key_mark.line + 1, key_mark.column + 1, mark.line + 1, mark.column + 1)
        kind = type(event).__name__
        if event.anchor is not None:
            raise self.refuse("anchors and aliases are not supported; write the value out", event)
        if event.tag is not None:
            raise self.refuse(f"tags such as {event.tag[:40]!r} are not supported", event)
        if kind == "ScalarEvent":
            return self.scalar(event)
        if len(path) >= MAX_DEPTH:
            raise self.refuse(f"nested deeper than {MAX_DEPTH} levels", event)
        return self.mapping(path) if kind == "MappingStartEvent" else self.sequence(path)

    def mapping(self, path: KeyPath) -> dict[str, Any]:
        """The mapping whose start event was just read."""
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key in self.events:
            kind = type(key).__name__
            if kind == "MappingEndEvent":
                break
            name = self.value(key, (*path, _KEY), None) if kind == "ScalarEvent" else None
            if not isinstance(name, str):
                raise self.refuse("a key must be text; put quotes around it", key)
            if name in result:
                raise self.refuse(f"duplicate key `{name}` (first on line {lines[name]})", key)
            lines[name] = key.start_mark.line + 1
            result[name] = self.value(next(self.events), (*path, name), key)
        return result

    def sequence(self, path: KeyPath) -> list[Any]:
        """The sequence whose start event was just read."""
        result: list[Any] = []
        for event in self.events:
            if type(event).__name__ == "SequenceEndEvent":
                break
            result.append(self.value(event, (*path, len(result)), None))
        return result

    def scalar(self, event: Any) -> Any:
        """Text, number, boolean or None; quoted and block scalars are always text."""
        text: str = event.value
        if event.style:  # quoted or block; "" and None are plain
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if text.lower() in _NOT_FINITE:
            raise self.refuse(f"{text} is not a usable number", event)
        number = parse_number(text)
        if number is not None and not math.isfinite(number):
            raise self.refuse(f"the number {text} is out of range", event)
        return text if number is None else number

    def refuse(self, message: str, event: Any) -> SpecError:
        """A SpecError at the start of ``event``."""
        mark = event.start_mark
        return self.document.error_at(message, mark.line + 1, mark.column + 1)


# Stands for "a key" in the path of a key's own scalar; a real key is never a number.
_KEY = -1


def parse_number(text: str) -> int | float | None:
    """The number a plain scalar spells, or None when it is text (dates, versions, ``010``)."""
    body = text[1:] if text[:1] in ("+", "-") else text
    if not body or body[0] not in ".0123456789" or len(text) > 64 or not text.isascii():
        return None
    if body[0] == "0" and body[1:2].isdigit():
        return None  # 010 is 8 in YAML 1.1 and 10 in YAML 1.2
    if "_" in body:
        if "__" in body or body[-1] == "_":
            return None
        text = text.replace("_", "")
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    if "." not in text and value.is_integer():
        return int(value)  # 4e9: whole, so usable where a whole number is asked for
    return value


def _events(document: Document) -> Iterator[Any]:
    import yaml

    try:
        yield from yaml.parse(document.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        what = " ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        if mark is None:
            raise SpecError(f"not valid YAML: {what}", path=str(document.path)) from None
        # PyYAML from 6.0.4 on has a limit of its own, and reads far enough ahead to meet it before ours.
        deep = "maximum nesting depth" in what
        message = f"nested deeper than {MAX_DEPTH} levels" if deep else f"not valid YAML: {what}"
        raise document.error_at(message, mark.line + 1, mark.column + 1) from None
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", None) or str(error).splitlines()[0]
        raise SpecError(f"not valid YAML: {reason}", path=str(document.path)) from None
    except UnicodeError:
        raise SpecError("not valid YAML: broken characters", path=str(document.path)) from None
