"""The options that commands share, and the checks of their values. Numbers arrive as text, so that one
place says what is wrong with them, naming the option."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from moeplan.domain.workload import MAX_COUNT, PlacementKind
from moeplan.errors import NotModelled, SpecError

if TYPE_CHECKING:
    from moeplan.domain.request import EstimateRequest, MachineFlags
    from moeplan.readers.catalog import Catalog

# ── where results go ────────────────────────────────────────────────────────────────────────────

Format = Annotated[
    Literal["table", "json", "markdown"], typer.Option("--format", help="How to print the result.")
]
Output = Annotated[
    str | None,
    typer.Option("--output", metavar="FILE", help="Write the result to FILE, as a whole or not at all."),
]
Configs = Annotated[
    str | None,
    typer.Option(
        "--configs", metavar="DIR", help="Look here first for models/ and hardware/ specifications."
    ),
]

# ── machine ─────────────────────────────────────────────────────────────────────────────────────


def _machine(name: str, metavar: str, help: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help, rich_help_panel="Machine")


Hardware = Annotated[
    str | None,
    _machine("--hardware", "HARDWARE", "Catalog id of a GPU or machine, a YAML file, or local (default)."),
]
Gpu = Annotated[
    str | None, _machine("--gpu", "ID", "GPU of the machine; unlike ones: rtx-3090+rtx-3060-12gb.")
]
NGpus = Annotated[str | None, _machine("--n-gpus", "N", "Number of GPUs.")]
Cpu = Annotated[str | None, _machine("--cpu", "ID", "CPU of the machine.")]
RamGib = Annotated[str | None, _machine("--ram-gib", "SIZE", "RAM in GiB, or with a unit: 64GB.")]
RamGbs = Annotated[str | None, _machine("--ram-gbs", "RATE", "RAM bandwidth in GB/s (10^9 bytes).")]
Pcie = Annotated[str | None, _machine("--pcie", "LINK", "Host link of each GPU: gen4x16.")]
Link = Annotated[str | None, _machine("--link", "LINK", "Link between GPUs: nvlink4.")]
StorageGbs = Annotated[str | None, _machine("--storage-gbs", "RATE", "Disk read rate in GB/s.")]
ReserveVram = Annotated[
    str | None,
    _machine(
        "--reserve-vram-gib",
        "SIZE",
        "VRAM of each GPU to leave free, in GiB; or linux, windows, wsl: a screen.",
    ),
]

# ── workload ────────────────────────────────────────────────────────────────────────────────────


def _workload(name: str, metavar: str, help: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help, rich_help_panel="Workload")


Quant = Annotated[
    str | None, _workload("--quant", "ID", "Type of the weights (moeplan quants list). Default: the model's.")
]
Engine = Annotated[
    str | None,
    _workload(
        "--engine",
        "NAME",
        "llama.cpp, llama.cpp-vulkan, vllm ... Default: llama.cpp for GGUF types, else the format's.",
    ),
]
Context = Annotated[
    str | None,
    _workload("--context", "N|max", "Tokens the cache of a sequence holds. Default: 8192."),
]
Prompt = Annotated[str | None, _workload("--prompt", "N", "Prompt length in tokens. Default: 512.")]
OutputTokens = Annotated[
    str | None, _workload("--output-tokens", "N", "Answer length in tokens. Default: 128.")
]
Depth = Annotated[str | None, _workload("--depth", "N", "Tokens in the cache before the prompt. Default: 0.")]
Batch = Annotated[str | None, _workload("--batch", "N|max", "Sequences decoded together. Default: 1.")]
KvType = Annotated[str | None, _workload("--kv-type", "TYPE", "Type of the KV cache: f16, q8_0 ...")]
Ubatch = Annotated[str | None, _workload("--ubatch", "N", "Prompt tokens per step. Default: 512.")]
FlashAttn = Annotated[
    bool | None,
    typer.Option(
        "--flash-attn/--no-flash-attn",
        help="Flash attention. Default: on where the engine has it.",
        rich_help_panel="Workload",
    ),
]

# ── engine ──────────────────────────────────────────────────────────────────────────────────────


def _engine(name: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(name, metavar=metavar, help=help, rich_help_panel="Engine")


Slots = Annotated[
    str | None,
    _engine("--slots", "Sequences llama-server keeps room for (-np), each a context.", "N"),
]
KvUnified = Annotated[
    bool, _engine("--kv-unified", "llama.cpp: all sequences share one cache of --batch contexts.")
]
SwaFull = Annotated[bool, _engine("--swa-full", "llama.cpp, vLLM: window layers cache the whole context.")]
Mmap = Annotated[
    bool | None, _engine("--mmap/--no-mmap", "Map weights in RAM from the file. Default: the engine's.")
]
Repack = Annotated[
    bool | None, _engine("--repack/--no-repack", "llama.cpp without a GPU: a second copy of 4-bit matrices.")
]
KvOffload = Annotated[
    bool | None,
    _engine("--kv-offload/--no-kv-offload", "Keep the cache of layers on a GPU there, as is the default."),
]
Utilization = Annotated[
    str | None,
    _engine("--gpu-memory-utilization", "Share of a GPU the engine may fill. Default: its own.", "SHARE"),
]
Mla = Annotated[
    str | None,
    _engine("--mla", "ik_llama.cpp: 0 caches all heads, 1 to 3 the latent. Default: 3.", "0|1|2|3"),
]

# ── placement ───────────────────────────────────────────────────────────────────────────────────


def _placement(name: str, metavar: str, help: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help, rich_help_panel="Placement")


PlacementOption = Annotated[
    PlacementKind | None,
    typer.Option(
        "--placement",
        metavar="KIND",
        help="gpu, unified, cpu, layers, experts, mixed, stream, disk, tensor-parallel or "
        "layer-split. Default: all in VRAM if it fits, else the best split.",
        rich_help_panel="Placement",
    ),
]
GpuLayers = Annotated[
    str | None, _placement("--gpu-layers", "N|all", "Layers on GPUs, counted as llama.cpp's -ngl.")
]
CpuMoe = Annotated[
    str | None, _placement("--cpu-moe", "N|all", "Layers whose routed experts stay in RAM (--n-cpu-moe).")
]
Tp = Annotated[str | None, _placement("--tp", "N", "GPUs that share every layer (tensor parallel).")]
Pp = Annotated[str | None, _placement("--pp", "N", "Pipeline stages. Not modelled above 1.")]
Ep = Annotated[
    str | None,
    _placement("--ep", "N", "GPUs that hold whole experts: 1, or as many as --tp. Default: what divides."),
]
Dp = Annotated[str | None, _placement("--dp", "N", "Replicas. Not modelled above 1.")]
Threads = Annotated[str | None, _placement("--threads", "N", "CPU threads. Default: the physical cores.")]

# ── prediction ──────────────────────────────────────────────────────────────────────────────────

Calibration = Annotated[
    str | None,
    typer.Option("--calibration", metavar="FILE|none", help="Coefficients measured by moeplan profile."),
]
Level = Annotated[
    str,
    typer.Option("--level", metavar="P", help="Share of measurements between low and high, 0 to 1."),
]
Explain = Annotated[bool, typer.Option("--explain", help="Show every number's formula, inputs and source.")]
Plot = Annotated[
    str | None,
    typer.Option("--plot", metavar="FILE", help="Also draw memory and time as a picture: .svg or .png."),
]

Verify = Annotated[
    bool,
    typer.Option(
        "--verify-with-engine",
        help="Load the .gguf file in a real llama.cpp and print what it allocates beside the prediction.",
    ),
]
EngineBinary = Annotated[
    str | None,
    typer.Option("--engine-binary", metavar="FILE", help="llama-server to verify with, else xllamacpp."),
]

# ── checks ──────────────────────────────────────────────────────────────────────────────────────


def count(text: str | None, option: str, low: int = 1, words: tuple[str, ...] = ()) -> Any:
    """``text`` as a whole number of at least ``low``, or one of ``words``; None stays None."""
    if text is None or text in words:
        return text
    digits = text.strip().replace("_", "")
    number = int(digits) if _is_integer(digits) and len(digits) < 30 else None
    if number is None or not low <= number <= MAX_COUNT:
        high = f" to {MAX_COUNT:,}" if number is not None and number > MAX_COUNT else " or more"
        what = " or ".join([f"a whole number, {low}{high},", *words]).removesuffix(",")
        thousands = digits[:-1] if digits[-1:] in ("k", "K") and digits[:-1].isdecimal() else ""
        hint = f"write {int(thousands) * 1024}" if 0 < len(thousands) < 7 else None
        raise SpecError(f"{option}: expected {what}; got {shown(text)}", hint=hint)
    return number


def fraction(text: str, option: str, *, high: bool = False) -> float:
    """``text`` as a number between 0 and 1, both excluded, or 1 itself where ``high``."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (0 < number < 1 or (high and number == 1)):
        raise SpecError(f"{option}: expected a number between 0 and 1, such as 0.8; got {shown(text)}")
    return number


