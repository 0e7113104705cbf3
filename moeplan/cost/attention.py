"""Attention of a group of layers in parts: over the cache, over an encoder's output, scores of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from moeplan.cost.ops import ONCE, Times
from moeplan.cost.row_kernels import fetched_times, one_row_attention
from moeplan.cost.work import LayerGroup, LayerWork, Step, cross_scores, unfused_scores
from moeplan.domain.hardware import GpuSpec
from moeplan.domain.model import GqaAttention
from moeplan.domain.workload import Workload
from moeplan.engines.eager import SCORE_BYTES, cache_passes
from moeplan.engines.kv import kv_shard
from moeplan.engines.launches import reads_per_head, unfused_score_bytes
from moeplan.engines.traits import EngineTraits


class Ways(NamedTuple):
    """How attention is computed. ``quant``: the type of most weights; ``gpu``: where, None for the host."""

    engine: EngineTraits
    workload: Workload
    quant: str
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
    engine, workload, quant, shards, gpu = ways
    n, block = group.n_layers, group.block
    # Rates of a sharded tier are those of all its GPUs; a cache that splits less is read slower.
    repeat = shards / kv_shard(block, shards)
    own, computing = repeat, 1.0
    if engine.eager and not block.encoder:  # which has no cache to copy
        own *= cache_passes(block, quant, workload.engine_date, host=gpu is None)
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
    again = gpu is not None and one_row and reads_per_head(engine, gpu, workload.engine_date)
    if again and isinstance(block.mixer, GqaAttention):
        own *= block.mixer.n_heads / block.mixer.n_kv_heads
    if gpu is None and one_row_attention(engine, workload, decode=step.tokens_per_sequence <= 1):
        n_heads = step.n_sequences * getattr(block.mixer, "n_kv_heads", 1)
        computing *= fetched_times(work.kv_bytes / max(1.0, n_heads))
    times = _moved(own)._replace(computing=computing)
    yield AttentionPart("KV cache", n * work.kv_bytes, n * work.attention_flop, times)
    if work.cross_flop:
        yield AttentionPart("cross-attention", n * work.cross_bytes, n * work.cross_flop, _moved(repeat))


def _moved(times: float) -> Times:
    return Times(times, 1.0, {"times_bytes_are_moved": times}) if times != 1 else ONCE
