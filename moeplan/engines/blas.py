"""Whether ggml's CUDA and HIP backends widen quantised weights to 16 bits for a library's matrix product.

Kernels that multiply the blocks themselves came to matrix units late; until then a prompt wrote each matrix
out in 16 bits and read it again. Pull requests of llama.cpp and ik_llama.cpp, read 2026-11-30.
"""

from __future__ import annotations

from moeplan.domain.hardware import GpuSpec
from moeplan.engines.builds import before
from moeplan.engines.machines import likely_capability
from moeplan.engines.traits import EngineTraits

PLAIN_TYPES = frozenset({"f16", "bf16", "f32"})
# "mul_mat_q instead of FP16 cuBLAS by default" where there are int8 tensor cores: PR 8075 (logs of May 2024
# print "GGML_CUDA_FORCE_MMQ: no"). Types with look-up tables: PR 8495. Days of merging are recalled.
_INT8_SINCE, _TABLES_SINCE = "2024-06-24", "2024-07-20"
# Kernels for AMD's matrix units: PRs 14624, 17156 and 17576.
_AMD_SINCE = {"cdna": "2025-07-27", "rdna4": "2025-11-24", "rdna3": "2025-12-06"}
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
# "dequantize+cuBLAS is faster than MMQ" for its types with blocks of 16 from so many rows on, from PR 559
# until PR 923 (ggml_cuda_should_use_mmq).
_LIBRARY_ROWS = {
    "q2_k": 384, "q3_k": 1536, "q6_k": 1536, "iq2_xs": 1536, "iq2_s": 1536,
    "iq2_k": 1024, "iq3_k": 1024, "iq4_k": 1024, "iq5_k": 1024, "iq6_k": 1024,
}  # fmt: skip
_LIBRARY_SINCE, _LIBRARY_UNTIL = "2025-06-27", "2025-11-09"
# Volta's quantised products keep their kernels in ik_llama.cpp since its PR 1785.
_IK_VOLTA_SINCE = "2026-05-15"
# Fewer rows go through kernels for blocks all the same (MMQ_MAX_BATCH_SIZE, now MMQ_DP4A_MAX_BATCH_SIZE).
_EARLY_ROWS, _ROWS = 32, 64
# AMD's usual library had no kernels tuned for RDNA 3.5 (ROCm issue 4748): another one was "up to 2-3X" as
# fast in August 2025, no longer in October (lhl/strix-halo-testing, llm-bench/README.md and README.md).
_UNTUNED, _TUNED_SINCE = "rdna3.5", "2025-10"
# MXFP4 by instructions for 4 bits, twice as fast as those for 8, on Blackwell cards and the DGX Spark (PR
# 17906: 1.23 to 1.27 times the prompts of gpt-oss); ik_llama.cpp has no such kernel (mmq.cuh, August 2026).
_FP4_SINCE, _FIRST_FP4_CARDS = "2025-12-25", 12.0
_FIRST_TENSOR_CORES, _FIRST_INT8_CORES, _FIRST_DP4A = 7.0, 7.5, 6.1


def widens_weights(engine: EngineTraits, gpu: GpuSpec, date: str, quant: str, rows: float) -> bool:
    """Whether a product of ``rows`` rows with weights of type ``quant`` is one of 16-bit matrices.

    ``date``: of the engine's build, "" for now. ``quant``: as stored, interleaved (``_r4``) or not.
    """
    if not engine.gguf or engine.backend or quant in PLAIN_TYPES:
        return False
    if gpu.vendor == "amd":
        since = next((since for name, since in _AMD_SINCE.items() if _family(gpu).startswith(name)), None)
        return since is not None and rows >= _ROWS and before(date, since)
    if gpu.vendor != "nvidia":
        return False
    capability = likely_capability(gpu)
    if capability < _FIRST_TENSOR_CORES:  # whose 16-bit products are no faster
        return capability < _FIRST_DP4A and rows > _EARLY_ROWS
    if capability < _FIRST_INT8_CORES:
        kept = engine.stream_scales_with_experts and not before(date, _IK_VOLTA_SINCE)
        return rows >= _ROWS and not kept
    if quant in _INTERLEAVED_SINCE:
        own = _INTERLEAVED_SINCE[quant]
        return rows > _EARLY_ROWS and (not own or before(date, own))
    quant = quant.removesuffix("_r4")
    since = _OWN_SINCE.get(quant, _TABLES_SINCE if quant.startswith("iq") else _INT8_SINCE)
    return rows > _EARLY_ROWS and before(date, since)


def prefers_library(engine: EngineTraits, gpu: GpuSpec, date: str, quant: str, rows: float) -> bool:
    """Whether a build left a product of so many rows to a library although it had kernels of its own."""
    if not engine.stream_scales_with_experts or engine.backend or gpu.vendor != "nvidia":
        return False
    least = _LIBRARY_ROWS.get(quant.removesuffix("_r4"))
    return (
        least is not None
        and rows >= least
        and not before(date, _LIBRARY_SINCE)
        and before(date, _LIBRARY_UNTIL)
    )


def multiplies_fp4(engine: EngineTraits, gpu: GpuSpec, date: str, quant: str) -> bool:
    """Whether prompts multiply MXFP4 weights with inputs of 4 bits too."""
    by_cuda = engine.gguf and not engine.backend and not engine.stream_scales_with_experts
    if quant != "mxfp4" or not by_cuda or gpu.vendor != "nvidia":
        return False
    return likely_capability(gpu) >= _FIRST_FP4_CARDS and not before(date, _FP4_SINCE)


def library_marks(gpu: GpuSpec, date: str) -> tuple[str, ...]:
    """("untuned-library",) where the maker's library had no kernels made for ``gpu``."""
    untuned = _family(gpu) == _UNTUNED and before(date, _TUNED_SINCE)
    return ("untuned-library",) if untuned else ()


def _family(gpu: GpuSpec) -> str:
    return gpu.architecture.casefold().replace(" ", "")
