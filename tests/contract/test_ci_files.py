"""The files that bring `moeplan check` into other people's CI, run as their runners run them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DEPLOYMENTS = "tests/data/deployments"
SHIPPED = (
    "moeplan",
    "configs",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "action.yml",
    ".pre-commit-hooks.yaml",
)

BUDGETS = """\
schema: moeplan/budget@1
hardware: {prod: {gpu: a100-sxm-80gb, n_gpus: 2}}
deployments:
  - file: deploy.yaml
    hardware: prod
    budgets: {context: {min_tokens: 4096}}
"""


def run(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with a clean environment and these variables."""
    keep = {
        k: v for k, v in os.environ.items() if k.startswith(("PATH", "HOME", "PIP_", "LANG", "SSL_", "UV_"))
    }
    return subprocess.run(
        command, cwd=cwd, env=keep | environment, capture_output=True, text=True, check=False, timeout=300
    )


def git(folder: Path, *arguments: str) -> str:
    """stdout of git in ``folder``."""
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    done = run(["git", *who, *arguments], folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def scratch_repository(folder: Path, repo: Path) -> Path:
    """A team's repository with a deployment and its budgets, committed on main."""
    folder.mkdir()
    text = (repo / DEPLOYMENTS / "k8s-vllm-llama-70b-tp2-094.yaml").read_text(encoding="utf-8")
    (folder / "deploy.yaml").write_text(text, encoding="utf-8")
    (folder / "moeplan.check.yaml").write_text(BUDGETS, encoding="utf-8")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


def break_it(folder: Path) -> None:
    """The change of a pull request that no longer fits."""
    path = folder / "deploy.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("max-model-len=8192", "max-model-len=131072"), encoding="utf-8")


# ── the GitHub action ───────────────────────────────────────────────────────────────────────────


class Runner:
    """Runs the steps of a composite action as GitHub's runner does."""

    def __init__(self, action: Path, work: Path, temp: Path) -> None:
        self.action = yaml.safe_load(action.read_text(encoding="utf-8"))
        self.action_path = action.parent
        self.work = work
        self.temp = temp
        temp.mkdir()
        self.output, self.summary = temp / "output", temp / "summary.md"
        self.output.touch()
        self.summary.touch()

    def steps(self, **inputs: str) -> subprocess.CompletedProcess[str]:
        """Run every step until one fails; the last one's result."""
        assert self.action["runs"]["using"] == "composite"
        defaults = {name: str(spec.get("default", "")) for name, spec in self.action["inputs"].items()}
        assert set(inputs) <= {name.replace("-", "_") for name in defaults}
        given = defaults | {name.replace("_", "-"): value for name, value in inputs.items()}
        for step in self.action["runs"]["steps"]:
            assert step["shell"] == "bash"
            assert "${{" not in step["run"], "an expression in a script is a way in for injection"
            environment = {name: self.expand(text, given) for name, text in step.get("env", {}).items()}
            done = run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                self.work,
                RUNNER_TEMP=str(self.temp),
                GITHUB_OUTPUT=str(self.output),
                GITHUB_STEP_SUMMARY=str(self.summary),
                GITHUB_ACTIONS="true",
                **environment,
            )
            if done.returncode:
                return done
        return done

    def expand(self, text: str, inputs: dict[str, str]) -> str:
        """Fill in ``${{ inputs.x }}`` and ``${{ github.action_path }}``."""

        def value(match: re.Match[str]) -> str:
            name = match[1].strip()
            return (
                str(self.action_path)
                if name == "github.action_path"
                else inputs[name.removeprefix("inputs.")]
            )

        return re.sub(r"\$\{\{(.*?)\}\}", value, text)


