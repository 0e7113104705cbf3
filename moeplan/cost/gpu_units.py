"""Which arithmetic units of a GPU work on the weights, at what rate on paper and with what inputs."""

from __future__ import annotations

from moeplan.cost.type_groups import quant_group
from moeplan.domain.hardware import GpuSpec
from moeplan.engines.blas import multiplies_fp4
from moeplan.engines.traits import EngineTraits
from moeplan.errors import NotModelled

# Rows of the matrix instruction: wgmma.m64nNk16 on Hopper, mma.m16n8k16 elsewhere (PTX ISA, recalled
# 2026-11-30 and not re-read; an H20 that decodes at a third of its bandwidth bears it out, docs/design/003).
_TILE_ROWS = {"hopper": 64}
# The narrow instruction of earlier GPUs, 16 rows, reaches 63% of the peak on Hopper: as if it were 26 rows
# (arXiv 2402.13499, recalled 2026-11-30 and not re-read).
_NARROW_ROWS = {"hopper": 26}


def unit_of(
    gpu: GpuSpec, engine: EngineTraits, quant: str, *, vector: bool, date: str = ""
) -> tuple[str, float]:
    """(which arithmetic units multiply the weights, their peak) in a build of ``date``.

    llama.cpp multiplies quantised blocks as 8-bit integers (ggml-cuda mmq); servers compute in the type
    of the weights where the GPU has it. ggml-vulkan leaves Intel's matrix units idle before Xe2, and reaches
    less than the FP32 rate with them: 978 and 1,631 tokens/s of a 2B model on an A770 and a B580 (PR 14001).
    """
    peaks = gpu.peak_flop_per_s
    if vector and "fp32" in peaks:
        return "vector", peaks["fp32"]
    plain = peak_flop_per_s(gpu)
    if engine.backend == "vulkan" and (gpu.vendor == "intel" or _widens_bf16(gpu, quant)):
        return "compute", peaks.get("fp32", plain)
    if engine.gguf and quant_group(quant) != "plain" and "int8" in peaks and gpu.vendor != "intel":
        narrow = peaks.get("fp4", 0.0) if multiplies_fp4(engine, gpu, date, quant) else 0.0
        return "int8", max(peaks["int8"], plain, narrow)
    if engine.gguf:
        return "compute", max(plain, peaks.get("fp16_acc16", 0.0))
    if quant.startswith("nvfp4"):
        return "compute", max(plain, peaks.get("fp8", 0.0), peaks.get("fp4", 0.0))
    if quant == "fp8":
        return "compute", max(plain, peaks.get("fp8", 0.0))
    return "compute", plain


def _widens_bf16(gpu: GpuSpec, quant: str) -> bool:
    """Whether Vulkan computes bf16 in FP32: its matrix units need an extension (llama.cpp PRs 12554, 19793)
    that AMD's drivers lack before RDNA 4 ("bf16: 0" of a Radeon 8060S in ROCm issue 4748)."""
    return quant == "bf16" and gpu.vendor == "amd" and gpu.architecture != "RDNA4"


def peak_flop_per_s(gpu: GpuSpec) -> float:
    """The best dense rate with 16- or 32-bit inputs and FP32 accumulation. Raises NotModelled."""
    rates = [gpu.peak_flop_per_s[dtype] for dtype in ("fp16", "bf16", "fp32") if dtype in gpu.peak_flop_per_s]
    if not rates:
        raise NotModelled(f"prefill speed of {gpu.id}", missing=("peak_flop_per_s of fp16, bf16 or fp32",))
    return max(rates)


# One integer lane for two of FP32 (CUDA C++ Programming Guide, throughput of native arithmetic instructions);
# elsewhere as many, or the same.
_HALF_INTEGERS = frozenset({"Ampere", "Ada", "Ada Lovelace", "Hopper"})
_GA100 = "8.0"


def integer_per_s(gpu: GpuSpec) -> float | None:
    """32-bit integer instructions a second, None where the FP32 rate is unknown."""
    rate = gpu.peak_flop_per_s.get("fp32")
    if rate is None:
        return None
    halved = gpu.architecture in _HALF_INTEGERS and gpu.compute_capability != _GA100
    return rate / (4.0 if halved else 2.0)


def score_flop_per_s(gpu: GpuSpec, engine: EngineTraits) -> float:
    """The rate of attention, half of whose FLOPs are scores and half values. Raises NotModelled.

    ggml's CUDA kernels sum scores in 32 bits and values in 16 (T_C_KQ and T_C_VKQ of fattn-mma-f16.cuh; not
    fused, products of scores alone are asked for GGML_PREC_F32): GeForce cards do the latter twice as fast.
    """
    plain = peak_flop_per_s(gpu)
    if not engine.gguf or engine.backend or gpu.vendor != "nvidia":
        return plain
    return 2.0 / (1.0 / plain + 1.0 / max(plain, gpu.peak_flop_per_s.get("fp16_acc16", 0.0)))


def unpack_per_s_of(gpu: GpuSpec, engine: EngineTraits, quant: str) -> float | None:
    """FP32 rate where weights are of a type that the matrix units do not multiply: servers widen them."""
    if engine.family != "server" or quant_group(quant) == "plain":
        return None
    native = {"fp8": "fp8", "mxfp4": "fp4", "nvfp4": "fp4"}.get(quant)
    if native is not None and native in gpu.peak_flop_per_s:
        return None
    return gpu.peak_flop_per_s.get("fp32")


def quantises_inputs(gpu: GpuSpec, engine: EngineTraits, quant: str) -> bool:
    """Whether a server's matrix units take both inputs in 8 or 4 bits, so that kernels of their own quantise
    the activations before each product."""
    if engine.family != "server" or not quant.startswith(("fp8", "nvfp4")):
        return False
    return unpack_per_s_of(gpu, engine, quant) is None


def tile_rows_of(architecture: str, family: str, *, narrow: bool) -> int:
    """Kernels that widen weights as they go (Marlin, AWQ) use the ``narrow`` instruction everywhere."""
    if family != "server":
        return 1
    return (_NARROW_ROWS if narrow else _TILE_ROWS).get(architecture, 16)
