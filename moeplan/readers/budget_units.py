"""One budget as it is written, in SI units."""

from __future__ import annotations

from typing import Any, NamedTuple

from moeplan.domain.budget import Budget
from moeplan.errors import SpecError
from moeplan.readers.yaml_doc import Document, KeyPath
from moeplan.units import parse_bytes

_WITH_INTERVAL = frozenset({"decode", "prefill", "ttft"})


class Part(NamedTuple):
    """An entry of the file and the document it stands in."""

    value: Any
    document: Document
    path: KeyPath

    @property
    def line(self) -> int:
        """Where it starts."""
        return self.document.location(self.path)[0]


def budget_of(kind: str, part: Part) -> Budget:
    """One budget in SI units."""
    value = part.value
    if value.confidence is not None and kind not in _WITH_INTERVAL:
        raise part.document.error(
            f"not modelled yet: `{kind}.confidence` (memory is predicted without an interval)",
            (*part.path, "confidence"),
            help="ask for room instead: memory: {headroom: 5%}",
        )
    limit, headroom_bytes, headroom_frac = 0.0, 0, 0.0
    if kind == "memory":
        headroom_bytes, headroom_frac = _headroom(part, value.headroom)
        limit = float(_size(part, "max_per_gpu", value.max_per_gpu)) if value.max_per_gpu is not None else 0.0
        if value.headroom is None and value.max_per_gpu is None:
            raise part.document.error("`memory` needs `headroom` or `max_per_gpu`", part.path)
    elif kind in ("decode", "prefill"):
        limit = value.min_tokens_per_s
    elif kind == "ttft":
        limit = value.max_ms / 1000
    else:
        limit = float(value.min_tokens if kind == "context" else value.min_sequences)
    return Budget(
        kind=kind,  # type: ignore[arg-type]
        limit=limit,
        headroom_bytes=headroom_bytes,
        headroom_frac=headroom_frac,
        confidence=value.confidence,
        file=str(part.document.path),
        line=part.line,
    )


def _headroom(part: Part, text: str | float | None) -> tuple[int, float]:
    if text is None:
        return 0, 0.0
    if isinstance(text, str) and text.strip().endswith("%"):
        number = text.strip()[:-1].strip()
        share = float(number) / 100 if number.replace(".", "", 1).isdigit() else -1.0
        if not 0 <= share < 1:
            raise part.document.error(
                f"`headroom`: expected 0% to 99%, got {text!r}", (*part.path, "headroom"), value=True
            )
        return 0, share
    return _size(part, "headroom", text), 0.0


def _size(part: Part, field: str, text: str | float) -> int:
    try:
        return parse_bytes(text, "gib", f"`{field}`")
    except SpecError as error:
        raise part.document.error(error.message, (*part.path, field), value=True, hint=error.hint) from None
