"""A checked view of one config.json: typed look-ups that name the file and the key when they fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias, TypeVar, overload

from moeplan.errors import NotModelled, SpecError

D = TypeVar("D")

# The look-ups are named after what they return, which hides the built-in types inside the class.
Int: TypeAlias = int
Float: TypeAlias = float
Bool: TypeAlias = bool
Str: TypeAlias = str
List: TypeAlias = list[Any]

# Far above any model: beyond these a file is broken, and believing it would cost memory and time.
MAX_DIM: Final = 10_000_000
MAX_LAYERS: Final = 10_000
MAX_TOKENS: Final = 10**12


class _Required:
    """Marks a key without a default."""


REQUIRED: Final = _Required()


class ConfigView:
    """Read-only access to the mapping ``data`` that was read from ``where``.

    Every look-up accepts several alternative keys and takes the first that is present; null counts as
    absent. A required key that is missing is remembered, a harmless stand-in is returned, and
    ``finish()`` raises one NotModelled that names them all. A value of the wrong type or out of range
    raises SpecError at once. ``text`` is the file's text, used only to find the line of a bad key.
    """

    __slots__ = ("_data", "_text", "missing", "where")

    def __init__(self, data: Mapping[Str, Any], where: Str, text: Str = "") -> None:
        self._data = data
        self._text = text
        self.where = where
        self.missing: List = []

    @property
    def model_type(self) -> Str:
        """The ``model_type``, or an empty string."""
        value = self._data.get("model_type")
        return value if isinstance(value, str) else ""

    def keys(self) -> tuple[Str, ...]:
        """All keys, null ones included."""
        return tuple(self._data)

    def has(self, *keys: Str) -> Bool:
        """Whether any of ``keys`` is present and not null."""
        return any(self._data.get(key) is not None for key in keys)

    def get(self, *keys: Str) -> Any:
        """The first present value of ``keys`` as it stands, else None."""
        for key in keys:
            value = self._data.get(key)
            if value is not None:
                return value
        return None

    def finish(self) -> None:
        """Raise NotModelled if a required key was missing."""
        if self.missing:
            what = f"model type {self.model_type!r} ({self.where})"
            raise NotModelled(what, missing=list(dict.fromkeys(self.missing)))

    def error(self, key: Str, problem: Str) -> SpecError:
        """A SpecError about ``key``, with its line and column when it stands once in the file."""
        mark = f'"{key}"'
        line = column = None
        if self._text.count(mark) == 1:
            before = self._text[: self._text.index(mark)]
            line = before.count("\n") + 1
            column = len(before) - (before.rfind("\n") + 1) + 1
        return SpecError(f"`{key}` {problem}", path=self.where, line=line, column=column)

    def require(self, holds: Bool, key: Str, problem: Str) -> None:
        """Raise the SpecError about ``key`` unless ``holds``, or unless a missing key may be the reason."""
        if not holds and not self.missing:
            raise self.error(key, problem)

    # ── typed look-ups ──────────────────────────────────────────────────────────────────────────

    @overload
    def int(self, *keys: Str, low: Int = 1, high: Int = MAX_DIM) -> Int: ...
    @overload
    def int(self, *keys: Str, default: D, low: Int = 1, high: Int = MAX_DIM) -> Int | D: ...
    def int(self, *keys: Str, default: Any = REQUIRED, low: Int = 1, high: Int = MAX_DIM) -> Any:
        """A whole number in low..high."""
        key, value = self._find(keys)
        if value is None:
            return self._absent(keys, default, max(low, 1))
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, f"must be a whole number, got {_show(value)}")
        if not low <= value <= high:
            raise self.error(key, f"must be between {low} and {high}, got {_show(value)}")
        return value

    @overload
    def count(self, *keys: Str) -> Int: ...
    @overload
    def count(self, *keys: Str, default: D) -> Int | D: ...
    def count(self, *keys: Str, default: Any = REQUIRED) -> Any:
        """A whole number that may be zero (shared experts, MTP layers, leading dense layers)."""
        return self.int(*keys, default=default, low=0)

    def layers(self, *keys: Str) -> Int:
        """The number of layers, at most MAX_LAYERS."""
        return self.int(*(keys or ("num_hidden_layers",)), high=MAX_LAYERS)

    @overload
    def tokens(self, *keys: Str) -> Int: ...
    @overload
    def tokens(self, *keys: Str, default: D) -> Int | D: ...
    def tokens(self, *keys: Str, default: Any = REQUIRED) -> Any:
        """A number of tokens (context, window), which may exceed any dimension."""
        return self.int(*keys, default=default, high=MAX_TOKENS)

    @overload
    def float(self, *keys: Str) -> Float: ...
    @overload
    def float(self, *keys: Str, default: D) -> Float | D: ...
    def float(self, *keys: Str, default: Any = REQUIRED) -> Any:
        """A finite number."""
        key, value = self._find(keys)
        if value is None:
            return self._absent(keys, default, 1.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(key, f"must be a number, got {_show(value)}")
        if not -1e300 < value < 1e300:
            raise self.error(key, f"must be a finite number, got {_show(value)}")
        return value

    @overload
    def bool(self, *keys: Str) -> Bool: ...
    @overload
    def bool(self, *keys: Str, default: D) -> Bool | D: ...
    def bool(self, *keys: Str, default: Any = REQUIRED) -> Any:
        """true or false."""
        key, value = self._find(keys)
        if value is None:
            return self._absent(keys, default, False)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, got {_show(value)}")
        return value

    @overload
    def str(self, *keys: Str) -> Str: ...
    @overload
    def str(self, *keys: Str, default: D) -> Str | D: ...
    def str(self, *keys: Str, default: Any = REQUIRED) -> Any:
        """A string."""
        key, value = self._find(keys)
        if value is None:
            return self._absent(keys, default, "")
        if not isinstance(value, str):
            raise self.error(key, f"must be a string, got {_show(value)}")
        return value

    @overload
    def list(self, *keys: Str, of: type = ..., length: Int | None = ...) -> List: ...
    @overload
    def list(self, *keys: Str, default: D, of: type = ..., length: Int | None = ...) -> List | D: ...
    def list(self, *keys: Str, default: Any = REQUIRED, of: type = object, length: Int | None = None) -> Any:
        """A list whose items are all of type ``of`` (str, int ...), ``length`` long when that is given."""
        key, value = self._find(keys)
        if value is None:
            return self._absent(keys, default, [])
        if not isinstance(value, list):
            raise self.error(key, f"must be a list, got {_show(value)}")
        for i, item in enumerate(value):
            if not isinstance(item, of) or (of is int and isinstance(item, bool)):
                raise self.error(key, f"item {i} must be of type {of.__name__}, got {_show(item)}")
        if length is not None and len(value) != length:
            raise self.error(key, f"must have {length} items, got {len(value)}")
        return value

    def sub(self, *keys: Str) -> ConfigView | None:
        """A nested object as a view of its own, or None; what it misses does not count here."""
        key, value = self._find(keys)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, f"must be an object, got {_show(value)}")
        return ConfigView(value, f"{self.where}: {key}")

    def _find(self, keys: tuple[Str, ...]) -> tuple[Str, Any]:
        for key in keys:
            value = self._data.get(key)
            if value is not None:
                return key, value
        return keys[0], None

    def _absent(self, keys: tuple[Str, ...], default: Any, stand_in: Any) -> Any:
        if default is REQUIRED:
            self.missing.append(" or ".join(keys))
            return stand_in
        return default


def _show(value: object) -> str:
    """``value`` as it is quoted in an error, never longer than a line."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return "a number of more than 18 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
