"""The exceptions a user of moeplan can meet.

    MoeplanError
    ├── SpecError           a file or value that cannot be read        exit 2
    │   └── OptionError     an option that the engine does not have        exit 2
    ├── UnknownName         no such model, machine, quant, key         exit 2
    ├── NotModelled         known, but moeplan has no formula for it   exit 2
    ├── Infeasible          does not fit; need, have, smallest fix     exit 1
    ├── MeasurementError    a measurement failed or is not usable      exit 2
    └── MissingExtra        an optional package is not installed       exit 2

Each prints as one clear error; anything else that escapes is a bug (exit 101).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class MoeplanError(Exception):
    """Base of every expected failure. ``exit_code`` is what the command line returns for it."""

    exit_code = 2
    help: str | None = None


class SpecError(MoeplanError):
    """A specification, file or option that cannot be used as it stands.

    ``path``, ``line`` and ``column`` (1-based) say where; ``snippet`` is the offending source line.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        line: int | None = None,
        column: int | None = None,
        snippet: str | None = None,
        hint: str | None = None,
        help: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.line = line
        self.column = column
        self.snippet = snippet
        self.hint = hint
        self.help = help

    @property
    def location(self) -> str:
        """``path:line:column`` as far as it is known, else an empty string."""
        parts = [self.path or ""]
        if self.line is not None:
            parts.append(str(self.line))
            if self.column is not None:
                parts.append(str(self.column))
        return ":".join(parts) if parts[0] or len(parts) > 1 else ""

    def __str__(self) -> str:
        where = self.location
        text = f"{where}: {self.message}" if where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class OptionError(SpecError):
    """An option that the engine does not have, or not with this value; ``field`` is that of the request."""

    def __init__(self, message: str, *, field: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


class UnknownName(MoeplanError):
    """A name that no catalog entry, alias or file answers to; ``candidates`` are the nearest."""

    def __init__(self, kind: str, name: str, candidates: Sequence[str] = (), help: str | None = None) -> None:
        self.kind = kind
        self.name = name
        self.candidates = tuple(candidates)
        self.help = help
        text = f"unknown {kind} {name!r}"
        if self.candidates:
            text += f"; did you mean {_one_of(self.candidates)}?"
        super().__init__(text)


class NotModelled(MoeplanError):
    """Something real that moeplan has no formula or no data for; never answered with a guess."""

    def __init__(self, what: str, why: str = "", missing: Sequence[str] = ()) -> None:
        self.what = what
        self.why = why
        self.missing = tuple(missing)
        text = f"not modelled: {what}"
        if self.missing:
            text += f" (missing: {', '.join(self.missing)})"
        if why:
            text += f": {why}"
        super().__init__(text)


class Infeasible(MoeplanError):
    """The request does not fit. A result inside a search, an error only at the edge."""

    exit_code = 1

    def __init__(
        self, reason: str, *, need_bytes: int = 0, have_bytes: int = 0, device: str = "", fix: str = ""
    ) -> None:
        self.reason = reason
        self.need_bytes = need_bytes
        self.have_bytes = have_bytes
        self.device = device
        self.fix = fix
        super().__init__(reason)


class MeasurementError(MoeplanError):
    """A measurement that could not be made, or that is too unstable to be used."""


class MissingExtra(MoeplanError):
    """An optional package is needed; ``install`` is the command that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.install = f"pip install 'moeplan[{extra}]'"
        super().__init__(f"this needs the package {package}: {self.install}")


def nearest(name: str, names: Iterable[str], n: int = 3) -> tuple[str, ...]:
    """Up to ``n`` of ``names`` that look most like ``name`` (case ignored), best first."""
    import difflib

    by_folded: dict[str, str] = {}
    for candidate in names:
        by_folded.setdefault(candidate.casefold(), candidate)
    close = difflib.get_close_matches(name.casefold(), by_folded, n=n, cutoff=0.6)
    return tuple(by_folded[key] for key in close)


def _one_of(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
