"""The layout grammar: the order of a model's layers in one line.

    layout = item {"," item}        item = [N "x"] (name | "(" layout ")")

``3x dense, 58x moe`` is 61 layers; ``8x (5x local, global)`` is 48.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_LAYERS = 10_000
MAX_DEPTH = 8
_MAX_UNIT = 64


class LayoutError(ValueError):
    """A layout that cannot be read; ``name`` is set when a block name is unknown."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


def is_block_name(name: str) -> bool:
    """Whether ``name`` can stand in a layout: a letter, then letters, digits, ``_``, ``-``, ``.``."""
    return (
        name.isascii()
        and name[:1].isalpha()
        and len(name) <= 64
        and all(char.isalnum() or char in "_-." for char in name)
    )


def parse_layout(text: str, names: Sequence[str]) -> tuple[int, ...]:
    """Indices into ``names`` of every layer; LayoutError says what is wrong."""
    parser = _Parser(text, {name: index for index, name in enumerate(names)})
    layers = parser.items(0)
    if parser.peek():
        raise LayoutError(f"unexpected {parser.peek()!r} at character {parser.at + 1}")
    return tuple(layers)


def format_layout(layout: Sequence[int], names: Sequence[str]) -> str:
    """The shortest-looking text that ``parse_layout`` reads as ``layout``."""
    parts: list[str] = []
    start = 0
    while start < len(layout):
        unit, repeats = _best_repeat(layout, start)
        body = layout[start : start + unit]
        if repeats == 1:
            parts.append(names[body[0]])
        else:
            text = names[body[0]] if unit == 1 else f"({format_layout(body, names)})"
            parts.append(f"{repeats}x {text}")
        start += unit * repeats
    return ", ".join(parts)


def _best_repeat(layout: Sequence[int], start: int) -> tuple[int, int]:
    """(length, repeats) of the unit at ``start`` that covers most layers; the shorter of equals."""
    best = (1, 1)
    for unit in range(1, min(_MAX_UNIT, (len(layout) - start) // 2) + 1):
        body = layout[start : start + unit]
        repeats = 1
        while layout[start + unit * repeats : start + unit * (repeats + 1)] == body:
            repeats += 1
        if repeats > 1 and unit * repeats > best[0] * best[1]:
            best = (unit, repeats)
    return best


class _Parser:
    """Recursive descent over one line; the number of layers is bounded before they are made."""

    def __init__(self, text: str, indices: dict[str, int]) -> None:
        self.text = text
        self.at = 0
        self.indices = indices

    def peek(self) -> str:
        """The next character that is not a space, '' at the end."""
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def word(self) -> str:
        """The run of name characters at the cursor."""
        start = self.at
        while (char := self.text[self.at : self.at + 1]) and (char.isalnum() or char in "_-."):
            self.at += 1
        return self.text[start : self.at]

    def items(self, depth: int) -> list[int]:
        """Layers of a comma-separated list."""
        layers = self.item(depth)
        while self.peek() == ",":
            self.at += 1
            layers = layers + self.item(depth)
            self.limit(len(layers))
        return layers

    def item(self, depth: int) -> list[int]:
        """Layers of a name or a group, repeated."""
        repeats = self.repeats()
        if self.peek() == "(":
            if depth >= MAX_DEPTH:
                raise LayoutError(f"groups nested deeper than {MAX_DEPTH}")
            self.at += 1
            layers = self.items(depth + 1)
            if self.peek() != ")":
                raise LayoutError(f"expected ')' at character {self.at + 1}")
            self.at += 1
        else:
            layers = [self.block()]
        self.limit(repeats * len(layers))
        return layers * repeats

    def repeats(self) -> int:
        """N of a leading ``N x``, else 1."""
        if not self.peek().isdigit():
            return 1
        start = self.at
        while self.text[self.at : self.at + 1].isdigit():
            self.at += 1
        digits = self.text[start : self.at]
        if self.peek() not in ("x", "X"):
            raise LayoutError(f"expected 'x' after {digits[:20]} at character {self.at + 1}")
        self.at += 1
        self.limit(int(digits) if len(digits) < 9 and digits.isascii() else MAX_LAYERS + 1)
        if int(digits) == 0:
            raise LayoutError("a repeat count must be at least 1")
        return int(digits)

    def block(self) -> int:
        """Index of the block named at the cursor."""
        name = self.word()
        if not name:
            found = repr(self.peek()) if self.peek() else "the end"
            raise LayoutError(f"expected a block name at character {self.at + 1}, found {found}")
        if name not in self.indices:
            raise LayoutError(f"no block is called `{name}`", name)
        return self.indices[name]

    def limit(self, n_layers: int) -> None:
        """Refuse absurd layer counts before they cost memory."""
        if n_layers > MAX_LAYERS:
            raise LayoutError(f"more than {MAX_LAYERS:,} layers")
