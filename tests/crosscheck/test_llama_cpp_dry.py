"""Official sizes through a real llama.cpp's dry allocation: caches, compute and output buffers, to 0.2%.

Header-only files of seven models are opened by the xllamacpp wheel with ``no_alloc``: the engine builds its
graphs and reserves every buffer without reading a tensor. Needs ``pip install 'moeplan[engine]'``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from moeplan.api.verify_memory import verdict, verify
from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.domain.workload import Workload
from moeplan.engines.traits import find_engine
from moeplan.hw import detect
from moeplan.measure.llama_cpp_memory import LoadSettings, load
from moeplan.memory.buffers import compute_bytes, output_bytes
from moeplan.memory.cache import layer_kv_bytes
from moeplan.readers.catalog import Catalog
from moeplan.units import MIB
from tests.support.make_gguf import model_keys, model_rows, write_gguf
from tests.support.problems import session, workload

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None, reason="xllamacpp is not installed (pip install 'moeplan[engine]')"
)

# The wheel of October 2026 reserves for batches that mix tokens and embeddings.
ENGINE = replace(find_engine("llama.cpp"), mixes_inputs=True)

# Catalog id -> hyperparameters as the official GGUF headers state them.
OFFICIAL: dict[str, dict[str, Any]] = {
    "llama-3-8b": {
        "arch": "llama", "n_layer": 32, "n_embd": 4096, "n_ff": 14336, "n_head": 32, "n_head_kv": 8,
        "n_vocab": 128256,
    },
    "llama-3-70b": {
        "arch": "llama", "n_layer": 80, "n_embd": 8192, "n_ff": 28672, "n_head": 64, "n_head_kv": 8,
        "n_vocab": 128256,
    },
    "mixtral-8x7b": {
        "arch": "llama", "n_layer": 32, "n_embd": 4096, "n_ff": 14336, "n_head": 32, "n_head_kv": 8,
        "n_vocab": 32000, "n_expert": 8, "n_used": 2,
    },
    "qwen3-30b-a3b": {
        "arch": "qwen3moe", "n_layer": 48, "n_embd": 2048, "n_ff": 6144, "n_ff_exp": 768, "n_head": 32,
        "n_head_kv": 4, "head_dim": 128, "n_vocab": 151936, "n_expert": 128, "n_used": 8,
    },
    "deepseek-v3": {
        "arch": "deepseek2", "n_layer": 61, "n_embd": 7168, "n_ff": 18432, "n_ff_exp": 2048, "n_head": 128,
        "n_head_kv": 1, "n_vocab": 129280, "n_expert": 256, "n_used": 8, "n_shared": 1, "n_dense_lead": 3,
        "q_lora": 1536, "kv_lora": 512, "qk_nope": 128, "qk_rope": 64, "v_dim": 128,
    },
    "gpt-oss-20b": {
        "arch": "gpt-oss", "n_layer": 24, "n_embd": 2880, "n_ff": 2880, "n_ff_exp": 2880, "n_head": 64,
        "n_head_kv": 8, "head_dim": 64, "n_vocab": 201088, "n_expert": 32, "n_used": 4, "swa": 128,
    },
    "gemma-3-27b": {
        "arch": "gemma3", "n_layer": 62, "n_embd": 5376, "n_ff": 21504, "n_head": 32, "n_head_kv": 16,
        "head_dim": 128, "n_vocab": 262208, "swa": 1024,
    },
}  # fmt: skip

SETTINGS: tuple[dict[str, Any], ...] = (
    {"context_tokens": 10240, "ubatch_tokens": 384},
    {"context_tokens": 45056, "ubatch_tokens": 96, "flash_attention": False},
    {"context_tokens": 21504, "ubatch_tokens": 1000, "n_sequences": 7},
    {"context_tokens": 30000, "ubatch_tokens": 320, "n_sequences": 6, "kv_unified": True},
    {"context_tokens": 98304, "ubatch_tokens": 640, "kv_type_k": "q8_0", "kv_type_v": "q8_0"},
    {"context_tokens": 12288, "ubatch_tokens": 448, "n_sequences": 2, "swa_full": True},
    {"context_tokens": 5376, "ubatch_tokens": 736, "all_rows": True},
    {"context_tokens": 36864, "ubatch_tokens": 200, "n_sequences": 3, "all_rows": True},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("official")


def _header(folder: Path, model: str) -> str:
    path = folder / f"{model}.gguf"
    if not path.exists():
        hp = OFFICIAL[model]
        head_dim = hp.get("head_dim", hp["n_embd"] // hp["n_head"])
        keys = model_keys(hp) | {
            "tokenizer.ggml.model": "none",
            "context_length": 131072,
            "rope.dimension_count": hp.get("qk_rope", head_dim),
            "expert_feed_forward_length": hp.get("n_ff_exp", hp["n_ff"]),
        }
        try:
            write_gguf(path, hp["arch"], keys, list(model_rows(hp)))
        except OSError as error:  # some file systems hold no file of 1.3 TB, not even an empty one
            path.unlink(missing_ok=True)
            pytest.skip(f"no sparse files of that size here: {error}")
    return str(path)


def _work(s: LoadSettings) -> Workload:
    return workload(
        context_tokens=s.context_tokens // s.n_sequences,
        prompt_tokens=1,
        n_sequences=s.n_sequences,
        ubatch_tokens=s.ubatch_tokens,
        flash_attention=s.flash_attention,
        kv_type_k=s.kv_type_k,
        kv_type_v=s.kv_type_v,
        output_rows=None if s.all_rows else s.n_sequences,
        kv_unified=s.kv_unified,
        swa_full=s.swa_full,
    )


def _settings(folder: Path, model: str, changes: dict[str, Any]) -> LoadSettings:
    # A server of embeddings takes batches of one micro-batch.
    batch = changes["ubatch_tokens"] if changes.get("all_rows") else 2048
    return LoadSettings(_header(folder, model), dry=True, batch_tokens=batch, **changes)


def _predicted(model: str, settings: LoadSettings) -> tuple[int, int, int]:
    """(KV, compute, output) bytes."""
    graph, work = session().graph(model, "f16"), _work(settings)
    blocks = graph.spec.layer_blocks()
    kv = round(sum(layer_kv_bytes(block, work, ENGINE) for block in blocks))
    return kv, compute_bytes(graph, blocks, work, ENGINE, with_head=True), output_bytes(graph, work)


@pytest.mark.parametrize("model", OFFICIAL)
@pytest.mark.parametrize("changes", SETTINGS, ids=lambda s: "-".join(str(v) for v in s.values()))
def test_official_sizes(folder: Path, model: str, changes: dict[str, Any]) -> None:
    settings = _settings(folder, model, changes)
    found, (kv, compute, output) = load(settings), _predicted(model, settings)
    assert found.kv_bytes == pytest.approx(kv, abs=0.05 * MIB)
    assert found.compute["CPU"] == pytest.approx(compute, rel=0.002, abs=0.05 * MIB)
    if not settings.all_rows:  # that server hands embeddings out as well
        assert found.output_bytes == pytest.approx(output, abs=0.05 * MIB)


def test_a_file_larger_than_the_ram_is_verified_dry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "free_ram_bytes", lambda: 0)
    request = EstimateRequest(
        model=_header(folder, "gpt-oss-20b"),
        machine=MachineFlags(cpu="ryzen-9-7950x", ram_gib=64),
        context=6000,
        slots=3,
        kv_unified=True,
    )
    checks = verify(request, Catalog())
    assert [check.name for check in checks] == ["KV cache", "state", "compute", "output"]
    for check in checks:
        assert check.allocated_bytes == pytest.approx(check.predicted_bytes, abs=0.02 * MIB)
    assert verdict(checks) == ""


# Found by a search among 6,000 random pairs of settings: what the larger one takes is less.
FALLS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    (
        "llama-3-8b",
        {"context_tokens": 193536, "n_sequences": 4, "ubatch_tokens": 128, "all_rows": True},
        {"context_tokens": 193536, "n_sequences": 4, "ubatch_tokens": 129, "all_rows": True},
    ),
)


@pytest.mark.parametrize(("model", "smaller", "larger"), FALLS)
def test_the_engine_itself_is_not_monotone(
    folder: Path, model: str, smaller: dict[str, Any], larger: dict[str, Any]
) -> None:
    """Its best fit packs the larger graph more tightly; the prediction follows."""
    allocated, predicted = [], []
    for changes in (smaller, larger):
        settings = _settings(folder, model, changes)
        found = load(settings)
        allocated.append(found.kv_bytes + found.compute["CPU"])
        predicted.append(sum(_predicted(model, settings)[:2]))
        assert predicted[-1] == pytest.approx(allocated[-1], abs=0.05 * MIB)
    assert allocated[1] < allocated[0]
    assert predicted[1] < predicted[0]
