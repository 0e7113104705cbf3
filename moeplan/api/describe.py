"""Models without a machine: what the catalog lists and what one model is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from moeplan.domain.description import CacheSize, ModelDescription, ModelSummary, QuantSize
from moeplan.errors import MoeplanError

if TYPE_CHECKING:
    from moeplan.domain.graph import ParamCounts
    from moeplan.domain.model import ModelSpec
    from moeplan.readers.catalog import Catalog

SIZES = ("bf16", "fp8", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs", "q3_k_m", "q2_k")
"""Quantisations whose sizes a description lists."""
CACHE_CONTEXTS_TOKENS = (8192, 32768, 131072)
CACHE_KV_TYPE = "f16"


def list_models(catalog: Catalog, report: Callable[[MoeplanError], None]) -> tuple[ModelSummary, ...]:
    """Every model of the catalog with its parameters; one that cannot be read goes to ``report``."""
    from moeplan.readers.model_yaml import read_model_yaml

    summaries = []
    for id_ in catalog.ids("models"):
        try:
            spec = read_model_yaml(Path(catalog.find("models", id_)))
            summaries.append(ModelSummary(spec=spec, params=count_params(spec)))
        except MoeplanError as error:
            report(error)
    return tuple(summaries)


def count_params(spec: ModelSpec) -> ParamCounts:
    """``param_counts`` of the whole model from one layer of each kind: equal, and 50 times faster."""
    from msgspec.structs import replace

    from moeplan.domain.graph import ParamCounts
    from moeplan.graph.inventory import build_tensors, param_counts

    def counts(layout: tuple[int, ...]) -> ParamCounts:
        trial = replace(spec, layout=layout)
        return param_counts(trial, build_tensors(trial))

    outside = counts(())
    layers = {index: counts((index,)) for index in set(spec.layout)}
    fields = [name for name in ParamCounts.__struct_fields__ if name != "by_role"]
    sums = {
        name: getattr(outside, name)
        + sum(getattr(layers[i], name) - getattr(outside, name) for i in spec.layout)
        for name in fields
    }
    return ParamCounts(**sums, by_role={})


def describe_model(model: str, catalog: Catalog, quant: str | None = None) -> ModelDescription:
    """What ``model`` is made of, in ``quant`` or the type it comes in. Raises a MoeplanError."""
    from moeplan.api.resolve import Session

    session = Session(catalog)
    source = session.source(model)
    own = quant or source.file_quant or source.spec.native_quant
    # a name that both worlds use (bf16, mxfp4) means the published safetensors here
    graph = session.graph(model, own, gguf=False)
    sizes, gaps = [], []
    for name in dict.fromkeys((own, *SIZES)):
        try:
            size = (graph if name == own else session.graph(model, name, gguf=False)).weights_bytes
            sizes.append(QuantSize(quant=name, weights_bytes=size))
        except MoeplanError as error:
            gaps.append(f"size in {name}: {error}")
    return ModelDescription(
        graph=graph,
        origin=f"{source.kind}, {source.path}",
        sizes=tuple(sizes),
        caches=_caches(source.spec),
        kv_bytes_per_token=_kv_bytes_per_token(source.spec),
        not_modelled=tuple(gaps),
    )


def _caches(spec: ModelSpec) -> tuple[CacheSize, ...]:
    contexts = [n for n in CACHE_CONTEXTS_TOKENS if n < spec.context_tokens]
    return tuple(_cache(spec, n) for n in (*contexts, spec.context_tokens))


def _cache(spec: ModelSpec, context_tokens: int) -> CacheSize:
    from moeplan.domain.workload import Workload
    from moeplan.engines.traits import find_engine
    from moeplan.memory.cache import layer_kv_bytes, layer_state_bytes

    engine = find_engine("llama.cpp")
    workload = Workload(
        context_tokens=context_tokens,
        prompt_tokens=1,
        output_tokens=1,
        n_sequences=1,
        kv_type_k=CACHE_KV_TYPE,
        kv_type_v=CACHE_KV_TYPE,
        engine=engine.id,
        ubatch_tokens=engine.ubatch_tokens,
        batch_tokens=engine.ubatch_tokens,
        flash_attention=True,
    )
    blocks = spec.layer_blocks()
    return CacheSize(
        context_tokens=context_tokens,
        kv_type=CACHE_KV_TYPE,
        kv_bytes=round(sum(layer_kv_bytes(block, workload, engine) for block in blocks)),
        state_bytes=sum(layer_state_bytes(block, 1) for block in blocks),
    )


def _kv_bytes_per_token(spec: ModelSpec) -> float:
    """Growth beyond all windows: what 2^18 more tokens add, per token."""
    far, step = 1 << 20, 1 << 18
    return (_cache(spec, far + step).kv_bytes - _cache(spec, far).kv_bytes) / step
