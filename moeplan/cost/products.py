"""What calls of a product for each expert cost beside the work in them."""

from __future__ import annotations

from moeplan.cost.coverage import prompt_experts
from moeplan.cost.ops import Op
from moeplan.domain.hardware import GpuSpec
from moeplan.domain.model import MoeFfn
from moeplan.engines.grouped import one_by_one, product_times, started_for_each
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


_LAUNCHES = 2
"""Of an expert where gate and up are one matrix."""


def idle_expert_op(
    engine: EngineTraits, date: str, quant: str, ffn: MoeFfn, n_layers: int, ranks: int
) -> Op | None:
    """Kernels of ``n_layers`` layers that find no rows for their expert, on one of ``ranks`` GPUs that share
    the experts out; None where one kernel does for all. The few that do find rows have work besides."""
    if not started_for_each(engine, date, quant, ffn.n_experts):
        return None
    n = n_layers * _LAUNCHES * ffn.n_experts / ranks
    names = (f"{engine.family}.idle_expert_s",)
    formula = "layers x 2 x experts x s per kernel without rows"
    return Op("idle experts", n, names, formula=formula, inputs={"kernels": n})
