"""The catalog: finding a specification by id, alias or Hugging Face name.

Three roots are searched, the first hit wins: ``--configs DIR``, the user's own directory, what moeplan ships.
An id is a file's name; ids are looked up everywhere before aliases are. Shipped aliases come from
``configs/index.json`` (generated, so that one estimate parses one or two files); the others are read live.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moeplan.errors import SpecError, UnknownName, nearest
from moeplan.readers.paths import shipped_configs, user_configs

KINDS: Mapping[str, str] = {
    "models": "model",
    "hardware/gpu": "GPU",
    "hardware/cpu": "CPU",
    "hardware/link": "link",
    "hardware/storage": "storage",
    "hardware/node": "machine",
}
MAX_LIVE_FILES = 1000
MAX_NAME_CHARS = 200

_SUFFIXES = (".yaml", ".yml")
_SEPARATORS = str.maketrans("", "", "-_ :")


def fold(name: str) -> str:
    """``name`` as the index has it: case, ``-``, ``_``, ``:`` and spaces do not distinguish names."""
    return name.casefold().translate(_SEPARATORS)


class Catalog:
    """Everything that can be named: models, GPUs, CPUs, links, storage, machines."""

    def __init__(
        self, extra: Path | str | None = None, *, user: Path | None = None, shipped: Path | None = None
    ) -> None:
        """``extra`` is the directory of ``--configs``; SpecError when it is not one."""
        extra = None if extra is None else Path(extra)
        if extra is not None and not extra.is_dir():
            raise SpecError("no such directory of specifications", path=str(extra))
        self.shipped = shipped or shipped_configs()
        self.roots: tuple[Path, ...] = tuple(
            root for root in (extra, user or user_configs(), self.shipped) if root is not None
        )
        self._indexes: dict[tuple[Path, str], dict[str, str]] = {}
        self._shipped_index: dict[str, dict[str, str]] | None = None

    def find(self, kind: str, name: str) -> Path:
        """The file of ``name`` (id, alias or Hugging Face name); UnknownName with the nearest ones."""
        found = self._lookup(kind, name)
        if found is None:
            shown = name if len(name) <= MAX_NAME_CHARS else name[:60] + "..."
            command = "models" if kind == "models" else "hardware"
            raise UnknownName(KINDS[kind], shown, self.nearest(kind, shown), help=f"moeplan {command} list")
        return found

    def resolve(self, kind: str, name: str) -> str | None:
        """The id that ``name`` stands for, or None."""
        found = self._lookup(kind, name)
        return None if found is None else found.stem

    def ids(self, kind: str) -> list[str]:
        """Ids of every entry of ``kind`` in all roots, sorted."""
        return sorted({path.stem for root in self.roots for path in _files(root / kind)})

    def nearest(self, kind: str, name: str, n: int = 4) -> tuple[str, ...]:
        """Ids that ``name`` may have meant: those that continue it, else those that look like it."""
        key = fold(name.rsplit("/", 1)[-1])
        names = {fold(id_): id_ for id_ in self.ids(kind)}
        longer = [id_ for folded, id_ in names.items() if len(key) > 2 and folded.startswith(key)]
        if longer:
            return tuple(sorted(longer, key=len)[:n])
        aliases = {alias: id_ for root in self.roots for alias, id_ in self._index(root, kind).items()}
        similar = [aliases[alias] for alias in nearest(key, aliases, n=3 * n)]
        return tuple(dict.fromkeys(similar))[:n]

    def _lookup(self, kind: str, name: str) -> Path | None:
        if not 0 < len(name) <= MAX_NAME_CHARS:
            return None
        found = self._by_id(kind, name) or self._by_alias(kind, name)
        if found is None and kind == "models":
            from moeplan.readers.model_names import normalise_model_name

            return normalise_model_name(name, lambda form: self._by_alias(kind, form))
        return found

    def _by_id(self, kind: str, name: str) -> Path | None:
        if name.startswith(".") or not all(char.isalnum() or char in "._-" for char in name):
            return None  # not a file name of ours, and never a way out of the directory
        stems = dict.fromkeys((name, name.casefold()))
        found = (_file(root / kind, stem) for root in self.roots for stem in stems)
        return next((path for path in found if path is not None), None)

    def _by_alias(self, kind: str, name: str) -> Path | None:
        key = fold(name)
        for root in self.roots:
            id_ = self._index(root, kind).get(key)
            if id_ is not None:
                return _file(root / kind, id_)
        return None

    def _index(self, root: Path, kind: str) -> dict[str, str]:
        """Folded alias -> id of one root."""
        index = self._indexes.get((root, kind))
        if index is None:
            index = self._read_shipped_index().get(kind) if root == self.shipped else None
            if index is None:
                index = live_index(root / kind)
            self._indexes[root, kind] = index
        return index

    def _read_shipped_index(self) -> dict[str, dict[str, str]]:
        if self._shipped_index is None:
            try:
                import msgspec

                raw = (self.shipped / "index.json").read_bytes()
                self._shipped_index = msgspec.json.decode(raw, type=dict[str, dict[str, str]])
            except (OSError, ValueError):
                self._shipped_index = {}  # a checkout without it: read the files themselves
        return self._shipped_index


def build_index(root: Path) -> dict[str, dict[str, str]]:
    """{kind: {folded name: id}} of every file under ``root``; SpecError when two claim one name."""
    return {kind: live_index(root / kind, strict=True) for kind in KINDS}


def live_index(directory: Path, *, strict: bool = False) -> dict[str, str]:
    """{folded name: id} of the files in ``directory``; ``strict`` raises where a file is broken or
    two claim one name, else such files and names are left out (reading them by id tells why)."""
    from moeplan.readers.yaml_doc import load_document

    index: dict[str, str] = {}
    titles: dict[str, str | None] = {}
    for path in _files(directory):
        try:
            data: Any = load_document(path).data
        except SpecError:
            if strict:
                raise
            continue
        for name in _names(path.stem, data if isinstance(data, dict) else {}):
            owner = index.setdefault(fold(name), path.stem)
            if strict and owner != path.stem:
                raise SpecError(f"the name {name!r} is also claimed by {owner}", path=str(path))
        for title in _titles(data if isinstance(data, dict) else {}):
            first = titles.setdefault(fold(title), path.stem)
            titles[fold(title)] = path.stem if first == path.stem else None  # two have it: it names neither
    implied = {title: id_ for title, id_ in titles.items() if id_ is not None}
    return dict(sorted((implied | index).items()))


def _names(stem: str, data: dict[str, Any]) -> Iterator[str]:
    yield stem
    for key in ("hf_ids", "aliases"):
        names = data.get(key)
        if isinstance(names, list):
            yield from (name for name in names if isinstance(name, str))


def _titles(data: dict[str, Any]) -> Iterator[str]:
    """Names that nobody declared but that are obvious: the title, Hugging Face names without owner."""
    if isinstance(data.get("name"), str):
        yield data["name"]
    for name in _names("", {"hf_ids": data.get("hf_ids")}):
        if "/" in name:
            yield name.rsplit("/", 1)[-1]


def _file(directory: Path, stem: str) -> Path | None:
    paths = (directory / (stem + suffix) for suffix in _SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _files(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(_SUFFIXES))
    except OSError:
        return []
    return [directory / name for name in names[:MAX_LIVE_FILES]]


def generated(root: Path) -> dict[Path, str]:
    """The generated files of a catalog and what they should hold: names, and the YAML parsed."""
    import json

    from moeplan.readers.parsed import FILE_NAME
    from moeplan.readers.parsed_write import parsed_text

    index = json.dumps(build_index(root), indent=1, ensure_ascii=False) + "\n"
    return {root / "index.json": index, root / FILE_NAME: parsed_text(root)}


def _main() -> int:
    """``python -m moeplan.readers.catalog --write|--check``: regenerate or verify the generated files."""
    import sys

    files = generated(shipped_configs()) if sys.argv[1:] in (["--write"], ["--check"]) else {}
    if sys.argv[1:] == ["--write"]:
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
        return 0
    if sys.argv[1:] == ["--check"]:
        old = [p for p, text in files.items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
        sys.stderr.writelines(f"{path} is out of date: run with --write\n" for path in old)
        return 1 if old else 0
    sys.stderr.write("usage: python -m moeplan.readers.catalog --write|--check\n")
    return 2


if __name__ == "__main__":
    raise SystemExit(_main())
