"""Memory of a training step, worked out by hand for a model small enough to do so."""

from __future__ import annotations

from moeplan.domain.model import Block, DenseFfn, GqaAttention, MoeFfn
from moeplan.measure.training_memory import EXPERT_ROLES, Setting, saved_elements, step_memory
from tests.support.problems import spec_of

# hidden 64, 4 query heads and 2 key heads of 16, intermediate 96, vocabulary 100, 2 layers
MIXER = GqaAttention(n_heads=4, n_kv_heads=2, head_dim=16, v_head_dim=16)
DENSE = spec_of((Block(name="d", mixer=MIXER, ffn=DenseFfn(intermediate=96)),), (0, 0), hidden=64, vocab=100)
MOE = spec_of(
    (Block(name="m", mixer=MIXER, ffn=MoeFfn(n_experts=8, n_active=2, expert_intermediate=48)),),
    (0, 0), hidden=64, vocab=100,
)  # fmt: skip


def test_full_training_of_a_dense_model() -> None:
    setting = Setting("full", batch=2, tokens=5)
    # 10 rows; a layer keeps 6 D (both norms: input, scaled, result) + 4 A (q, k, v, out) + A (to the
    # output projection) + 4 F = 384 + 256 + 64 + 384 = 1088; the end 3 D + V = 192 + 100
    assert saved_elements(DENSE, setting) == 10 * (2 * 1088 + 292)
    # 2 x 100 x 64 + 64 + 2 x (2 x 64 + 2 x 64 x 64 + 2 x 32 x 64 + 3 x 64 x 96) = 74,560 weights
    memory = step_memory(DENSE, setting)
    assert memory.weights == 74_560 * 4
    assert memory.optimizer == 2 * memory.weights
    # saved 24,680 + 2 x 10 x 100 = 26,680 elements, less than gradients and two copies of the largest
    # parameter: 74,560 + 2 x 6,400 = 87,360
    assert memory.total == (3 * 74_560 + 87_360) * 4


def test_lora_on_experts_keeps_nothing_of_the_first_attention() -> None:
    setting = Setting("lora", batch=1, tokens=10, rank=4, roles=EXPERT_ROLES)
    # 20 expert rows. First layer: gathered D + result D + 4 w + 3 r = 64 + 64 + 192 + 12 = 332 each.
    # Second: attention D + 4 A = 64 + 256 on 10 rows, norm's input D, experts one more D: 396 each.
    first, second = 20 * 332, 10 * (320 + 64) + 20 * 396
    assert saved_elements(MOE, setting) == first + second + 10 * (64 + 100)
    # A and B of gate and up: 4 x (64 + 48), of down the same; 8 experts, 2 layers
    assert step_memory(MOE, setting).adapters == 3 * 4 * 112 * 8 * 2 * 4


def test_lora_needs_less_than_training_and_more_with_rank() -> None:
    lora = [step_memory(MOE, Setting("lora", 2, 64, rank=r)).total for r in (4, 16, 64)]
    assert lora == sorted(lora)
    assert lora[-1] < step_memory(MOE, Setting("full", 2, 64)).total
