"""Every buffer against a real llama.cpp (the xllamacpp wheel), in settings that no formula was read off.

Random-weight files of six architectures are loaded and ended again; nothing is decoded. Needs
``pip install 'moeplan[engine]'`` (a wheel of 102 MB); skipped without.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from msgspec.structs import replace

from moeplan.api.resolve import Session
from moeplan.domain.workload import Workload
from moeplan.engines.traits import find_engine
from moeplan.measure.llama_cpp_memory import Allocated, LoadSettings, load
from moeplan.memory.buffers import compute_bytes, output_bytes
from moeplan.memory.cache import layer_kv_bytes
from moeplan.memory.capacity import host_process_bytes
from moeplan.memory.repack import repackable_bytes, still_mapped_bytes
from moeplan.readers.catalog import Catalog
from moeplan.units import MIB
from tests.support.make_gguf import F16, F32, MODELS, model_keys, model_rows, plain, write_gguf

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None, reason="xllamacpp is not installed (pip install 'moeplan[engine]')"
)

# The wheel of October 2026 reserves for batches that mix tokens and embeddings.
ENGINE = replace(find_engine("llama.cpp"), mixes_inputs=True)

SIZES: dict[str, dict[str, int]] = {
    "llama": {"n_vocab": 8000, "n_layer": 5, "n_embd": 768, "n_ff": 2560, "n_head": 12, "n_head_kv": 4},
    "mixtral": {"n_vocab": 6400, "n_layer": 4, "n_embd": 512, "n_ff": 1280, "n_head": 8, "n_expert": 6},
    "qwen3moe": {"n_vocab": 9600, "n_layer": 4, "n_expert": 24, "n_used": 6},
    "deepseek2": {"n_vocab": 7200, "n_layer": 5, "n_expert": 12, "n_used": 4},
    "gpt-oss": {"n_vocab": 5600, "n_layer": 6, "n_embd": 512, "n_ff": 512, "n_ff_exp": 512},
    "gemma3": {"n_vocab": 20000, "n_layer": 13, "n_embd": 640, "n_ff": 1536},
}
SETTINGS: tuple[dict[str, Any], ...] = (
    {"context_tokens": 5120, "ubatch_tokens": 320},
    {"context_tokens": 2816, "ubatch_tokens": 448, "flash_attention": False},
    {"context_tokens": 6144, "ubatch_tokens": 192, "n_sequences": 6},
    {"context_tokens": 3840, "ubatch_tokens": 160, "n_sequences": 5, "kv_unified": True, "repack": False},
    {"context_tokens": 7168, "ubatch_tokens": 640, "kv_type_k": "q8_0", "kv_type_v": "q8_0"},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


def _file(folder: Path, model: str, kind: GGMLQuantizationType = GGMLQuantizationType.F16) -> Path:
    path = folder / f"{model}-{kind.name}.gguf"
    if path.exists():
        return path
    hp = MODELS[model] | SIZES[model]
    head_dim = hp.get("head_dim", hp["n_embd"] // hp["n_head"])
    keys = model_keys(hp) | {
        "tokenizer.ggml.model": "none",
        "context_length": 131072,
        "rope.dimension_count": hp.get("qk_rope", head_dim),
    }
    if "n_ff_exp" in hp:
        keys["expert_feed_forward_length"] = hp["n_ff_exp"]
    if model == "deepseek2":
        keys |= {"expert_weights_scale": 1.0, "expert_weights_norm": True}
    write_gguf(path, hp["arch"], keys, list(model_rows(hp)), lambda row: kind if plain(row) == F16 else F32)
    _fill(path)
    return path


def _fill(path: Path) -> None:
    """Put small random f16 numbers where the writer left a hole; the header stays."""
    from gguf import GGUFReader

    start = int(GGUFReader(path).data_offset)
    noise = (np.random.default_rng(7).standard_normal(1 << 20) * 0.02).astype(np.float16).tobytes()
    left = path.stat().st_size - start
    with path.open("r+b") as file:
        file.seek(start)
        while left > 0:
            left -= file.write(noise[:left])


@cache
def _session() -> Session:
    return Session(Catalog())


def _work(settings: LoadSettings) -> Workload:
    s = settings
    return Workload(
        context_tokens=s.context_tokens // s.n_sequences,
        prompt_tokens=1,
        output_tokens=1,
        n_sequences=s.n_sequences,
        kv_type_k=s.kv_type_k,
        kv_type_v=s.kv_type_v,
        engine="llama.cpp",
        ubatch_tokens=s.ubatch_tokens,
        batch_tokens=s.batch_tokens,
        flash_attention=s.flash_attention,
        output_rows=s.n_sequences,  # llama-server: one row of logits a slot
        kv_unified=s.kv_unified,
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("changes", SETTINGS, ids=lambda s: "-".join(str(v) for v in s.values()))
def test_every_buffer_is_what_the_engine_allocates(folder: Path, model: str, changes: dict[str, Any]) -> None:
    path = _file(folder, model)
    settings = LoadSettings(str(path), **changes)
    found = load(settings)
    source = _session().source(str(path))
    graph = _session().graph(str(path), source.file_quant)
    work, blocks = _work(settings), graph.spec.layer_blocks()
    kv = sum(layer_kv_bytes(block, work, ENGINE) for block in blocks)
    compute = compute_bytes(graph, blocks, work, ENGINE, with_head=True)
    assert sum(found.weights.values()) == pytest.approx(graph.weights_bytes, abs=0.02 * MIB)
    assert found.kv_bytes == pytest.approx(kv, abs=0.02 * MIB)
    assert found.output_bytes == pytest.approx(output_bytes(graph, work), abs=0.02 * MIB)
    assert found.compute["CPU"] == pytest.approx(compute, rel=0.01, abs=0.05 * MIB)
    _check_resident(found, graph.weights_bytes + kv + output_bytes(graph, work), compute, graph)


def _check_resident(found: Allocated, held: float, compute: float, graph: Any) -> None:
    """Peak resident size: all buffers but the compute buffer, which nothing has touched yet.

    What its Python took before is off; code that it only then pages in is not.
    """
    assert repackable_bytes(graph) == 0  # f16 is not rearranged
    if found.peak_rss_bytes is None:
        pytest.skip("no /proc on this system")
    process = host_process_bytes(graph.spec.vocab_size)
    assert held <= found.peak_rss_bytes <= held + process


@pytest.mark.parametrize("model", ["llama", "qwen3moe"])
@pytest.mark.parametrize("mmap", [True, False], ids=["mapped", "loaded"])
def test_rearranged_copies_stay_beside_the_mapped_file(folder: Path, model: str, mmap: bool) -> None:
    path = _file(folder, model, GGMLQuantizationType.Q4_0)
    found = load(LoadSettings(str(path), context_tokens=1536, ubatch_tokens=224, mmap=mmap))
    if "CPU_REPACK" not in found.weights:
        pytest.skip("this processor does not rearrange Q4_0")
    graph = _session().graph(str(path), _session().source(str(path)).file_quant)
    copied = repackable_bytes(graph)
    # Loaded, the original of what was copied is given up; mapped, all between the tensors left alone stays.
    kept = still_mapped_bytes(graph) if mmap else graph.weights_bytes - copied
    assert found.weights["CPU_REPACK"] == pytest.approx(copied, abs=0.02 * MIB)
    assert found.weights["CPU_Mapped" if mmap else "CPU"] == pytest.approx(kept, abs=0.02 * MIB)
    held = kept + copied + found.kv_bytes + found.output_bytes
    if found.peak_rss_bytes is not None:
        assert held <= found.peak_rss_bytes <= held + host_process_bytes(graph.spec.vocab_size)
