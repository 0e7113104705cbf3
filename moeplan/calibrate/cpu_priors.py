"""Priors of what the host computes, and of what it reads from a disk."""

from __future__ import annotations

from moeplan.calibrate.prior_type import GUESS, Prior
from moeplan.cost.cores import PAPER_FLOP_PER_S

_LLAMA_CPU = "llama.cpp (ggml 0.25.3) on a 2-core Xeon 2.5 GHz with AVX-512 VNNI"


# Rates of types over that of Q8_0 for several rows (tinyBLAS): llama.cpp's tokens/s of LLaMA-3.1-8B on a
# Ryzen 9 7950X in ik_llama.cpp's discussion 164 (prompts; decode with two threads, reads of 64 GB/s taken
# off as one side of a right triangle: IQ, Q3_K, Q5_K and Q6_K then have the rates that they have in prompts,
# where their kernels are the same). Newer kernels: F16 (PR 10714; 1.15 times Q8_0 on an i9-9900, llamafile
# PR 394), Q4_K (PRs 12332, 12829: 1.5 times Q5_0 of PR 22250 on the same machine). In no fit.
_BY_TYPE = "tables of llama.cpp by type (ik_llama.cpp discussion 164)"
_CPU_STARTS = {
    "cpu_compute": {"block": 0.9, "interleaved": 1.15},
    "cpu_row_compute": {
        "plain": 1.0, "block": 0.55, "interleaved": 1.0, "super-block": 0.6, "codebook": 0.27,
    },
}  # fmt: skip

# Rates of ik_llama.cpp's kernels for several rows over those for interleaved rows (262 tokens/s on a 7950X,
# 260 on a 5975WX): its PRs 119 to 162 for rows as stored (block types 146 to 190, others 147 to 206, gathered
# tables 105 to 151, interleaved 149 to 182), 525, 531, 533 and 534 for repacked ones (8 bits 271 to 300, with
# two numbers a block 250 to 269, 8 bits of super-blocks 341 to 372), here of many rows (1.06 times 512).
_BY_WAY = "tables of ik_llama.cpp by type (its PRs 119 to 162, 525, 531, 533 and 534)"
_TILED_STARTS = {
    "interleaved": {"type": 1.0, "codebook": 0.62},
    "stored": {"type": 0.72, "block": 0.62, "codebook": 0.45},
    "repacked": {"type": 1.43, "block": 1.18, "two-numbers": 1.06},
}

HOST_RATES = (
    Prior(r"flop_per_s_per_core\.amx$", PAPER_FLOP_PER_S["amx"], 0.5, "FLOP/s", GUESS),
    Prior(r"flop_per_s_per_core\.avx512$", PAPER_FLOP_PER_S["avx512"], 0.4, "FLOP/s", _LLAMA_CPU),
    Prior(
        r"flop_per_s_per_core\.avx2$", PAPER_FLOP_PER_S["avx2"], 0.4, "FLOP/s", "half the width of AVX-512"
    ),
    Prior(
        r"flop_per_s_per_core\.neon$",
        PAPER_FLOP_PER_S["neon"],
        0.4,
        "FLOP/s",
        "llama.cpp on an M2 Max, eight cores (ik_llama.cpp discussion 164)",
    ),
    Prior(
        r"flop_per_s_per_core\.scalar$", PAPER_FLOP_PER_S["scalar"], 0.4, "FLOP/s", "one sixteenth of AVX-512"
    ),
    *(
        Prior(rf"cpu\.tiled\.{way}\.{sort}\.compute$", start, 0.15, why=_BY_WAY)
        for way, starts in _TILED_STARTS.items()
        for sort, start in starts.items()
    ),
    Prior(
        r"cpu\.tiled\.attention\.compute$",
        2.2,
        0.3,
        why="two thirds of the rate of dense matrices, on a 7950X (ik_llama.cpp PR 351)",
    ),
    Prior(
        r"cpu\.neon\.narrow\.compute$",
        0.6,
        0.3,
        why="two units of four; a Neoverse N1 per clock 0.59 of a V2, 0.76 of a V1 (Q4_0, llama.cpp issue "
        "27086, in no fit)",
    ),
    Prior(
        r"cpu\.neon\.plain\.compute$",
        0.35,
        0.3,
        why="no dot products of bytes: a Raspberry Pi 4 per clock 0.30 to 0.38 of a Pi 5 (Q8_0, llamafile "
        "0.7 and llama.cpp of March 2024, in no fit)",
    ),
    Prior(
        r"cpu\.neon\.interleaved\.compute$",
        1.4,
        0.3,
        why="Q4_0 1.4 to 1.9 times Q8_0 on an M2 Max (ik_llama.cpp PR 125, llamafile PR 453), Q4_K 1.9 times "
        "as fast by it on an M4 Max (llama.cpp PR 17494), where x86 has 1.3; in no fit",
    ),
    Prior(
        r"cpu\.tiled\.one_row\.compute$",
        1.5,
        0.3,
        why="two threads of a 7950X: 0.85 to 1.7 times llama.cpp's rate of Q8_0 in prompts, the upper of "
        "interleaved files (ik_llama.cpp discussion 164 and PR 132), less what hides behind reads",
    ),
    Prior(
        r"cpu\.tiled\.amx\.compute$",
        7.0,
        0.5,
        why="half of 35 TOP/s of 32 cores (ktransformers doc/en/AMX.md)",
    ),
    Prior(r"cpu\.tiled\.wide\.compute$", 2.0, 0.3, why="twice the width (AMD Zen 5)"),
    Prior(r"cpu\.tiled\.neon\.compute$", 2.8, 0.3, why="M2 Max, all types (ik_llama.cpp discussion 164)"),
    Prior(
        r"cpu\.tiled\..*compute$", 2.0, 0.3, why="1.8 to 3.6 times llama.cpp (ik_llama.cpp discussion 164)"
    ),
    Prior(
        r"^local\.cpu\.one_row\.compute$",
        1.3,
        0.5,
        why="arithmetic that hides behind reads: 1.2 to 2.6 on two threads of a 7950X (the same table), none "
        "on two cores at 2.5 GHz",
    ),
    *(
        Prior(rf"quants\.{group}\.{what}$", start, 0.25, why=_BY_TYPE)
        for what, starts in _CPU_STARTS.items()
        for group, start in starts.items()
    ),
    Prior(r"cpu\.experts\.compute$", 0.5, 0.4, why=f"{_LLAMA_CPU}: half the dense rate"),
    Prior(
        r"cpu\.row_attention\.compute$",
        0.5,
        0.4,
        why="1.9 to 2.5 times as long as in tiles where a core's cache holds a head (llama.cpp PR 19012)",
    ),
    Prior(r"cpu\.attention\.compute$", 0.3, 0.6, why=GUESS),
    Prior(
        r"disk\.moe_read_time$",
        0.67,
        0.01,
        why="0.37 of what an even router misses, at the drive's rate over 1.8 (quantprobe C-21, C-23, D-28: "
        "a 118B MoE under llama.cpp in 16 GB); random weights: 4 to 7",
    ),
)
