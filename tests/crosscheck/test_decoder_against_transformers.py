"""The reference decoder against the models of transformers, in fp32 with the same random weights."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'moeplan[profile]'")
transformers = pytest.importorskip("transformers", reason="needs transformers")

from moeplan.domain.model import Block, DenseFfn, GqaAttention, MlaAttention, ModelSpec, MoeFfn  # noqa: E402
from moeplan.graph.inventory import build_tensors  # noqa: E402
from moeplan.measure.decoder import Conventions, Decoder  # noqa: E402
from moeplan.measure.linear import linear_kernel  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

GQA = GqaAttention(n_heads=8, n_kv_heads=2, head_dim=16, v_head_dim=16)
COMMON = {
    "vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "attn_implementation": "eager",
}  # fmt: skip


def spec_of(blocks: tuple[Block, ...], layout: tuple[int, ...]) -> ModelSpec:
    return ModelSpec(
        id="t", name="t", architecture="llama", hidden_size=64, vocab_size=97, context_tokens=128,
        blocks=blocks, layout=layout,
    )  # fmt: skip


def llama() -> tuple[Any, ModelSpec, Conventions]:
    config = transformers.LlamaConfig(**COMMON, intermediate_size=96, head_dim=16)
    block = Block(name="dense", mixer=GQA, ffn=DenseFfn(intermediate=96))
    return transformers.LlamaForCausalLM(config), spec_of((block,), (0, 0, 0)), Conventions()


def mistral_window() -> tuple[Any, ModelSpec, Conventions]:
    config = transformers.MistralConfig(**COMMON, intermediate_size=96, head_dim=16, sliding_window=5)
    mixer = GqaAttention(n_heads=8, n_kv_heads=2, head_dim=16, v_head_dim=16, window_tokens=5)
    block = Block(name="dense", mixer=mixer, ffn=DenseFfn(intermediate=96))
    return transformers.MistralForCausalLM(config), spec_of((block,), (0, 0, 0)), Conventions()


def mixtral() -> tuple[Any, ModelSpec, Conventions]:
    config = transformers.MixtralConfig(
        **COMMON, intermediate_size=48, num_local_experts=6, num_experts_per_tok=2, head_dim=16
    )
    block = Block(name="moe", mixer=GQA, ffn=MoeFfn(n_experts=6, n_active=2, expert_intermediate=48))
    return transformers.MixtralForCausalLM(config), spec_of((block,), (0, 0, 0)), Conventions()


def qwen3_moe() -> tuple[Any, ModelSpec, Conventions]:
    config = transformers.Qwen3MoeConfig(
        **COMMON, intermediate_size=96, moe_intermediate_size=32, num_experts=16, num_experts_per_tok=4,
        head_dim=16, norm_topk_prob=True, decoder_sparse_step=1,
    )  # fmt: skip
    mixer = GqaAttention(n_heads=8, n_kv_heads=2, head_dim=16, v_head_dim=16, qk_norm="head")
    block = Block(name="moe", mixer=mixer, ffn=MoeFfn(n_experts=16, n_active=4, expert_intermediate=32))
    return transformers.Qwen3MoeForCausalLM(config), spec_of((block,), (0, 0, 0)), Conventions()


def deepseek_v3() -> tuple[Any, ModelSpec, Conventions]:
    common = COMMON | {"num_key_value_heads": 8}
    config = transformers.DeepseekV3Config(
        **common, intermediate_size=96, moe_intermediate_size=32, n_routed_experts=16, n_shared_experts=2,
        num_experts_per_tok=4, n_group=4, topk_group=2, routed_scaling_factor=2.5, first_k_dense_replace=1,
        q_lora_rank=24, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12,
        norm_topk_prob=True, rope_interleave=True,
    )  # fmt: skip
    mixer = MlaAttention(
        n_heads=8, q_lora_rank=24, kv_lora_rank=32, nope_head_dim=16, rope_head_dim=8, v_head_dim=12
    )
    moe = MoeFfn(
        n_experts=16, n_active=4, expert_intermediate=32, n_shared=2, shared_intermediate=64,
        router_correction=True, routing="sigmoid",
    )  # fmt: skip
    blocks = (
        Block(name="dense", mixer=mixer, ffn=DenseFfn(intermediate=96)),
        Block(name="moe", mixer=mixer, ffn=moe),
    )
    rules = Conventions(rope_interleaved=True, routed_scale=2.5, n_groups=4, top_groups=2)
    return transformers.DeepseekV3ForCausalLM(config), spec_of(blocks, (0, 1, 1)), rules


# llama.cpp's name of a tensor -> the end of its Hugging Face name (gguf-py, tensor_mapping.py)
HF_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_q_a": "self_attn.q_a_proj", "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa", "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate", "exp_probs_b": "mlp.gate.e_score_correction_bias",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj", "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}  # fmt: skip


def hf_weight(name: str, state: dict[str, Any], spec: ModelSpec) -> Any:
    outside = {
        "token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }  # fmt: skip
    if name in outside:
        return state[outside[name]]
    _, layer, part, _ = name.split(".")
    prefix = f"model.layers.{layer}."
    if part.endswith("_exps"):
        return expert_weight(part, prefix, state)
    if part in ("attn_k_b", "attn_v_b"):
        mixer = spec.layer_blocks()[int(layer)].mixer
        assert isinstance(mixer, MlaAttention)
        both = state[prefix + "self_attn.kv_b_proj.weight"].view(mixer.n_heads, -1, mixer.kv_lora_rank)
        k, v = both.split([mixer.nope_head_dim, mixer.v_head_dim], dim=1)
        return k.transpose(1, 2) if part == "attn_k_b" else v
    end = HF_NAMES[part]
    candidates = [prefix + end, f"{prefix}{end}.weight"]
    return next(state[c] for c in candidates if c in state)


def expert_weight(part: str, prefix: str, state: dict[str, Any]) -> Any:
    """transformers 5 stacks experts: gate_up_proj (N, 2 width, D) and down_proj (N, D, width)."""
    if part == "ffn_down_exps":
        return state[prefix + "mlp.experts.down_proj"]
    gate, up = state[prefix + "mlp.experts.gate_up_proj"].chunk(2, dim=1)
    return gate if part == "ffn_gate_exps" else up


@pytest.fixture(params=[llama, mistral_window, mixtral, qwen3_moe, deepseek_v3], ids=lambda f: f.__name__)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Decoder]:
    torch.manual_seed(0)
    model, spec, conventions = request.param()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = dict(model.state_dict())
    for name, value in state.items():
        if "correction_bias" in name:
            value.copy_(torch.randn(value.shape) * 0.1)
    weights = {}
    for tensor in build_tensors(spec):
        weights[tensor.name] = hf_weight(tensor.name, state, spec).contiguous()
        assert tuple(weights[tensor.name].shape) == tensor.shape, tensor.name
    return model.eval(), Decoder(spec, weights, conventions, linear_kernel())


TOKENS = [[5, 17, 2, 88, 41, 3, 3, 60, 9, 12], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]


def test_logits_of_a_prompt_are_equal(pair: tuple[Any, Decoder]) -> None:
    model, decoder = pair
    tokens = torch.tensor(TOKENS)
    with torch.inference_mode():
        theirs, ours = model(tokens).logits, decoder.forward(tokens)
    assert theirs.abs().max() > 0.3, "weights so small that everything would be equal"
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_decoding_with_a_cache_is_equal(pair: tuple[Any, Decoder]) -> None:
    model, decoder = pair
    tokens = torch.tensor(TOKENS)
    with torch.inference_mode():
        theirs = model(tokens).logits
        cache = decoder.new_cache(2, 16)
        steps = [decoder.forward(tokens[:, :6], cache)]
        steps += [decoder.forward(tokens[:, i : i + 1], cache, at=i) for i in range(6, 10)]
        single = decoder.new_cache(1, 16)
        alone = [decoder.forward(tokens[:1, i : i + 1], single, at=i) for i in range(10)]
    torch.testing.assert_close(torch.cat(steps, 1), theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat(alone, 1), theirs[:1], rtol=1e-4, atol=1e-4)
