"""The inventory against transformers, tensor by tensor: names, shapes and layers of official-size models.

Built on the meta device, a model of any size costs no memory. Needs the extra `crosscheck`.

Left out: longcat_flash, whose class makes the zero experts real ones (741e9 parameters; the repository stores
561e9), switch_transformers, whose class has no gated experts (265e9 parameters for Switch-XXL; the paper says
395e9), and what transformers 5.23 has no class for: arctic, bailing_moe_v2, deepseek (the first), grok,
hunyuan-large and Kimi K3 with its latent experts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra `crosscheck`: torch")
transformers = pytest.importorskip("transformers", minversion="5.23", reason="needs transformers >= 5.23")

from moeplan.graph.inventory import build_tensors  # noqa: E402
from moeplan.readers.hf import spec_from_config  # noqa: E402
from tests.crosscheck.hf_tensors import normalised, tensors_of  # noqa: E402

DATA = Path(__file__).parents[1] / "data" / "hf"

MODELS = [
    "llama-3.1-8b", "llama-3.2-1b", "mistral-7b-v0.1", "devstral-2-123b", "qwen2.5-7b", "qwen3-8b", "phi-4",
    "gemma-2-9b", "gemma-3-27b", "gemma-4-26b-a4b", "gemma-4-31b", "command-r-plus", "command-a-111b",
    "olmo-2-7b", "olmo-3.1-32b", "granite-3.3-8b", "glm-4-9b-0414", "smollm3-3b", "seed-oss-36b",
    "apertus-70b", "gpt2", "bloom-176b", "falcon-7b", "falcon-40b",
    "mixtral-8x7b", "phi-3.5-moe", "qwen1.5-moe-a2.7b", "qwen3-30b-a3b", "gpt-oss-20b", "gpt-oss-120b",
    "olmoe-1b-7b", "granite-3.0-1b-a400m", "llama-4-maverick-400b-a17b", "minimax-m2", "minimax-m3", "dbrx",
    "hunyuan-a13b", "glm-4.5", "dots.llm1", "ernie-4.5-21b-a3b", "hy3", "solar-open-100b",
    "mimo-v2-flash-309b-a15b", "step-3.7-flash-196b-a11b",
    "deepseek-v2-lite", "deepseek-v3", "deepseek-v3.2", "glm-4.7-flash", "glm-5.2", "mistral-small-4-119b",
    "deepseek-v4-flash",
    "qwen3-next-80b-a3b", "qwen3.5-27b", "qwen3.5-35b-a3b", "jamba-1.5-mini", "jamba-1.5-large",
    "granite-4.0-h-tiny", "granite-4.0-h-small", "nemotron-h-56b", "nemotron-3-nano-30b-a3b",
    "nemotron-3-super-120b-a12b", "minimax-text-01", "kimi-linear-48b-a3b", "lfm2-8b-a1b",
]  # fmt: skip

# Classes that AutoModelForCausalLM does not know.
CLASSES = {
    "mistral4": ("Mistral4Config", "Mistral4ForCausalLM"),
    "minimax_m3": ("MiniMaxM3VLTextConfig", "MiniMaxM3VLForCausalLM"),
    "step3p7": ("Step3p7TextConfig", "Step3p7TextModel"),
}

# Buffers in the state dict that the inventory does not count, by model_type: end of the name -> why.
NOT_COUNTED: dict[str, dict[str, str]] = {
    "apertus": {"act_fn.beta": "constant", "act_fn.eps": "constant"},
    "gemma4_text": {"layer_scalar": "one number a layer"},
    "minimax": {
        "_decay": "computed from the number of heads",
        "slope_rate": "computed from the number of heads",
    },
    "deepseek_v4": {
        "e_score_correction_bias": "named in the model's notes",
        "tid2eid": "token table of hash-routed layers, named in the model's notes",
    },
    "lfm2_moe": {"expert_bias": "named in the model's notes"},
    "solar_open": {"e_score_correction_bias": "not in the repository, whose count is met without"},
}

# The text model alone, where the class has no head of its own.
WITHOUT_HEAD = {"step3p7"}


def build(data: dict[str, Any]) -> tuple[Any, Any]:
    """(model on the meta device, its config)."""
    import torch

    model_type = data["model_type"]
    with torch.device("meta"):
        if model_type in CLASSES:
            config_class, model_class = (getattr(transformers, name) for name in CLASSES[model_type])
            config = config_class(**{key: value for key, value in data.items() if key != "model_type"})
            return model_class(config), config
        config = transformers.AutoConfig.for_model(**data)
        config = getattr(config, "text_config", config)
        return transformers.AutoModelForCausalLM.from_config(config), config


@pytest.mark.filterwarnings("ignore")  # transformers' own, about generation and defaults
@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_is_that_of_transformers(name: str) -> None:
    data = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    model, config = build(data)
    theirs = tensors_of(model, config, NOT_COUNTED.get(config.model_type, {}))
    ours = [
        normalised(t.layer, t.name, t.shape)
        for t in build_tensors(spec_from_config(data, id=name, name=name, where=name))
        if not (t.role == "head" and data["model_type"] in WITHOUT_HEAD)
    ]
    missing = theirs.copy()
    missing.subtract(ours)
    differences = sorted((*key, n) for key, n in missing.items() if n)
    assert not differences, f"{len(differences)} tensors differ (+: theirs alone), first: {differences[:8]}"
    assert len(ours) == theirs.total() > 10


def test_a_tensor_too_few_or_of_another_shape_would_be_seen() -> None:
    data = json.loads((DATA / "mixtral-8x7b.json").read_text(encoding="utf-8"))
    theirs = tensors_of(*build(data), {})
    spec = spec_from_config({**data, "num_key_value_heads": 4}, id="m", name="m", where="m")
    ours = {normalised(t.layer, t.name, t.shape) for t in build_tensors(spec)}
    assert set(theirs) - ours == {
        (layer, f"attn_{part}.weight", (1024, 4096)) for layer in range(32) for part in "kv"
    }
