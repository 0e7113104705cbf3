"""configs/calibration/cpu-kernels.yaml: what engines' CPU kernels reach of a core's fp32 rate."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from moeplan.readers.paths import shipped_configs
from moeplan.readers.yaml_convert import convert
from moeplan.readers.yaml_doc import load_document


class SourceWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Where a row was measured."""

    kind: str
    ref: str
    retrieved: str = ""
    note: str = ""


class KernelRow(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One engine on one instruction set; see ``calibrate.host.Kernels``."""

    engine: str
    isa: str
    rates: dict[str, dict[str, float]]
    layer_flop: float
    moe_layer_flop: float
    vocab_flop: float
    source: SourceWire


class KernelFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The file."""

    id: str
    date: str
    notes: str = ""
    kernels: list[KernelRow]


def read_cpu_kernels(isa: tuple[str, ...]) -> tuple[Mapping[str, object], ...]:
    """The rows for the best of ``isa`` that the file knows, one an engine, as keyword arguments."""
    path = shipped_configs() / "calibration" / "cpu-kernels.yaml"
    file: KernelFile = convert(load_document(path), KernelFile)
    chosen: dict[str, KernelRow] = {}
    for known in ("avx2", "avx512", "amx", "neon"):  # later ones are better where a CPU has several
        if known in isa:
            chosen |= {row.engine: row for row in file.kernels if row.isa == known}
    return tuple(
        {
            "engine": row.engine, "rates": row.rates, "layer_flop": row.layer_flop,
            "moe_layer_flop": row.moe_layer_flop, "vocab_flop": row.vocab_flop, "source": row.source.ref,
        }
        for row in chosen.values()
    )  # fmt: skip
