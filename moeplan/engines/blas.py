"""Whether ggml's CUDA and HIP backends widen quantised weights to 16 bits for a library's matrix product.

Kernels that multiply the blocks themselves came to matrix units late; until then a prompt wrote each matrix
out in 16 bits and read it again. Pull requests of llama.cpp and ik_llama.cpp, read 2026-11-30.
"""

from __future__ import annotations

import math

from moeplan.domain.hardware import GpuSpec
from moeplan.engines.builds import before
from moeplan.engines.machines import likely_capability
from moeplan.engines.traits import EngineTraits

PLAIN_TYPES = frozenset({"f16", "bf16", "f32"})
# "mul_mat_q instead of FP16 cuBLAS by default" where there are int8 tensor cores: PR 8075 (logs of May 2024
# print "GGML_CUDA_FORCE_MMQ: no"). Types with look-up tables: PR 8495. Days of merging are recalled.
_INT8_SINCE, _TABLES_SINCE = "2024-06-24", "2024-07-20"
# Types that such kernels have never taken (ggml_cuda_should_use_mmq, read in ggml 0.26).
_WITHOUT_KERNELS = frozenset({"iq1_m"})
# "Matrix multiplications are done via dequantize->cuBLAS" for the types of ik_llama.cpp until its PRs 374,
# 417 and 418.
_OWN_SINCE = {
    "iq4_ks": "2025-05-04", "iq4_k": "2025-05-14", "iq5_k": "2025-05-14", "iq6_k": "2025-05-14",
    "iq2_ks": "2025-05-15", "iq2_k": "2025-05-15", "iq3_k": "2025-05-15",
}  # fmt: skip
# Its interleaved rows went that way until PRs 493 and 557; those of IQ1_S never did (PR 492), those of IQ1_M
# do to this day.
_INTERLEAVED_SINCE = {
    "iq4_ks_r4": "2025-06-05", "iq5_ks_r4": "2025-06-05", "iq2_k_r4": "2025-06-26", "iq3_k_r4": "2025-06-26",
    "iq4_k_r4": "2025-06-26", "iq5_k_r4": "2025-06-26", "iq1_s_r4": "2025-06-05", "iq1_m_r4": "",
}  # fmt: skip
# For a while ik_llama.cpp took cuBLAS for large batches of types with scales for 16 weights: its PRs 559 (of
# June 2025), 593 and 923 (November); kernels for all experts at once went by a rule of their own. On Volta it
# keeps its kernels for any batch since its PR 1785.
_OWN_LIBRARY, _OWN_VOLTA_SINCE = ("2025-06-27", "2025-11-09"), "2026-05-15"
_OWN_LIBRARY_ROWS = {
    "q2_k": 384, "q3_k": 1536, "q6_k": 1536, "iq2_xs": 1536, "iq2_s": 1536,
    "iq2_k": 1024, "iq3_k": 1024, "iq4_k": 1024, "iq5_k": 1024, "iq6_k": 1024,
}  # fmt: skip
# Fewer rows go through kernels for blocks all the same (MMQ_MAX_BATCH_SIZE, now MMQ_DP4A_MAX_BATCH_SIZE).
_EARLY_ROWS, _ROWS = 32, 64
# AMD's usual library had no kernels tuned for RDNA 3.5 (ROCm issue 4748): another one was "up to 2-3X" as
# fast in August 2025, no longer in October (lhl/strix-halo-testing, llm-bench/README.md and README.md).
_UNTUNED, _TUNED_SINCE = "rdna3.5", "2025-10"
# MXFP4 by instructions for 4 bits, twice as fast as those for 8, on Blackwell cards and the DGX Spark (PR
# 17906: 1.23 to 1.27 times the prompts of gpt-oss); ik_llama.cpp has no such kernel (mmq.cuh, August 2026).
_FP4_SINCE, _FIRST_FP4_CARDS = "2025-12-25", 12.0
_FIRST_TENSOR_CORES, _FIRST_INT8_CORES, _FIRST_DP4A = 7.0, 7.5, 6.1


