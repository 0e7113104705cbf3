"""Data-sheet rates of a tier, and the names of the coefficients that turn them into real ones.

Names go from the general to the particular: a class of devices, an architecture, an engine, a
quantisation, a kind of operation. What is particular multiplies what is general.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from moeplan.cost.ops import OVERLAP, PARTLY, SUM, Names
from moeplan.domain.hardware import CpuSpec, GpuSpec, HardwareSpec
from moeplan.engines.builds import before
from moeplan.engines.traits import EngineTraits
from moeplan.errors import NotModelled

# Instruction sets from fastest to slowest: the first one a CPU has picks its per-core rate.
ISA_ORDER = ("amx", "avx512", "avx2", "neon")


# Rates of cores are those at 2.5 GHz, the base clock of the machine whose runs fix them; a core's rate grows
# with its base clock. Where that is unknown 3 GHz stand for it: the median of the catalog's 264 (2026-11-30).
_REFERENCE_HZ, _USUAL_HZ = 2.5e9, 3.0e9
# Rows of the matrix instruction: wgmma.m64nNk16 on Hopper, mma.m16n8k16 elsewhere (PTX ISA, recalled
# 2026-11-30 and not re-read; an H20 that decodes at a third of its bandwidth bears it out, docs/design/003).
_TILE_ROWS = {"hopper": 64}
# The narrow instruction of earlier GPUs, 16 rows, reaches 63% of the peak on Hopper: as if it were 26 rows
# (arXiv 2402.13499, recalled 2026-11-30 and not re-read).
_NARROW_ROWS = {"hopper": 26}

# llama.cpp runs up to 8 rows through its matrix-vector kernels (ggml-cuda MMVQ_MAX_BATCH_SIZE). Most of
# their FP32 work is widening the weights, which rows share: with three tenths for each further row, ten
# series of 1 to 8 rows on five GPUs are met to 9% relative to one row (docs/design/003). 16-bit types
# share all of it. Tables in llama.cpp PRs 5351, 5434, 8215, 14262, 15131, 23227 and 28912, read
# 2026-11-30; in no fit.
_VECTOR_ROWS, _OWN_FRAC = 8.0, 0.3

# ggml's Metal backend runs kernels that do not depend on each other at once since then (llama.cpp PR 15929).
_METAL_CONCURRENT_SINCE = "2025-09"

PAPER_FLOP_PER_S = {"amx": 8e10, "avx512": 7e10, "avx2": 3.5e10, "neon": 1.75e10, "scalar": 4.4e9}
"""Of a core at the reference clock, where the law starts from (calibrate/priors.py has the sources)."""


# Chips whose cores are others than those of their architecture: GA100 has an integer lane for each FP32 lane,
# as Volta, other Amperes one for two (CUDA C++ Programming Guide, recalled 2026-11-30 and not re-read).
_CORES = {("Ampere", "8.0"): "ga100"}


class Norms(NamedTuple):
    """How moving and computing join for each kind of work: 1 one after the other, 4 close to the larger."""

    weights: float
    experts: float
    cache: float

    def of(self, what: str) -> float:
        """The norm of weights, experts or a cache."""
        return {"weights": self.weights, "experts": self.experts}.get(what, self.cache)


_ALWAYS_OVERLAP, _NEVER = Norms(OVERLAP, OVERLAP, OVERLAP), Norms(SUM, SUM, SUM)
# Matrix-vector kernels, by held-out error (docs/design/003): a discrete GPU hides part of its arithmetic,
# Apple's all but that of small experts.
_VECTOR_NORMS = {"gpu": Norms(PARTLY, PARTLY, SUM), "apple": Norms(OVERLAP, SUM, SUM), "unified": _NEVER}


class Rates(NamedTuple):
    """One tier: rates as on paper, and the coefficients of weights, experts and cache on it."""

    bytes_per_s: float
    flop_per_s: float
    score_flop_per_s: float
    """Of attention, which computes in 16 bits whatever the weights are."""
    watts: float | None
    """Board power where known, of all GPUs together."""
    drawing: Names
    norms: Norms
    weights: tuple[Names, Names]
    """Names for (moving, computing)."""
    experts: tuple[Names, Names]
    cache: tuple[Names, Names]
    fixed: Names
    """Of the fixed time of one layer."""
    inputs: dict[str, object]
    unpack_per_s: float | None = None
    """Elements that the FP32 units would widen at one FLOP each, where they have to."""
    unpacking: Names = ()
    vector: bool = False
    """Whether these are kernels for one row, which unpack and multiply on the FP32 units."""
    own_frac: float = 0.0
    """Of one row's work on the FP32 units, what each further row adds."""
    tile_rows: int = 1
    """Rows that the matrix units work on at least: fewer take as long."""

    def names(self, what: str) -> tuple[Names, Names]:
        """Names for (moving, computing) of weights, experts or a cache."""
        return {"weights": self.weights, "experts": self.experts}.get(what, self.cache)

    def widenings(self, rows: float) -> float:
        """Times one row's work on the FP32 units that a GPU kernel for ``rows`` of them does beside reading.

        Kernels for more than 8 rows are chosen where they are no slower than those for 8: flat from there.
        """
        return 1.0 + self.own_frac * (min(max(rows, 1.0), _VECTOR_ROWS) - 1.0)