def positive(text: str | None, option: str) -> float | None:
    """``text`` as a finite number above zero; None stays None."""
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise SpecError(f"{option}: expected a number above zero; got {shown(text)}")
    return number


def shown(text: str) -> str:
    """``text`` in quotes, cut where it is long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _is_integer(digits: str) -> bool:
    return digits.lstrip("+-").isdecimal() and digits.isascii()


# ── from options to values ──────────────────────────────────────────────────────────────────────


def open_catalog(configs: str | None) -> Catalog:
    """The catalog, with the directory of ``--configs`` in front."""
    from pathlib import Path

    from moeplan.readers.catalog import Catalog

    return Catalog(Path(configs) if configs is not None else None)


def machine_flags(given: Mapping[str, Any]) -> MachineFlags:
    """The machine options among ``given`` (parameter name -> text), checked."""
    from moeplan.domain.request import MachineFlags

    return MachineFlags(
        gpu=given["gpu"],
        n_gpus=count(given["n_gpus"], "--n-gpus"),
        cpu=given["cpu"],
        ram_gib=given["ram_gib"],
        ram_gbs=given["ram_gbs"],
        pcie=given["pcie"],
        link=given["link"],
        storage_gbs=given["storage_gbs"],
        reserve_vram_gib=given["reserve_vram_gib"],
    )


def estimate_request(given: Mapping[str, Any]) -> EstimateRequest:
    """The request that the options of `estimate` make (parameter name -> value), checked."""
    from moeplan.domain.request import EstimateRequest

    for name in ("pp", "dp"):
        if (count(given[name], f"--{name}") or 1) > 1:
            raise NotModelled(
                f"--{name} above 1", "several GPUs work together by --tp or by the layer split of llama.cpp"
            )
    return EstimateRequest(
        model=given["model"],
        hardware=given["hardware"],
        machine=machine_flags(given),
        quant=given["quant"],
        engine=given["engine"],
        context=count(given["context"], "--context", words=("max",)),
        prompt_tokens=count(given["prompt"], "--prompt"),
        output_tokens=count(given["output_tokens"], "--output-tokens"),
        batch=count(given["batch"], "--batch", words=("max",)),
        kv_type=given["kv_type"],
        ubatch=count(given["ubatch"], "--ubatch"),
        flash_attention=given["flash_attn"],
        gpu_layers=count(given["gpu_layers"], "--gpu-layers", low=0, words=("all",)),
        cpu_moe=count(given["cpu_moe"], "--cpu-moe", low=0, words=("all",)),
        placement=given["placement"],
        tensor_parallel=count(given["tp"], "--tp"),
        expert_parallel=count(given["ep"], "--ep"),
        threads=count(given["threads"], "--threads"),
        calibration=given["calibration"],
        level=fraction(given["level"], "--level"),
        depth_tokens=count(given["depth"], "--depth", low=0) or 0,
        **_engine_settings(given),
    )


def _engine_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the engine itself, which only `estimate` has."""
    slots, mla = count(given.get("slots"), "--slots"), given.get("mla")
    share = given.get("gpu_memory_utilization")
    if mla is not None and mla not in ("0", "1", "2", "3"):
        raise SpecError(f"--mla: expected 0, 1, 2 or 3; got {shown(mla)}")
    return {
        "slots": slots,
        # A server keeps one row of logits a slot.
        "output_rows": slots,
        "kv_unified": given.get("kv_unified", False),
        "swa_full": given.get("swa_full", False),
        "mmap": given.get("mmap"),
        "repack": given.get("repack"),
        "kv_offload": given.get("kv_offload"),
        "memory_utilization": None
        if share is None
        else fraction(share, "--gpu-memory-utilization", high=True),
        "mla": None if mla is None else int(mla),
    }