def widens_weights(
    engine: EngineTraits, gpu: GpuSpec, date: str, quant: str, rows: float, n_experts: int = 0
) -> bool:
    """Whether a product of ``rows`` rows with weights of type ``quant`` is one of 16-bit matrices.

    ``date``: of the engine's build, "" for now. ``quant``: as stored, interleaved (``_r4``) or not.
    ``n_experts``: of the layer that has these, 0 if dense.
    """
    if not engine.gguf or engine.backend or quant in PLAIN_TYPES:
        return False
    ik = engine.stream_scales_with_experts
    if gpu.vendor == "amd" and ik:  # no kernels for AMD's matrix units: "cc < CC_RDNA3 || ne11 < 64"
        return rows >= _ROWS and _family(gpu).startswith(("rdna3", "rdna4"))
    if gpu.vendor == "amd":
        return rows >= _ROWS and _amd_widens(_family(gpu), date, quant, rows, n_experts)
    if gpu.vendor != "nvidia":
        return False
    capability = likely_capability(gpu)
    if capability < _FIRST_TENSOR_CORES:  # whose 16-bit products are no faster
        return capability < _FIRST_DP4A and rows > _EARLY_ROWS
    if capability < _FIRST_INT8_CORES:
        return rows >= _ROWS and (not ik or before(date, _OWN_VOLTA_SINCE))
    if ik and not n_experts and before(date, _OWN_LIBRARY[1]) and not before(date, _OWN_LIBRARY[0]):
        least = _OWN_LIBRARY_ROWS.get(quant.removesuffix("_r4"), math.inf)
        if rows >= least:
            return True
    if quant in _INTERLEAVED_SINCE:
        own = _INTERLEAVED_SINCE[quant]
        return rows > _EARLY_ROWS and (not own or before(date, own))
    quant = quant.removesuffix("_r4")
    since = _OWN_SINCE.get(quant, _TABLES_SINCE if quant.startswith("iq") else _INT8_SINCE)
    return rows > _EARLY_ROWS and (quant in _WITHOUT_KERNELS or before(date, since))


def multiplies_fp4(engine: EngineTraits, gpu: GpuSpec, date: str, quant: str) -> bool:
    """Whether prompts multiply MXFP4 weights with inputs of 4 bits too."""
    by_cuda = engine.gguf and not engine.backend and not engine.stream_scales_with_experts
    if quant != "mxfp4" or not by_cuda or gpu.vendor != "nvidia":
        return False
    return likely_capability(gpu) >= _FIRST_FP4_CARDS and not before(date, _FP4_SINCE)


# Kernels for AMD's matrix units, and where a library stays faster all the same (ggml_cuda_should_use_mmq by
# its history): CDNA 3 PR 14624; CDNA 1 and 2 PR 14949 for few rows and nibbles, PR 18202 for many experts;
# RDNA 4 PR 17156; RDNA 3 PR 17576, since PR 18537 not for types that widen much, RDNA 3.5 by PR 18666.
_CDNA3_SINCE, _CDNA_SINCE, _CDNA_EXPERTS_SINCE = "2025-07-27", "2025-07-30", "2025-12-28"
_RDNA4_SINCE, _RDNA3_SINCE, _RDNA3_TUNED_SINCE, _RDNA35_TUNED_SINCE = (
    "2025-11-24", "2025-12-06", "2026-01-06", "2026-01-10",
)  # fmt: skip
_MANY_EXPERTS, _FEW_ROWS = 64, 128
_CDNA_ROWS = {**dict.fromkeys(("q4_0", "q4_1", "q5_0", "q5_1"), math.inf), "q4_k": 256, "q5_k": 256}
_RDNA3_ROWS = {"q2_k": _FEW_ROWS, "q6_k": _FEW_ROWS, "iq2_xs": _FEW_ROWS, "iq2_s": _FEW_ROWS}
_RDNA35_ROWS = {"q2_k": _FEW_ROWS, "q6_k": 256}


def _amd_widens(family: str, date: str, quant: str, rows: float, n_experts: int) -> bool:
    """The same on an AMD GPU of ``family``: GCN and RDNA 1 and 2 multiply blocks in any build."""
    if family.startswith("cdna3") or family.startswith("cdna4"):
        return before(date, _CDNA3_SINCE)
    if family.startswith("cdna"):
        many = n_experts > _MANY_EXPERTS and not before(date, _CDNA_EXPERTS_SINCE)
        return before(date, _CDNA_SINCE) or (not many and rows > _CDNA_ROWS.get(quant, _FEW_ROWS))
    if family.startswith("rdna4"):
        return before(date, _RDNA4_SINCE)
    if not family.startswith("rdna3"):
        return False
    if before(date, _RDNA3_TUNED_SINCE) or n_experts >= _MANY_EXPERTS:
        return before(date, _RDNA3_SINCE)
    newer = family == _UNTUNED and not before(date, _RDNA35_TUNED_SINCE)
    return rows > (_RDNA35_ROWS if newer else _RDNA3_ROWS).get(quant, math.inf)


def library_marks(gpu: GpuSpec, date: str) -> tuple[str, ...]:
    """("untuned-library",) where the maker's library had no kernels made for ``gpu``."""
    untuned = _family(gpu) == _UNTUNED and before(date, _TUNED_SINCE)
    return ("untuned-library",) if untuned else ()


def _family(gpu: GpuSpec) -> str:
    return gpu.architecture.casefold().replace(" ", "")
