"""Which engines read which formats of weights. A format that an engine cannot load is refused, not priced."""

from __future__ import annotations

from moeplan.domain.quant import QuantScheme
from moeplan.engines.traits import EngineTraits
from moeplan.errors import SpecError

# Formats that their own engine alone reads; the others are shared by several.
_SOLE_READERS = frozenset({"exllamav2", "exllamav3", "ik_llama.cpp", "mlx"})
# Engines without a reader of GGUF files (their documentation, recalled 2026-11-30 and not re-read); vLLM,
# SGLang and transformers have one.
_WITHOUT_GGUF = frozenset({"exllamav2", "exllamav3", "mlx", "tensorrt-llm", "tgi"})


def sole_reader(scheme: QuantScheme) -> str:
    """The one engine that reads files of ``scheme``; "" where several do."""
    return scheme.engine if scheme.engine in _SOLE_READERS else ""


def refuse_format(engine: EngineTraits, scheme: QuantScheme) -> None:
    """Raise SpecError where ``engine`` cannot load weights stored as ``scheme``."""
    why = unreadable(engine, scheme)
    if why:
        raise SpecError(f"--quant {scheme.id}: {engine.id} {why}", help="moeplan quants list")


def unreadable(engine: EngineTraits, scheme: QuantScheme) -> str:
    """Why ``engine`` cannot load weights stored as ``scheme``, in words; "" where it can."""
    gguf = scheme.kind.startswith("gguf")
    sole = sole_reader(scheme)
    if sole and engine.id != sole:
        return f"reads other formats; this one is {sole}'s"
    if engine.gguf and not gguf and not scheme.as_gguf:
        return "reads GGUF files, whose types have other names (q4_k_m, q8_0 ...)"
    # ``bpw-N`` stands for a width, in whatever format.
    if engine.id in _WITHOUT_GGUF and gguf and not scheme.id.startswith("bpw-"):
        return "reads no GGUF files"
    return ""
