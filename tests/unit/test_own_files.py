"""A file of moeplan's own in the wrong place is named for what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

import moeplan
from moeplan.api.check import Checker, Options
from moeplan.errors import SpecError
from moeplan.readers.catalog import Catalog
from moeplan.readers.own_files import kind_of, kind_of_file
from moeplan.readers.paths import shipped_configs
from tests.support.problems import session

CONFIGS = shipped_configs()
NODE = next((CONFIGS / "hardware/node").glob("*.yaml"))
MODEL = CONFIGS / "models/falcon-7b.yaml"


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("models", "a model"),
        ("hardware/node", "a machine"),
        ("hardware/gpu", "a GPU"),
        ("hardware/cpu", "a CPU"),
        ("hardware/link", "a link"),
        ("hardware/storage", "a disk"),
        ("engines", "the options of an engine"),
    ],
)
def test_every_file_of_the_catalog_is_told(folder: str, kind: str) -> None:
    paths = sorted((CONFIGS / folder).glob("*.yaml"))[:25]
    assert paths
    assert {kind_of_file(path) for path in paths} == {kind}


@pytest.mark.parametrize(
    "data",
    [{}, [], None, {"id": "x", "name": "y"}, {"services": {}, "version": "3"}, {"replicas": 2, "image": {}}],
)
def test_what_is_not_ours_has_no_name(data: object) -> None:
    assert kind_of(data) == ""


def test_the_json_of_a_command_is_told() -> None:
    assert kind_of({"schema": "moeplan/plan@1", "best": None}) == "the JSON of `moeplan plan`"


def checker() -> Checker:
    return Checker(Catalog(user=shipped_configs()), Options(hardware="rtx-4090"))


def test_a_machine_is_nothing_to_check() -> None:
    for options in (Options(hardware="rtx-4090"), Options()):
        with pytest.raises(SpecError, match="describes a machine; expected are budgets") as refused:
            Checker(Catalog(user=shipped_configs()), options).check([str(NODE)])
        assert refused.value.path == str(NODE)
        assert f"--hardware {NODE} checks FILE on it" in str(refused.value.help)
    with pytest.raises(SpecError, match="describes a model; expected are budgets"):
        checker().check([str(MODEL)])


def test_a_machine_named_as_a_deployment(tmp_path: Path) -> None:
    path = tmp_path / "moeplan.check.yaml"
    path.write_text(f"deployments:\n  - {{file: {NODE}, hardware: rtx-4090}}\n")
    with pytest.raises(SpecError, match="describes a machine"):
        checker().check([str(path)])


def test_models_and_hardware_alone_are_budgets(tmp_path: Path) -> None:
    path = tmp_path / "sizes.yaml"
    path.write_text("models: [llama-3.1-8b]\nhardware: [h100-sxm-80gb]\n")
    report = checker().check([str(path)])
    assert [(r.id, r.verdict) for r in report.results] == [("llama-3.1-8b/h100-sxm-80gb/fits", "pass")]


def test_a_machine_where_a_model_belongs_and_the_other_way_round() -> None:
    with pytest.raises(SpecError, match="describes a machine, where a model was expected"):
        session().source(str(NODE))
    with pytest.raises(SpecError, match="describes a model, where a machine was expected"):
        moeplan.estimate("falcon-7b", hardware=str(MODEL))
    with pytest.raises(SpecError, match="describes a model, where a calibration was expected"):
        moeplan.estimate("falcon-7b", hardware="rtx-4090", calibration=str(MODEL))


def test_a_file_that_is_no_yaml_is_no_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("a machine\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="is no YAML file of a machine"):
        moeplan.estimate("falcon-7b", hardware="notes.txt")


def test_a_typing_error_is_still_told_as_one(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(MODEL.read_text().replace("vocab_size:", "vocab_sise:"))
    with pytest.raises(SpecError, match="unknown key `vocab_sise`"):
        session().source(str(path))
