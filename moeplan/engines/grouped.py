"""Whether a GPU multiplies the rows of all experts at once, or one expert after the other."""

from __future__ import annotations

from moeplan.domain.hardware import GpuSpec
from moeplan.engines.blas import PLAIN_TYPES, widens_weights
from moeplan.engines.builds import before
from moeplan.engines.traits import EngineTraits

# ggml-cuda multiplies quantised experts in one launch since PR 13199 (2025-04-30), ik_llama.cpp's since
# PR 728 (2025-08-26), there for up to 32 tokens an expert (ggml-cuda.cu). Of 16-bit ones it does for up to
# 64 tokens (PR 16277); for more the host sorts the rows and calls a library for each expert. Before those PRs
# it did for two tokens and more: ggml_cuda_mul_mat_id had a way of its own for one alone (PRs 13014, 13199).
_GROUPED_SINCE = {True: "2025-08-26", False: "2025-04-30"}
_GROUPED_ROWS = 32
_GROUPED_PLAIN_TOKENS, _GROUPED_PLAIN_SINCE = 64, "2025-09-27"
# ik_llama.cpp's fast way was for one token alone as well (src1->ne[2] == 1 in ggml_cuda_mul_mat_id and
# ggml_cuda_up_gate_unary, its build of 2025-07-15), and takes quantised weights only to this day.
# SYCL, what Intel's GPUs run without Vulkan, calls a library for each expert to this day (PR 29245, open in
# September 2026), but for one token since PR 21920 (April 2026). Until PR 23142 (May 2026) it went through
# all rows for each expert: a prompt of 27,783 tokens of Qwen3.6-35B-A3B on a B60 took 90 s and takes 51,
# where the law has 28 for all else: 37 and 14 us a product, of 1.67 million. In no fit.
_SYCL_ONE_TOKEN_SINCE, _SYCL_SORTED_SINCE = "2026-05", "2026-05-17"
_SYCL_UNSORTED_TIMES = 2.7


def one_by_one(
    engine: EngineTraits, gpu: GpuSpec, date: str, quant: str, n_tokens: float, n_experts: int
) -> bool:
    """Whether a step of ``n_tokens`` calls a product for each expert that it meets.

    CUDA and HIP share this code, SYCL has its own, Metal and Vulkan have kernels for all experts.
    """
    if engine.gguf and not engine.backend and gpu.vendor == "intel":
        return n_tokens > 1 or before(date, _SYCL_ONE_TOKEN_SINCE)
    if not engine.gguf or engine.backend or gpu.vendor not in ("nvidia", "amd"):
        return False
    ik = engine.stream_scales_with_experts
    if ik and quant in PLAIN_TYPES:
        return True
    if n_tokens <= 1:
        return False
    if quant in PLAIN_TYPES:
        return n_tokens > _GROUPED_PLAIN_TOKENS or before(date, _GROUPED_PLAIN_SINCE)
    if widens_weights(engine, gpu, date, quant, n_tokens, n_experts):
        return True  # a library has no product of many matrices of unlike heights
    return before(date, _GROUPED_SINCE[ik]) or (ik and n_tokens > _GROUPED_ROWS * n_experts)


def product_times(maker: str, date: str, n_tokens: float) -> float:
    """How many times as long as elsewhere such a product takes beside the work in it."""
    unsorted = maker == "intel" and n_tokens > 1 and before(date, _SYCL_SORTED_SINCE)
    return _SYCL_UNSORTED_TIMES if unsorted else 1.0


# Marlin's first kernel for experts is started for each expert of a layer, chosen or not, whatever the batch
# ("a single marlin_gemm_moe would launching num_experts CUDA kernels at least", vLLM PR 12185; a loop over
# experts in marlin_moe_ops.cu). vLLM left it for more than 32 experts with PR 13236 (February 2025) and for
# all with PR 14447 (April 2025). SGLang took it from vLLM 0.7.2 ("re-enable after SGLang syncs with vllm >=
# 0.7.3", its gptq.py) until it had a kernel of its own (PR 7683, July 2025). Read 2026-11-30.
_MARLIN_FEW = 32
_MARLIN_GROUPED_SINCE = {"vllm": ("2025-05", "2025-03"), "sglang": ("2025-08", "2025-08")}
_MARLIN_TYPES = ("gptq", "awq", "int4")


def started_for_each(engine: EngineTraits, date: str, quant: str, n_experts: int) -> bool:
    """Whether a build of ``date`` starts a kernel for every expert of a layer, those without rows too."""
    since = _MARLIN_GROUPED_SINCE.get(engine.id)
    return (
        since is not None and quant.startswith(_MARLIN_TYPES) and before(date, since[n_experts > _MARLIN_FEW])
    )
