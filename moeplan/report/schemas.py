"""JSON Schemas of file formats and results, generated from the wire structs that read or write them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from moeplan.errors import UnknownName, nearest

_HARDWARE = "moeplan.readers.hardware_wire"
SCHEMAS = {
    "model": ("moeplan.readers.model_wire:ModelWire", "A model: configs/models/<id>.yaml."),
    "hardware-gpu": (f"{_HARDWARE}:GpuWire", "A GPU: configs/hardware/gpu/<id>.yaml."),
    "hardware-cpu": (f"{_HARDWARE}:CpuWire", "A CPU: configs/hardware/cpu/<id>.yaml."),
    "hardware-node": (f"{_HARDWARE}:NodeWire", "A machine: configs/hardware/node/<id>.yaml."),
    "hardware-link": (f"{_HARDWARE}:LinkWire", "A link: configs/hardware/link/<id>.yaml."),
    "hardware-storage": (f"{_HARDWARE}:StorageWire", "A disk: configs/hardware/storage/<id>.yaml."),
    "quants": ("moeplan.readers.quants_yaml:QuantsFile", "Quantisations: configs/quants.yaml."),
    "budget": ("moeplan.readers.budget_wire:BudgetWire", "Budgets: moeplan.check.yaml."),
    "engine": ("moeplan.readers.engine_tables:TableWire", "Options of an engine: configs/engines/<id>.yaml."),
    "calibration": ("moeplan.readers.calibration_host:HostCalibrationWire", "What `moeplan profile` writes."),
    "check": ("moeplan.report.check_json:CheckJson", "The JSON of `moeplan check`."),
    "estimate": ("moeplan.report.estimate_wire:EstimateJson", "The JSON of `moeplan estimate`."),
    "plan": ("moeplan.report.plan_json:PlanJson", "The JSON of `moeplan plan`."),
    "compare": ("moeplan.report.compare_json:CompareJson", "The JSON of `moeplan compare`."),
    "validate": ("moeplan.report.validate_json:ValidateJson", "The JSON of `moeplan validate`."),
    "textbook": ("moeplan.report.textbook_json:TextbookJson", "The JSON of `moeplan textbook`."),
}
"""Name of a schema -> (module:struct, what it describes)."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema ``name``; UnknownName lists the nearest."""
    import msgspec

    if name not in SCHEMAS:
        raise UnknownName("schema", name, nearest(name, SCHEMAS) or tuple(SCHEMAS), help="moeplan schema")
    where, title = SCHEMAS[name]
    module, struct = where.split(":")
    schema = _clean(msgspec.json.schema(getattr(import_module(module), struct)))
    return {"$schema": DIALECT, "title": f"moeplan {name}", "description": title, **schema}


def _clean(node: Any) -> Any:
    """``node`` with descriptions free of the indentation of docstrings, which msgspec keeps before 0.23."""
    from inspect import cleandoc

    if isinstance(node, list):
        return [_clean(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: cleandoc(value) if key == "description" and isinstance(value, str) else _clean(value)
        for key, value in node.items()
    }
