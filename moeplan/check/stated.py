"""What a launch states: its settings with their places, and errors that name them."""

from __future__ import annotations

from typing import Any

from moeplan.domain.deployment import Launch, ServeSettings
from moeplan.domain.model import ModelSpec
from moeplan.errors import SpecError


class Stated:
    """The settings of one launch of ``spec``; ``notes`` collects what had to be assumed."""

    def __init__(self, launch: Launch, settings: ServeSettings, spec: ModelSpec) -> None:
        self.launch = launch
        self.settings = settings
        self.spec = spec
        self.table = settings.table
        self.llama = settings.table.engine in ("llama.cpp", "ollama")
        self.notes: list[str] = list(launch.notes)

    def value(self, means: str) -> Any:
        """The value of a setting, or None."""
        setting = self.settings.get(means)
        return None if setting is None else setting.value

    def error(self, means: str, message: str, hint: str | None = None) -> SpecError:
        """A SpecError at the setting that means ``means``."""
        setting = self.settings.get(means)
        word = setting.word if setting else None
        return SpecError(
            message,
            path=self.launch.path,
            line=(word.line if word else 0) or self.launch.line,
            column=word.column if word else None,
            hint=hint,
        )

    def flag(self, means: str) -> str:
        """The option that means ``means``, as the file writes it or as the engine calls it."""
        from moeplan.engines.flags import long_flag, option_that_means

        setting = self.settings.get(means)
        option = option_that_means(self.table, means)
        return setting.flag if setting and setting.flag else (long_flag(option) if option else means)

    def line(self, means: str) -> int:
        """Where the setting stands, else where the GPUs do, else where the launch does."""
        setting = self.settings.get(means)
        return (setting.word.line if setting else 0) or self.launch.gpus_line or self.launch.line
