"""From a document to the struct that it should hold, or to a complaint with its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from moeplan.readers.yaml_doc import Document

WireT = TypeVar("WireT")


def convert(
    document: Document,
    wire: type[WireT],
    *,
    synonyms: Mapping[str, str] | None = None,
    help: str | None = None,
) -> WireT:
    """``document`` as the msgspec Struct ``wire``; every mismatch is a SpecError with its place.

    ``synonyms`` maps foreign key names to ours, for better hints; ``help`` goes into the error.
    """
    try:
        return msgspec.convert(document.data, wire, strict=True)
    except msgspec.ValidationError as error:
        # Explaining needs type introspection, which costs more than reading: only now.
        from moeplan.readers.yaml_errors import explain

        raise explain(document, wire, error, synonyms or {}, help) from None
