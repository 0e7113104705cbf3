"""Every command explains itself: help with an example, a place in docs/cli.md, examples that parse."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from moeplan.cli import docs
from moeplan.cli.app import main
from moeplan.cli.tree import app

REPO = Path(__file__).resolve().parents[2]


def _is_group(command: Any) -> bool:
    return hasattr(command, "list_commands")


@cache
def _root() -> tuple[Any, Any]:
    command = typer.main.get_command(app)
    return command, typer.Context(command, info_name="moeplan")  # type: ignore[arg-type, unused-ignore]


def commands() -> Iterator[tuple[str, Any]]:
    """(``moeplan models list``, its command) for the whole tree, groups included."""
    root, context = _root()
    waiting = [("moeplan", root)]
    while waiting:
        path, command = waiting.pop()
        yield path, command
        if _is_group(command):
            waiting += [
                (f"{path} {name}", command.get_command(context, name))
                for name in command.list_commands(context)
            ]


PATHS = sorted(path for path, _ in commands())


def help_of(path: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``PATH --help`` prints."""
    with pytest.raises(SystemExit) as stop:
        main([*path.split()[1:], "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def parse(line: str) -> None:
    """Parse a command line as the program would, without running it; raises where it is refused."""
    words = shlex.split(line, comments=True)
    command, context = _root()
    path, rest = words[0], words[1:]
    while _is_group(command):
        if not rest or rest[0].startswith("-"):
            return
        path, command, rest = f"{path} {rest[0]}", command.get_command(context, rest[0]), rest[1:]
        assert command is not None, f"no such command: {path}"
    if "--help" not in rest:
        command.make_context(path, rest)


def test_the_contract_is_covered() -> None:
    # the commands of the first release
    assert {
        "moeplan estimate",
        "moeplan check",
        "moeplan models list",
        "moeplan models show",
        "moeplan hardware list",
        "moeplan hardware show",
        "moeplan hardware detect",
        "moeplan quants list",
        "moeplan schema",
        "moeplan doctor",
    } <= set(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_help_has_an_example_that_parses(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(path, capsys)
    assert text.lstrip().startswith("Usage:")
    lines = [line.strip() for line in text.partition("Examples:")[2].splitlines()]
    examples = [line for line in lines if line.startswith(path)]
    assert examples, f"{path} --help shows no example of itself"
    for example in examples:
        if "COMMAND" not in example:
            parse(example)


@pytest.mark.parametrize("path", PATHS)
def test_every_option_says_what_it_does(path: str) -> None:
    command = dict(commands())[path]
    silent = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]
    assert silent == []


@pytest.mark.parametrize("path", [path for path in PATHS if path != "moeplan"])
def test_docs_name_every_command_and_option(path: str) -> None:
    text = (REPO / "docs" / "cli.md").read_text(encoding="utf-8")
    section = re.search(
        rf"^#+ `?{re.escape(path)}\b`?.*?$(.*?)(?=^#+ `?moeplan|\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert section, f"docs/cli.md has no section {path!r}"
    options = {name for p in dict(commands())[path].params for name in p.opts if name.startswith("--")}
    assert {name for name in options - {"--help"} if name not in section[1]} == set()


def test_generated_files_are_up_to_date() -> None:
    stale = [str(path.relative_to(REPO)) for path in docs.stale()]
    assert stale == [], "run `make docs`"


def documented_lines() -> list[str]:
    """Every line of a code block in README.md and docs/ that calls moeplan."""
    lines = []
    for path in [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for block in re.findall(r"^```(?:sh|bash|console|text)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            joined = re.sub(r"\\\n\s*", " ", block)
            calls = re.findall(r"^(?:\$ )?(moeplan [a-z].*)$", joined, re.MULTILINE)
            lines += [call for call in calls if not re.search(r"\[OPTIONS\]|[A-Z]{4}", call)]
    return lines


def test_the_documentation_shows_commands_that_parse() -> None:
    lines = documented_lines()
    assert len(lines) >= 5, "README.md and docs/ show hardly any command"
    for line in lines:
        parse(re.split(r" [|>] ", line)[0])


@pytest.mark.parametrize(
    "line", ["moeplan nosuch", "moeplan estimate mixtral-8x7b --nosuch 1", "moeplan models show"]
)
def test_the_parser_of_examples_refuses(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|missing"):
        parse(line)
