"""Corpus files: published measurements as CSV, one row each (docs/corpus.md has the columns)."""

from __future__ import annotations

from pathlib import Path

from moeplan.domain.value import Value
from moeplan.readers.csv_rows import Cells, columns, lines
from moeplan.readers.pages import (
    build_date,
    cache_of,
    client_prompt_of,
    engine_of,
    fuses_attention,
    grade_of,
    is_after_prompt,
    quant_of,
    ram_of,
    threads_of,
    ubatch_of,
)
from moeplan.readers.sweeps import (
    cache_type,
    is_speculative,
    launched_engine,
    lengths_are_equal,
    mean_tokens,
    unrecorded_ranks,
)


class SpeedRow(Value):
    """One measured speed with its setup; None or "" where the publication does not say."""

    id: str
    setup: str
    source_family: str
    model: str
    arch_class: str
    quant: str
    file_gib: float | None
    engine: str
    gpu: str
    n_gpus: int
    cpu: str
    ram_gbps: float | None
    pcie: str
    placement: str
    gpu_layers: int | None
    cpu_moe: int | None
    batch: int
    prompt_tokens: int | None
    depth_tokens: int
    gen_tokens: int | None
    ubatch: int | None
    flash_attn: bool | None
    kv_type: str
    threads: int | None
    phase: str
    tokens_per_s: float
    grade: str
    tp: int | None = None
    cpu_raw: str = ""
    """The processor as the source names it, where it has no catalog id."""
    ram_basis: str = ""
    metric: str = "tokens_per_s"
    """What was measured: ``tokens_per_s``, or a serving metric in its own unit (``value``)."""
    value: float = 0.0
    date: str = ""
    ep: int = 1
    speculative: bool = False
    """A step yields drafted tokens too, which no prediction is for: the row is kept out of fits."""
    equal_lengths: bool = False
    """All requests of a server were as long as each other, prompts and answers."""
    whole_request: bool = False
    """A decode speed with the time of the prompt inside it."""
    power_limit_w: float | None = None
    """What each GPU was held to, below its own limit."""


_SPEED_COLUMNS = ("model", "quant", "engine", "placement", "phase", "tokens_per_s")
_SERVING_COLUMNS = ("model", "precision", "engine", "gpu", "concurrency", "metric", "value")
# What makes two rows one setup where the file does not say it in a column of its own.
_SPEED_SETUP = (
    *("source", "model", "quant", "engine", "gpu", "n_gpus", "cpu", "cpu_raw"),
    *("placement", "gpu_layers", "cpu_moe", "tp"),
)
_SERVING_SETUP = ("source_family", "model", "precision", "engine", "gpu", "n_gpus", "tp", "concurrency")
# Rows of a file without grades, as one's own runs are, were flagged by nobody.
_UNGRADED = "B"

# Precisions of serving rows and the quantisation that stores weights so.
_PRECISIONS = {
    "bf16": "bf16", "fp16": "bf16", "fp8": "fp8", "mxfp4": "mxfp4", "fp4": "nvfp4", "nvfp4": "nvfp4",
    "int4": "compressed-int4-g128", "int4-awq": "awq-int4-g128", "int4-gptq": "gptq-int4-g128",
    "int8-gptq": "gptq-int8-g128",
}  # fmt: skip


def read_speed(path: Path) -> tuple[SpeedRow, ...]:
    """The rows of a speed corpus. Raises SpecError with the line of the first value that cannot be read."""
    cells = [Cells(row, path, line) for row, line in lines(path, _SPEED_COLUMNS)]
    prompts = {
        c.text("source"): c.count("prompt_tokens") or 0
        for c in cells
        if c.text("phase") == "prefill" and is_after_prompt(c.text("notes"))
    }
    return tuple(_speed_row(c, prompts.get(c.text("source"), 0)) for c in cells)


def read_serving(path: Path) -> tuple[SpeedRow, ...]:
    """The rows of a serving corpus that are speeds of steps: time per output token, speed of one request.

    ``decode`` rows are one step; ``request`` rows are a prompt and its answer together. Throughput under
    load and time to first token (queueing included) are other quantities and are left out.
    """
    rows = []
    for raw, line in lines(path, _SERVING_COLUMNS):
        row = _serving_row(Cells(raw, path, line))
        if row is not None:
            rows.append(row)
    return tuple(rows)


def is_serving(path: Path) -> bool:
    """Whether the columns of ``path`` are those of a serving corpus."""
    return {"metric", "concurrency"} <= set(columns(path))


