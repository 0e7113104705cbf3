"""Ollama Modelfiles: the base model and its parameters, as options of a table of its own.

Reference: Ollama docs/modelfile.mdx (instructions are not case sensitive, ``\"\"\"`` quotes several lines).
"""

from __future__ import annotations

from moeplan.domain.deployment import Launch, Word
from moeplan.errors import SpecError, nearest

_INSTRUCTIONS = (
    "FROM",
    "PARAMETER",
    "TEMPLATE",
    "SYSTEM",
    "ADAPTER",
    "LICENSE",
    "MESSAGE",
    "REQUIRES",
    "DRAFT",
    "RENDERER",
    "PARSER",
)


def looks_like_modelfile(text: str) -> bool:
    """Whether ``text`` is a Modelfile rather than a Dockerfile, which starts with FROM as well."""
    first = {
        line.split(None, 1)[0].upper()
        for line in text.splitlines()
        if line.strip() and line.strip()[0] != "#"
    }
    return "FROM" in first and not first & {"RUN", "CMD", "ENTRYPOINT", "COPY", "WORKDIR"}


def modelfile_launches(path: str, text: str) -> list[Launch]:
    """The one model of a Modelfile."""
    argv: list[Word] = [Word("ollama", 1, 1)]
    line_of_model = 0
    for number, line in _logical_lines(text):
        word, _, rest = line.partition(" ")
        instruction, rest = word.upper(), rest.strip()
        column = line.find(rest) + 1 if rest else 1
        if instruction not in _INSTRUCTIONS:
            close = nearest(instruction, _INSTRUCTIONS, n=1)
            raise SpecError(
                f"unknown instruction {word[:40]!r} of a Modelfile",
                path=path,
                line=number,
                column=1,
                snippet=line[:160],
                hint=f"did you mean {close[0]}?" if close else None,
            )
        if instruction in ("FROM", "ADAPTER", "DRAFT"):
            argv += [Word(f"--{instruction.lower()}", number, 1), Word(rest, number, column)]
            line_of_model = number if instruction == "FROM" else line_of_model
        elif instruction == "PARAMETER":
            name, _, value = rest.partition(" ")
            flag = "--" + name.lower().replace("_", "-")
            argv += [Word(flag, number, column), Word(value.strip().strip('"'), number, column)]
    if not line_of_model:
        raise SpecError("a Modelfile needs FROM", path=path)
    return [Launch(path=path, kind="modelfile", name="modelfile", line=line_of_model, argv=tuple(argv))]


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """(number, text) of every instruction; what triple quotes hold is left out."""
    found: list[tuple[int, str]] = []
    quoted = False
    for number, line in enumerate(text.splitlines(), start=1):
        marks = line.count('"""')
        if not quoted and line.strip() and not line.strip().startswith("#"):
            found.append((number, line.strip()))
        if marks % 2:
            quoted = not quoted
    return found
