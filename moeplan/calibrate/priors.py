"""Where a fit starts and how far it may go: one prior per kind of coefficient.

General coefficients (a class of devices) start at a physical guess and move freely. Particular ones (an
architecture, an engine, a type) are factors that start at one and are held near it: with few rows they
stay there, so that what is unknown is predicted by its class. Spreads are standard deviations of the
logarithm; those of factors were chosen by held-out error (docs/design/003-speed-law.md).
"""

from __future__ import annotations

from functools import cache

from moeplan.calibrate.cpu_priors import HOST_RATES
from moeplan.calibrate.fixed_priors import FIXED_TIMES
from moeplan.calibrate.prior_type import GUESS, Prior

# Prompts of an 8B model, layers alone, less what activations, attention and launches take: of the dense int8
# rate 0.32 of an RTX 4090 (Q4_K_S, 12,394 tokens/s, llama.cpp PR 24127), 0.31 of an RTX 5090 (Q4_0, 16,136,
# PR 20586), 0.26 of an RTX 3090 (IQ3_S, 4,155, PR 22298; of a 4090 0.31 in IQ3_XS). In no fit.
_INT8_PROMPTS = "an 8B on RTX 3090, 4090 and 5090 (llama.cpp PRs 20586, 22298, 24127)"


_PRIORS = (
    *FIXED_TIMES,
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
    Prior(r"^(local|server)\.cache\.bandwidth$", 0.7, 0.5, why=GUESS),
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
    Prior(r"all_reduce\.bandwidth$", 0.5, 0.4, why=GUESS),
    # arithmetic
    Prior(r"^server\.unpack$", 0.3, 0.8, why="a few integer and FP16 instructions an element"),
    Prior(r"engine\..*\.unpack$", 1.0, 0.4, why="kernels differ"),
    Prior(r"\.unpack$", 1.0, 0.2),
    Prior(r"^local\.vector$", 0.15, 1.0, why=GUESS),
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
    Prior(r"^local\.attention\.vector$", 0.15, 1.0, why=GUESS),
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
    Prior(r"^(local|server)\.compute$", 0.5, 0.7, why=GUESS),
    Prior(r"^local\.(gpu|apple|unified)\.(attention\.)?compute$", 1.0, 0.5),
    Prior(
        r"^local\.apple\.m5\.compute$",
        3.0,
        0.3,
        why="matrix units: 608 tokens/s of a 7B model on an M5 (llama.cpp PR 16634, in no fit), three times "
        "what its FP32 units would do",
    ),
    Prior(r"^(local|server)\.attention\.compute$", 0.3, 0.7, why=GUESS),
    Prior(r"^(local|server)\.experts\.(compute|int8)$", 0.5, 0.5, why="few tokens per expert"),
    Prior(r"^local\.experts\.vector$", 1.0, 0.3),
    Prior(
        r"^local\.(gpu|unified|apple)\..+\.experts\.(compute|int8)$",
        1.0,
        0.25,
        why="tiles that an expert's rows do not fill: narrower ones gain 3 to 14% on NVIDIA's GPUs, 22 to "
        "47% on RDNA 3, 39 to 92% on RDNA 3.5 (llama.cpp PRs 26977, 24546, AMD-Ecosystem's 39; in no fit)",
    ),
    Prior(r"^(local|server)\.flop_per_joule$", 0.4e12, 1.0, "FLOP/J", GUESS),
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
    *HOST_RATES,
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
