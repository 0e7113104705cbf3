"""The shipped YAML files as JSON, so that a command need not load a YAML parser (30 ms of CPU time).

``configs/parsed.json`` maps each file to a checksum of its text and to what the YAML reader made of it, a
line for each. A file whose text has another checksum is parsed: the YAML is always what counts.
``python -m moeplan.readers.catalog --write`` renews it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from moeplan.readers.paths import read_text, shipped_configs

FILE_NAME = "parsed.json"

_Entries = dict[str, tuple[int, msgspec.Raw]]
_cache: dict[Path, _Entries] = {}


def shipped_data(path: Path, text: str) -> Any:
    """What the YAML ``text`` of the shipped file ``path`` says; None where that has to be parsed."""
    root = shipped_configs()
    if not path.is_relative_to(root):
        return None
    if root not in _cache:
        _cache[root] = _read(root)
    entry = _cache[root].get(path.relative_to(root).as_posix())
    if entry is None or entry[0] != _checksum(text):
        return None
    return msgspec.json.decode(entry[1])


def build(root: Path) -> str:
    """The text of ``parsed.json`` for the YAML files under ``root``."""
    from moeplan.readers.yaml_doc import parse_document

    lines = []
    for path in sorted(root.rglob("*.yaml")):
        name = path.relative_to(root).as_posix()
        if name == "quants.yaml":  # has a copy of its own, already in its final form
            continue
        text = read_text(path)
        data = msgspec.json.encode(parse_document(text, path).data).decode()
        lines.append(f"{msgspec.json.encode(name).decode()}:[{_checksum(text)},{data}]")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _read(root: Path) -> _Entries:
    try:
        return msgspec.json.decode((root / FILE_NAME).read_bytes(), type=_Entries)
    except (OSError, ValueError):
        return {}  # a checkout without it: the files themselves are read


def _checksum(text: str) -> int:
    from zlib import crc32

    return crc32(text.encode())
