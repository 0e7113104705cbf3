"""Whether an engine fuses attention: for which models it can; by build and model where nobody says so."""

from __future__ import annotations

from moeplan.engines.builds import before
from moeplan.engines.traits import EngineTraits

# llama.cpp fuses attention by itself where it can since then (PR 15434), llama-bench only since PR 23714 (of
# 2026-05-26: "The default is still kept as -fa off", until its review); ik_llama.cpp's users ask for it.
_FLASH_SINCE, _BENCH_FLASH_SINCE = "2025-09", "2026-06"
_FLASH_ASKED_FOR = frozenset({"llama.cpp", "ollama", "koboldcpp", "lm-studio"})


def flash_by_default(engine: EngineTraits, date: str, *, bench: bool = False) -> bool:
    """Whether attention is fused where nobody says so, in a build of ``date`` ("" is now); ``bench``: under
    llama.cpp's llama-bench."""
    since = _BENCH_FLASH_SINCE if bench and engine.id == "llama.cpp" else _FLASH_SINCE
    return engine.id not in _FLASH_ASKED_FOR or not before(date, since)


# Positions of T5 and its kin are a bias on the scores, and "Flash attention does not support KQ bias yet"
# (llama.cpp's build_attn_mha, read in ggml 0.26).
_BIASED_SCORES = frozenset({"t5", "mt5", "umt5", "switch_transformers"})


def can_fuse(engine: EngineTraits, architecture: str) -> bool:
    """Whether an engine has fused attention for models of ``architecture`` (Hugging Face's model_type)."""
    return not engine.gguf or architecture not in _BIASED_SCORES


# Ollama asked for fused attention model by model (FlashAttention in fs/ggml/ggml.go; v0.11.8, v0.12.4,
# v0.12.6, v0.13.2), then of llama.cpp too wherever that can (PR 13052, v0.13.4).
_FUSED_SINCE = {
    "gpt_oss": "2025-08-28",
    "qwen3": "2025-10-09",
    "qwen3_moe": "2025-10-09",
    "gemma3_text": "2025-10-16",
    "mistral3": "2025-12-07",
}
_USUALLY_FUSED_SINCE = "2025-12-15"


def fused_by_default(engine: EngineTraits, date: str, architecture: str, *, bench: bool = False) -> bool:
    """Whether attention is fused where nobody says so, in a build of ``date`` ("" is now); ``bench``: under
    llama.cpp's llama-bench."""
    if engine.id != "ollama":
        return flash_by_default(engine, date, bench=bench)
    return not before(date, _FUSED_SINCE.get(architecture, _USUALLY_FUSED_SINCE))
