"""The `model` object that estimate, models show and the other commands share."""

from __future__ import annotations

import msgspec

from moeplan.domain.graph import ParamCounts
from moeplan.domain.model import ModelSpec
from moeplan.report.words import first_moe


class ModelJson(msgspec.Struct, kw_only=True):
    """A model in numbers. ``params_active`` counts both embeddings, the two others leave out the input
    embedding, or both. Counts are parameters; bytes are those of ``quant``."""

    id: str
    name: str
    quant: str
    params_total: int
    params_active: int
    params_active_no_input_embedding: int
    params_active_no_embeddings: int
    weights_bytes: int
    n_layers: int
    n_experts: int | None
    n_experts_active: int | None


def model_json(model: ModelSpec, quant: str, params: ParamCounts, weights_bytes: int) -> ModelJson:
    """The wire form of a model in one quantisation."""
    moe = first_moe(model)
    return ModelJson(
        id=model.id,
        name=model.name,
        quant=quant,
        params_total=params.total,
        params_active=params.active,
        params_active_no_input_embedding=params.active_no_input_embedding,
        params_active_no_embeddings=params.active_no_embeddings,
        weights_bytes=weights_bytes,
        n_layers=model.n_layers,
        n_experts=moe.n_experts if moe else None,
        n_experts_active=moe.n_active if moe else None,
    )
