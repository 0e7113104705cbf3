"""Published scores: who has them, from where, and what a broken file says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from moeplan.errors import SpecError
from moeplan.readers.catalog import Catalog
from moeplan.readers.quality import read_quality

REPO = Path(__file__).resolve().parents[2]
# Scored by the sources beside models of the catalog, but not in the catalog themselves.
NOT_IN_THE_CATALOG = {"deepseek-7b", "deepseek-67b", "qwen-7b", "qwen-14b", "qwen-72b"}

BROKEN = """\
metrics: {mmlu: MMLU}
sources:
  card: {kind: paper, ref: model card}
rows:
  - {model: a, variant: base, source: SOURCE, checked: CHECKED, scores: {METRIC: VALUE}}
"""


def test_mixtral_and_llama_2() -> None:
    scores = read_quality(["mixtral-8x7b", "llama-2-70b"])
    # arXiv:2401.04088, Table 2
    assert {s.metric: s.value for s in scores["mixtral-8x7b"]} == {
        "MMLU": 70.6, "HumanEval": 40.2, "HellaSwag": 84.4,
    }  # fmt: skip
    assert {s.metric: s.value for s in scores["llama-2-70b"]} == {
        "MMLU": 69.9, "HumanEval": 29.3, "HellaSwag": 85.4,
    }  # fmt: skip
    assert all("2401.04088" in s.source.ref and s.variant == "base" for s in scores["mixtral-8x7b"])


def test_sources_that_disagree_both_stand() -> None:
    # Meta's card says 79.5, DeepSeek's harness 78.9
    base = [
        s for s in read_quality(["llama-3-70b"])["llama-3-70b"] if (s.metric, s.variant) == ("MMLU", "base")
    ]
    assert sorted(s.value for s in base) == [78.9, 79.5]
    assert len({s.source for s in base}) == 2


def test_every_scored_model_is_in_the_catalog() -> None:
    rows = yaml.safe_load((REPO / "configs/quality.yaml").read_text(encoding="utf-8"))["rows"]
    models = {row["model"] for row in rows}
    assert len(rows) > 60
    assert models - set(Catalog().ids("models")) == NOT_IN_THE_CATALOG


def test_only_what_is_asked_for_is_answered() -> None:
    assert read_quality(["no-such-model"]) == {}


@pytest.mark.parametrize(
    ("change", "what", "line"),
    [
        (("SOURCE", "blog"), "no source `blog`", 5),
        (("METRIC", "arc"), "no metric `arc`", 5),
        (("VALUE", "101"), "100", 5),
        (("CHECKED", "trusted"), "trusted", 5),
        (("model: a", "modle: a"), "modle", 5),
    ],
)
def test_mistakes_have_a_place(tmp_path: Path, change: tuple[str, str], what: str, line: int) -> None:
    text = BROKEN.replace(*change)
    for name, good in (("SOURCE", "card"), ("CHECKED", "quoted"), ("METRIC", "mmlu"), ("VALUE", "70")):
        text = text.replace(name, good)
    (tmp_path / "quality.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=what) as caught:
        read_quality(["a"], tmp_path)
    assert caught.value.line == line


def test_the_users_own_scores_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "moeplan").mkdir()
    text = BROKEN.replace("SOURCE", "card").replace("CHECKED", "re-read")
    text = text.replace("METRIC", "mmlu").replace("VALUE", "70").replace("model: a", "model: mixtral-8x7b")
    (tmp_path / "moeplan" / "quality.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    mmlu = [s.value for s in read_quality(["mixtral-8x7b"])["mixtral-8x7b"] if s.metric == "MMLU"]
    assert mmlu == [70.6, 70.0]
