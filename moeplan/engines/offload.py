"""Which weights in RAM an engine copies to the GPU for a step, instead of computing where they are.

llama.cpp and its kin copy a matrix when a batch is large enough; what counts as large, and which products
are copied at all, has changed from build to build.
"""

from __future__ import annotations

from moeplan.engines.builds import before
from moeplan.engines.traits import EngineTraits

# "mul_mat_id always on GPU for batches >= 32": llama.cpp PR 4553 (2023-12-21), with KoboldCpp after it.
_EXPERTS_COPIED_SINCE = "2023-12-21"
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


def copies_weights(engine: EngineTraits, n_tokens: float) -> bool:
    """Whether a step of ``n_tokens`` copies the dense matrices that lie in RAM."""
    least = engine.stream_prefill_min_tokens
    return least is not None and n_tokens >= least


def copies_experts(
    engine: EngineTraits, date: str, qtype: str, n_tokens: float, tokens_per_row: float
) -> bool:
    """Whether a step of ``n_tokens`` copies routed experts of type ``qtype`` that lie in RAM.

    ``tokens_per_row``: tokens for which an expert sees one on average, n_experts / n_active.

    >>> from moeplan.engines.traits import ENGINES
    >>> ik, deepseek = ENGINES["ik_llama.cpp"], 256 / 8
    >>> copies_experts(ik, "", "iq4_k", 512, deepseek), copies_experts(ik, "", "iq4_k", 1024, deepseek)
    (False, True)
    >>> copies_experts(ik, "", "q4_k_r4", 4096, deepseek)
    False
    """
    least = engine.stream_prefill_min_tokens
    if least is None or before(date, _EXPERTS_COPIED_SINCE):
        return False
    if is_interleaved(engine, qtype):
        since = _INTERLEAVED_SINCE.get(qtype.removesuffix("_r4") + "_r4")
        if since is None or before(date, since):
            return False
    if engine.stream_scales_with_experts:
        if before(date, _FUSED_COPIED_SINCE):
            return False
        if not before(date, _SCALED_SINCE):
            least = round(least * tokens_per_row)
    return n_tokens >= least