def gpu_rates(
    gpu: GpuSpec,
    engine: EngineTraits,
    date: str,
    quant: str,
    n_shards: int = 1,
    *,
    vector: bool = False,
    fused: bool = True,
) -> Rates:
    """Rates of one GPU, or of ``n_shards`` working on the same operation under tensor parallelism.

    ``date``: of the engine's build, YYYY-MM or longer, "" for now. ``vector``: matrix-vector kernels, which
    unpack and multiply on the FP32 units while they read. ``fused``: attention keeps its scores in a kernel.
    """
    family, kind, era = engine.family, device_class(gpu, engine.family), engine_era(date)
    place = f"{family}.{kind}"
    architecture = f"{place}.{_generation(gpu)}"
    run = f"{family}.engine.{engine.id}"
    dated = f"{run}{era}"
    stored = f"{family}.quant.{quant}"
    moving: Names = (
        f"{family}.bandwidth",
        f"{place}.bandwidth",
        f"{architecture}.bandwidth",
        f"{run}.bandwidth",
    )
    if kind == "apple" and (chip := _apple_chip(gpu)):
        moving += (f"{place}.{chip[1]}.bandwidth",)
    unit, peak = _unit(gpu, engine, quant, vector=vector)
    vector = unit == "vector"  # where the FP32 rate is unknown the matrix units stand for it
    core = _CORES.get((gpu.architecture, gpu.compute_capability)) if vector else None
    computing: Names = (
        f"{family}.{unit}",
        f"{place}.{unit}",
        f"{place}.{core}.{unit}" if core else f"{architecture}.{unit}",
        f"{run}.{unit}",
    )
    if era:
        moving, computing = (*moving, f"{dated}.bandwidth"), (*computing, f"{dated}.{unit}")
    moving += (f"{family}.shards.bandwidth",) * _doublings(n_shards)
    sort = unpacking_group(quant) if vector else quant_group(quant)
    group = f"{family}.quants.{sort}"
    by_sort = (f"{architecture}.{sort}.{unit}",) if vector and kind != "gpu" else ()
    weights = (
        (*moving, f"{stored}.bandwidth"),
        (*computing, f"{group}.{unit}", f"{stored}.{unit}", *by_sort),
    )
    experts = (f"{family}.experts.{unit}", f"{place}.experts.{unit}", f"{run}.experts.{unit}")
    scores = "vector" if vector else "compute"
    unpack = _unpack_per_s(gpu, engine, quant)
    attention: Names = (
        f"{family}.attention.{scores}",
        f"{place}.attention.{scores}",
        f"{architecture}.attention.{scores}",
    )
    if not fused and family == "local" and not engine.eager:
        attention = (*attention, f"{family}.unfused.{scores}")
    return Rates(
        bytes_per_s=gpu.bandwidth_bytes_per_s * n_shards,
        flop_per_s=peak * n_shards,
        score_flop_per_s=(peak if vector else peak_flop_per_s(gpu)) * n_shards,
        watts=gpu.tdp_w * n_shards if gpu.tdp_w and not vector and not gpu.unified_memory else None,
        drawing=(
            f"{family}.flop_per_joule",
            f"{architecture}.flop_per_joule",
            f"{family}.{unit}.flop_per_joule",
        ),
        norms=_VECTOR_NORMS[kind] if vector else _ALWAYS_OVERLAP,
        weights=weights,
        experts=((*weights[0], f"{family}.experts.bandwidth"), (*weights[1], *experts)),
        cache=(
            (*moving, f"{family}.cache.bandwidth", f"{place}.cache.bandwidth", f"{run}.cache.bandwidth"),
            (*attention, f"{run}.attention.{scores}"),
        ),
        fixed=(f"{family}.layer_s", f"{place}.layer_time", f"{architecture}.layer_time", f"{run}.layer_time")
        + ((f"{dated}.layer_time",) if era else ())
        + ((f"{place}.serial.layer_time",) if kind == "apple" and _runs_serially(engine, date) else ())
        + ((f"{run}.quants.{quant}.layer_time",) if engine.eager else ()),
        inputs={
            "bandwidth_bytes_per_s": gpu.bandwidth_bytes_per_s,
            f"peak_flop_per_s.{unit}": peak,
            "n_gpus": n_shards,
        },
        unpack_per_s=unpack * n_shards if unpack else None,
        tile_rows=_tile_rows(gpu, family, narrow=unpack is not None) if not vector else 1,
        unpacking=(f"{family}.unpack", f"{run}.unpack", f"{stored}.unpack"),
        vector=vector,
        own_frac=0.0 if quant_group(quant) == "plain" else _OWN_FRAC,
    )


