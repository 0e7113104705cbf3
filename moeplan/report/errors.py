"""An expected failure as one block of text: what is wrong, where, the line it stands in, and what helps.

error: unknown key `topk` in moe              configs/models/mixtral/8x7b.yaml:14:3
   14 |   topk: 2
      |   ^^^^ did you mean `top_k`?
 help: moeplan schema model
"""

from __future__ import annotations

from moeplan.errors import Infeasible, MoeplanError, SpecError
from moeplan.report.layout import Line, printable
from moeplan.units import fmt_bytes

_SNIPPET_MAX = 120
"""A source line is cut to this many characters around the error: some files are one huge line."""


def error_lines(error: MoeplanError, width: int = 80) -> list[Line]:
    """The block for ``error``; its first line starts with ``error:``."""
    lines = _headline(error, width)
    if isinstance(error, SpecError) and error.snippet is not None:
        lines += _snippet(error)
    elif isinstance(error, SpecError) and error.hint:
        lines += help_line(error.hint)
    if isinstance(error, Infeasible) and error.fix:
        lines += help_line(error.fix)
    if error.help:
        lines += help_line(error.help)
    return lines


def message_lines(message: str, help: str = "") -> list[Line]:
    """An error block from plain text, e.g. for a wrong use of the command line."""
    lines: list[Line] = [[("error: ", "bad"), (one_line(message), "")]]
    return lines + (help_line(help) if help else [])


def help_line(text: str) -> list[Line]:
    """The last line of a block: what to do about it."""
    return [[(" help: ", "dim"), (one_line(text), "")]]


def one_line(text: str, limit: int = 400) -> str:
    """``text`` as one printable line of bounded length."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= limit else text[:limit] + " ..."


def _message(error: MoeplanError) -> str:
    if isinstance(error, SpecError):
        return error.message
    if isinstance(error, Infeasible) and error.need_bytes:
        need, have = fmt_bytes(error.need_bytes), fmt_bytes(error.have_bytes)
        return f"{error.reason} (needs {need}, {error.device or 'it'} has {have})"
    return str(error)


def _headline(error: MoeplanError, width: int) -> list[Line]:
    """The message, and where: a file in front of it, a line of a file to the right of it or below."""
    message = one_line(_message(error))
    location = one_line(error.location) if isinstance(error, SpecError) else ""
    if not location:
        return [[("error: ", "bad"), (message, "")]]
    if isinstance(error, SpecError) and error.line is None:
        return [[("error: ", "bad"), (f"{location}: ", "dim"), (message, "")]]
    head: Line = [("error: ", "bad"), (message, "")]
    gap = width - len("error: ") - len(message) - len(location)
    if gap >= 2:
        return [[*head, (" " * gap, ""), (location, "dim")]]
    return [head, [("  at ", "dim"), (location, "dim")]]


def _snippet(error: SpecError) -> list[Line]:
    source = printable((error.snippet or "").rstrip().replace("\t", " "))
    column = max(error.column or 1, 1)
    start = max(0, column - 1 - _SNIPPET_MAX // 2) if len(source) > _SNIPPET_MAX else 0
    source = source[start : start + _SNIPPET_MAX]
    column = min(column - start, len(source) + 1)
    number = str(error.line or "")
    gutter = max(5, len(number) + 2)
    mark = "^" * _token_length(source[column - 1 :])
    hint = f" {one_line(error.hint)}" if error.hint else ""
    return [
        [(f"{number:>{gutter}} | ", "dim"), (source, "")],
        [(f"{'':>{gutter}} | ", "dim"), (" " * (column - 1), ""), (mark + hint, "bad")],
    ]


def _token_length(rest: str) -> int:
    """Length of the word at the start of ``rest``: up to a blank or one of ``: , ] }``, at least 1."""
    for i, char in enumerate(rest):
        if char in " :,]}" and i:
            return i
    return max(len(rest), 1)
