"""How ik_llama.cpp's kernels for several rows take their weights: as stored, interleaved, or repacked first.

Multiplying is the same in all three; making weights ready for it is not. Tables are prompts of 512 tokens of
LLaMA-3.1-8B on a Ryzen 9 7950X and a Threadripper PRO 5975WX, read 2026-11-30; in no fit.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from moeplan.cost.cores import WIDE, computes_512_bits, tiled_isa
from moeplan.cost.ops import Names, Times
from moeplan.cost.type_groups import dot_group, quant_group
from moeplan.domain.hardware import CpuSpec
from moeplan.engines.builds import before
from moeplan.engines.offload import is_interleaved
from moeplan.engines.traits import EngineTraits

Way = Literal["interleaved", "stored", "repacked"]

# "Quants are repacked to Q8_K_R8 [...] The repacking strategy kicks in at 32 tokens, so up to that point
# performance is the same. The relative performance gain from this PR then slowly grows to about 1.9X at 256
# tokens" (PR 531; 515 to 518 and 525 before it, 533 and 534 on the next day: all types but interleaved ones;
# NEON: PRs 546 to 553). Repacking costs what makes both equal at 32 rows: the product of 29 rows.
_REPACKED_SINCE = {"neon": "2025-06-24", "": "2025-06-18"}
_LEAST_ROWS, _REPACKING_ROWS = 32.0, 29.0
# Types that 8 bits with two numbers a block stand for (Q8_1_R8: 250 to 269 tokens/s where others have 290 to
# 370, PRs 525 and 534).
_TWO_NUMBERS = frozenset({"q4_1", "q5_1", "q4_k", "q5_k"})


# Kernels with dot products of 512 bits where a processor has them at all (_mm512_dpbusd_epi32 in its
# iqk_gemm_*.cpp, builds of June 2025); the others have 256. Of interleaved rows those of legacy types, IQ4_XS
# and IQ4_NL; of rows as stored those of super-blocks; of repacked ones Q8_0_R8, and Q8_K_R8 and Q8_1_R8 since
# PRs 710 and 1578 ("true" AVX-512, e.g. Zen 5).
_WIDE_ROWS = frozenset({"q4_0", "q5_0", "q6_0", "q8_0", "iq4_nl", "iq4_xs"})
_WIDE_SINCE = {"block": "", "type": "2025-08-22", "two-numbers": "2026-04-06"}


class Tiles(NamedTuple):
    """Kernels that meet a matrix: their way with its weights and the rows of activations they meet."""

    way: Way
    sort: str
    """Types that they make ready alike; "": they have one way for all."""
    wide: bool
    """Whether they compute 512 bits at once where the processor does."""
    rows: float

    @property
    def names(self) -> Names:
        """The coefficients of this way with such types."""
        name = f"local.cpu.tiled.{self.way}.{self.sort}.compute"
        return ((name, WIDE) if self.wide else (name,)) if self.sort else ()

    def times(self, times: Times) -> Times:
        """``times`` with what repacking adds."""
        if self.way != "repacked" or not self.sort:
            return times
        computing = times.computing * (1.0 + _REPACKING_ROWS / self.rows)
        return times._replace(computing=computing, inputs={**times.inputs, "rows_a_matrix": self.rows})


NO_TILES = Tiles("interleaved", "", wide=False, rows=0.0)


def tiles_of(
    engine: EngineTraits, date: str, cpu: CpuSpec, stored: str, rows: float, *, prompt: bool = True
) -> Tiles:
    """How a matrix of type ``stored`` meets ``rows`` rows of a prompt on ``cpu``.

    ``NO_TILES`` where an engine has no such kernels. ``date``: of the build, "" for now.
    """
    quant = stored.removesuffix("_r4")
    isa = tiled_isa(cpu, engine, quant)
    if not prompt or not has_ways(engine, quant) or not isa:
        return NO_TILES
    way: Way = "interleaved"
    if not is_interleaved(engine, stored):
        since = _REPACKED_SINCE.get(isa, _REPACKED_SINCE[""])
        way = "stored" if before(date, since) or rows < _LEAST_ROWS else "repacked"
    sort = _sort(quant, way)
    if way == "repacked":
        wide = not before(date, _WIDE_SINCE[sort])
    else:
        wide = quant in _WIDE_ROWS if way == "interleaved" else sort == "type"
    return Tiles(way, sort, wide and isa == "avx512" and computes_512_bits(cpu), rows)


def has_ways(engine: EngineTraits, quant: str) -> bool:
    """Whether ``engine`` has kernels that differ by how rows of ``quant`` lie."""
    return engine.cpu_tiles == "types" and quant_group(quant) not in ("plain", "other")


def _sort(quant: str, way: Way) -> str:
    group = dot_group(quant)
    if group == "codebook" and way != "repacked":
        return group
    if way == "repacked" and quant in _TWO_NUMBERS:
        return "two-numbers"
    block = "block" in (group, quant_group(quant)) or (way == "repacked" and quant == "q6_k")
    return "block" if block and way != "interleaved" else "type"
