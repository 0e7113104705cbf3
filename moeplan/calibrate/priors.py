"""Where a fit starts and how far it may go: one prior per kind of coefficient.

General coefficients (a class of devices) start at a physical guess and move freely. Particular ones (an
architecture, an engine, a type) are factors that start at one and are held near it: with few rows they
stay there, so that what is unknown is predicted by its class. Spreads are standard deviations of the
logarithm; those of factors were chosen by held-out error (docs/design/003-speed-law.md).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

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

# Dense layers of an M2 Ultra, in no fit. 81 us are what four sizes of Qwen2.5 in Q4_K_M take beside their
# bytes (0.5 ms a step, 0.79 of the bandwidth), 109 what three types of a 3B model do.
_METAL = "llama.cpp PRs 9698, 10238, 11427, 16074, 19369, 19555 on an M2 Ultra"


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

# Prompts of an 8B model, layers alone, less what activations, attention and launches take: of the dense int8
# rate 0.32 of an RTX 4090 (Q4_K_S, 12,394 tokens/s, llama.cpp PR 24127), 0.31 of an RTX 5090 (Q4_0, 16,136,
# PR 20586), 0.26 of an RTX 3090 (IQ3_S, 4,155, PR 22298; of a 4090 0.31 in IQ3_XS). In no fit.
_INT8_PROMPTS = "an 8B on RTX 3090, 4090 and 5090 (llama.cpp PRs 20586, 22298, 24127)"


class Prior(NamedTuple):
    """Start and spread of the coefficients whose names match ``pattern`` (searched, first match wins)."""

    pattern: str
    value: float
    spread: float
    unit: str = "1"
    why: str = "factor of its class"


_GUESS = "physical guess"
_PRIORS = (
    # eager Python loops over layers, and within MoE layers over experts
    Prior(r"engine\.transformers\.moe\.layer_time$", 1.0, 0.4, why="kernels of a loop turn beside others"),
    Prior(r"engine\.transformers\.quants\.(b?f16|f32)\.layer_time$", 1.0, 0.2),
    Prior(
        r"engine\.transformers\.quants\.fp8\.layer_time$", 2.5, 0.5, why="two Triton kernels for each matrix"
    ),
    Prior(
        r"engine\.transformers\.quants\.hqq.*layer_time$", 4.0, 0.7, why="a dozen kernels widen each matrix"
    ),
    Prior(
        r"engine\.transformers\.quants\.gptq4\.layer_time$",
        1.05,
        0.3,
        why="one kernel a matrix as in 16 bits, biases apart (AutoGPTQ 0.7.1, qlinear_exllamav2.py)",
    ),
    Prior(
        r"engine\.transformers\.quants\.gptq8\.layer_time$",
        1.7,
        0.3,
        why="five kernels a matrix, three of them casts (AutoGPTQ 0.7.1, qlinear_cuda_old.py)",
    ),
    Prior(r"engine\.transformers\.202\d\.layer_time$", 1.0, 0.4, why="hosts that no row states"),
    Prior(r"engine\.transformers\.quants\..*layer_time$", 1.3, 0.5, why="wrappers of packed matrices"),
    Prior(r"engine\..*\.moe\.layer_time$", 1.0, 0.15),
    Prior(r"engine\.transformers\.layer_time$", 1.0, 0.2),
    Prior(
        r"fused_modules\.layer_time$",
        0.8,
        0.2,
        why="31 kernels a layer, counted on awq/modules/fused of AutoAWQ 0.2.9, where transformers starts 40",
    ),
    Prior(
        r"\.eager_layer_s$",
        6e-4,
        0.2,
        "s",
        "16.9 ms a token for 28 layers of a 7B beside an H100 in 2026 (arXiv 2605.30571, in no fit)",
    ),
    # fixed times
    Prior(r"^local\.layer_s$", 2e-5, 0.7, "s", _GUESS),
    Prior(r"^server\.layer_s$", 4e-5, 0.7, "s", _GUESS),
    Prior(r"cpu\.layer_s$", 2e-5, 0.7, "s", _GUESS),
    Prior(r"\.step_s$", 5e-4, 0.7, "s", _GUESS),
    Prior(r"hand_over\.step_time$", 1.0, 0.7, why="a copy and two waits: a fifth of a step's time"),
    Prior(r"all_reduce_s$", 4e-6, 0.7, "s", "latency tables of NCCL and engines' own kernels"),
    Prior(
        r"gpu\.blackwell\.all_reduce_time$",
        1.5,
        0.1,
        why="6.6 us, H100 4.3, A100 4.9 (aiconfigurator)",
    ),
    Prior(r"gpu\.ampere\.all_reduce_time$", 1.15, 0.1, why="as above"),
    Prior(r"tensorrt-llm\.all_reduce_time$", 0.7, 0.15, why="2.7 us on H100, vLLM 4.3 (aiconfigurator)"),
    Prior(r"all_reduce_time$", 1.0, 0.1),
    Prior(r"cpu_moe_layer_s$", 1e-4, 0.3, "s", _GUESS),
    Prior(
        r"expert_product_s$",
        1.6e-5,
        0.3,
        "s",
        "2.0 ms for 128 products on an RTX 3090 (llama.cpp PR 16277, 0.40 TFLOP/s at 32 tokens)",
    ),
    Prior(
        r"idle_expert_s$",
        1.9e-6,
        0.3,
        "s",
        "90 ms a token become 34 without 29,696 of them (DeepSeek-V3, eight A100, vLLM PR 12185, in no fit)",
    ),
    *(
        Prior(rf"^local\.apple\.{name}$", value, spread, unit, f"{why} ({_METAL})")
        for name, value, spread, unit, why in (
            ("layer_s", 6.8e-5, 0.1, "s", "12 us less in February 2026 than before"),
            ("waiting\\.layer_time", 1.18, 0.05, "1", "81 us in September 2025"),
            ("serial\\.layer_time", 1.35, 0.1, "1", "109 us in January 2025"),
            ("encoding\\.layer_time", 1.2, 0.1, "1", "11 and 14 us more in 2024"),
        )
    ),
    Prior(
        r"^local\.ungraphed\.layer_time$",
        1.5,
        0.2,
        why="12 to 60 us more a layer (tables of llama.cpp PRs 6766, 22254, 27721, in no fit)",
    ),
    Prior(
        r"^local\.prompt\.layer_time$",
        2.0,
        0.3,
        why="about 31 kernels launched one by one, where a token's 20 come from a graph (ggml-cuda)",
    ),
    Prior(
        r"^local\.separate-routing\.layer_time$",
        1.4,
        0.2,
        why="1.04 to 1.16 times the speed by each merger (llama.cpp PRs 15631, 16649, 16715, in no fit)",
    ),
    Prior(r"^local\.(gpu|unified)\.layer_time$", 1.0, 0.8),
    Prior(
        r"apple\.split-delta\.layer_time$",
        2.75,
        0.3,
        why="62 to 131 us more a layer on an M4 Max (llama.cpp PRs 20091 and 20244, in no fit)",
    ),
    Prior(r"(gateddeltanet|mamba2|mamba1)\.layer_time$", 1.5, 0.4, why="more, smaller kernels"),
    Prior(
        r"^server\.gpu\.hopper\.mlaattention\.layer_time$",
        1.35,
        0.2,
        why="a block of few heads takes vLLM 0.24 84 to 98 us on H200, 34 to 50 on B200 (aiconfigurator)",
    ),
    Prior(r"^server\.gpu\.blackwell\.mlaattention\.layer_time$", 0.8, 0.2, why="as above"),
    Prior(r"gpu\..*mlaattention\.layer_time$", 1.0, 0.2),
    Prior(
        r"shared_experts\.layer_time$",
        1.3,
        0.2,
        why="two products, an activation and a sum beside seven kernels of routed experts, partly at once",
    ),
    Prior(r"indexer\.layer_time$", 1.7, 0.3, why="about as many kernels again as latent attention has"),
    Prior(r"mlaattention\.layer_time$", 1.5, 0.4, why="two projections down and up, keys absorbed"),
    Prior(r"shortconv\.layer_time$", 0.7, 0.4, why="fewer kernels"),
    Prior(
        r"\.vulkan\.moe\.layer_time$",
        1.25,
        0.4,
        why="routing was fused later than in CUDA (llama.cpp PR 16641)",
    ),
    Prior(
        r"quantised_inputs\.layer_time$",
        1.3,
        0.2,
        why="FP8 products of vLLM 0.24 on H100, H200 take 4 us more each than 16-bit ones (aiconfigurator)",
    ),
    Prior(r"\.moe\.layer_time$", 3.0, 0.5, why="routing, gather and scatter kernels"),
    Prior(
        r"^(local|server)\.stall_time$",
        0.7,
        0.4,
        why="requests that start together do not wait for each other",
    ),
    Prior(r"stall_time$", 1.0, 0.3),
    # bandwidth
    Prior(r"^(local|server)\.bandwidth$", 0.9, 0.05, why="large copies reach 0.85 to 0.95 of the data sheet"),
    Prior(r"^local\.(gpu|apple|unified)\.bandwidth$", 1.0, 0.05),
    Prior(
        r"^server\.gpu\.blackwell\.bandwidth$",
        0.92,
        0.04,
        why="large products of a B200 read at 0.80 to 0.82 (aiconfigurator)",
    ),
    Prior(
        r"^local\.apple\.(base|pro|max|ultra)\.bandwidth$", 1.0, 0.1, why="one GPU on few or many channels"
    ),
    Prior(r"^local\.activations\.bandwidth$", 1.0, 0.3, why="passes as counted, partly from a cache"),
    Prior(
        r"^local\.cached\.activations\.bandwidth$",
        3.0,
        0.3,
        why="last-level caches read 3 to 5 times as fast as the memory (data sheets, recalled)",
    ),
    Prior(r"^local\.widening\.bandwidth$", 1.0, 0.2, why="written and read once, partly from a cache"),
    Prior(r"^(local|server)\.experts\.bandwidth$", 0.9, 0.15, why="small matrices"),
    Prior(
        r"expert_parallel\.bandwidth$",
        0.9,
        0.1,
        why="eighths of the experts read at 0.78 to 0.84 of the data sheet, all at 0.9 (aiconfigurator)",
    ),
    Prior(r"^(local|server)\.cache\.bandwidth$", 0.7, 0.5, why=_GUESS),
    Prior(
        r"copies\.bandwidth$", 1.3, 0.4, why="0.77 for the cache, times this, are 40 instructions an element"
    ),
    Prior(r"shards\.bandwidth$", 0.95, 0.1, why="narrower matrices, per doubling"),
    Prior(r"^local\.ram\.bandwidth$", 0.85, 0.1, why="share of channels x rate that STREAM reaches"),
    Prior(r"^local\.ram\.sockets\.bandwidth$", 0.75, 0.3, why="remote memory, per doubling of sockets"),
    Prior(r"^local\.ram\.cache\.bandwidth$", 1.0, 0.15, why="attention computes longer than it reads"),
    Prior(r"^local\.ram\.\w+\.bandwidth$", 1.0, 0.15, why="how the bandwidth is known"),
    Prior(r"hybrid\.ram_bandwidth$", 0.9, 0.15, why="idle between layers"),
    Prior(r"^local\.stream\.bandwidth$", 0.98, 0.05, why="large pinned copies, as the link states"),
    Prior(r"^local\.staged\.bandwidth$", 1.0, 0.3, why="13 to 18 GB/s (cost/streams.py has the tables)"),
    Prior(
        r"^local\.staged\.xeon\.bandwidth$",
        0.5,
        0.3,
        why="one core of a Xeon reads twice what it did in 2010, one of AMD's five times (McCalpin, 2023)",
    ),
    Prior(r"^local\.staged\.\w+\.bandwidth$", 1.0, 0.2, why="cores differ"),
    Prior(r"all_reduce\.bandwidth$", 0.5, 0.4, why=_GUESS),
    # arithmetic
    Prior(r"^server\.unpack$", 0.3, 0.8, why="a few integer and FP16 instructions an element"),
    Prior(r"engine\..*\.unpack$", 1.0, 0.4, why="kernels differ"),
    Prior(r"\.unpack$", 1.0, 0.2),
    Prior(r"^local\.vector$", 0.15, 1.0, why=_GUESS),
    Prior(r"^local\.apple\.vector$", 2.0, 0.3, why="two FLOPs a weight hide behind the reads"),
    Prior(
        r"^local\.apple\.in-turn\.vector$",
        0.09,
        0.07,
        why="11 to 12 weights of Q4_K_M a cycle of 128 lanes (llama.cpp PRs 2290, 10491, 16074, in no fit)",
    ),
    Prior(r"^local\.unified\.vector$", 1.0, 0.5),
    Prior(r"^local\.gpu\.vector$", 1.0, 0.3),
    Prior(
        r"^local\.scalar-loads\.vector$", 0.6, 0.3, why="1.27 times the step on an H100 (llama.cpp PR 9816)"
    ),
    Prior(r"^local\.attention\.vector$", 0.15, 1.0, why=_GUESS),
    Prior(r"^local\.unfused\.compute$", 1.0, 0.5, why="two products, their scores counted apart"),
    Prior(r"^local\.unfused\.", 0.35, 0.5, why="scores are written to memory and read again, twice"),
    Prior(
        r"^local\.untuned-library\.",
        0.4,
        0.3,
        why="hipBLASLt is two to three times as fast there (lhl/strix-halo-testing)",
    ),
    Prior(
        r"^local\.narrow\.",
        0.1,
        0.4,
        why="16,384 tokens of a 1B model on an MI50: 186, then 1,511 tokens/s (llama.cpp PRs 15769, 15884)",
    ),
    Prior(r"^local\.int8$", 0.32, 0.1, why=_INT8_PROMPTS),
    Prior(r"^local\.gpu\.int8$", 1.0, 0.1, why=_INT8_PROMPTS),
    Prior(r"gpu\.(ampere|ada|blackwell)\.int8$", 1.0, 0.1, why=_INT8_PROMPTS),
    Prior(r"^local\.(apple|unified)\.int8$", 1.0, 0.4),
    Prior(r"^(local|server)\.compute$", 0.5, 0.7, why=_GUESS),
    Prior(r"^local\.(gpu|apple|unified)\.(attention\.)?compute$", 1.0, 0.5),
    Prior(
        r"^local\.apple\.m5\.compute$",
        3.0,
        0.3,
        why="matrix units: 608 tokens/s of a 7B model on an M5 (llama.cpp PR 16634, in no fit), three times "
        "what its FP32 units would do",
    ),
    Prior(r"^(local|server)\.attention\.compute$", 0.3, 0.7, why=_GUESS),
    Prior(r"^(local|server)\.experts\.(compute|int8)$", 0.5, 0.5, why="few tokens per expert"),
    Prior(r"^local\.experts\.vector$", 1.0, 0.3),
    Prior(
        r"^local\.(gpu|unified|apple)\..+\.experts\.(compute|int8)$",
        1.0,
        0.25,
        why="tiles that an expert's rows do not fill: narrower ones gain 3 to 14% on NVIDIA's GPUs, 22 to "
        "47% on RDNA 3, 39 to 92% on RDNA 3.5 (llama.cpp PRs 26977, 24546, AMD-Ecosystem's 39; in no fit)",
    ),
    Prior(r"^(local|server)\.flop_per_joule$", 0.4e12, 1.0, "FLOP/J", _GUESS),
    Prior(r"compute\.flop_per_joule$", 1.0, 0.2),
    Prior(
        r"^local\.int8\.flop_per_joule$",
        1.5,
        0.3,
        why="large products of 8 bits run at 1.5 to 1.8 times the 16-bit rate (aiconfigurator)",
    ),
    Prior(
        r"quantised_inputs\.flop_per_joule$",
        1.4,
        0.3,
        why="large FP8 products run at 1.5 to 1.8 times the 16-bit rate (aiconfigurator), what is around not",
    ),
    Prior(
        r"fp4_inputs\.flop_per_joule$",
        1.5,
        0.2,
        why="large NVFP4 products of a B200 run at 1.4 to 2 times the FP8 rate (aiconfigurator)",
    ),
    Prior(r"gpu\..*flop_per_joule$", 1.0, 0.2),
    Prior(r"flop_per_joule$", 1.0, 0.4),
    Prior(r"flop_per_s_per_core\.amx$", PAPER_FLOP_PER_S["amx"], 0.5, "FLOP/s", _GUESS),
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
    Prior(r"cpu\.attention\.compute$", 0.3, 0.6, why=_GUESS),
    Prior(
        r"disk\.moe_read_time$",
        0.67,
        0.01,
        why="0.37 of what an even router misses, at the drive's rate over 1.8 (quantprobe C-21, C-23, D-28: "
        "a 118B MoE under llama.cpp in 16 GB); random weights: 4 to 7",
    ),
    # dated builds, then what is left
    Prior(r"\.202\d\.bandwidth$", 1.0, 0.08),
    Prior(r"\.202\d\.(vector|layer_time)$", 1.0, 0.2),
    Prior(
        r"vllm\.202[34]\.step_time$",
        2.5,
        0.5,
        why="V1 brought up to 1.7 times the throughput, all of it beside the GPU (blog.vllm.ai, 2025-01-27)",
    ),
    Prior(r"\.202\d\.step_time$", 1.0, 0.5, why="schedulers moved off the critical path"),
    Prior(r"\.202\d\.", 1.0, 0.25),
    Prior(r"quants\..*int8$", 1.0, 0.2),
    Prior(r"quants\.half\.vector$", 2.0, 0.25, why="two weights in each FP16 instruction"),
    Prior(
        r"^local\.quants\.super-block\.compute$",
        0.79,
        0.15,
        why="prompts of a 7B model on an M2 Ultra: F16 1,265 tokens/s, Q4_K_M 1,028, Q6_K 978, Q5_K_M 976 "
        "(llama.cpp PR 3084, in no fit)",
    ),
    Prior(r"^local\.quants\.block\.compute$", 0.91, 0.15, why="the same: Q4_0 1,164, Q8_0 1,143"),
    Prior(r"quants\..*(vector|compute)$", 1.0, 0.25),
    Prior(r"quant\..*(vector|compute|int8)$", 1.0, 0.12),
    Prior(r"\.(plain|table|super-block|block|nibble|byte|other)\.vector$", 1.0, 0.25),
    Prior(r"engine\..*\.vector$", 1.0, 0.12),
    Prior(
        r"gpu\.(volta|turing[^.]*|ga100)\.vector$",
        1.4,
        0.2,
        why="integers have lanes of their own beside FP32 (NVIDIA WP-09183)",
    ),
    Prior(r"\.vector$", 1.0, 0.15),
    Prior(r"cpu_layer_time$", 1.0, 0.15),
    Prior(r"layer_time$", 1.0, 0.3),
    Prior(r"stream_bandwidth$", 1.0, 0.2),
    Prior(r"engine\..*compute$", 1.0, 0.2),
    Prior(r"(compute|int8)$", 1.0, 0.25),
    Prior(r"cache\.bandwidth$", 1.0, 0.2),
    Prior(r"bandwidth$", 1.0, 0.06),
    Prior(r"", 1.0, 0.2),
)

# In every calibration, whether or not a row speaks of them: what predictions need as a base.
ALWAYS = (
    *(f"{f}.{n}" for f in ("local", "server") for n in (
        "bandwidth", "compute", "attention.compute", "layer_s", "step_s", "cache.bandwidth",
        "experts.bandwidth", "flop_per_joule", "all_reduce_s", "all_reduce.bandwidth", "stall_time")),
    "server.unpack", "server.idle_expert_s", "local.eager_layer_s",
    "local.vector", "local.attention.vector", "local.int8", "local.ram.bandwidth", "local.cpu.layer_s",
    "local.apple.layer_s", "local.apple.in-turn.vector", "local.apple.m5.compute",
    "local.cpu_moe_layer_s", "local.expert_product_s", "local.stream.bandwidth", "local.staged.bandwidth",
    "local.disk.moe_read_time",
    *(f"local.cpu.flop_per_s_per_core.{isa}" for isa in ("amx", "avx512", "avx2", "neon", "scalar")),
    *(f"local.cpu.neon.{what}.compute" for what in ("narrow", "plain", "interleaved")),
)  # fmt: skip


@cache
def prior(name: str) -> Prior:
    """The prior of the coefficient ``name``."""
    import re

    return next(p for p in _PRIORS if re.search(p.pattern, name))
