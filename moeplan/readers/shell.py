"""Shell scripts, read without running them: simple commands with their variables filled in.

Understood: words and quotes, line continuations, comments, assignments, ``export``, ``${X}``, ``${X:-d}``,
``exec``, ``nohup``, ``env A=b``, ``A=b command``, ``&&``, ``;``, ``|``, ``&``. What the script would compute
(``$(...)``, arithmetic, loops' variables) stays as it is written, and whoever needs that value says so.
"""

from __future__ import annotations

from typing import NamedTuple

from moeplan.domain.deployment import Word

MAX_COMMANDS = 2000
_PREFIXES = frozenset({
    "exec", "nohup", "sudo", "time", "command", "then", "do", "else", "!", "{", "(", "export", "declare",
    "local", "readonly", "setsid", "tini", "/usr/bin/tini", "dumb-init", "--", "if", "while",
})  # fmt: skip
_OPERATORS = ("&&", "||", ";;", ";", "|", "&", "\n")


class Command(NamedTuple):
    """One simple command: its words without prefixes, and the variables that it sees."""

    words: tuple[Word, ...]
    env: dict[str, Word]


def split_commands(
    text: str, line: int = 1, column: int = 1, env: dict[str, Word] | None = None
) -> list[Command]:
    """The simple commands of ``text``, which starts at ``line`` and ``column`` of its file."""
    variables: dict[str, Word] = dict(env or {})
    commands: list[Command] = []
    words: list[Word] = []
    for token in _Lexer(text, line, column).tokens():
        if token.operator:
            _finish(words, variables, commands)
            words = []
        else:
            words.append(Word(_expand(token.text, variables), token.line, token.column))
        if len(commands) > MAX_COMMANDS:
            break
    _finish(words, variables, commands)
    return commands


def split_words(text: Word, env: dict[str, Word] | None = None) -> tuple[Word, ...]:
    """The words of one command line; operators end it."""
    commands = split_commands(text, text.line, text.column, env)
    return commands[0].words if commands else ()


def interpolate(text: Word, env: dict[str, Word]) -> Word:
    """``text`` with the variables of ``env`` and the defaults it states filled in."""
    return Word(_expand(text, env), text.line, text.column)


def _finish(words: list[Word], variables: dict[str, Word], commands: list[Command]) -> None:
    """Take assignments and prefixes off ``words``; what remains is a command."""
    own: dict[str, Word] = {}
    exported = False
    i = 0
    while i < len(words):
        word = words[i]
        name, equals, value = word.partition("=")
        if equals and name.isidentifier():
            own[name] = Word(value, word.line, word.column)
        elif word == "env":
            pass
        elif word in _PREFIXES:
            exported = exported or word in ("export", "declare", "local", "readonly")
        else:
            break
        i += 1
    rest = tuple(words[i:])
    if exported or not rest:
        variables.update(own)
    elif rest:
        commands.append(Command(rest, {**variables, **own}))


def _expand(text: str, variables: dict[str, Word]) -> str:
    """``text`` with ``$X``, ``${X}``, ``${X:-d}`` and ``${X-d}`` replaced where the value is known."""
    if "$" not in text:
        return text
    out, i = "", 0
    while i < len(text):
        if text[i] != "$" or i + 1 == len(text):
            out, i = out + text[i], i + 1
            continue
        name, default, end = _reference(text, i + 1)
        known = variables.get(name) if name else None
        if known is not None and (known or default is None):
            out += str(known)
        elif name and default is not None:
            out += _expand(default, variables)
        else:
            out += text[i:end]
        i = end
    return out


def _reference(text: str, start: int) -> tuple[str, str | None, int]:
    """(name, default, end) of the variable reference whose ``$`` stands before ``start``."""
    if text[start] == "{":
        depth, end = 1, start + 1
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        body = text[start + 1 : end - 1]
        n = 0
        while n < len(body) and (body[n].isalnum() or body[n] == "_"):
            n += 1
        name, rest = body[:n], body[n:]
        if not rest:
            return name, None, end
        for mark in (":-", "-"):
            if rest.startswith(mark):
                return name, rest[len(mark) :], end
        return "", None, end
    if text[start] == "(":
        return "", None, len(text)
    end = start
    while end < len(text) and (text[end].isalnum() or text[end] == "_"):
        end += 1
    return text[start:end], None, max(end, start + 1)


class _Token(NamedTuple):
    text: str
    line: int
    column: int
    operator: bool = False


class _Lexer:
    """Words and operators of a script."""

    def __init__(self, text: str, line: int, column: int) -> None:
        self.text = text
        self.i = 0
        self.line = line
        self.column = column

    def tokens(self) -> list[_Token]:
        found: list[_Token] = []
        while self.i < len(self.text):
            char = self.text[self.i]
            if char in " \t\r":
                self.step()
            elif self.text.startswith(("\\\n", "\\\r\n"), self.i):
                self.step(2 if self.text[self.i + 1] == "\n" else 3)
            elif char == "#":
                self.skip_comment()
            elif operator := next((o for o in _OPERATORS if self.text.startswith(o, self.i)), ""):
                found.append(_Token(operator, self.line, self.column, operator=True))
                self.step(len(operator))
            else:
                found.append(self.word())
        return found

    def step(self, n: int = 1) -> str:
        taken = self.text[self.i : self.i + n]
        for char in taken:
            if char == "\n":
                self.line, self.column = self.line + 1, 1
            else:
                self.column += 1
        self.i += n
        return taken

    def skip_comment(self) -> None:
        while self.i < len(self.text) and self.text[self.i] != "\n":
            self.step()

    def word(self) -> _Token:
        line, column, out = self.line, self.column, ""
        while self.i < len(self.text):
            char = self.text[self.i]
            if self.text.startswith("\\\n", self.i):
                self.step(2)
            elif char in " \t\r\n;|&" and not out.endswith((">", "<")):
                break
            elif char == "'":
                out += self.quoted("'")
            elif char == '"':
                out += self.quoted('"')
            elif char == "\\":
                self.step()
                out += self.step()
            elif self.text.startswith("$(", self.i) or char == "`":
                out += self.substitution()
            elif self.text.startswith("${", self.i):
                out += self.braces()
            else:
                out += self.step()
        return _Token(out, line, column)

    def quoted(self, mark: str) -> str:
        self.step()
        out = ""
        while self.i < len(self.text) and self.text[self.i] != mark:
            if mark == '"' and self.text.startswith("\\\n", self.i):
                self.step(2)
            elif mark == '"' and self.text[self.i] == "\\" and self.text[self.i + 1 : self.i + 2] in '"\\$`':
                self.step()
                out += self.step()
            else:
                out += self.step()
        self.step()
        return out

    def braces(self) -> str:
        out, depth = self.step(2), 1
        while self.i < len(self.text) and depth:
            depth += {"{": 1, "}": -1}.get(self.text[self.i], 0)
            out += self.step()
        return out

    def substitution(self) -> str:
        """``$(...)`` and backquotes, whole: what they give is unknown."""
        if self.text[self.i] == "`":
            out = self.step()
            while self.i < len(self.text) and self.text[self.i] != "`":
                out += self.step()
            return out + self.step()
        out, depth = self.step(2), 1
        while self.i < len(self.text) and depth:
            depth += {"(": 1, ")": -1}.get(self.text[self.i], 0)
            out += self.step()
        return out
