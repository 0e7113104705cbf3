"""The check for machines: JUnit XML, SARIF 2.1.0, GitHub annotations, GitLab code quality.

None of them holds a time or a host's name: the same input gives the same bytes.
References: junit-10.xsd of Jenkins' xUnit plugin; SARIF 2.1.0 (OASIS, errata 01); GitHub "Workflow commands";
GitLab "Code Quality report format".
"""

from __future__ import annotations

import hashlib
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from moeplan.domain.budget import CaseResult, CheckReport
from moeplan.report.check_words import BUDGETS, headline, message, severity
from moeplan.report.estimate_json import pretty
from moeplan.report.layout import printable

_SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_SARIF_LEVELS = {"error": "error", "warning": "warning", "notice": "note"}
_GITLAB_LEVELS = {"error": "critical", "warning": "minor", "notice": "info"}


def junit(report: CheckReport) -> str:
    """One suite per file, one test case per result; what does not block is skipped, not failed."""
    files = list(dict.fromkeys(result.file for result in report.results))
    suites = [_suite(report, file) for file in files]
    failed = sum(severity(report, result) == "error" for result in report.results)
    head = f'<testsuites name="moeplan check" tests="{len(report.results)}" failures="{failed}" errors="0">'
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + "\n".join([head, *suites, "</testsuites>"]) + "\n"


def _suite(report: CheckReport, file: str) -> str:
    results = [result for result in report.results if result.file == file]
    levels = [severity(report, result) for result in results]
    failed, skipped = levels.count("error"), levels.count("warning")
    counts = f'tests="{len(results)}" failures="{failed}" errors="0" skipped="{skipped}"'
    lines = [f"  <testsuite name={_attribute(file)} {counts}>"]
    for result, level in zip(results, levels, strict=True):
        lines.append(_testcase(result, level))
    return "\n".join([*lines, "  </testsuite>"])


def _testcase(result: CaseResult, level: str) -> str:
    head = f"    <testcase name={_attribute(result.id)} classname={_attribute(result.file)}"
    if level not in ("error", "warning"):
        out = f"<system-out>{_text(message(result))}</system-out>"
        return f"{head}>{out}</testcase>"
    tag = "failure" if level == "error" else "skipped"
    place = f"{result.file}:{result.line}: {message(result)}"
    attributes = f"type={_attribute(result.budget)} message={_attribute(message(result))}"
    return f"{head}><{tag} {attributes}>{_text(place)}</{tag}></testcase>"


def _attribute(text: str) -> str:
    return quoteattr(printable(text))


def _text(text: str) -> str:
    return escape(printable(text))


def sarif(report: CheckReport) -> str:
    """One result for everything that does not hold or only just does."""
    shown = [(result, severity(report, result)) for result in report.results]
    rules = [
        {"id": f"moeplan/{kind}", "name": kind, "shortDescription": {"text": f"moeplan budget: {words}"}}
        for kind, words in BUDGETS.items()
    ]
    results = [
        {
            "ruleId": f"moeplan/{result.budget}",
            "ruleIndex": list(BUDGETS).index(result.budget),
            "level": _SARIF_LEVELS[level],
            "message": {"text": printable(message(result))},
            "locations": [{"physicalLocation": _location(result)}],
            "partialFingerprints": {"moeplanCase/v1": _fingerprint(result)},
        }
        for result, level in shown
        if level
    ]
    driver = {"name": "moeplan", "version": report.program, "semanticVersion": report.program, "rules": rules}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return pretty({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]})


def _location(result: CaseResult) -> dict[str, object]:
    location: dict[str, object] = {"artifactLocation": {"uri": quote(result.file)}}
    if result.line:
        location["region"] = {"startLine": result.line}
    return location


def _fingerprint(result: CaseResult) -> str:
    return hashlib.sha256(f"{result.file}\0{result.id}".encode()).hexdigest()[:32]


def github(report: CheckReport) -> str:
    """Workflow commands: an annotation on the line of everything that does not hold or only just does."""
    lines = []
    for result in report.results:
        level = severity(report, result)
        if level:
            place = f"file={_property(result.file)}" + (f",line={result.line}" if result.line else "")
            title = _property(f"moeplan: {result.budget} {result.verdict}")
            lines.append(f"::{level} {place},title={title}::{_command(message(result))}")
    return "\n".join([*lines, headline(report)]) + "\n"


def _command(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _command(text).replace(":", "%3A").replace(",", "%2C")


def gitlab(report: CheckReport) -> str:
    """A Code Quality report."""
    issues = [
        {
            "description": printable(message(result)),
            "check_name": f"moeplan/{result.budget}",
            "fingerprint": _fingerprint(result),
            "severity": _GITLAB_LEVELS[level],
            "location": {"path": result.file, "lines": {"begin": max(result.line, 1)}},
        }
        for result in report.results
        if (level := severity(report, result))
    ]
    return pretty(issues)
