"""Adapters on every FFN, counted by hand."""

from __future__ import annotations

import pytest

from moeplan.domain.comparison import LoraCount
from moeplan.domain.graph import Tensor
from moeplan.domain.model import Block, DenseFfn, MoeFfn
from moeplan.graph.inventory import build_tensors
from moeplan.graph.lora import count_lora
from tests.support.problems import attention, dense_spec, session, spec_of


def test_mixtral() -> None:
    lora = count_lora(session().graph("mixtral-8x7b", "bf16").tensors, 16)
    # 32 layers x 8 experts
    assert (lora.n_expert_ffns, lora.n_ffns) == (256, 256)
    # 256 x 3 matrices x 16 x (4,096 + 14,336)
    assert lora.unfused == LoraCount(n_adapters=768, trainable_params=226_492_416)
    # 256 x 16 x ((4,096 + 28,672) + (14,336 + 4,096))
    assert lora.fused == LoraCount(n_adapters=512, trainable_params=209_715_200)


def test_a_dense_model_has_one_ffn_a_layer() -> None:
    # 4 layers x 3 matrices x 8 x (512 + 1,024), and nothing to fuse
    lora = count_lora(build_tensors(dense_spec()), 8)
    assert (lora.n_expert_ffns, lora.n_ffns) == (0, 4)
    assert lora.unfused == LoraCount(n_adapters=12, trainable_params=4 * 3 * 8 * 1536)
    assert lora.fused == lora.unfused


def test_shared_experts_and_dense_layers_count_as_they_are() -> None:
    blocks = (
        Block(name="dense", mixer=attention(), ffn=DenseFfn(intermediate=1024)),
        Block(
            name="moe",
            mixer=attention(),
            ffn=MoeFfn(n_experts=4, n_active=2, expert_intermediate=256, n_shared=1, shared_intermediate=128),
        ),
    )
    lora = count_lora(build_tensors(spec_of(blocks, (0, 1))), 2)
    assert (lora.n_expert_ffns, lora.n_ffns) == (4, 6)
    # dense 3 x 2 x (512 + 1,024), shared 3 x 2 x (512 + 128), experts 4 x 3 x 2 x (512 + 256)
    assert lora.unfused == LoraCount(n_adapters=3 + 3 + 12, trainable_params=9216 + 3840 + 18432)
    # experts 4 x 2 x ((512 + 512) + (512 + 256)); router and attention have none
    assert lora.fused == LoraCount(n_adapters=3 + 3 + 8, trainable_params=9216 + 3840 + 14336)


def test_experts_without_gate_have_two_matrices() -> None:
    ffn = MoeFfn(n_experts=4, n_active=1, expert_intermediate=256, gated=False)
    lora = count_lora(build_tensors(spec_of((Block(name="m", mixer=attention(), ffn=ffn),), (0,))), 2)
    assert lora.unfused == LoraCount(n_adapters=8, trainable_params=4 * 2 * 2 * 768)
    assert lora.fused == lora.unfused


def test_a_file_that_stores_gate_and_up_together_counts_the_same() -> None:
    apart = [
        Tensor(name=name, role=role, layer=0, shape=shape, expert_stacked=True)
        for name, role, shape in (
            ("gate", "expert_gate", (4, 256, 512)),
            ("up", "expert_up", (4, 256, 512)),
            ("down", "expert_down", (4, 512, 256)),
        )
    ]  # fmt: skip
    together = [
        Tensor(name="gate_up", role="expert_gate_up", layer=0, shape=(4, 512, 512), expert_stacked=True),
        apart[2],
    ]
    assert count_lora(together, 16) == count_lora(apart, 16)


@pytest.mark.parametrize("rank", [1, 4, 64])
def test_parameters_are_proportional_to_the_rank(rank: int) -> None:
    tensors = session().graph("mixtral-8x7b", "bf16").tensors
    one, many = count_lora(tensors, 1), count_lora(tensors, rank)
    assert many.unfused.trainable_params == rank * one.unfused.trainable_params
    assert many.unfused.n_adapters == one.unfused.n_adapters
