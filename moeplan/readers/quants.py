"""configs/quants.yaml -> QuantTable, through a JSON copy that starts fast.

Parsing the YAML costs tens of milliseconds, so its outcome is kept beside it in ``quants.json`` with a
checksum of the YAML text: an edited YAML is always the one that counts. ``write_cache`` renews the copy.
A user's own ``quants.yaml`` (same format, any section may be absent) is laid over the shipped one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from moeplan.domain.quant import QuantTable
from moeplan.readers.paths import read_text, shipped_configs, user_configs

FILE_NAME = "quants.yaml"
CACHE_NAME = "quants.json"


class _Cache(msgspec.Struct):
    checksum: int
    table: QuantTable


def load_quants(configs: Path | None = None, *, user: Path | None = None) -> QuantTable:
    """The shipped table (of ``configs``), with the user's own quants.yaml (of ``user``) laid over it.

    Raises SpecError with file, line and column for anything wrong in a file.
    """
    table = _load_folder(configs or shipped_configs())
    own = (user or user_configs()) / FILE_NAME
    return parse_quants(own, base=table) if own.is_file() else table


def parse_quants(path: Path, base: QuantTable | None = None) -> QuantTable:
    """The table of one YAML file, on top of ``base``. Raises SpecError."""
    from moeplan.readers.quants_yaml import read_quants_yaml

    return read_quants_yaml(path, base or QuantTable(types={}, schemes={}, names={}))


def write_cache(configs: Path | None = None) -> Path:
    """Renew quants.json beside quants.yaml and return its path."""
    folder = configs or shipped_configs()
    path = folder / CACHE_NAME
    table = _without_defaults(parse_quants(folder / FILE_NAME))
    cache = {"checksum": _checksum(read_text(folder / FILE_NAME)), "table": table}
    encoded = msgspec.json.encode(cache, order="sorted")
    path.write_bytes(encoded.replace(b"},", b"},\n") + b"\n")
    return path


def _load_folder(folder: Path) -> QuantTable:
    path = folder / FILE_NAME
    text = read_text(path)
    try:
        cache = msgspec.json.decode((folder / CACHE_NAME).read_bytes(), type=_Cache)
    except (OSError, msgspec.DecodeError):
        return parse_quants(path)
    return cache.table if cache.checksum == _checksum(text) else parse_quants(path)


def _checksum(text: str) -> int:
    from zlib import crc32

    return crc32(text.encode())


def _without_defaults(value: Any) -> Any:
    """``value`` as plain data, fields at their default left out: a third of the bytes to decode."""
    if isinstance(value, msgspec.Struct):
        return {
            field.name: _without_defaults(getattr(value, field.name))
            for field in msgspec.structs.fields(value)
            if getattr(value, field.name) not in (field.default, {})
        }
    if isinstance(value, dict):
        return {key: _without_defaults(item) for key, item in value.items()}
    if isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct):
        return [_without_defaults(item) for item in value]
    return value
