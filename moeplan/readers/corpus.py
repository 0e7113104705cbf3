"""Corpus files: published measurements as CSV, one row each (docs/corpus.md has the columns)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from moeplan.domain.value import Value
from moeplan.errors import SpecError
from moeplan.readers.paths import require_file
from moeplan.readers.sweeps import (
    cache_type,
    is_speculative,
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
    power_limit_w: float | None = None
    """What each GPU was held to, below its own limit."""


_SPEED_COLUMNS = ("id", "setup", "model", "quant", "engine", "placement", "phase", "tokens_per_s", "grade")
_SERVING_COLUMNS = (
    "id",
    "setup",
    "model",
    "precision",
    "engine",
    "gpu",
    "concurrency",
    "metric",
    "value",
    "grade",
)

# Pages that name the commit to run, whenever a row was added. 4167 asks for 8e672efe, the head of 2023-11-22
# (llama.cpp issue 4171 calls it the latest that day).
_PINNED_BUILDS = {"ggml-org/llama.cpp/discussions/4167": "2023-11"}
# Builds of undated rows: 8084 is of 17 February 2026 (ik_llama.cpp PR 1278), and eleven are made a day.
_BUILD_DATES = {"b8125": "2026-02-21"}
# Pages of one backend: 10879 is "Performance of llama.cpp with Vulkan".
# The table at line 235 of issue 437 is headed "llama.cpp bench"; ik_llama.cpp's follows.
_PINNED_ENGINES = {
    "ggml-org/llama.cpp/discussions/10879": "llama.cpp (Vulkan)",
    "support intel amx for further accelerate.md L235": "llama.cpp",
}
# Pages that measure the build before ik_llama.cpp's PR 461 beside the newest (24c010b3; issues 476 and 490),
# and what the notes of those rows say.
_EARLIER_BUILDS = {
    ("ik_llama.cpp:github-data/issues/490", "24c010b3"): "2025-05-25",
    ("ik_llama.cpp:github-data/issues/490", "CPU-side expert matmul"): "2025-05-25",
    ("ik_llama.cpp:github-data/issues/476", "good build"): "2025-05-25",
}
# Pages on which every command has -rtr, which interleaves rows of tensors in RAM ("Repacked 264 tensors").
_INTERLEAVED_PAGES = ("ik_llama.cpp:github-data/issues/629",)
# Pages on which every command for a GPU has -fa.
_FUSED_PAGES = ("ik_llama.cpp:github-data/discussions/357", "ik_llama.cpp:github-data/pull_requests/370")
# Pages on which every command has -fa 1 -ub 2048, as the copy that rows were taken from says too.
_UBATCH_PAGES = ("llama.cpp/discussions/15396", "llama.cpp/issues/17917", "dgx-spark/dgx-spark.md")
# Memory that the author of a page states elsewhere: 12 x DDR5-6400 (629; discussion 258, 27 June and 9 July
# 2025), 512 GiB/s as Intel mlc reads them (296 and 315; discussion 201): 549.8 GB/s and no round 512.
_IK = "ikawrakow/ik_llama.cpp:github-data/"
_PINNED_RAM = {
    f"{_IK}issues/629 ": (614.4, "theoretical"),
    f"{_IK}issues/296 ": (549.8, "measured"),
    f"{_IK}pull_requests/315 ": (549.8, "measured"),
}
# A page that says of its own row that layers and cache did not fit into VRAM together (its footnote 2, C-11).
_PAGING = "FedericoTs/quantprobe:MACHINE_LADDER.md (context depth)"
# Tables that grew for years and are dated by their last edit: when each row was added (the file's history,
# read 2026-11-30).
_ADDED = {
    "geerlingguy/ai-benchmarks:README.md": {
        "": "2024-10-28", "issues/1": "2024-11-18", "issues/2": "2024-11-12", "issues/5": "2024-12-11",
        "issues/9": "2025-01-29", "issues/10": "2025-01-29", "issues/12": "2025-01-30",
        "issues/13": "2025-05-06", "pull/11": "2025-01-30", "issues/17": "2025-02-06",
        "pull/18": "2025-02-07", "issues/21": "2025-08-07", "issues/23": "2025-09-22",
        "issues/25": "2025-09-30", "issues/26": "2025-10-08", "issues/27": "2025-10-10",
        "issues/29": "2025-10-20", "issues/32": "2025-11-10", "issues/33": "2025-11-12",
        "issues/34": "2025-11-22", "issues/35": "2025-11-24", "issues/36": "2025-11-28",
        "issues/39": "2025-11-28", "issues/40": "2025-12-11", "issues/42": "2025-12-07",
        "issues/43": "2025-12-11", "issues/45": "2025-12-11", "issues/46": "2025-12-18",
    }
}  # fmt: skip
# A contributor whose submissions state one length for prompt and context: from 512 to 131,072 tokens answers
# slow down as that many tokens of cache are to be read (2.9 ms for 2.1 GB at 16,384 of Phi-4 mini).
_AFTER_PROMPT = "user Sandberg;"
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
        if c.text("phase") == "prefill" and _AFTER_PROMPT in c.text("notes")
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


def _require(path: Path) -> None:
    """Raise for what is no file, or an empty one: a pipe would be waited for."""
    if require_file(path) == 0:
        raise SpecError("is empty", path=str(path))


def columns(path: Path) -> tuple[str, ...]:
    """The names in the first line. Raises SpecError."""
    _require(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return tuple(next(csv.reader(file), ()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"cannot read the corpus: {error}", path=str(path)) from error


def lines(path: Path, required: tuple[str, ...]) -> Iterator[tuple[dict[str, str], int]]:
    """(cells by column, line number) of every row. Raises SpecError without the columns ``required``."""
    _require(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in required if name not in (reader.fieldnames or ())]
            if missing:
                raise SpecError(
                    f"not a corpus of this kind: no column {missing[0]!r}", path=str(path), line=1
                )
            for row in reader:
                yield row, reader.line_num
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"cannot read the corpus: {error}", path=str(path)) from error


class Cells:
    """One row; numbers are read with their line in the error."""

    def __init__(self, row: dict[str, str], path: Path, line: int) -> None:
        self.row, self.path, self.line = row, path, line

    def text(self, name: str) -> str:
        """The cell, empty where it or its column is."""
        return self.row.get(name) or ""

    def number(self, name: str) -> float | None:
        """The cell as a number. Raises SpecError with its line."""
        text = self.text(name)
        if not text:
            return None
        try:
            return float(text)
        except ValueError:
            raise SpecError(
                f"{name}: {text!r} is not a number", path=str(self.path), line=self.line
            ) from None

    def count(self, name: str) -> int | None:
        """The cell as a whole number."""
        value = self.number(name)
        return None if value is None else int(value)


def _speed_row(cells: Cells, after_tokens: int) -> SpeedRow:
    """``after_tokens``: of the prompt in whose context an answer was generated, where the row is one."""
    source = cells.text("source")
    stated = cells.number("ram_gbps"), cells.text("ram_gbps_basis")
    ram = next((known for page, known in _PINNED_RAM.items() if page in source), stated)
    return SpeedRow(
        id=cells.text("id"),
        setup=cells.text("setup"),
        source_family=source_family(cells.text("source")),
        model=cells.text("model"),
        arch_class=cells.text("arch_class"),
        quant=_quant(cells),
        file_gib=cells.number("file_gib"),
        engine=_engine(cells),
        gpu=cells.text("gpu"),
        n_gpus=cells.count("n_gpus") or 0,
        cpu=cells.text("cpu"),
        ram_gbps=ram[0],
        pcie=cells.text("pcie"),
        placement=cells.text("placement"),
        gpu_layers=cells.count("gpu_layers"),
        cpu_moe=cells.count("cpu_moe"),
        batch=cells.count("batch") or 1,
        prompt_tokens=cells.count("prompt_tokens"),
        depth_tokens=cells.count("depth_tokens") or (after_tokens if cells.text("phase") == "decode" else 0),
        gen_tokens=cells.count("gen_tokens"),
        ubatch=cells.count("ubatch") or (2048 if any(page in source for page in _UBATCH_PAGES) else None),
        flash_attn=_flash(cells),
        kv_type=cells.text("kv_type"),
        threads=cells.count("threads"),
        phase=cells.text("phase"),
        tokens_per_s=cells.number("tokens_per_s") or 0.0,
        grade="C" if _PAGING in source else cells.text("grade"),
        tp=cells.count("tp"),
        cpu_raw=cells.text("cpu_raw"),
        ram_basis=ram[1],
        value=cells.number("tokens_per_s") or 0.0,
        date=_build_date(cells),
        power_limit_w=cells.number("power_limit_w"),
    )


def _quant(cells: Cells) -> str:
    """The type; files for MLX say in their name that what is no expert has 4 bits as well, and Unsloth's
    dynamic ones that they are."""
    quant, mlx = cells.text("quant"), cells.text("engine").startswith("mlx")
    if "unsloth UD" in cells.text("quant_raw"):
        return f"ud-{quant}"
    return "mlx-mxfp4-q4" if mlx and quant == "mxfp4" and "MXFP4-Q4" in cells.text("model_raw") else quant


def _engine(cells: Cells) -> str:
    """The engine, with its backend where notes or page say so, or a switch of ik_llama.cpp's that decides
    where its prompts are computed."""
    source = cells.text("source")
    engine = _pinned(_PINNED_ENGINES, source) or cells.text("engine")
    if _VULKAN_NOTE.search(cells.text("notes")) and "(" not in engine:
        return f"{engine} (Vulkan)"
    asked = "-rtr" in cells.text("notes") or any(page in source for page in _INTERLEAVED_PAGES)
    return f"{engine} (rtr)" if asked and engine == "ik_llama.cpp" else engine


_VULKAN_NOTE = re.compile(r"\bbackend=\S*vulkan")


def _flash(cells: Cells) -> bool | None:
    """Whether attention was fused, by the row or by its page."""
    said = cells.text("flash_attn")
    if said:
        return said not in ("0", "false")
    pages = _FUSED_PAGES + _UBATCH_PAGES
    on_page = cells.text("gpu") and any(page in cells.text("source") for page in pages)
    return True if on_page else None


def _build_date(cells: Cells) -> str:
    """When the build was made, as far as known: no later than the row."""
    source, notes = cells.text("source"), cells.text("notes")
    earlier = (date for (page, word), date in _EARLIER_BUILDS.items() if page in source and word in notes)
    page, _, part = source.partition(" (")
    added = _ADDED.get(page, {}).get(part.removesuffix(")"), "")
    build = _BUILD_DATES.get(cells.text("engine").rpartition(" ")[2], "")
    return next(earlier, "") or added or cells.text("date") or _pinned(_PINNED_BUILDS, source) or build


def _pinned(pages: Mapping[str, str], source: str) -> str:
    """What the page of ``source`` asks all its contributors for; "" where it is none of ``pages``."""
    return next((value for page, value in pages.items() if page in source), "")


def source_family(source: str) -> str:
    """What publications of one project or site share: its name, or the host of its address."""
    if source.startswith(("http://", "https://")):
        return source.split("/")[2]
    return source.split(":")[0].split(" submission")[0]


def _serving_row(cells: Cells) -> SpeedRow | None:
    metric, value = cells.text("metric"), cells.number("value")
    batch, family = cells.count("concurrency") or 1, cells.text("source_family")
    nominal = cells.count("input_len") or 0, cells.count("output_len") or 1
    prompt, output = (mean_tokens(family, n) for n in nominal)
    if not value or metric not in _STEP_METRICS:
        return None
    whole = metric == "bs1_output_tok_s" and prompt > 1  # the prompt's time is inside that figure
    tp = cells.count("tp") or 1
    engine, gpu, model, precision, date = (cells.text(c) for c in _LAUNCH)
    launch = engine, gpu, model, precision, date
    return SpeedRow(
        id=cells.text("id"),
        setup=cells.text("setup"),
        source_family=family,
        model=cells.text("model"),
        arch_class=cells.text("arch_class"),
        quant=_PRECISIONS.get(cells.text("precision"), cells.text("precision")),
        file_gib=None,
        engine=cells.text("engine"),
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
        tokens_per_s=batch * 1000.0 / value if metric == "tpot_ms" else value,
        grade=cells.text("grade"),
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
