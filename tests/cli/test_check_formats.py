"""`moeplan check`: every format is what it claims."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

REPO = Path(__file__).resolve().parents[2]
SCHEMAS = REPO / "tests/data/schemas"
ENGINE_FILE = REPO / "tests/data/deployments/k8s-vllm-llama-70b-tp2-near.yaml"

# ── formats ─────────────────────────────────────────────────────────────────────────────────────


def test_json_matches_its_schema(failing: Path, inside: Callable[..., Any]) -> None:
    ran = inside("check", "--format", "json", "--explain")
    jsonschema.validate(
        ran.json, json.loads((REPO / "configs/schema/check.json").read_text(encoding="utf-8"))
    )
    assert ran.json["schema"] == "moeplan/check@1"
    assert {"id", "verdict", "budget", "value", "reason", "fix", "file", "line"} <= set(ran.json["cases"][0])
    assert ran.json["cases"][0]["explain"]


def test_the_budget_file_matches_its_schema(budgets: str) -> None:
    import yaml

    schema = json.loads((REPO / "configs/schema/budget.json").read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(budgets), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(budgets.replace("max_ms", "max_s")), schema)


def test_junit_is_valid_against_the_xsd_of_jenkins(failing: Path, inside: Callable[..., Any]) -> None:
    import xmlschema

    schema = xmlschema.XMLSchema(SCHEMAS / "junit-10.xsd")
    text = inside("check", "--format", "junit").out
    schema.validate(text)
    suite = ElementTree.fromstring(text).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("14", "2")
    assert len(suite.findall("testcase/failure")) == 2
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        schema.validate(text.replace("<testcase name", "<testcase nom"))


def test_sarif_is_valid_against_its_schema(failing: Path, inside: Callable[..., Any]) -> None:
    schema = json.loads((SCHEMAS / "sarif-schema-2.1.0.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft4Validator(schema)
    log = inside("check", "--format", "sarif").json
    validator.validate(log)
    results = log["runs"][0]["results"]
    assert [r["level"] for r in results].count("error") == 2
    for result in results:
        assert log["runs"][0]["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    region = results[0]["locations"][0]["physicalLocation"]
    assert region["artifactLocation"]["uri"] == "moeplan.check.yaml"
    assert (
        "prefill"
        in (failing / "moeplan.check.yaml").read_text().splitlines()[region["region"]["startLine"] - 1]
    )
    log["runs"][0]["results"][0]["level"] = "dire"
    assert not validator.is_valid(log)


def test_github_annotations_stand_on_the_line_and_are_escaped(
    failing: Path, inside: Callable[..., Any]
) -> None:
    lines = inside("check", "--format", "github").out.splitlines()
    errors = [line for line in lines if line.startswith("::error ")]
    assert len(errors) == 2
    assert errors[0].startswith(
        '::error file=moeplan.check.yaml,line=12,title=moeplan%3A prefill fail::a<b>&"c%25,:|d/'
    )


def test_gitlab_report(failing: Path, inside: Callable[..., Any]) -> None:
    issues = inside("check", "--format", "gitlab").json
    assert len({issue["fingerprint"] for issue in issues}) == len(issues) >= 2
    worst = [issue for issue in issues if issue["severity"] == "critical"]
    assert [issue["location"] for issue in worst] == [
        {"path": "moeplan.check.yaml", "lines": {"begin": 12}}
    ] * 2
    assert set(issues[0]) == {"description", "check_name", "fingerprint", "severity", "location"}


def test_markdown_has_the_worst_first_and_whole_cells(failing: Path, inside: Callable[..., Any]) -> None:
    rows = [
        line for line in inside("check", "--format", "markdown").out.splitlines() if line.startswith("| `")
    ]
    assert len(rows) == 14
    assert [("❌" in row) for row in rows[:3]] == [True, True, False]
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)


def test_the_table_tells_what_failed_and_has_no_colour_in_a_pipe(
    failing: Path, moeplan: Callable[..., Any]
) -> None:
    ran = moeplan("check", cwd=failing)
    assert ran.code == 1
    assert "\x1b" not in ran.out
    assert "FAIL chat/prod/short/prefill  moeplan.check.yaml:12" in ran.out
    assert ran.out.splitlines()[-1] == "fail: 14 checks, 2 failed"


def test_reports_are_written_beside_the_output(failing: Path, inside: Callable[..., Any]) -> None:
    ran = inside("check", "--report", "json=a.json", "--report", "sarif=b.sarif", "--output", "c.txt")
    assert (ran.code, ran.out) == (1, "")
    assert json.loads((failing / "a.json").read_text())["verdict"] == "fail"
    assert json.loads((failing / "b.sarif").read_text())["version"] == "2.1.0"
    assert "FAIL" in (failing / "c.txt").read_text()
    assert inside("check", "--report", "pdf=a.pdf").code == 2
