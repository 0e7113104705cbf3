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


def takes_integers(quant: str) -> bool:
    """Whether a weight takes more integer work to unpack than the masks of Q4_0 and Q4_1 or the bytes of
    Q8_0: scales and minima of super-blocks, a fifth bit, a table."""
    return quant_group(quant) in ("super-block", "table") or quant in ("q5_0", "q5_1")


# llama.cpp stores eight rows of these interleaved on x86 (ggml-cpu/repack.cpp, ggml 0.26, read 2026-11-30).
# Of Q2_K only with AVX-512, but it gains little by that (6%, with AVX-512 25% in prompts: PR 14373).
_INTERLEAVED = frozenset({"q4_0", "q4_k", "q2_k"})

# Interleaved too, by one kernel (PR 19738) that looks weights up: IQ4_NL decodes as Q5_0 and Q8_0 do (6.0,
# 5.3 and 5.0 tokens/s of LLaMA-3.1-8B with two threads, Q4_0 11.2: ik_llama.cpp discussion 164, in no fit).
_LOOKED_UP = frozenset({"iq4_nl", "mxfp4"})


# Look-up tables of 256 entries and more, gathered from memory; those of IQ4 and of ik_llama.cpp's IQn_K have
# 16 and stay in a register, so that IQ4_XS goes as Q5_K (75 and 74 tokens/s, IQ2 44 to 50, IQ3 30 to 34:
# llama.cpp in discussion 164 of ik_llama.cpp, in no fit).
_CODEBOOK = ("iq1_", "iq2_x", "iq2_s", "iq2_m", "iq3_x", "iq3_s", "iq3_m")


def dot_group(quant: str) -> str:
    """Types whose dot products a CPU computes alike: rows interleaved, or else by their blocks."""
    if quant in _INTERLEAVED:
        return "interleaved"
    if quant in _LOOKED_UP:
        return "block"  # 32 weights with one scale
    group = quant_group(quant)
    if group == "table":
        return "codebook" if quant.startswith(_CODEBOOK) else "super-block"
    return group