def _tile_rows(gpu: GpuSpec, family: str, *, narrow: bool) -> int:
    """Kernels that widen weights as they go (Marlin, AWQ) use the ``narrow`` instruction everywhere."""
    if family != "server":
        return 1
    return (_NARROW_ROWS if narrow else _TILE_ROWS).get(_generation(gpu), 16)


def _unpack_per_s(gpu: GpuSpec, engine: EngineTraits, quant: str) -> float | None:
    """FP32 rate where weights are of a type that the matrix units do not multiply: servers widen them."""
    if engine.family != "server" or quant_group(quant) == "plain":
        return None
    native = {"fp8": "fp8", "mxfp4": "fp4", "nvfp4": "fp4"}.get(quant)
    if native is not None and native in gpu.peak_flop_per_s:
        return None
    return gpu.peak_flop_per_s.get("fp32")


def _unit(gpu: GpuSpec, engine: EngineTraits, quant: str, *, vector: bool) -> tuple[str, float]:
    """(which arithmetic units multiply the weights, their peak).

    llama.cpp multiplies quantised blocks as 8-bit integers (ggml-cuda mmq); servers compute in the type
    of the weights where the GPU has it. ggml-vulkan leaves Intel's matrix units idle before Xe2, and reaches
    less than the FP32 rate with them: 978 and 1,631 tokens/s of a 2B model on an A770 and a B580 (PR 14001).
    """
    peaks = gpu.peak_flop_per_s
    if vector and "fp32" in peaks:
        return "vector", peaks["fp32"]
    plain = peak_flop_per_s(gpu)
    if engine.backend == "vulkan" and gpu.vendor == "intel":
        return "compute", peaks.get("fp32", plain)
    if engine.gguf and quant_group(quant) != "plain" and "int8" in peaks and gpu.vendor != "intel":
        return "int8", max(peaks["int8"], plain)
    if engine.gguf:
        return "compute", max(plain, peaks.get("fp16_acc16", 0.0))
    if quant == "fp8" or quant.startswith("nvfp4"):
        return "compute", max(plain, peaks.get("fp8", 0.0))
    return "compute", plain


def device_class(gpu: GpuSpec, family: str) -> str:
    """Apple's GPUs reach twice the share of their peak in prefill that other unified machines do."""
    if not gpu.unified_memory:
        return "gpu"
    return "apple" if gpu.vendor == "apple" and family == "local" else "unified"


def peak_flop_per_s(gpu: GpuSpec) -> float:
    """The best dense rate with 16- or 32-bit inputs and FP32 accumulation. Raises NotModelled."""
    rates = [gpu.peak_flop_per_s[dtype] for dtype in ("fp16", "bf16", "fp32") if dtype in gpu.peak_flop_per_s]
    if not rates:
        raise NotModelled(f"prefill speed of {gpu.id}", missing=("peak_flop_per_s of fp16, bf16 or fp32",))
    return max(rates)


