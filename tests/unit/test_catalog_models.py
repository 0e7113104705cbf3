"""Every model of the catalog: parameters and cache against counts made without moeplan.

tests/data/model_counts.csv says how its numbers were made.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import pytest

from moeplan.domain.graph import ParamCounts
from moeplan.domain.model import ModelSpec
from moeplan.engines.kv import kv_elements, window_of
from moeplan.graph.deviation import deviation, rounds_to
from moeplan.graph.inventory import build_tensors, param_counts
from moeplan.readers.catalog import Catalog
from moeplan.readers.model_yaml import read_model_yaml
from moeplan.readers.models import resolve_model
from moeplan.readers.paths import shipped_configs
from moeplan.readers.quants import load_quants

COUNTS = Path(__file__).parents[1] / "data" / "model_counts.csv"
LINES = [line for line in COUNTS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
ROWS = {row["id"]: row for row in csv.DictReader(LINES)}

# Attention residuals, which the table leaves out: a norm and a score of 7,168 each, twice in each of 93
# layers and once for the output.
BESIDE_THE_TABLE = {"kimi-k3": (2 * 93 + 1) * 2 * 7168}

# Parameters that a repository stores and nothing accounts for. Kimi K3: its vision tower.
UNEXPLAINED = {
    "kimi-k2": 3_416,
    "kimi-k2-thinking": 7_808,
    "mimo-v2-flash-309b-a15b": 576,
    "kimi-k3": 447_361_184,
}


@cache
def spec_of(model: str) -> ModelSpec:
    return read_model_yaml(shipped_configs() / "models" / f"{model}.yaml")


@cache
def counts_of(model: str) -> ParamCounts:
    spec = spec_of(model)
    return param_counts(spec, build_tensors(spec))


def test_the_table_and_the_catalog_have_the_same_models() -> None:
    assert set(ROWS) == {path.stem for path in (shipped_configs() / "models").glob("*.yaml")}
    assert len(ROWS) >= 157


@pytest.mark.parametrize("model", ROWS)
def test_parameters(model: str) -> None:
    counts, row = counts_of(model), ROWS[model]
    beside = BESIDE_THE_TABLE.get(model, 0)
    # both stay far within what is promised: 0.1% of the total, 0.5% of the active count
    assert beside < 1e-4 * counts.active
    assert counts.total - beside == int(row["params_total"])
    assert counts.active - beside == int(row["params_active"])
    assert counts.active_no_input_embedding - beside == int(row["active_no_input_embedding"])
    assert counts.active_no_embeddings - beside == int(row["active_no_embeddings"])


@pytest.mark.parametrize("model", [model for model, row in ROWS.items() if row["kv_elements_full"]])
def test_cached_elements_a_token(model: str) -> None:
    full = windowed = 0
    windows = set()
    for block in spec_of(model).layer_blocks():
        window = window_of(block)
        if window is None:
            full += sum(kv_elements(block))
        else:
            windowed += sum(kv_elements(block))
            windows.add(window)
    row = ROWS[model]
    assert (full, windowed) == (int(row["kv_elements_full"]), int(row["kv_elements_windowed"]))
    assert windows == ({int(row["window_tokens"])} if row["window_tokens"] else set())


@pytest.mark.parametrize("model", ROWS)
def test_what_a_repository_stores_is_accounted_for(model: str) -> None:
    spec = spec_of(model)
    left = deviation(spec, counts_of(model)).stored_unexplained
    if ROWS[model]["verified"] == "weak":
        assert spec.weak
        assert left is None
        return
    assert not spec.weak
    assert left == UNEXPLAINED.get(model, 0)
    assert left <= 2e-4 * counts_of(model).total


@pytest.mark.parametrize("model", ROWS)
def test_a_difference_from_the_published_counts_has_a_reason(model: str) -> None:
    spec = spec_of(model)
    found = deviation(spec, counts_of(model))
    far = [
        frac
        for frac, is_rounding, limit in (
            (found.total_frac, found.total_is_rounding, 0.01),
            (found.active_frac, found.active_is_rounding, 0.03),
        )
        if frac is not None and abs(frac) > (0.05 if is_rounding else limit)
    ]
    assert spec.published.note or not far, f"{model} differs by {far} and does not say why"


@pytest.mark.parametrize("model", ROWS)
def test_every_model_says_where_it_is_from(model: str) -> None:
    spec = spec_of(model)
    assert spec.id == model
    assert all(source.ref and source.kind != "assumed" for source in spec.sources)
    assert len(spec.sources) >= 1
    assert spec.released and spec.license and spec.family


def test_parts_beside_the_text_model_are_not_counted() -> None:
    # google/gemma-3-27b-pt: 27,432,406,640 parameters, of which SigLIP and its projector are 423,060,336
    spec = spec_of("gemma-3-27b")
    assert sum(part.params for part in spec.parts) == 423_060_336
    assert counts_of("gemma-3-27b").total == 27_432_406_640 - 423_060_336


@pytest.mark.parametrize(
    ("count", "published", "expected"),
    [
        (46_702_792_704, 46.7e9, True),
        (46_750_000_001, 46.7e9, False),
        (6_921_720_704, 7e9, True),
        (1_026_408_232_448, 1e12, True),
        (671_026_419_200, 671e9, True),
        (671_600_000_000, 671e9, False),
    ],
)
def test_rounding(count: int, published: float, expected: bool) -> None:
    assert rounds_to(count, published) is expected


@pytest.mark.parametrize(
    ("name", "context", "vocabulary"),
    [
        ("Qwen/Qwen3-30B-A3B", 40960, 151936),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", 262144, 151936),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", 262144, 151936),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507", 262144, 151936),
        ("Qwen/Qwen3-4B-Instruct-2507", 262144, 151936),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", 131072, 151936),
        ("mistralai/Mistral-Small-24B-Instruct-2501", 32768, 131072),
        ("mistralai/Devstral-Small-2505", 131072, 131072),
        ("moonshotai/Kimi-K2-Instruct-0905", 262144, 163840),
        ("microsoft/Phi-3-mini-4k-instruct", 4096, 32064),
        ("microsoft/Phi-3.5-mini-instruct", 131072, 32064),
        ("ibm-granite/granite-3.3-8b-base", 131072, 49152),
        ("ibm-granite/granite-3.3-8b-instruct", 131072, 49159),
    ],
)
def test_versions_of_a_model_have_their_own_length_and_vocabulary(
    name: str, context: int, vocabulary: int
) -> None:
    spec = resolve_model(name, Catalog(user=Path("/nonexistent")), load_quants()).spec
    assert (spec.context_tokens, spec.vocab_size) == (context, vocabulary)


def test_the_long_phi_3_is_counted_with_all_of_its_context() -> None:
    # 32 heads x (96 + 96) elements x 32 layers a token: no window bounds them
    row = ROWS["phi-3-mini-128k"]
    assert int(row["kv_elements_full"]) == 32 * 192 * 32 and row["window_tokens"] == ""
    assert ROWS["phi-3-mini"]["window_tokens"] == "2047"
