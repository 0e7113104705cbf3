"""The -ot patterns of a plan against the tensor list of a file: exactly what the plan moved, nothing else."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from moeplan.api.resolve import Session
from moeplan.engines.traits import find_engine
from moeplan.predict.placement import moe_layers
from moeplan.readers.catalog import Catalog
from moeplan.search.layout import hosted_last, one_gpu, several_gpus, to_placement
from moeplan.search.overrides import hosted_layers, n_cpu_moe, tensor_overrides
from tests.support.make_gguf import write_model

gguf = pytest.importorskip("gguf")

LLAMA = find_engine("llama.cpp")


@pytest.mark.parametrize("model", ["mixtral", "qwen3moe", "deepseek2", "gpt-oss"])
def test_patterns_move_exactly_the_hosted_experts(model: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / f"{model}.gguf", model, n_layer=13)
    names = [tensor.name for tensor in gguf.GGUFReader(path).tensors]
    session = Session(Catalog())
    source = session.source(str(path))
    graph = session.graph(str(path), source.file_quant)
    rng = random.Random(5)
    layouts = [one_gpu(13, r, rng.randrange(r, 14)) for r in range(12)]
    layouts += [hosted_last(13, i) for i in range(13)]
    layouts += [several_gpus(13, 1, (5, 13), (rng.randrange(5), rng.randrange(9))) for _ in range(12)]
    for layout in layouts:
        placement = to_placement(layout, graph, LLAMA)
        hosted = hosted_layers(placement)
        # what the plan's sums count as moved: every stacked tensor of a hosted layer
        moved = {t.name for t in graph.tensors if t.expert_stacked and t.layer in hosted}
        # llama.cpp searches each tensor's name for the pattern (std::regex_search, llama-model-loader.cpp)
        patterns = [override.rsplit("=", 1)[0] for override in tensor_overrides(placement)]
        assert {name for name in names if any(re.search(p, name) for p in patterns)} == moved
        count = n_cpu_moe(graph, placement)
        if count is not None:
            # --n-cpu-moe N is the same pattern for each of the first N layers (common/arg.cpp)
            on_gpu = {i for i in moe_layers(graph.spec) if i < count} - {
                i for i, tier in enumerate(placement.dense_tiers) if tier == "ram"
            }
            assert on_gpu == set(hosted)
