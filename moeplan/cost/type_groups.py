"""Groups of storage types that a processor works on alike: what a type lacks it takes from its group."""

from __future__ import annotations


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


# Kernels of exllama and its heirs widen and multiply two weights in each FP16 instruction (half2; exllamav2's
# q_gemm kernels, dot22_8_h2, read 2026-11-30).
_HALF_PAIRS = ("gptq", "exl2", "exl3")


def unpacking_group(quant: str) -> str:
    """Types that a GPU unpacks alike: nibbles and bytes whatever their scales, the others by their blocks."""
    group = quant_group(quant)
    if quant.startswith(_HALF_PAIRS):
        return "half"
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
