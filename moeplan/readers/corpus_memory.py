"""Memory corpora: what engines logged when they loaded a model, one row per device of one load."""

from __future__ import annotations

from pathlib import Path

from moeplan.domain.value import Value
from moeplan.readers.csv_rows import Cells, lines

_COLUMNS = (
    "id", "setup", "model", "quant", "engine", "device_kind", "gpu", "n_gpus", "n_ctx",
    "model_mib", "kv_mib", "compute_mib", "total_mib", "grade",
)  # fmt: skip


class MemoryRow(Value):
    """Buffers of one device in MiB; None where the log does not say."""

    id: str
    setup: str
    source_family: str
    model: str
    quant: str
    file_gib: float | None
    engine: str
    engine_version: str
    date: str
    device_kind: str
    """``gpu0`` ..., ``host`` (pinned RAM), ``cpu``, or a sum over GPUs."""
    device_raw: str
    gpu: str
    n_gpus: int
    n_ctx: int | None
    n_batch: int | None
    n_ubatch: int | None
    flash_attn: bool | None
    kv_type_k: str
    kv_type_v: str
    gpu_layers: int | None
    gpu_layers_raw: str
    cpu_moe: int | None
    mla: int | None
    """ik_llama.cpp's ``-mla``, a column that few files have; None: not stated."""
    model_mib: float | None
    kv_mib: float | None
    compute_mib: float | None
    total_mib: float | None
    grade: str


def read_memory(path: Path) -> tuple[MemoryRow, ...]:
    """The rows of a memory corpus. Raises SpecError with the line of the first value it cannot read."""
    return tuple(_row(Cells(row, path, line)) for row, line in lines(path, _COLUMNS))


def _row(cells: Cells) -> MemoryRow:
    flash = cells.text("flash_attn")
    return MemoryRow(
        id=cells.text("id"),
        setup=cells.text("setup"),
        source_family=cells.text("source").split(":")[0],
        model=cells.text("model"),
        quant=cells.text("quant"),
        file_gib=cells.number("file_gib"),
        engine=cells.text("engine"),
        engine_version=cells.text("engine_version"),
        date=cells.text("date"),
        device_kind=cells.text("device_kind"),
        device_raw=cells.text("device_raw"),
        gpu=cells.text("gpu"),
        n_gpus=cells.count("n_gpus") or 0,
        n_ctx=cells.count("n_ctx"),
        n_batch=cells.count("n_batch"),
        n_ubatch=cells.count("n_ubatch"),
        flash_attn=None if flash == "" else flash not in ("0", "false"),
        kv_type_k=cells.text("kv_type_k"),
        kv_type_v=cells.text("kv_type_v"),
        gpu_layers=cells.count("gpu_layers"),
        gpu_layers_raw=cells.text("gpu_layers_raw"),
        cpu_moe=cells.count("cpu_moe"),
        mla=cells.count("mla"),
        model_mib=cells.number("model_mib"),
        kv_mib=cells.number("kv_mib"),
        compute_mib=cells.number("compute_mib"),
        total_mib=cells.number("total_mib"),
        grade=cells.text("grade"),
    )
