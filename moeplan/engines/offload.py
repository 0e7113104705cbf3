"""Which weights in RAM an engine copies to the GPU for a step, instead of computing where they are.

llama.cpp and its kin copy a matrix when a batch is large enough; what counts as large, and which products
are copied at all, has changed from build to build.
"""

from __future__ import annotations

from typing import NamedTuple

from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.model import ModelSpec
from moeplan.domain.workload import Workload
from moeplan.engines.builds import before
from moeplan.engines.traits import EngineTraits

# Experts are copied by CUDA and HIP since llama.cpp PR 4553 ("mul_mat_id always on GPU for batches >= 32",
# with KoboldCpp after it), by Vulkan since PR 7628, which brought it kernels for experts, by SYCL since PR
# 10133 (get_op_batch_size; "op->op != GGML_OP_MUL_MAT_ID" before). Dense matrices all of them have copied
# from 32 rows since they can split a model. Dates of the commits in ggml, read 2026-11-30.
_EXPERTS_COPIED_SINCE = {"cuda": "2023-12-21", "vulkan": "2024-06-03", "sycl": "2024-11-07"}
# Ollama's own engine "used the CPU" for what lies in RAM, with "a large performance hit in prompt processing
# (3-10x)" (commit afaf7ce of 2025-10-27, in 0.12.8): it told ggml not to since that had a switch (0cefd46).
# Models that it runs instead of llama.cpp's code (fs/ggml/ggml.go, OllamaEngineRequired), by when.
_OLLAMA_KEPT_SINCE, _OLLAMA_COPIES_SINCE = "2025-05-12", "2025-10-27"
_OLLAMA_OWN_SINCE = {
    "gemma3": "2025-03", "gemma3_text": "2025-03", "gemma3n_text": "2025-07", "mistral3": "2025-03-14",
    "llama4_text": "2025-04", "gpt_oss": "2025-08-05", "qwen3": "2025-09-17", "qwen3_moe": "2025-09-24",
}  # fmt: skip
# ik_llama.cpp: "When fmoe is enabled, the fused op is never uploaded", and uploads it since PR 405
# (2025-05-12). Its third product could go, but for tensors repacked at loading (-rtr), as its users did then.
_FUSED_COPIED_SINCE = "2025-05-12"
# Pinned memory. llama.cpp: "When using `mmap` which is enabled by default, tensor overrides don't get pinned
# memory" (PR 20978), and without since PR 14990; layers that -ngl leaves in RAM do without mmap (PR 6206).
# ik_llama.cpp: overrides always, since PRs 1508 and 1510 ("got lost somewhere along the way"; before, logs
# say "CPU buffer", not "CUDA_Host buffer").
_OVERRIDES_PINNED_SINCE = {True: "2026-03-26", False: "2025-08"}
# "MoE matrix multiplications will only be offloaded if N_b >= N_tot / N_A x N_min": PR 520 (2025-06-12).
_SCALED_SINCE = "2025-06-12"
# Interleaved rows have kernels on CUDA since PRs 461, 462, 492 and 494; k-quants and legacy ones have none,
# so that they stay on the CPU (README of ik_llama.cpp: "do not use -rtr unless you know what you are doing").
_INTERLEAVED_SINCE = {
    "iq2_k_r4": "2025-05-26", "iq3_k_r4": "2025-05-26", "iq4_k_r4": "2025-05-26", "iq5_k_r4": "2025-05-26",
    "iq4_ks_r4": "2025-05-27", "iq5_ks_r4": "2025-05-27", "iq1_s_r4": "2025-06-05", "iq1_m_r4": "2025-06-05",
}  # fmt: skip
# What -rtr interleaves: iq1_s and what has no interleaved form stay as they are (PR 492, ggml-cuda.cu).
_MAY_INTERLEAVE = frozenset(
    {
        "q4_0", "q5_0", "q6_0", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq2_xxs", "iq2_xs", "iq2_s",
        "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs", "iq2_k", "iq3_k", "iq4_k", "iq5_k", "iq4_ks", "iq5_ks",
    }
)  # fmt: skip


