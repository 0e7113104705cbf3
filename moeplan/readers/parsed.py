"""The shipped YAML files as JSON, so that a command need not load a YAML parser (30 ms of CPU time).

``configs/parsed.json`` maps each file to a checksum of its text and to what the YAML reader made of it, a
line for each. A file whose text has another checksum is parsed: the YAML is always what counts.
``moeplan/readers/parsed_write.py`` makes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from moeplan.readers.paths import shipped_configs

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
    if entry is None or entry[0] != checksum(text):
        return None
    return msgspec.json.decode(entry[1])


def _read(root: Path) -> _Entries:
    try:
        return msgspec.json.decode((root / FILE_NAME).read_bytes(), type=_Entries)
    except (OSError, ValueError):
        return {}  # a checkout without it: the files themselves are read


def checksum(text: str) -> int:
    """What tells whether ``text`` is still what was parsed."""
    from zlib import crc32

    return crc32(text.encode())
