"""246 loads that a real llama.cpp logged (ggml 0.25.3, a processor, November 2026), every buffer of each.

``tests/data/llama_cpp_buffers.csv``: seven small models of random weights in 18 files, and seven official
sizes opened without their weights. The small models are rebuilt here as files of holes.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import pytest
from gguf import GGMLQuantizationType

from moeplan.domain.graph import ModelGraph
from moeplan.domain.workload import Workload
from moeplan.engines.traits import find_engine
from moeplan.memory.buffers import compute_bytes, output_bytes
from moeplan.memory.cache import layer_kv_bytes
from moeplan.memory.capacity import host_process_bytes
from moeplan.memory.repack import repackable_bytes, still_mapped_bytes
from moeplan.units import MIB
from tests.support.make_gguf import model_keys, model_rows, write_gguf
from tests.support.problems import session, workload

LLAMA = find_engine("llama.cpp")
TABLE = Path(__file__).parents[1] / "data" / "llama_cpp_buffers.csv"

SMALL: dict[str, dict[str, Any]] = {
    "dense1b": {"arch": "llama", "n_layer": 22, "n_embd": 2048, "n_ff": 5632, "n_head": 32, "n_head_kv": 4},
    "dense160m": {"arch": "llama", "n_layer": 12, "n_embd": 768, "n_ff": 2048, "n_head": 12, "n_head_kv": 12},
    "mixtral": {
        "arch": "llama", "n_layer": 16, "n_embd": 1024, "n_ff": 3584, "n_head": 16, "n_head_kv": 4,
        "n_expert": 8, "n_used": 2,
    },
    "qwen3moe": {
        "arch": "qwen3moe", "n_layer": 10, "n_embd": 1024, "n_ff": 3072, "n_ff_exp": 512, "n_head": 16,
        "n_head_kv": 4, "head_dim": 128, "n_expert": 128, "n_used": 8,
    },
    "deepseek2": {
        "arch": "deepseek2", "n_layer": 12, "n_embd": 1024, "n_ff": 4096, "n_ff_exp": 512, "n_head": 16,
        "n_head_kv": 1, "n_expert": 64, "n_used": 6, "n_shared": 2, "n_dense_lead": 1, "q_lora": 768,
        "kv_lora": 512, "qk_nope": 128, "qk_rope": 64, "v_dim": 128,
    },
    "gptoss": {
        "arch": "gpt-oss", "n_layer": 12, "n_embd": 1024, "n_ff": 1024, "n_ff_exp": 1024, "n_head": 16,
        "n_head_kv": 4, "head_dim": 64, "n_expert": 32, "n_used": 4, "swa": 128,
    },
    "gemma3": {
        "arch": "gemma3", "n_layer": 26, "n_embd": 1152, "n_ff": 6912, "n_head": 4, "n_head_kv": 1,
        "head_dim": 256, "n_vocab": 262144, "swa": 512,
    },
}  # fmt: skip
PARTS = ("model", "repack", "kv", "compute", "output")


class Case(NamedTuple):
    """(predicted, logged) MiB of every part of one load, and of its peak resident size."""

    name: str
    parts: dict[str, tuple[float, float]]
    resident: tuple[float, float] | None

    def total(self, *parts: str) -> tuple[float, float]:
        found = [self.parts[part] for part in parts or PARTS]
        return sum(p for p, _ in found), sum(m for _, m in found)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("rows")

    @cache
    def graph_of(model: str) -> ModelGraph:
        small, _, quant = model.partition("-")
        if small not in SMALL:
            return session().graph(model.lower(), "f16")
        plain = _written(folder / f"{small}.gguf", {"n_vocab": 32000} | SMALL[small])
        if quant == "f16":
            return plain
        types = {
            t.name: t.qtype for t in session().graph(str(folder / f"{small}.gguf"), quant.lower()).tensors
        }
        return _written(folder / f"{model}.gguf", {"n_vocab": 32000} | SMALL[small], types)

    with TABLE.open(newline="") as file:
        return [_case(row, graph_of(row["model"])) for row in csv.DictReader(file)]


def _written(path: Path, hp: dict[str, Any], types: dict[str, str] | None = None) -> ModelGraph:
    """A file of holes, f16 unless ``types`` says otherwise, in the order of the logged files."""
    keys = model_keys(hp) | {"tokenizer.ggml.model": "none", "context_length": 131072}
    if "n_ff_exp" in hp:
        keys["expert_feed_forward_length"] = hp["n_ff_exp"]
    rows = list(model_rows(hp))
    for i, row in enumerate(rows):
        if "ffn_up" in row.name and "ffn_down" in rows[min(i + 1, len(rows) - 1)].name:
            rows[i], rows[i + 1] = rows[i + 1], rows[i]
    if types is None:
        write_gguf(path, hp["arch"], keys, rows)
    else:
        write_gguf(path, hp["arch"], keys, rows, lambda row: GGMLQuantizationType[types[row.name].upper()])
    return session().graph(str(path), session().source(str(path)).file_quant)


def _case(row: dict[str, str], graph: ModelGraph) -> Case:
    work, blocks = _workload(row), graph.spec.layer_blocks()
    dry, copied = row["no_alloc"] == "1", float(row["repack_mib"]) > 0
    repacked = repackable_bytes(graph) if copied else 0
    original = still_mapped_bytes(graph) if copied else graph.weights_bytes
    if row["loadmode"] == "none":  # the original is given up once it has been rearranged
        original = graph.weights_bytes - repacked
    found = {
        "model": 0 if dry else original,
        "repack": 0 if dry else repacked,
        "kv": sum(layer_kv_bytes(block, work, LLAMA) for block in blocks),
        "compute": compute_bytes(graph, blocks, work, LLAMA, with_head=True),
        "output": output_bytes(graph, work),
    }
    parts = {part: (size / MIB, float(row[f"{part}_mib"])) for part, size in found.items()}
    resident = None
    if row["peak_rss_mib"]:
        # Nothing has touched the compute buffer of a load that ran no batch.
        held = sum(found.values()) - (found["compute"] if row["ran"] == "0" else 0)
        resident = (held + host_process_bytes(graph.spec.vocab_size)) / MIB, float(row["peak_rss_mib"])
    name = " ".join(f"{k}={v}" for k, v in row.items() if not k.endswith("_mib"))
    return Case(name, parts, resident)


def _workload(row: dict[str, str]) -> Workload:
    sequences, rows = int(row["n_seq"]), int(row["n_outputs_max"])
    return workload(
        context_tokens=int(row["n_ctx"]) // sequences,
        prompt_tokens=1,
        n_sequences=sequences,
        ubatch_tokens=int(row["n_ubatch"]),
        flash_attention=row["fa"] != "0",
        kv_type_k=row["type_k"],
        kv_type_v=row["type_v"],
        output_rows=rows or None,
        kv_unified=row["kv_unified"] == "1",
        swa_full=row["swa_full"] == "1",
    )


def _factor(pair: tuple[float, float]) -> float:
    predicted, logged = pair
    return max(predicted / logged, logged / predicted) - 1


def test_weights_cache_and_output_are_exact(cases: list[Case]) -> None:
    assert len(cases) == 246
    for case in cases:
        for part in ("model", "repack", "kv", "output"):
            predicted, logged = case.parts[part]
            assert predicted == pytest.approx(logged, abs=0.02), (part, case.name)


def test_compute_buffers(cases: list[Case]) -> None:
    errors = [_factor(case.parts["compute"]) for case in cases]
    assert median(errors) < 0.0001
    assert quantiles(errors, n=10)[-1] < 0.001
    # Gemma-3-27B at 32k with all logits is 10 MiB of 513 too large.
    assert max(errors) < 0.02


def test_no_total_is_under(cases: list[Case]) -> None:
    """With and without the weights, which would hide what buffers lack."""
    for case in cases:
        predicted, logged = case.total("kv", "compute", "output")
        assert predicted > logged * 0.999, case.name
        predicted, logged = case.total()
        assert predicted > logged * 0.9999, case.name


def test_peak_resident_size(cases: list[Case]) -> None:
    pairs = [case.resident for case in cases if case.resident]
    assert len(pairs) == 183
    assert median([_factor(pair) for pair in pairs]) < 0.003
    assert min(predicted / logged for predicted, logged in pairs) > 1


def test_the_engine_itself_takes_less_for_a_longer_context(cases: list[Case]) -> None:
    """gpt-oss-20b with all logits: its compute buffer falls from 4k to 32k, and so does ours."""
    name = "model=gpt-oss-20b n_ctx={} n_batch=2048 n_ubatch=512 fa=1"
    short, long = (
        next(case.parts["compute"] for case in cases if case.name.startswith(name.format(n)))
        for n in (4096, 32768)
    )
    assert (short[1], long[1]) == (414.4, 409.63)
    assert long[0] < short[0]