def _speed_row(cells: Cells, after_tokens: int) -> SpeedRow:
    """``after_tokens``: of the prompt in whose context an answer was generated, where the row is one."""
    source, notes = cells.text("source"), cells.text("notes")
    ram = ram_of(source, notes, cells.number("ram_gbps"), cells.text("ram_gbps_basis"))
    client_prompt = client_prompt_of(notes, cells.text("engine"))
    return SpeedRow(
        id=cells.text("id"),
        setup=_setup(cells, _SPEED_SETUP),
        source_family=source_family(cells.text("source")),
        model=cells.text("model"),
        arch_class=cells.text("arch_class"),
        quant=quant_of(*(cells.text(c) for c in ("quant", "engine", "model_raw", "quant_raw"))),
        file_gib=cells.number("file_gib"),
        engine=engine_of(source, cells.text("engine"), notes),
        gpu=cells.text("gpu"),
        n_gpus=cells.count("n_gpus") or 0,
        cpu=cells.text("cpu"),
        ram_gbps=ram[0],
        pcie=cells.text("pcie"),
        placement=cells.text("placement"),
        gpu_layers=cells.count("gpu_layers"),
        cpu_moe=cells.count("cpu_moe"),
        batch=cells.count("batch") or 1,
        prompt_tokens=cells.count("prompt_tokens") or client_prompt or None,
        depth_tokens=cells.count("depth_tokens") or (after_tokens if cells.text("phase") == "decode" else 0),
        gen_tokens=cells.count("gen_tokens"),
        ubatch=cells.count("ubatch") or ubatch_of(source),
        flash_attn=fuses_attention(source, cells.text("flash_attn"), cells.text("gpu")),
        kv_type=cache_of(source, cells.text("kv_type")),
        threads=threads_of(
            source, cells.count("threads"), *(cells.text(c) for c in ("notes", "cpu_raw", "phase"))
        ),
        phase=cells.text("phase"),
        tokens_per_s=cells.number("tokens_per_s") or 0.0,
        grade=grade_of(source, cells.text("grade") or _UNGRADED),
        tp=cells.count("tp"),
        cpu_raw=cells.text("cpu_raw"),
        ram_basis=ram[1],
        value=cells.number("tokens_per_s") or 0.0,
        date=build_date(source, *(cells.text(c) for c in ("notes", "engine", "date"))),
        whole_request=client_prompt > 0,
        power_limit_w=cells.number("power_limit_w"),
    )


def _setup(cells: Cells, names: tuple[str, ...]) -> str:
    return cells.text("setup") or "/".join(cells.text(name) for name in names)


def source_family(source: str) -> str:
    """What publications of one project or site share: its name, or the host of its address."""
    if source.startswith(("http://", "https://")):
        return source.split("/")[2]
    return source.split(":")[0].split(" submission")[0]


def _serving_row(cells: Cells) -> SpeedRow | None:
    metric, value = cells.text("metric"), cells.number("value") or 0.0
    batch, family = cells.count("concurrency") or 1, cells.text("source_family")
    nominal = cells.count("input_len") or 0, cells.count("output_len") or 1
    prompt, output = (mean_tokens(family, n) for n in nominal)
    if metric not in _STEP_METRICS:
        return None
    whole = metric == "bs1_output_tok_s" and prompt > 1  # the prompt's time is inside that figure
    tp = cells.count("tp") or 1
    engine, gpu, model, precision, date = (cells.text(c) for c in _LAUNCH)
    launch = engine, gpu, model, precision, date
    return SpeedRow(
        id=cells.text("id"),
        setup=_setup(cells, _SERVING_SETUP),
        source_family=family,
        model=cells.text("model"),
        arch_class=cells.text("arch_class"),
        quant=_PRECISIONS.get(cells.text("precision"), cells.text("precision")),
        file_gib=None,
        engine=launched_engine(family, launch),
        gpu=cells.text("gpu"),
        n_gpus=cells.count("n_gpus") or 1,
        cpu="",
        ram_gbps=None,
        pcie="",
        placement="tensor-parallel" if tp > 1 else "gpu",
        gpu_layers=None,
        cpu_moe=None,
        batch=batch,
        prompt_tokens=prompt,
        depth_tokens=0 if whole else prompt,
        gen_tokens=output,
        ubatch=None,
        flash_attn=None,
        kv_type=cache_type(family, launch),
        threads=None,
        phase="request" if whole else "decode",
        tokens_per_s=batch * 1000.0 / value if metric == "tpot_ms" and value else value,
        grade=cells.text("grade") or _UNGRADED,
        tp=tp,
        metric=metric,
        value=value,
        date=cells.text("date"),
        equal_lengths=lengths_are_equal(family),
        speculative=is_speculative(family, launch, (tp, cells.count("ep") or 1), batch, nominal[0]),
        ep=tp if unrecorded_ranks(family, launch, tp, batch, nominal) else cells.count("ep") or 1,
    )


_LAUNCH = ("engine", "gpu", "model", "precision", "date")
_STEP_METRICS = frozenset({"tpot_ms", "bs1_output_tok_s"})
