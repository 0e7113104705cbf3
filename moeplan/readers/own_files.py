"""What a file of moeplan's own describes, told by its keys: to say so where another one was expected."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

_READERS = "moeplan.readers"
_KINDS = {
    "a model": f"{_READERS}.model_wire:ModelWire",
    "a machine": f"{_READERS}.hardware_wire:NodeWire",
    "a GPU": f"{_READERS}.hardware_wire:GpuWire",
    "a CPU": f"{_READERS}.hardware_wire:CpuWire",
    "a link": f"{_READERS}.hardware_wire:LinkWire",
    "a disk": f"{_READERS}.hardware_wire:StorageWire",
    "budgets": f"{_READERS}.budget_wire:BudgetWire",
    "a calibration": f"{_READERS}.calibration:CalibrationWire",
    "measurements of `moeplan profile`": f"{_READERS}.calibration_host:HostCalibrationWire",
    "quantisations": f"{_READERS}.quants_yaml:QuantsFile",
    "the options of an engine": f"{_READERS}.engine_tables:TableWire",
}
_SCHEMAS = {"budget": "budgets", "calibration": "measurements of `moeplan profile`"}
"""Files that say what they are."""
_OF_ALL = frozenset({"id", "name", "aliases", "notes", "sources", "schema", "date"})
"""Keys that tell nothing."""
_LEAST_SHARE = 0.8
"""Of the keys of a file that must be those of its kind: one may be a typing error."""
HARDWARE = frozenset({"a machine", "a GPU", "a CPU"})


class _Match(NamedTuple):
    share: float
    n_unlike: int
    """Keys of the kind that the file does not have: fewer is closer."""
    words: str


def kind_of(data: Any) -> str:
    """What ``data`` describes, in words; empty where its keys are those of no file of moeplan's."""
    keys = {str(key) for key in data} if isinstance(data, Mapping) else set()
    home, _, name = str(data.get("schema", "")).partition("@")[0].partition("/") if keys else ("", "", "")
    if home == "moeplan" and name in _SCHEMAS:
        return _SCHEMAS[name]
    if home == "moeplan":
        return f"the JSON of `moeplan {name}`"
    telling = keys - _OF_ALL
    matches = [
        _Match(len(telling & fields) / len(telling), -len(fields - keys), words)
        for words, where in _KINDS.items()
        if telling and (fields := _fields(where))
    ]
    best = max(matches, default=_Match(0.0, 0, ""))
    return best.words if best.share >= _LEAST_SHARE else ""


def kind_of_wire(wire: type) -> str:
    """What files read as ``wire`` describe; empty for others."""
    home = f"{wire.__module__}:{wire.__name__}"
    return next((words for words, where in _KINDS.items() if where == home), "")


def kind_of_file(path: Path) -> str:
    """What the YAML or JSON file ``path`` describes; empty for others and for what cannot be read."""
    from moeplan.errors import SpecError
    from moeplan.readers.yaml_words import read_word_documents

    if not path.name.endswith((".yaml", ".yml", ".json")):
        return ""
    try:
        documents = read_word_documents(path)
    except SpecError:
        return ""
    return kind_of(documents[0]) if len(documents) == 1 else ""


def _fields(where: str) -> frozenset[str]:
    from msgspec.structs import fields

    module, name = where.split(":")
    return frozenset(field.encode_name for field in fields(getattr(import_module(module), name)))
