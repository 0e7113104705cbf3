"""What the delta rule cost before ggml had one kernel for it: on a CPU, and in kernels on a GPU.

Until then a decode step of Qwen3-Next, Qwen3.5 or Kimi-Linear went through two dozen operations a layer, each
over the whole state, and ggml-cpu runs some of them (sums of rows, repeats) on one thread: more cores or
faster memory did not help.
"""

from __future__ import annotations

from moeplan.cost.ops import Names, Op
from moeplan.cost.work import Step
from moeplan.domain.model import GatedDeltaNet, KimiDelta, Mixer
from moeplan.engines.builds import before
from moeplan.engines.traits import EngineTraits

_STATE_BYTES = 4
# A prompt goes through the state once for so many tokens (CS in llama.cpp's build_delta_net_chunking; 16 with
# Kimi's gates); products within such a chunk are not counted.
_CHUNK_TOKENS, _KIMI_CHUNK_TOKENS = 64, 16

# Qwen3-Next-80B on a Threadripper 3995WX, state of 2 MiB a layer in 36 layers: 7.2 tokens/s before the graph
# was rewritten (PR 19375) and 10.3 after, where ik_llama.cpp reaches 22.6 (its PRs 1266 and 1278, February
# 2026): 2.6 and 1.5 ms a layer; 1.5 on an M2 Max as well (12.3 and 36 tokens/s, its PR 1361, 4 March 2026).
# Retrieved 2026-11-30; in no fit.
_OLD_S_PER_BYTE, _REWRITTEN_S_PER_BYTE = 1.25e-9, 0.70e-9

# PR 19375 was merged between 11 (PR 19504 measures without it) and 17 February 2026; graphs have used the
# kernel of PR 19504 since early March (PR 20091 of the 3rd is without it, PR 20391 of the 11th is with it).
_REWRITTEN_SINCE, _FUSED_SINCE = "2026-02-14", "2026-03-08"
# Ollama has a graph of its own, unfused in May 2026 (its PR 16150).
_OLLAMA_FUSED_SINCE = "2026-06"


def delta_rule_ops(
    mixer: Mixer | None, n_layers: int, step: Step, engine: EngineTraits, date: str
) -> tuple[Op, ...]:
    """What states of ``n_layers`` layers in RAM take beyond being read; nothing for most.

    ``date``: of the engine's build, YYYY-MM or longer, "" for now.
    """
    elements, per_byte = _matrix_elements(mixer), _s_per_byte(engine, date)
    if not elements or not per_byte:
        return ()
    chunk = _KIMI_CHUNK_TOKENS if isinstance(mixer, KimiDelta) else _CHUNK_TOKENS
    passes = max(1.0, step.tokens_per_sequence / chunk)
    n_bytes = n_layers * step.n_sequences * passes * elements * _STATE_BYTES
    inputs = {"s_per_byte_of_one_thread": per_byte, "layers": n_layers}
    formula = "bytes of state x s per byte"
    return (Op("CPU delta rule", n_bytes * per_byte, (), n_bytes=n_bytes, formula=formula, inputs=inputs),)


def delta_marks(mixer: Mixer, architecture: str, engine: EngineTraits, date: str) -> Names:
    """What multiplies the fixed time of a mixer on Apple's GPUs where its delta rule is many operations.

    ``architecture``: what the names of the GPU's coefficients begin with. Where graphs replay the kernels
    of a step the gain is "more modest" (ik_llama.cpp PR 1315), and no table has it.
    """
    family, place, *_ = (*architecture.split("."), "", "")
    since = _OLLAMA_FUSED_SINCE if engine.id == "ollama" else _FUSED_SINCE
    split = engine.gguf and engine.id != "ik_llama.cpp" and before(date, since)
    marked = split and place == "apple" and _matrix_elements(mixer)
    return (f"{family}.apple.split-delta.layer_time",) if marked else ()


def _matrix_elements(mixer: Mixer | None) -> int:
    """Elements of a layer's matrix state under a delta rule; 0 for other mixers."""
    if isinstance(mixer, GatedDeltaNet):
        return mixer.n_v_heads * mixer.k_head_dim * mixer.v_head_dim
    if isinstance(mixer, KimiDelta):
        return mixer.n_heads * mixer.head_dim * mixer.head_dim
    return 0


def _s_per_byte(engine: EngineTraits, date: str) -> float:
    """Time of all those operations over the bytes of a state; 0 with one kernel.

    ik_llama.cpp has run these models since February 2026, never that way.
    """
    if engine.id == "ollama":
        return _OLD_S_PER_BYTE if before(date, _OLLAMA_FUSED_SINCE) else 0.0
    if not engine.gguf or engine.id == "ik_llama.cpp":
        return 0.0
    if before(date, _REWRITTEN_SINCE):
        return _OLD_S_PER_BYTE
    return _REWRITTEN_S_PER_BYTE if before(date, _FUSED_SINCE) else 0.0
