"""Makes ``configs/parsed.json``: ``python -m moeplan.readers.catalog --write`` renews it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from moeplan.readers.parsed import checksum
from moeplan.readers.paths import read_text
from moeplan.readers.yaml_doc import parse_document


def parsed_text(root: Path) -> str:
    """The text of ``parsed.json`` for the YAML files under ``root``."""
    lines = []
    for path in sorted(root.rglob("*.yaml")):
        name = path.relative_to(root).as_posix()
        if name == "quants.yaml":  # has a copy of its own, already in its final form
            continue
        text = read_text(path)
        data = msgspec.json.encode(parse_document(text, path).data).decode()
        lines.append(f"{msgspec.json.encode(name).decode()}:[{checksum(text)},{data}]")
    return "{\n" + ",\n".join(lines) + "\n}\n"
