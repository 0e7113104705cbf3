"""The dense twin of a MoE: of the size asked for, in the MoE's proportions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from moeplan.domain.comparison import TwinKind
from moeplan.domain.model import DenseFfn, GqaAttention, MlaAttention, ModelSpec
from moeplan.errors import NotModelled, SpecError
from moeplan.graph.inventory import build_tensors, param_counts, summarise
from moeplan.graph.quantise import assign_types
from moeplan.predict.twin import WIDTH_STEP, dense_twin
from tests.support.problems import dense_spec, moe_spec, session


def params(spec: ModelSpec) -> float:
    return param_counts(spec, build_tensors(spec)).total


def bytes_in(quant: str) -> Callable[[ModelSpec], float]:
    def size(spec: ModelSpec) -> float:
        tensors = assign_types(spec, build_tensors(spec), quant, session().quants, gguf=True)
        return summarise(spec, quant, tensors, "rules").weights_bytes

    return size


def twin_of(moe: ModelSpec, kind: TwinKind, quant: str = "q4_k_m") -> tuple[ModelSpec, float]:
    """(the twin, its size over the size asked for)."""
    counts = param_counts(moe, build_tensors(moe))
    size = bytes_in(quant) if kind == "memory" else params
    target = counts.active if kind == "active" else size(moe)
    twin = dense_twin(moe, kind, size, target, counts.total / counts.active)
    return twin, size(twin) / target


def test_the_active_twin_of_mixtral_is_mixtral_with_two_experts_as_its_ffn() -> None:
    mixtral = session().source("mixtral-8x7b").spec
    twin, ratio = twin_of(mixtral, "active")
    assert (twin.hidden_size, twin.n_layers, twin.vocab_size) == (4096, 32, 32000)
    # the two active experts, 2 x 14,336; the router, 0.008% of the active parameters, is gone
    assert {b.ffn.intermediate for b in twin.blocks if isinstance(b.ffn, DenseFfn)} == {28_672}
    assert twin.blocks[0].mixer == mixtral.blocks[0].mixer
    assert ratio == pytest.approx(1, abs=1e-4)
    assert not twin.is_moe


def test_the_total_twin_of_mixtral_keeps_depth_over_width() -> None:
    twin, ratio = twin_of(session().source("mixtral-8x7b").spec, "total")
    # (46.70 / 12.88)^(1/3) = 1.536: 49.2 layers, a width of 6,293, rounded to 49 and 25 x 256
    assert (twin.n_layers, twin.hidden_size) == (49, 6400)
    assert twin.n_layers / twin.hidden_size == pytest.approx(32 / 4096, rel=0.05)
    mixer = twin.blocks[0].mixer
    assert isinstance(mixer, GqaAttention)
    # 32 x 1.536 = 49.2, rounded to what 8 K/V heads divide
    assert (mixer.n_heads, mixer.n_kv_heads, mixer.head_dim) == (48, 8, 128)
    assert ratio == pytest.approx(1, abs=1e-3)


# one of each kind of mixer and layout: MLA with dense layers in front, windows, Mamba, Mamba-2, linear
# attention, short convolutions, an encoder
MOES = [
    "deepseek-v3", "gpt-oss-20b", "jamba-1.5-mini", "granite-4.0-h-tiny", "qwen3-next-80b-a3b",
    "kimi-linear-48b-a3b", "lfm2-8b-a1b", "minimax-text-01", "deepseek-v4-flash", "nemotron-3-nano-30b-a3b",
    "switch-base-8", "granite-3.0-1b-a400m",
]  # fmt: skip
KINDS: list[TwinKind] = ["active", "total", "memory"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MOES)
def test_twins_of_the_catalog_have_the_size_asked_for(model: str, kind: TwinKind) -> None:
    moe = session().source(model).spec
    twin, ratio = twin_of(moe, kind)
    assert ratio == pytest.approx(1, abs=2e-3)
    assert not twin.is_moe
    assert twin.parts == ()
    assert twin.context_tokens == moe.context_tokens
    widths = {b.ffn.intermediate for b in twin.blocks if isinstance(b.ffn, DenseFfn)}
    assert all(width % WIDTH_STEP == 0 for width in widths) or kind == "active"
    if kind == "active":
        assert (twin.n_layers, twin.hidden_size) == (moe.n_layers, moe.hidden_size)
    else:
        assert twin.n_layers / twin.hidden_size == pytest.approx(moe.n_layers / moe.hidden_size, rel=0.1)


def test_the_latent_of_mla_stays() -> None:
    deepseek = session().source("deepseek-v3").spec
    twin, _ = twin_of(deepseek, "total")
    ours, theirs = twin.blocks[0].mixer, deepseek.blocks[0].mixer
    assert isinstance(ours, MlaAttention)
    assert isinstance(theirs, MlaAttention)
    assert ours.kv_lora_rank == theirs.kv_lora_rank
    assert ours.n_heads > theirs.n_heads


def test_a_dense_model_has_no_twin() -> None:
    with pytest.raises(SpecError, match="dense"):
        dense_twin(dense_spec(), "active", params, 1e6, 1.0)


def test_a_twin_that_cannot_be_is_not_modelled() -> None:
    moe = moe_spec()
    with pytest.raises(NotModelled, match="narrower"):
        dense_twin(moe, "active", params, 1000, 1.0)
