"""Attention of a group of layers in parts: over the cache, over an encoder's output, scores of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from moeplan.cost.gpu_units import integer_per_s
from moeplan.cost.ops import ONCE, OVERLAP, Op, Times
from moeplan.cost.rates import Rates
from moeplan.cost.row_kernels import fetched_times, one_row_attention
from moeplan.cost.work import LayerGroup, LayerWork, Step, cross_scores, unfused_scores
from moeplan.domain.hardware import GpuSpec
from moeplan.domain.model import Block, GqaAttention
from moeplan.domain.workload import Workload
from moeplan.engines.eager import SCORE_BYTES, CachePasses, cache_passes
from moeplan.engines.kv import kv_shard
from moeplan.engines.launches import cache_reads, unfused_score_bytes
from moeplan.engines.machines import likely_capability
from moeplan.engines.traits import EngineTraits

_CACHE_ELEMENT_BYTES = 2.0  # 16 bits: transformers' cache has the type of the activations
_SHARING_CAPABILITY = 8.0  # see engines/eager.py, cache_passes


class Ways(NamedTuple):
    """How attention is computed. ``gpu``: where, None for the host."""

    engine: EngineTraits
    workload: Workload
    tensor_parallel: int
    gpu: GpuSpec | None = None


class AttentionPart(NamedTuple):
    """Bytes and FLOPs of all layers of the group."""

    label: str
    n_bytes: float
    flop: float
    times: Times
    streams: bool = False
    """Moved in long rows, as weights are."""


def attention_parts(group: LayerGroup, work: LayerWork, step: Step, ways: Ways) -> Iterator[AttentionPart]:
    """What attention moves and computes, on a GPU or on the host."""
    engine, workload, shards, gpu = ways
    n, block = group.n_layers, group.block
    # Rates of a sharded tier are those of all its GPUs; a cache that splits less is read slower.
    repeat = shards / kv_shard(block, shards)
    own, computing = repeat, 1.0
    if engine.eager and not block.encoder:  # which has no cache to copy
        passes = _passes(block, ways)
        own *= passes.reads + (passes.copies if gpu is None else 0.0)
    if engine.eager and not workload.flash_attention:
        scores, computing = unfused_scores(block, step)
        if scores := scores + cross_scores(block, step):
            yield AttentionPart("attention scores", n * scores * SCORE_BYTES, 0.0, ONCE)
    elif gpu is not None and engine.gguf and not workload.flash_attention and step.tokens_per_sequence > 1:
        scores, computing = unfused_scores(block, step)
        if scores := scores + cross_scores(block, step):
            n_bytes = n * scores * unfused_score_bytes(engine, gpu)
            yield AttentionPart("attention scores", n_bytes, 0.0, ONCE, streams=True)
    one_row = workload.flash_attention and step.tokens_per_sequence <= 1
    if gpu is not None and one_row and isinstance(block.mixer, GqaAttention):
        sharing = block.mixer.n_heads // block.mixer.n_kv_heads
        own *= cache_reads(engine, gpu, workload.engine_date, sharing)
    if gpu is None and one_row_attention(engine, workload, decode=step.tokens_per_sequence <= 1):
        n_heads = step.n_sequences * getattr(block.mixer, "n_kv_heads", 1)
        computing *= fetched_times(work.kv_bytes / max(1.0, n_heads))
    times = _moved(own)._replace(computing=computing)
    yield AttentionPart("KV cache", n * work.kv_bytes, n * work.attention_flop, times)
    if work.cross_flop:
        yield AttentionPart("cross-attention", n * work.cross_bytes, n * work.cross_flop, _moved(repeat))


# Integer instructions that find one element of a copy whose dimensions do not collapse: a division by a
# constant and two additions for each of four or five of them (OffsetCalculator of PyTorch's TensorIterator).
_COPY_INSTRUCTIONS = 40.0


def cache_copies_op(tier: str, rates: Rates, group: LayerGroup, work: LayerWork, ways: Ways) -> Op | None:
    """What an eager engine copies of the cache in a step on a GPU before attention reads it; None for others.

    Such copies move bytes no faster than the GPU's integer units find them: keys and values of 14B to 72B
    are copied at 0.87 TB/s on an A100 and on an H20, whose memories differ by a factor of two.
    """
    engine, gpu = ways.engine, ways.gpu
    if gpu is None or not engine.eager or group.block.encoder or not work.kv_bytes:
        return None
    passes, rate = _passes(group.block, ways), integer_per_s(gpu)
    if not passes.copies:
        return None
    n_bytes = group.n_layers * work.kv_bytes
    elements = n_bytes * passes.copied / _CACHE_ELEMENT_BYTES
    family = engine.family
    return Op(
        f"{tier} copies of the cache",
        n_bytes * passes.copies / rates.bytes_per_s,
        rates.cache[0],
        elements * _COPY_INSTRUCTIONS / rate if rate else 0.0,
        (f"{family}.cache.bandwidth", f"{family}.copies.bandwidth"),
        norm=OVERLAP,
        n_bytes=n_bytes,
        formula="bytes / bandwidth overlapping 40 x elements written / integer rate",
        inputs={"times_bytes_are_moved": passes.copies, "integer_per_s": rate, "elements": elements},
    )


def _passes(block: Block, ways: Ways) -> CachePasses:
    engine, workload, _, gpu = ways
    shares = gpu is None or gpu.vendor != "nvidia" or likely_capability(gpu) >= _SHARING_CAPABILITY
    return cache_passes(
        block, workload.engine_date, host=gpu is None, in_place=engine.fused_modules, shares=shares
    )


def _moved(times: float) -> Times:
    return Times(times, 1.0, {"times_bytes_are_moved": times}) if times != 1 else ONCE
