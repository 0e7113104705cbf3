"""What kernels cost beside their work, by build: replayed or launched one by one, and what they read again.

Pull requests of llama.cpp and ik_llama.cpp, read 2026-11-30. Their tables are in no fit
unless said.
"""

from __future__ import annotations

import math

from moeplan.domain.hardware import GpuSpec
from moeplan.engines.builds import before
from moeplan.engines.machines import likely_capability
from moeplan.engines.traits import EngineTraits

# What ggml's Metal backend gained, newest first: it submits and reorders more ahead of the GPU (llama.cpp PRs
# 19369, 19390, 19555), runs kernels that do not depend on each other at once (PR 15929), encodes a kernel's
# arguments in one piece, most of them while the first kernels run (PRs 9698, 10238).
_METAL_SINCE = {"waiting": "2026-02-13", "serial": "2025-09", "encoding": "2024-11-17"}
# A routed layer gained no more by the first two than its mixer's half does: 17 us on an M2 Ultra
# (Qwen3-30B-A3B, 76.3 tokens/s in August 2025 and 81.4 in January 2026: PRs 15616, 18566; gpt-oss-20b, 132.9
# in September 2025 and 132.8 in February 2026: PRs 16057, 19555).
_OF_MIXERS = frozenset({"waiting", "serial"})
# CUDA graphs replay the kernels of a step at once: on compute capability 8.0 and later (PR 6766), on 7.0 (PR
# 25749), on none before (PR 27721, open); on AMD's GPUs by default (PR 22254).
_GRAPHS_SINCE = {"ampere": "2024-05", "volta": "2026-07", "amd": "2026-04"}
# Experts were chosen by the host until then, which no graph allows (llama.cpp PR 13014, ik_llama.cpp PR 689).
_ROUTED_GRAPHS_SINCE = {"ik_llama.cpp": "2025-08"}
_ROUTED_GRAPHS_USUALLY_SINCE = "2025-05"
# Choosing experts, their gate, biases and activation took a kernel each until then (llama.cpp PRs 15631,
# 16130, 16649 and 16715 of August to October 2025, ik_llama.cpp PR 789).
_ROUTING_MERGED_SINCE = {"ik_llama.cpp": "2025-10"}
_ROUTING_USUALLY_MERGED_SINCE = "2025-11"
# Matrix-vector kernels for 16-bit weights loaded one value at a time until then: no matter for GDDR, 1.27
# times the whole step on an H100 (PRs 9816 and 10318).
_WIDE_LOADS_SINCE = "2024-11"
# Kernels without tensor cores take the query heads that share keys together since then (PR 16492), as many
# as the largest power of two among their factors, up to 8 (fattn.cu: gqa_ratio_eff; PR 19092 pads other
# numbers in the kernels for tensor cores alone); before, each head read the cache again.
_SHARED_KEYS_SINCE = "2025-11"
_HEADS_AT_ONCE = 8
# Tensor cores of Turing and Ampere do since llama.cpp's PR 12014 and ik_llama.cpp's PR 370; before, the other
# heads found what the first had read in the L2 cache. On an RTX 3090 Ti (1008 GB/s; tables of that PR, rows
# of which are in the fit) 8 heads took 9.4 ms more for 22.2 GB, 24 took 22.2 ms for 46.4 GB: 2.4, 2.1 TB/s.
_TENSOR_SHARED_KEYS_SINCE = {"ik_llama.cpp": "2025-05-03"}
_TENSOR_SHARED_KEYS_USUALLY_SINCE = "2025-02-22"
_L2_TIMES = 2.3
_TENSOR_CORES, _LARGE_L2 = 7.5, 8.9
# Fused attention of many rows on AMD's GPUs went through kernels made for one row or a few until then (PRs
# 14840 and 15769).
_AMD_TILES_SINCE = "2025-09-07"
_UNFUSED_SCORE_BYTES, _CONVERTED_SCORE_BYTES = 4 + 4 + 4 + 4, (2 + 2) + (2 + 2)


