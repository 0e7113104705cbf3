"""What transformers moves and starts in a decode step, counted by the operands of every kernel."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from moeplan.engines.eager import HALF_LAYER_KERNELS, SCORE_BYTES, cache_passes, ffn_kernels
from tests.support.problems import dense_spec

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

# Nothing is moved by these.
_VIEWS = ("view", "expand", "transpose", ".t.", "squeeze", "slice", "select", "permute", "detach", "alias",
          "as_strided", "empty", "split")  # fmt: skip
HEAD_DIM, KV_HEADS = 64, 2


class Traffic(TorchDispatchMode):  # type: ignore[misc]
    """Bytes of all operands and results; a dimension that is repeated without a copy counts once."""

    n_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not any(view in str(func) for view in _VIEWS):
            self.n_bytes += sum(map(size, (args, list((kwargs or {}).values()), out)))
        return out


def size(x: Any) -> int:
    """Bytes in the tensors of ``x``."""
    if isinstance(x, torch.Tensor):
        n: int = x.element_size()
        for length, stride in zip(x.shape, x.stride(), strict=True):
            n *= length if stride else 1
        return n
    return sum(map(size, x)) if isinstance(x, (list, tuple)) else 0


def step_bytes(groups: int, context: int, dtype: Any, attention: str, *, masked: bool) -> int:
    """Traffic of one decode step behind ``context`` tokens."""
    config = transformers.LlamaConfig(
        hidden_size=groups * KV_HEADS * HEAD_DIM, intermediate_size=64, num_hidden_layers=1, vocab_size=64,
        num_attention_heads=groups * KV_HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM,
        attn_implementation=attention,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(dtype).eval()
    token = torch.zeros(1, 1, dtype=torch.long)
    mask = torch.ones(1, context + 1, dtype=torch.long) if masked else None
    with torch.no_grad():
        cache = model(torch.zeros(1, context, dtype=torch.long), use_cache=True).past_key_values
        with Traffic() as traffic:
            model(token, past_key_values=cache, use_cache=True, attention_mask=mask)
    return traffic.n_bytes


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("dtype", "attention", "shares"),
    [("bfloat16", "eager", False), ("float32", "eager", False), ("bfloat16", "sdpa", True)],
)
def test_passes_over_the_cache(groups: int, dtype: str, attention: str, shares: bool) -> None:
    """Repeated for all heads as before July 2025, and shared as torch's fused kernels on a GPU share it."""
    kind = getattr(torch, dtype)
    short, long = (step_bytes(groups, n, kind, attention, masked=not shares) for n in (512, 1024))
    token = 2 * KV_HEADS * HEAD_DIM * torch.tensor([], dtype=kind).element_size()
    plain = dense_spec().blocks[0]
    heads = {"n_heads": groups * KV_HEADS, "n_kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
    block = replace(plain, mixer=replace(plain.mixer, **heads))
    passes = cache_passes(block, "", host=not shares)
    # scores and the mask are not counted by the formulas: a row of the context beside 64 of keys and values
    assert (long - short) / (512 * token) == pytest.approx(passes.copies + passes.reads, rel=0.09)


def prompt_bytes(groups: int, rows: int, dtype: Any) -> int:
    """Traffic of a prompt of ``rows`` tokens with attention that is not fused."""
    config = transformers.LlamaConfig(
        hidden_size=groups * KV_HEADS * HEAD_DIM, intermediate_size=64, num_hidden_layers=1, vocab_size=64,
        num_attention_heads=groups * KV_HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM,
        attn_implementation="eager",
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(dtype).eval()
    with torch.no_grad(), Traffic() as traffic:
        model(torch.zeros(1, rows, dtype=torch.long), use_cache=True, logits_to_keep=1)
    return traffic.n_bytes


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_bytes_of_a_score(dtype: str) -> None:
    # What grows with the square of the prompt; the mask is one more row for all 16 heads.
    few, some, many = (prompt_bytes(8, rows, getattr(torch, dtype)) for rows in (256, 512, 768))
    scores = 8 * KV_HEADS * 256**2
    assert (many - 2 * some + few) / (2 * scores) == pytest.approx(SCORE_BYTES, rel=0.03)


def crossed_step(context: int, n_layers: int, count: type) -> Any:
    """One decode step of T5 behind a prompt of ``context`` tokens, under ``count``."""
    config = transformers.T5Config(
        d_model=4 * HEAD_DIM, d_kv=HEAD_DIM, d_ff=64, num_layers=1, num_decoder_layers=n_layers, num_heads=4,
        vocab_size=64,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).to(torch.bfloat16).eval()
    token = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        encoded = (model.get_encoder()(torch.ones(1, context, dtype=torch.long))[0],)
        cache = None
        for _ in range(2):
            with count() as counted:
                out = model(encoder_outputs=encoded, decoder_input_ids=token, past_key_values=cache)
            cache = out.past_key_values
    return counted


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_cross_attention_reads_its_cache_once_and_has_no_kernels_beyond_a_layer() -> None:
    short, long = (crossed_step(n, 1, Traffic).n_bytes for n in (512, 1024))
    # keys and values of 4 heads in bfloat16; scores are a row beside them
    assert (long - short) / (512 * 2 * 4 * HEAD_DIM * 2) == pytest.approx(1, rel=0.05)
    # Attention, cross-attention and FFN of T5 start as many as attention and FFN do elsewhere.
    one, three = (crossed_step(8, n, Kernels).n for n in (1, 3))
    assert (three - one) / 2 == pytest.approx(2 * HALF_LAYER_KERNELS, rel=0.12)


class Kernels(TorchDispatchMode):  # type: ignore[misc]
    """How many operations are started."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += not any(view in str(func) for view in _VIEWS)
        return func(*args, **(kwargs or {}))


def layer_kernels(n_experts: int, n_active: int, implementation: str | None = None) -> float:
    """Kernels of one more layer in a decode step."""

    def kernels(n_layers: int) -> int:
        config = transformers.Qwen3MoeConfig(
            hidden_size=64, moe_intermediate_size=32, intermediate_size=32, num_hidden_layers=n_layers,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=64, num_experts=n_experts,
            num_experts_per_tok=n_active, mlp_only_layers=[] if n_active else list(range(n_layers)),
        )  # fmt: skip
        model = transformers.Qwen3MoeForCausalLM(config).to(torch.bfloat16).eval()
        if implementation:
            model.set_experts_implementation(implementation)
        with torch.no_grad():
            cache = model(torch.zeros(1, 8, dtype=torch.long), use_cache=True).past_key_values
            with Kernels() as counted:
                model(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
        return counted.n

    return (kernels(3) - kernels(1)) / 2


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("n_experts", "n_active"), [(8, 2), (64, 8)])
def test_kernels_of_a_moe_layer(n_experts: int, n_active: int) -> None:
    mixer = HALF_LAYER_KERNELS
    now = layer_kernels(n_experts, n_active)
    assert now == pytest.approx(mixer + ffn_kernels(n_experts, n_active, ""), rel=0.12)
    looped = layer_kernels(n_experts, n_active, "eager")
    # Fifteen kernels a turn, most of them of indices, which take the host as long as eight of a dense layer.
    routing = ffn_kernels(n_experts, 0, "2025-08")
    assert looped == pytest.approx(mixer + routing + 15 * n_active, rel=0.12)
    assert ffn_kernels(n_experts, n_active, "2025-08") == routing + 8 * n_active