def is_interleaved(engine: EngineTraits, qtype: str) -> bool:
    """Whether rows of tensors in RAM of type ``qtype`` lie interleaved: in their file, or since loading."""
    return qtype.endswith(("_r4", "_r8")) or (engine.interleaves_at_load and qtype in _MAY_INTERLEAVE)


def pins_weights(engine: EngineTraits, date: str, *, overridden: bool) -> bool:
    """Whether weights that a step copies lie in pinned memory. ``overridden``: they are in RAM by name (-ot,
    --cpu-moe), not because -ngl leaves them there.

    >>> from moeplan.engines.traits import ENGINES
    >>> [pins_weights(ENGINES[n], "", overridden=True) for n in ("llama.cpp", "ik_llama.cpp", "transformers")]
    [False, True, True]
    """
    if not engine.gguf:
        return True
    ik = engine.stream_scales_with_experts
    mapped = engine.mmap and not engine.interleaves_at_load and not (ik and overridden)
    since = _OVERRIDES_PINNED_SINCE[ik]
    return not mapped and not (overridden and before(date, since))


class Batch(NamedTuple):
    """A step as an engine sees it that decides whether to copy."""

    engine: EngineTraits
    date: str
    """Of the build, "" for now."""
    backend: str
    """What its kernels are written in: cuda (HIP too), vulkan, sycl."""
    architecture: str
    """Hugging Face's model_type."""
    n_tokens: float

    @classmethod
    def of(
        cls,
        engine: EngineTraits,
        workload: Workload,
        hardware: HardwareSpec,
        spec: ModelSpec,
        n_tokens: float,
    ) -> Batch:
        """The batch of ``n_tokens`` rows."""
        maker = hardware.gpus[0].vendor if hardware.gpus else ""
        backend = engine.backend or ("sycl" if maker == "intel" else "cuda")
        return cls(engine, workload.engine_date, backend, spec.architecture, n_tokens)


def copies_weights(batch: Batch) -> bool:
    """Whether a step copies the dense matrices that lie in RAM."""
    least = batch.engine.stream_prefill_min_tokens
    return least is not None and batch.n_tokens >= least and not _keeps(batch)


def copies_experts(batch: Batch, qtype: str, tokens_per_row: float) -> bool:
    """Whether a step copies routed experts of type ``qtype`` that lie in RAM.

    ``tokens_per_row``: tokens for which an expert sees one on average, n_experts / n_active.

    >>> from moeplan.engines.traits import ENGINES
    >>> ik, deepseek = Batch(ENGINES["ik_llama.cpp"], "", "cuda", "deepseek_v3", 512), 256 / 8
    >>> copies_experts(ik, "iq4_k", deepseek), copies_experts(ik._replace(n_tokens=1024), "iq4_k", deepseek)
    (False, True)
    >>> copies_experts(ik._replace(n_tokens=4096), "q4_k_r4", deepseek)
    False
    """
    engine, date = batch.engine, batch.date
    least = engine.stream_prefill_min_tokens
    if least is None or _keeps(batch):
        return False
    if engine.gguf and before(date, _EXPERTS_COPIED_SINCE[batch.backend]):
        return False
    if is_interleaved(engine, qtype):
        since = _INTERLEAVED_SINCE.get(qtype.removesuffix("_r4") + "_r4")
        if since is None or before(date, since):
            return False
    if engine.stream_scales_with_experts:
        # Fused products are uploaded by its CUDA alone: elsewhere the test is of MUL_MAT_ID.
        if before(date, _FUSED_COPIED_SINCE) or batch.backend != "cuda":
            return False
        if not before(date, _SCALED_SINCE):
            least = round(least * tokens_per_row)
    return batch.n_tokens >= least


def _keeps(batch: Batch) -> bool:
    """Whether Ollama's own engine runs the model in a build that computes in RAM what lies there."""
    own = _OLLAMA_OWN_SINCE.get(batch.architecture) if batch.engine.id == "ollama" else None
    since = max(own, _OLLAMA_KEPT_SINCE) if own else ""
    return own is not None and not before(batch.date, since) and before(batch.date, _OLLAMA_COPIES_SINCE)