def host_rates(
    hardware: HardwareSpec, threads: int | None, engine: EngineTraits, era: str, quant: str, *, decode: bool
) -> Rates:
    """Rates of the CPU on weights in RAM. ``decode``: matrix-vector kernels, else matrix-matrix ones."""
    host = hardware.host
    run, stored = f"local.engine.{engine.id}", f"local.quant.{quant}"
    group = f"local.quants.{dot_group(quant)}"
    # What was measured is what programs get, on as many sockets as they are spread over.
    n_sockets = host.cpu.sockets if host.ram_basis == "measured" else sockets_used(host.cpu, threads)
    loss: Names = ("local.ram.sockets.bandwidth",) if host.ram_basis != "measured" else ()
    sockets = loss * _doublings(n_sockets)
    moving = (
        "local.ram.bandwidth",
        f"local.ram.{host.ram_basis}.bandwidth",
        f"local.ram.{host.cpu.segment}.bandwidth",
        f"{run}.ram_bandwidth",
        *sockets,
    )
    cores = min(threads, host.cpu.cores) if threads else host.cpu.cores
    per_core = f"local.cpu.flop_per_s_per_core.{best_isa(host.cpu)}"
    speed = clock_frac(host.cpu)
    launches: Names = ("local.cpu.layer_s", f"{run}.cpu_layer_time")
    if engine.eager:  # Python launches the layers of a CPU as well, and nothing goes on meanwhile
        launches = ("local.layer_s", f"{run}.layer_time", f"{run}.quants.{quant}.layer_time")
    # ``host.*``: what `moeplan profile` measured on this very machine, on top of what holds for all.
    step = "decode" if decode else "prefill"
    phase = ("local.cpu.decode.compute", "host.decode.compute") if decode else ("host.prefill.compute",)
    dated = (f"{run}{era}.cpu_compute",) if era else ()
    computing = (
        per_core,
        f"{run}.cpu_compute",
        f"{group}.cpu_compute",
        f"{stored}.cpu_compute",
        *phase,
        *dated,
    )
    return Rates(
        bytes_per_s=host.ram_bytes_per_s * n_sockets / host.cpu.sockets,
        flop_per_s=cores * speed,
        score_flop_per_s=cores * speed,
        watts=None,
        drawing=(),
        norms=_NEVER,
        weights=(moving, computing),
        experts=(moving, (*computing, "local.cpu.experts.compute", f"host.experts.{step}.compute")),
        cache=(
            (*moving, "local.ram.cache.bandwidth"),
            (
                per_core,
                "local.cpu.attention.compute",
                f"{run}.cpu_attention_compute",
                f"host.attention.{step}.compute",
            ),
        ),
        fixed=launches,
        inputs={
            "ram_bytes_per_s": host.ram_bytes_per_s,
            "sockets_used": n_sockets,
            "n_cores": cores,
            "clock_hz": host.cpu.base_hz or _USUAL_HZ,
        },
    )


def clock_frac(cpu: CpuSpec) -> float:
    """Base clock over that of the machine whose runs fix the rates of cores."""
    return (cpu.base_hz or _USUAL_HZ) / _REFERENCE_HZ


def sockets_used(cpu: CpuSpec, threads: int | None) -> int:
    """Sockets that ``threads`` need: threads that fit on one are kept beside its memory."""
    return min(cpu.sockets, math.ceil(threads * cpu.sockets / cpu.cores)) if threads else cpu.sockets


def best_isa(cpu: CpuSpec) -> str:
    """The instruction set that decides a CPU's arithmetic rate; "scalar" when none is known."""
    return next((isa for isa in ISA_ORDER if isa in cpu.isa), "scalar")


def quant_group(quant: str) -> str:
    """Types that are unpacked alike: plain, block scales, super-blocks, look-up tables, other 4-bit."""
    if quant in ("f16", "bf16", "f32"):
        return "plain"
    if quant.startswith("iq"):
        return "table"
    if quant.endswith("_k"):
        return "super-block"
    if quant[:1] == "q" and quant[1:2].isdigit():
        return "block"
    return "other"


def unpacking_group(quant: str) -> str:
    """Types that a GPU unpacks alike: nibbles and bytes whatever their scales, the others by their blocks."""
    group = quant_group(quant)
    if group in ("block", "super-block"):
        return {"4": "nibble", "8": "byte"}.get(quant[1], group)
    return group


# llama.cpp stores eight rows of these interleaved on x86 (ggml-cpu/repack.cpp of ggml 0.26, read 2026-11-30).
_INTERLEAVED = frozenset({"q4_0", "q4_k", "q2_k", "iq4_nl"})


def dot_group(quant: str) -> str:
    """Types whose dot products a CPU computes alike: rows interleaved, or else by their blocks."""
    if quant in _INTERLEAVED:
        return "interleaved"
    return "block" if quant == "mxfp4" else quant_group(quant)  # 32 weights with one scale, as q8_0


def engine_era(date: str) -> str:
    """Which dated set of coefficients applies: builds of 2023 and of 2024 were slower; "" is later."""
    year = date[:4]
    return f".{year}" if year in ("2023", "2024") else ""


def _doublings(n: int) -> int:
    return round(math.log2(n)) if n > 1 else 0


def _generation(gpu: GpuSpec) -> str:
    """The architecture; Apple's by chip generation (m1 ... m5)."""
    if gpu.vendor == "apple":
        chip = _apple_chip(gpu)
        return chip[0] if chip else "unknown"
    return _slug(gpu.architecture)


def _apple_chip(gpu: GpuSpec) -> tuple[str, str] | None:
    """(generation, size) that the id tells: the more memory channels, the less of them one GPU may reach."""
    found = re.search(r"\b(m\d+)(?:-(pro|max|ultra))?\b", gpu.id)
    return (found[1], found[2] or "base") if found else None


def _runs_serially(engine: EngineTraits, date: str) -> bool:
    """Whether each of a layer's kernels waits for the one before: ggml's Metal backend did."""
    return engine.gguf and before(date, _METAL_CONCURRENT_SINCE)


def _slug(text: str) -> str:
    return text.casefold().replace(" ", "-") or "unknown"