@pytest.mark.slow
def test_the_action_runs_end_to_end(repo: Path, tmp_path: Path) -> None:
    work = scratch_repository(tmp_path / "work", repo)
    runner = Runner(repo / "action.yml", work, tmp_path / "temp")
    done = runner.steps(python=sys.executable, git_base="main")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict=pass" in runner.output.read_text()

    break_it(work)
    runner = Runner(repo / "action.yml", work, tmp_path / "temp2")
    done = runner.steps(python=sys.executable, git_base="main", sarif="m.sarif", arguments="--explain")
    assert done.returncode == 1, done.stderr
    (first, *_) = [line for line in done.stdout.splitlines() if line.startswith("::error ")]
    # the annotation stands on the line of the changed option
    line = int(first.partition(",line=")[2].partition(",")[0])
    assert first.startswith("::error file=deploy.yaml,")
    assert "max-model-len=131072" in (work / "deploy.yaml").read_text().splitlines()[line - 1]
    assert "worse than the baseline" in first
    assert "❌ fail" in runner.summary.read_text(encoding="utf-8")
    assert "verdict=fail" in runner.output.read_text()
    assert (work / "m.sarif").is_file()
    assert (work / "moeplan-check.json").is_file()

    (work / "moeplan.check.yaml").write_text("budgets: {cost: {usd: 1}}\n", encoding="utf-8")
    runner = Runner(repo / "action.yml", work, tmp_path / "temp3")
    done = runner.steps(python=sys.executable)
    assert done.returncode == 2
    assert "not modelled yet: budget `cost`" in done.stderr


# ── pre-commit ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_the_hook_runs_end_to_end(repo: Path, tmp_path: Path) -> None:
    hooks = tmp_path / "moeplan"
    hooks.mkdir()
    for name in SHIPPED:
        source = repo / name
        if source.is_dir():
            shutil.copytree(source, hooks / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, hooks / name)
    git(hooks, "init", "-q", "-b", "main")
    git(hooks, "add", "-A", ".")
    git(hooks, "commit", "-qm", "one")

    work = scratch_repository(tmp_path / "work", repo)
    config = {
        "repos": [
            {"repo": str(hooks), "rev": git(hooks, "rev-parse", "HEAD"), "hooks": [{"id": "moeplan-check"}]}
        ]
    }
    (work / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    git(work, "add", ".")
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--verbose"]
    done = run(command, work, PRE_COMMIT_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Passed" in done.stdout

    break_it(work)
    git(work, "add", ".")
    done = run([*command[:-2], "--verbose"], work, PRE_COMMIT_HOME=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert "short on gpu0" in " ".join(done.stdout.split())


def test_the_hooks_start_for_deployments_and_for_nothing_else(repo: Path) -> None:
    hooks = yaml.safe_load((repo / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert [hook["id"] for hook in hooks] == ["moeplan-check", "moeplan-check-files"]
    budgets, files = (re.compile(hook["files"]) for hook in hooks)
    for name in ("moeplan.check.yaml", "a/deploy.yml", "serve.sh", "Modelfile", "x/Modelfile.chat"):
        assert budgets.search(name), name
    for name in ("README.md", "src/main.py", "Modelfiles.md.py/x"):
        assert not budgets.search(name), name
    assert files.search("docker-compose.yml")
    assert not files.search("mkdocs.yml")


# ── GitLab, container ───────────────────────────────────────────────────────────────────────────


def test_the_gitlab_job_calls_what_there_is(repo: Path, tmp_path: Path) -> None:
    job = yaml.safe_load((repo / "templates/gitlab.yml").read_text(encoding="utf-8"))[".moeplan-check"]
    work = scratch_repository(tmp_path / "work", repo)
    (script,) = job["script"]
    variables = {name: str(value) for name, value in job["variables"].items()}
    shim = tmp_path / "bin"
    shim.mkdir()
    (shim / "moeplan").write_text(f'#!/bin/sh\nexec {sys.executable} -m moeplan "$@"\n', encoding="utf-8")
    (shim / "moeplan").chmod(0o755)
    path = f"{shim}:{os.environ['PATH']}"
    done = run(["sh", "-c", script], work, **(variables | {"PATH": path, "PYTHONPATH": str(repo)}))
    assert done.returncode == 0, done.stderr
    for name in (*job["artifacts"]["reports"].values(), *job["artifacts"]["paths"]):
        assert (work / name).is_file(), name


def test_the_container_runs_the_command_as_nobody(repo: Path) -> None:
    lines = (repo / "Containerfile").read_text(encoding="utf-8").splitlines()
    words = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    assert words["FROM"].startswith("docker.io/library/python:3.")
    assert words["ENTRYPOINT"] == '["moeplan"]'
    assert words["USER"] != "root"
