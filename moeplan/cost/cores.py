"""What the cores of a CPU compute: instruction sets, clocks, and which of them an engine's kernels use."""

from __future__ import annotations

import math

from moeplan.cost.type_groups import quant_group
from moeplan.domain.hardware import CpuSpec
from moeplan.engines.traits import EngineTraits

# Instruction sets from fastest to slowest: the first one a CPU has picks its per-core rate.
ISA_ORDER = ("amx", "avx512", "avx2", "neon")

# Rates of cores are those at 2.5 GHz, the base clock of the machine whose runs fix them; a core's rate grows
# with its base clock. Where that is unknown 3 GHz stand for it: the median of the catalog's 264 (2026-11-30).
_REFERENCE_HZ, USUAL_HZ = 2.5e9, 3.0e9

PAPER_FLOP_PER_S = {"amx": 8e10, "avx512": 7e10, "avx2": 3.5e10, "neon": 5.5e10, "scalar": 4.4e9}
"""Of a core at the reference clock, where the law starts from (calibrate/cpu_priors.py has the sources)."""

# Intel's first AVX-512 had no VNNI, without which kernels take their AVX2 path (HAVE_FANCY_SIMD in
# ik_llama.cpp's iqk_config.h; Cascade Lake brought it: Intel's architecture manual).
_WITHOUT_VNNI = frozenset({"Skylake", "Skylake-SP", "Skylake-X", "Skylake-W", "Cannon Lake"})


def clock_frac(cpu: CpuSpec) -> float:
    """Base clock over that of the machine whose runs fix the rates of cores."""
    return (cpu.base_hz or USUAL_HZ) / _REFERENCE_HZ


def sockets_used(cpu: CpuSpec, threads: int | None) -> int:
    """Sockets that ``threads`` need: threads that fit on one are kept beside its memory."""
    return min(cpu.sockets, math.ceil(threads * cpu.sockets / cpu.cores)) if threads else cpu.sockets


def best_isa(cpu: CpuSpec, *, decode: bool = False) -> str:
    """The instruction set that decides a CPU's arithmetic rate; "scalar" when none is known.

    AMX serves matrices of several rows: llama.cpp takes VNNI for one row (``decode``) and has no attention on
    it (PRs 7707, 8998), KTransformers takes AVX-512 for decoding (doc/en/AMX.md).
    """
    usable = ISA_ORDER[1:] if decode else ISA_ORDER
    return next((isa for isa in usable if isa in cpu.isa), "scalar")


def tiled_isa(cpu: CpuSpec, engine: EngineTraits, quant: str) -> str:
    """The instruction set of kernels that unpack blocks into tiles first, "" where an engine has none.

    Such kernels multiply all types at one rate: of LLaMA-3.1-8B on a Ryzen 9 7950X ik_llama.cpp reads 251 to
    274 tokens/s in ten types from Q2_K to Q8_0, llama.cpp 74 to 154 (discussion 164, December 2024). They use
    no AMX ("feature request", issue 437); ktransformers has AMX kernels for what is not GGUF.
    """
    if engine.cpu_tiles == "amx" and "amx" in cpu.isa and quant_group(quant) == "other":
        return "amx"
    if not engine.cpu_tiles:
        return ""
    best = best_isa(cpu)
    if best == "amx":
        return "avx512"
    return "avx2" if best == "avx512" and cpu.microarchitecture in _WITHOUT_VNNI else best


def tiled_names(cpu: CpuSpec, isa: str) -> tuple[str, ...]:
    """What tiled kernels on ``isa`` gain over others, by the width of the units."""
    if not isa:
        return ()
    wide = isa == "avx512" and computes_512_bits(cpu)
    return (f"local.cpu.tiled.{isa}.compute", *((WIDE,) if wide else ()))


WIDE = "local.cpu.tiled.wide.compute"


def computes_512_bits(cpu: CpuSpec) -> bool:
    """Whether its units are as wide as AVX-512's registers.

    Zen 5 computes 512 bits at once where Zen 4 takes two passes of 256, but for Zen 5 in laptops (AMD).
    """
    return cpu.microarchitecture.startswith("Zen 5") and cpu.segment != "laptop"


# Arm's smaller cores have two units of 128 bits where Apple's, Neoverse V, Cortex-X and Oryon have four or
# more; those before Armv8.2 no dot products of bytes (Arm's software optimization guides, recalled 2026-11-30
# and not re-read; calibrate/cpu_priors.py has the tables).
_TWO_UNITS = ("Cortex-A", "Neoverse N", "Neoverse E")
_WITHOUT_DOT = ("Cortex-A53", "Cortex-A57", "Cortex-A72", "Cortex-A73")


def neon_names(cpu: CpuSpec, isa: str) -> tuple[str, ...]:
    """What a core with ``isa`` has less of than those that NEON's rate is of."""
    if isa != "neon":
        return ()
    names = ("local.cpu.neon.narrow.compute",) if cpu.microarchitecture.startswith(_TWO_UNITS) else ()
    return (
        (*names, "local.cpu.neon.plain.compute") if cpu.microarchitecture.startswith(_WITHOUT_DOT) else names
    )
