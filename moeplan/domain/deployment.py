"""A deployment as other people's files describe it, and the options its engine was started with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from moeplan.domain.value import Value
from moeplan.provenance import Source


class Word(str):
    """Text that knows where it stands: ``line`` and ``column`` count from 1; 0 is nowhere."""

    line: int
    column: int

    def __new__(cls, text: str, line: int = 0, column: int = 0) -> Word:
        """``text`` at a place."""
        word = super().__new__(cls, text)
        word.line = line
        word.column = column
        return word

    def at(self, text: str) -> Word:
        """Another text at this place."""
        return Word(text, self.line, self.column)


FileKind = Literal["shell", "compose", "kubernetes", "helm", "modelfile"]


class Launch(Value):
    """One process of one container or script, before its words are understood."""

    path: str
    kind: FileKind
    name: str
    """Service or container; empty for a line of a script."""
    line: int
    argv: tuple[Word, ...]
    """The command line; for a container whose entry point is the engine, its arguments alone."""
    env: Mapping[str, Word] = {}
    image: Word | None = None
    n_gpus: int | Literal["all"] | None = None
    """GPUs the file gives it; None where it does not say."""
    gpus_line: int = 0
    ram_bytes: int | None = None
    """The limit of the container."""
    ram_line: int = 0
    notes: tuple[str, ...] = ()


OptionKind = Literal["text", "count", "human", "fraction", "layers", "switch", "on-off"]


class EngineOption(Value):
    """An option of an engine. ``means`` is what moeplan calls it; empty for what is not modelled."""

    flags: tuple[str, ...]
    means: str = ""
    kind: OptionKind = "text"
    words: Mapping[str, str] = {}
    """Special values: ``unset`` is as if the option were absent."""
    env: str = ""
    """The environment variable that says the same."""
    repeats: bool = False
    why: str = ""
    above: float | None = None
    """Not modelled only above this value; None: never modelled."""


class EngineTable(Value):
    """How one engine is started: commands, images, options, for one version of it."""

    id: str
    engine: str
    version: str
    sources: tuple[Source, ...]
    commands: tuple[tuple[str, ...], ...]
    images: tuple[str, ...]
    options: Mapping[str, EngineOption]
    """By flag, with dashes."""
    positional: str = ""
    """What a word that belongs to no option means."""
    gpus: Literal["all", "tensor_parallel"] = "all"
    """How many GPUs the engine takes when it is not told."""
    ignored_switches: frozenset[str] = frozenset()
    ignored_values: frozenset[str] = frozenset()
    default_context_tokens: int | None = None
    """Without an option; None: the model's own length."""
    default_quant: str = ""


class Setting(Value):
    """The value of one option, and the word that states it."""

    value: str | int | float | bool
    flag: str
    word: Word


class ServeSettings(Value):
    """A command line understood: settings by what they mean."""

    table: EngineTable
    settings: Mapping[str, Setting]
    unused: tuple[Word, ...] = ()
    """Options that change nothing here."""

    def get(self, means: str) -> Setting | None:
        """The setting that means ``means``, or None."""
        return self.settings.get(means)