def launch_marks(engine: EngineTraits, gpu: GpuSpec, date: str, *, routed: bool) -> tuple[str, ...]:
    """What lengthens the fixed time of a half of a layer in a build of ``date``: what Metal's
    backend lacked, "ungraphed" where each kernel is launched, "separate-routing" where what chooses and joins
    experts is many of them. ``routed``: its FFN has experts."""
    if not engine.gguf:
        return ()
    if gpu.vendor == "apple":
        marks = (mark for mark, since in _METAL_SINCE.items() if before(date, since))
        return tuple(mark for mark in marks if not (routed and mark in _OF_MIXERS))
    by_cuda = gpu.vendor in ("nvidia", "amd") and engine.backend != "vulkan"
    if not by_cuda:
        return ()
    merged = _ROUTING_MERGED_SINCE.get(engine.id, _ROUTING_USUALLY_MERGED_SINCE)
    apart = ("separate-routing",) if routed and before(date, merged) else ()
    return (*apart, "ungraphed") if _ungraphed(engine, gpu, date, routed=routed) else apart


def _ungraphed(engine: EngineTraits, gpu: GpuSpec, date: str, *, routed: bool) -> bool:
    if routed and before(date, _ROUTED_GRAPHS_SINCE.get(engine.id, _ROUTED_GRAPHS_USUALLY_SINCE)):
        return True
    if gpu.vendor == "amd":
        return before(date, _GRAPHS_SINCE["amd"])
    capability = likely_capability(gpu)
    if capability < 7.0:
        return True
    return before(date, _GRAPHS_SINCE["ampere" if capability >= 8.0 else "volta"])


def launches_prompts(engine: EngineTraits, gpu: GpuSpec) -> bool:
    """Whether a prompt's kernels are launched one by one, more of them than one token has.

    ggml-cuda "disable[s] CUDA graphs for batch size > 1" (ggml-cuda.cu until PR 19645 of February 2026; since
    then a graph is kept whose shapes come twice, PR 19754, as those of prompts seldom do). Each of the seven
    products of a plain layer is three kernels (inputs quantised, tiles, what stream-k left: mmq.cu), of one
    token two, where gate and up are one product as well.
    """
    return engine.gguf and not engine.backend and gpu.vendor in ("nvidia", "amd")


def scalar_loads(engine: EngineTraits, gpu: GpuSpec, date: str) -> tuple[str, ...]:
    """("scalar-loads",) where kernels for 16-bit weights are those of an early CUDA backend."""
    early = engine.gguf and engine.backend != "vulkan" and before(date, _WIDE_LOADS_SINCE)
    return ("scalar-loads",) if early and gpu.vendor in ("nvidia", "amd") else ()


def cache_reads(engine: EngineTraits, gpu: GpuSpec, date: str, sharing_heads: int) -> float:
    """How often fused attention of one row reads keys and values that ``sharing_heads`` query heads share.

    Once, but on AMD's GPUs and on NVIDIA's before Turing, whose kernels take few of these heads together.
    """
    if not engine.gguf or engine.backend == "vulkan" or gpu.vendor not in ("nvidia", "amd"):
        return 1.0
    capability = likely_capability(gpu) if gpu.vendor == "nvidia" else 0.0
    if capability >= _TENSOR_CORES:
        since = _TENSOR_SHARED_KEYS_SINCE.get(engine.id, _TENSOR_SHARED_KEYS_USUALLY_SINCE)
        if capability >= _LARGE_L2 or not before(date, since):
            return 1.0
        return 1.0 + (sharing_heads - 1) / _L2_TIMES
    if before(date, _SHARED_KEYS_SINCE):
        return float(sharing_heads)
    return sharing_heads / math.gcd(sharing_heads, _HEADS_AT_ONCE)


def unfused_score_bytes(engine: EngineTraits, gpu: GpuSpec) -> int:
    """Bytes that one score of a prompt moves where attention is not fused.

    It is written in f32, read and written by the softmax, and read by the product with the values: 16 bytes.
    Libraries take and give 16 bits, so that CUDA and HIP convert it after the one and before the other.
    """
    by_library = gpu.vendor in ("nvidia", "amd") and not engine.backend
    return _UNFUSED_SCORE_BYTES + (_CONVERTED_SCORE_BYTES if by_library else 0)


def narrow_attention(engine: EngineTraits, gpu: GpuSpec, date: str) -> tuple[str, ...]:
    """("narrow",) where fused attention of a prompt shares nothing, or little, between its rows."""
    old = engine.gguf and not engine.backend and before(date, _AMD_TILES_SINCE)
    return ("narrow",) if old and gpu.vendor == "amd" else ()
