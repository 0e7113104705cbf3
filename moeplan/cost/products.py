"""What calls of a product for each expert cost beside the work in them."""

from __future__ import annotations

from moeplan.cost.coverage import prompt_experts
from moeplan.cost.ops import Op
from moeplan.domain.hardware import GpuSpec
from moeplan.domain.model import MoeFfn
from moeplan.engines.grouped import one_by_one, product_times
from moeplan.engines.traits import EngineTraits

_PRODUCTS = 3
"""Of an expert: gate, up and down."""


def product_op(
    engine: EngineTraits, gpu: GpuSpec, date: str, quant: str, ffn: MoeFfn, n_layers: int, n_tokens: float,
    architecture: str,
) -> Op | None:  # fmt: skip
    """Products of ``n_layers`` layers in a step of ``n_tokens``, where ``gpu`` has one for each expert met;
    None where it has one for all. ``quant``: the type of most weights."""
    if not one_by_one(engine, gpu, date, quant, n_tokens, ffn.n_experts):
        return None
    n = n_layers * _PRODUCTS * prompt_experts(architecture, ffn.n_experts, ffn.n_active, n_tokens)
    n *= product_times(gpu.vendor, date, n_tokens)
    names = (f"{engine.family}.expert_product_s", f"{engine.family}.engine.{engine.id}.product_time")
    formula = "layers x 3 x experts met x s per product"
    return Op("expert products", n, names, formula=formula, inputs={"products": n})
