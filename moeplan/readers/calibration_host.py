"""Host calibration files: what `moeplan profile` measured on one machine, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from moeplan.domain.profile import (
    SCHEMA,
    HostCalibration,
    HostCoefficient,
    HostFacts,
    Sample,
    host_differences,
)
from moeplan.errors import SpecError
from moeplan.readers.paths import user_configs
from moeplan.readers.yaml_convert import convert
from moeplan.readers.yaml_doc import load_document

FILE_NAME = "this-machine.yaml"
_BEFORE_NAME = "this-machine.before.yaml"
# Some thousand samples of 300 bytes; more is not a calibration.
_MAX_BYTES = 4_000_000


class SampleWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A sample as written in the file."""

    name: str
    setup: dict[str, str | int | float]
    unit: str
    median: float
    low: float
    high: float
    best: float
    n: int
    stable: bool
    remedy: str = ""
    load: float = 0.0
    pace: float = 1.0


class FactsWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The machine as written in the file."""

    cpu: str
    isa: list[str]
    sockets: int
    cores: int
    threads: int
    ram_bytes: int
    gpus: list[str] = []
    gpu_driver: str = ""
    power_limits_w: list[float] = []
    virtual: bool = False
    system: str = ""
    torch: str = ""
    notes: list[str] = []


class CoefficientWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A coefficient as written in the file."""

    value: float
    low: float
    high: float
    unit: str
    n: int
    note: str = ""


class HostCalibrationWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A file that `moeplan profile` wrote."""

    schema: str
    date: str
    version: str
    mode: str
    host: FactsWire
    coefficients: dict[str, CoefficientWire]
    samples: list[SampleWire]
    notes: list[str] = []


def default_path() -> Path:
    """Where `moeplan profile` writes and other commands look for this machine's calibration."""
    return user_configs() / "calibration" / FILE_NAME


def before_path() -> Path:
    """Where the one that `moeplan profile` replaced lies."""
    return default_path().with_name(_BEFORE_NAME)


def is_host_calibration(path: Path) -> bool:
    """Whether the file says that it is one (the shipped coefficient sets have no ``schema``)."""
    if not path.is_file():
        return False  # a pipe would be waited for
    try:
        with path.open("rb") as file:
            head = file.read(200)
    except OSError:
        return False
    return b"moeplan/calibration@" in head


def read_host_calibration(path: Path) -> HostCalibration:
    """The calibration at ``path``. Raises SpecError with the place of a mistake."""
    document = load_document(path, max_bytes=_MAX_BYTES)
    wire: HostCalibrationWire = convert(document, HostCalibrationWire)
    if wire.schema != SCHEMA:
        hint = "run `moeplan profile` again"
        raise SpecError(f"schema {wire.schema!r} is not {SCHEMA!r}", path=str(path), hint=hint)
    for name, c in wire.coefficients.items():
        if not (math.isfinite(c.value) and c.low <= c.value <= c.high):
            raise SpecError(f"coefficient {name}: expected low <= value <= high", path=str(path))
    return HostCalibration(
        date=wire.date,
        version=wire.version,
        mode=wire.mode,
        host=_facts(wire.host),
        samples=tuple(Sample(**msgspec.structs.asdict(s)) for s in wire.samples),
        coefficients={
            name: HostCoefficient(**msgspec.structs.asdict(c)) for name, c in wire.coefficients.items()
        },
        notes=tuple(wire.notes),
    )


def _facts(wire: FactsWire) -> HostFacts:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in msgspec.structs.asdict(wire).items()
    }
    return HostFacts(**values)


def require_same_host(calibration: HostCalibration, here: HostFacts, path: str) -> None:
    """Raises SpecError that names the difference when it was measured on another machine."""
    differences = host_differences(calibration.host, here)
    if differences:
        raise SpecError(
            "this calibration was made on another machine: " + "; ".join(differences),
            path=path,
            hint="run `moeplan profile` here, or use --calibration none",
        )


def calibration_json(calibration: HostCalibration) -> dict[str, Any]:
    """The file's content as plain values, in the order in which it is written."""
    head = {"schema": SCHEMA, "date": calibration.date, "version": calibration.version,
            "mode": calibration.mode}  # fmt: skip
    return head | {
        "host": msgspec.to_builtins(calibration.host),
        "notes": list(calibration.notes),
        "coefficients": {n: msgspec.to_builtins(c) for n, c in calibration.coefficients.items()},
        "samples": msgspec.to_builtins(calibration.samples),
    }


def dump_host_calibration(calibration: HostCalibration) -> str:
    """The YAML text: one line a sample and a coefficient (JSON is YAML)."""
    content = calibration_json(calibration)
    lines = [
        f"{key}: {_flow(content[key])}" for key in ("schema", "date", "version", "mode", "host", "notes")
    ]
    lines.append("coefficients:" if content["coefficients"] else "coefficients: {}")
    lines += [f"  {name}: {_flow(value)}" for name, value in content["coefficients"].items()]
    lines.append("samples:" if content["samples"] else "samples: []")
    lines += [f"  - {_flow(sample)}" for sample in content["samples"]]
    return "\n".join(lines) + "\n"


def _flow(value: object) -> str:
    return json.dumps(_rounded(value), ensure_ascii=False, allow_nan=False)


def _rounded(value: Any) -> Any:
    """Six significant digits: more than any timer knows."""
    if isinstance(value, float):
        rounded = float(f"{value:.6g}")
        return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def write_host_calibration(calibration: HostCalibration, path: Path) -> None:
    """Write ``path`` so that it is never seen half-written. Raises SpecError."""
    text = dump_host_calibration(calibration)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise SpecError(f"cannot be written: {error.strerror or error}", path=str(path)) from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
