"""Which GPUs an engine runs a type of weights on, and where only as a store that is widened to 16 bits."""

from __future__ import annotations

from collections.abc import Iterator

from moeplan.domain.hardware import GpuSpec, HardwareSpec
from moeplan.engines.machines import capability
from moeplan.engines.traits import EngineTraits
from moeplan.errors import NotModelled

# The oldest CUDA compute capability with kernels for a type, by engine and what the type's id begins with.
# vLLM: docs/features/quantization (AWQ and Marlin not on Volta) and llm_compressor/fp8 of 0.32 ("FP8 models
# will run on compute capability >= 7.5 as weight-only W8A16"); PR 29901 of December 2025 ("MXFP4 is not
# supported since it requires BF16 activation"). SGLang: get_min_capability in quantization/fp8.py.
# TensorRT-LLM: support matrix of 0.18 (Ampere has no FP8) and quantization page of 1.0. Read 2026-11-30.
_LEAST = {
    ("vllm", "fp8"): 7.5, ("vllm", "nvfp4"): 7.5, ("vllm", "mxfp4"): 8.0, ("vllm", "awq-"): 7.5,
    ("sglang", "fp8"): 8.0,
    ("tensorrt-llm", "fp8"): 8.9, ("tensorrt-llm", "nvfp4"): 10.0,
}  # fmt: skip
# Since when matrix units multiply a type (CUDA C++ Programming Guide; TransformerEngine's support matrix).
_UNITS_SINCE = {"bf16": 8.0, "fp8": 8.9, "nvfp4": 10.0}


def refuse_type(engine: EngineTraits, quant: str, hardware: HardwareSpec) -> None:
    """Raise NotModelled where ``engine`` has no kernels for weights of ``quant`` on a GPU of ``hardware``."""
    if why := lacks_type(engine, quant, hardware):
        raise NotModelled(f"{engine.asked} with {quant}", why)


def lacks_type(engine: EngineTraits, quant: str, hardware: HardwareSpec) -> str:
    """What kernels for weights of ``quant`` need and ``hardware`` has not, in words; "" where they run."""
    least = next((n for (id, kind), n in _LEAST.items() if id == engine.id and quant.startswith(kind)), 0.0)
    old = next((gpu for gpu, has in _cuda(hardware) if has < least), None)
    return f"it needs compute capability {least}, {old.name} has {old.compute_capability}" if old else ""


def type_notes(engine: EngineTraits, quant: str, hardware: HardwareSpec) -> tuple[str, ...]:
    """What becomes of weights of ``quant`` where a GPU of ``hardware`` has no units for them, in words."""
    if engine.family != "server":
        return ()
    kind = next((kind for kind in _UNITS_SINCE if quant.startswith(kind)), "")
    since = _UNITS_SINCE.get(kind, 0.0)
    old = next((gpu for gpu, has in _cuda(hardware) if has < since), None)
    if old is None:
        return ()
    then = "16-bit weights are run with --dtype half" if kind == "bf16" else "weights are widened to 16 bits"
    return (f"{old.name} has no units for {kind}: {then}",)


def _cuda(hardware: HardwareSpec) -> Iterator[tuple[GpuSpec, float]]:
    """GPUs whose CUDA compute capability is known, with it."""
    for gpu in hardware.gpus:
        if gpu.vendor == "nvidia" and (has := capability(gpu)):
            yield gpu, has
