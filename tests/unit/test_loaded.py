"""What an engine holds is what it reads: weights that loading makes larger, in memory and in time."""

from __future__ import annotations

import pytest

import moeplan
from moeplan.cost.work import main_type
from moeplan.engines.traits import find_engine
from moeplan.graph.loaded import as_loaded
from moeplan.units import GIB
from tests.support.problems import session

VLLM, TRANSFORMERS = find_engine("vllm"), find_engine("transformers")


def test_vllm_pads_mxfp4_experts() -> None:
    graph = session().graph("gpt-oss-120b", "mxfp4", gguf=False)
    loaded = as_loaded(graph, VLLM)
    # 36 layers x 128 experts x 3 x 2880 rows x (3072 - 2880) columns x half a byte
    assert loaded.padding_bytes == 36 * 128 * 3 * 2880 * 192 // 2
    assert sum(w.expert_bytes for w in loaded.layers) - sum(w.expert_bytes for w in graph.layers) == (
        loaded.padding_bytes
    )
    # "Model loading took 64.38 GiB" (vllm-project/vllm issue 33155): to 0.1%
    assert loaded.weights_bytes / GIB == pytest.approx(64.38, rel=0.001)
    assert loaded.file_bytes == graph.weights_bytes
    assert main_type(loaded) == "mxfp4"


def test_bitsandbytes_leaves_fused_experts_in_16_bit() -> None:
    graph = session().graph("mixtral-8x7b", "bnb-nf4", gguf=False)
    loaded = as_loaded(graph, TRANSFORMERS)
    # 32 layers of 8 experts x 3 x 4096 x 14336 elements x 2 B
    assert [w.expert_bytes for w in loaded.layers] == [8 * 3 * 4096 * 14336 * 2] * 32
    assert [w.dense_bytes for w in loaded.layers] == [w.dense_bytes for w in graph.layers]
    assert main_type(loaded) == "bf16"


@pytest.mark.parametrize(
    ("quant", "engine"), [("bnb-nf4", "vllm"), ("bf16", "transformers"), ("fp8", "vllm")]
)
def test_everything_else_stays_as_the_file_has_it(quant: str, engine: str) -> None:
    graph = session().graph("mixtral-8x7b", quant, gguf=False)
    assert as_loaded(graph, find_engine(engine)) is graph


@pytest.mark.parametrize(
    ("model", "engine", "quant", "hardware"),
    [
        ("mixtral-8x7b", "transformers", "bnb-nf4", "h200-sxm"),
        ("gpt-oss-120b", "vllm", "mxfp4", "h100-sxm-80gb"),
    ],
)
def test_the_speed_reads_the_bytes_that_memory_holds(
    model: str, engine: str, quant: str, hardware: str
) -> None:
    answer = moeplan.estimate(
        model, hardware=hardware, engine=engine, quant=quant, context=1024, prompt_tokens=16, output_tokens=16
    )
    held = sum(device.weights_bytes for device in answer.memory.devices)
    assert held == answer.weights_bytes
    # one token reads n_active / n_experts of every expert's bytes, all other weights but the embedding once
    stored = session().loaded(model, quant, find_engine(engine))
    experts = sum(weights.expert_bytes for weights in stored.layers)
    dense = sum(weights.dense_bytes for weights in stored.layers) + stored.head_bytes
    ffn = stored.spec.layer_blocks()[0].ffn
    active = experts * ffn.n_active / ffn.n_experts  # type: ignore[union-attr]
    cache = answer.decode.bytes_read - dense - active
    assert 0 < cache < 0.01 * dense


def test_a_file_is_loaded_at_its_own_size() -> None:
    padded = moeplan.estimate("gpt-oss-120b", hardware="h100-sxm-80gb", engine="vllm", quant="mxfp4")
    plain = moeplan.estimate("gpt-oss-120b", hardware="h100-sxm-80gb", engine="sglang", quant="mxfp4")
    assert padded.weights_bytes > plain.weights_bytes
    assert padded.load_s == plain.load_s
