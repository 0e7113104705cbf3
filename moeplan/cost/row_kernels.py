"""Which kernels a CPU multiplies with: those for one row of activations, or those for several at once."""

from __future__ import annotations

from moeplan.cost.ops import Names
from moeplan.cost.type_groups import dot_group
from moeplan.domain.model import MlaAttention, ModelSpec
from moeplan.domain.workload import Workload
from moeplan.engines.traits import EngineTraits

# ggml-cpu (read in ggml 0.25.3, 2026-11-30): tinyBLAS takes two rows or more (sgemm.cpp) of 16- and 32-bit
# types, Q8_0, Q4_0, Q5_0 and IQ4_NL; matrices of interleaved rows four (repack.cpp). Other types have
# dot products of one row with one column whatever the batch.
_FEWEST_ROWS = {"plain": 2.0, "interleaved": 4.0}
_TINY_BLAS = frozenset({"q8_0", "q5_0", "iq4_nl", "mxfp4"})


def one_row_kernels(engine: EngineTraits, quant: str, rows: float, *, experts: bool) -> bool:
    """Whether ``rows`` of a step meet its weights one at a time.

    Experts always do in ggml-cpu: its MUL_MAT_ID has dot products (or, of interleaved rows, matrix-vector
    products) alone. Other engines' libraries have kernels for several rows from two on.
    """
    if not engine.gguf or engine.cpu_tiles:
        return rows < 2
    if experts:
        return True
    if quant in _TINY_BLAS:
        return rows < 2
    return rows < _FEWEST_ROWS.get(dot_group(quant), float("inf"))


# Prompts of 16- and 32-bit keys and values go through ggml-cpu's fused attention in tiles of rows since
# llama.cpp PR 19012 (opened then); before, and of packed ones to this day, a row of one head at a time.
_TILED_SINCE, _TILED_TYPES = "2026-01-22", frozenset({"f16", "f32"})


def one_row_attention(engine: EngineTraits, workload: Workload, *, decode: bool) -> bool:
    """Whether fused attention of a prompt takes a row of one head at a time on a CPU.

    Of a single token it does in any build, but there what the fit has for attention is of such rows.
    """
    if decode or not engine.gguf or engine.cpu_tiles or not workload.flash_attention:
        return False
    packed = not {workload.kv_type_k, workload.kv_type_v} <= _TILED_TYPES
    return packed or ("" < workload.engine_date < _TILED_SINCE)


def attention_marks(engine: EngineTraits, workload: Workload, spec: ModelSpec, *, decode: bool) -> Names:
    """What makes attention of a step on a CPU faster or slower than the engine's usual.

    ik_llama.cpp's kernels for grouped heads compute prompts at two thirds of the rate of dense matrices (171
    GFLOP/s a core of a 7950X at 15,872 cells, 268 in matrices: its PR 351, LLaMA-3.1-8B, in no fit); latent
    attention has kernels of its own.
    """
    if one_row_attention(engine, workload, decode=decode):
        return ("local.cpu.row_attention.compute",)
    latent = any(isinstance(block.mixer, MlaAttention) for block in spec.blocks)
    tiled = engine.cpu_tiles == "types" and not decode and not latent
    return ("local.cpu.tiled.attention.compute",) if tiled else ()


# A row at a time takes 1.9 to 2.5 times as long as tiles while keys and values of a head stay in a core's
# cache, and 6 to 7 times where each row fetches them again: of gpt-oss-20b (256 B a cell) 512 tokens take
# 0.34 to 0.41 s more for 1,024 more cells up to 4,096, 1.2 to 1.5 s beyond, in tiles 0.16 to 0.21 throughout;
# of an 8B 0.66 and 0.35 (llama.cpp PR 19012, 64 cores of EPYC with 0.5 or 1 MB each; in no fit).
_CORE_CACHE_BYTES, _FETCHED_TIMES = 1 << 20, 3.0


def fetched_times(bytes_of_head: float) -> float:
    """How many times as long rows take one at a time the less of a head's cache stays in a core's.

    >>> fetched_times(1 << 20), fetched_times(3 << 19), fetched_times(1 << 21)
    (1.0, 2.0, 3.0)
    """
    missed = min(max(bytes_of_head / _CORE_CACHE_BYTES - 1.0, 0.0), 1.0)
    return 1.0 + (_FETCHED_TIMES - 1.0) * missed
