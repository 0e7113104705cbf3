"""A checked view of a GGUF file's metadata: look-ups that name the file and the key when they fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from moeplan.errors import SpecError
from moeplan.readers.gguf_header import MetaValue

# Far above any model: beyond these a file is broken, and believing it would cost memory and time.
MAX_DIM: Final = 10_000_000
MAX_LAYERS: Final = 10_000
MAX_TOKENS: Final = 10**12


class Metadata:
    """Typed access to the keys ``<architecture>.*`` of one file.

    Every look-up raises SpecError when a value is missing without default, of the wrong type or out of
    range. Per-layer values may be stored as one number for all layers or as an array of one each.
    """

    __slots__ = ("_values", "arch", "where")

    def __init__(self, values: Mapping[str, MetaValue], where: str) -> None:
        self._values = values
        self.where = where
        self.arch = ""
        self.arch = self.text("general.architecture")

    def error(self, problem: str, hint: str | None = None) -> SpecError:
        """A SpecError about this file."""
        return SpecError(problem, path=self.where, hint=hint)

    def get(self, key: str) -> MetaValue | None:
        """The value of ``key`` as it stands, or None."""
        return self._values.get(self._full(key))

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = MAX_DIM) -> int:
        """A whole number in low..high; an array counts when all its items are equal."""
        value = self.get(key)
        if isinstance(value, tuple) and len(set(value)) == 1:
            value = value[0]
        return self._checked(key, value, default, low, high)

    def layer(self, key: str, layer: int, default: int | None = None, *, low: int = 0) -> int:
        """The whole number that ``key`` has for one layer: the number itself, or the array's item."""
        return self._checked(key, self._item(key, layer), default, low, MAX_DIM)

    def flag(self, key: str, layer: int) -> bool:
        """Whether ``key`` is true (or not 0) for one layer."""
        return bool(self._item(key, layer))

    def _item(self, key: str, layer: int) -> MetaValue | None:
        value = self.get(key)
        if not isinstance(value, tuple):
            return value
        if layer >= len(value):
            raise self.error(f"{self._full(key)!r} has {len(value)} items, none for layer {layer}")
        return value[layer]

    def _checked(self, key: str, value: object, default: int | None, low: int, high: int) -> int:
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, value, "a whole number")
        if not low <= value <= high:
            raise self.error(f"{self._full(key)!r} must be between {low} and {high}, got {value}")
        return value

    def _wrong(self, key: str, value: object, expected: str) -> SpecError:
        name = self._full(key)
        if value is None:
            return self.error(f"has no metadata key {name!r}")
        return self.error(f"metadata key {name!r} must be {expected}, got {type(value).__name__}")

    def _full(self, key: str) -> str:
        return key if key.startswith(("general.", "split.", "tokenizer.")) else f"{self.arch}.{key}"
