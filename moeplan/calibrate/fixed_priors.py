"""Priors of times that do not grow with work: launches, waits, routing, steps."""

from __future__ import annotations

from moeplan.calibrate.prior_type import GUESS, Prior

# Dense layers of an M2 Ultra, in no fit. 81 us are what four sizes of Qwen2.5 in Q4_K_M take beside their
# bytes (0.5 ms a step, 0.79 of the bandwidth), 109 what three types of a 3B model do.
_METAL = "llama.cpp PRs 9698, 10238, 11427, 16074, 19369, 19555 on an M2 Ultra"

FIXED_TIMES = (
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
    Prior(r"^local\.layer_s$", 2e-5, 0.7, "s", GUESS),
    Prior(r"^server\.layer_s$", 4e-5, 0.7, "s", GUESS),
    Prior(r"cpu\.layer_s$", 2e-5, 0.7, "s", GUESS),
    Prior(r"\.step_s$", 5e-4, 0.7, "s", GUESS),
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
    Prior(r"cpu_moe_layer_s$", 1e-4, 0.3, "s", GUESS),
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
)
