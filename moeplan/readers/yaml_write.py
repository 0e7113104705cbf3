"""Writing small YAML by hand: short lines, flow mappings, text quoted only where it must be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moeplan.readers.yaml_doc import parse_number

WIDTH = 110
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _./()+%=;'-~")
_PLAIN_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789(")
_PLAIN_BLOCK = _PLAIN | frozenset(',[]{}"&*!?|<>@')
"""What text may hold unquoted outside of flow mappings and lists, in addition."""
# Words that some YAML reader takes for something else than text.
_SPECIAL = frozenset(["true", "false", "yes", "no", "on", "off", "y", "n", "null", "~"])


def scalar(value: object, *, in_flow: bool = True) -> str:
    """``value`` (text, number, boolean, None) as one YAML scalar; ``in_flow``: within [] or {}."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return number(value)
    return _text(str(value), _PLAIN if in_flow else _PLAIN_BLOCK)


def number(value: float) -> str:
    """A float in the shortest form that reads back exactly: ``46.7e9``, ``0.85``."""
    for exponent in (12, 9, 6):
        mantissa = value / 10**exponent
        text = f"{mantissa:.12g}e{exponent}"
        if 1 <= abs(mantissa) < 1000 and float(text) == value:
            return text
    return repr(value)


def key_value(key: str, value: object, *, indent: int = 0) -> Iterator[str]:
    """``key: value``; long text is folded over several lines."""
    yield from _folded(f"{' ' * indent}{key}: ", value, " " * (indent + 2))


def listed(key: str, values: Sequence[str], *, one_line: bool = True) -> Iterator[str]:
    """A list of texts: on one line where allowed and short, else one item a line; nothing when empty."""
    if not values:
        return
    line = f"{key}: [{', '.join(scalar(value) for value in values)}]"
    if one_line and len(line) <= WIDTH:
        yield line
        return
    yield f"{key}:"
    for value in values:
        yield from _folded("  - ", value, "    ")


def mapping_item(items: Mapping[str, Any], *, indent: int = 2) -> Iterator[str]:
    """``- {a: 1, b: 2}`` as one item of a list; with a long text in it, one key a line instead."""
    head = " " * indent + "- "
    pieces = [f"{key}: {_flow_value(value)}" for key, value in items.items()]
    if max(map(len, pieces), default=0) + len(head) + 2 <= WIDTH:
        yield from flow(head, items)
        return
    for key, value in items.items():
        lines = key_value(key, value, indent=len(head))
        yield head + next(lines).lstrip(" ")
        yield from lines
        head = " " * len(head)


def mapping(key: str, items: Mapping[str, Any]) -> Iterator[str]:
    """``key: {a: 1, b: [x, y]}`` where that fits on a line, else one inner key a line."""
    pieces = [f"{name}: {_flow_value(value)}" for name, value in items.items() if value is not None]
    line = f"{key}: {{{', '.join(pieces)}}}"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"{key}:"
    for name, value in items.items():
        if isinstance(value, list | tuple):
            yield f"  {name}: {_flow_value(value)}"
        elif value is not None:
            yield from key_value(name, value, indent=2)


def flow(head: str, items: Mapping[str, Any]) -> Iterator[str]:
    """``head{a: 1, b: 2}``, wrapped between items; None is left out, a nested mapping stays on one line."""
    pieces = [f"{key}: {_flow_value(value)}" for key, value in items.items() if value is not None]
    indent = " " * (len(head) + 1)
    line = head + "{"
    for index, piece in enumerate(pieces):
        text = piece + ("," if index < len(pieces) - 1 else "}")
        if index and len(line) + len(text) + 1 > WIDTH:
            yield line
            line = indent + text
        else:
            line += (" " if index else "") + text
    yield line if pieces else line + "}"


def _flow_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {scalar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(scalar, value))}]"
    return scalar(value)


def _folded(head: str, value: object, indent: str) -> Iterator[str]:
    text = scalar(value, in_flow=False)
    if not isinstance(value, str) or len(head) + len(text) <= WIDTH or not _can_fold(value):
        yield head + text
        return
    yield head + ">-"
    line = ""
    for word in value.split(" "):
        if line and len(indent) + len(line) + 1 + len(word) > WIDTH:
            yield indent + line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield indent + line


def _can_fold(text: str) -> bool:
    """Whether a folded block scalar gives back exactly ``text``: printable, single inner spaces."""
    return text.isprintable() and "  " not in text and text == text.strip(" ")


def _text(text: str, allowed: frozenset[str]) -> str:
    plain = (
        text[:1] in _PLAIN_FIRST
        and text[-1] != " "
        and all(char in allowed for char in text)
        and text.lower() not in _SPECIAL
        and parse_number(text) is None
    )
    return text if text and plain else f'"{"".join(map(_escaped, text))}"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
