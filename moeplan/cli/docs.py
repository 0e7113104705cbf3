"""`python -m moeplan.cli.docs`: docs/cli.md and configs/schema/*.json, generated from the program itself.

python -m moeplan.cli.docs --write     renew the files
python -m moeplan.cli.docs --check     exit 1 when one is out of date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import typer.main

from moeplan.cli.tree import app
from moeplan.report.estimate_json import pretty
from moeplan.report.schemas import SCHEMAS, json_schema

REPO = Path(__file__).resolve().parents[2]

_HEAD = """\
# Command line

Generated from the program by `python -m moeplan.cli.docs --write`.

Sizes take a unit (`24GiB`, `24GB`) or are plain numbers in the unit of the option's name; GB/s is 10^9 bytes
per second. The result goes to stdout, notes and errors to stderr. In a pipe or a file the rows
of a list are whole; `COLUMNS` sets a width.

| exit code | means |
|---|---|
| 0 | done |
| 1 | it does not fit, or a check failed; the result is printed all the same |
| 2 | wrong use, an unreadable file, an unknown name, something not modelled |
| 101 | internal error: please report it |
"""


def cli_markdown() -> str:
    """The text of docs/cli.md."""
    command = typer.main.get_command(app)
    context: Any = typer.Context(command, info_name="moeplan")
    return _HEAD + "".join(_sections(command, context, "moeplan"))


def _sections(command: Any, context: Any, path: str) -> Iterator[str]:
    level = "#" * (1 + len(path.split()))
    yield f"\n{level} `{path}`\n\n"
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    yield f"{_prose(command.help)}\n\n```\n{usage}\n```\n"
    yield from _options(command, context)
    if command.epilog:
        yield f"\n```sh\n{command.epilog}```\n"
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            inner = type(context)(child, info_name=name, parent=context)
            yield from _sections(child, inner, f"{path} {name}")


def _prose(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


def _options(command: Any, context: Any) -> Iterator[str]:
    records = [(p, p.get_help_record(context)) for p in command.get_params(context)]
    rows = [(record[0], " ".join(record[1].split())) for _, record in records if record is not None]
    rows = [row for row in rows if row[0] != "--help"]
    if not rows:
        return
    yield "\n| argument or option | |\n|---|---|\n"
    for name, text in rows:
        yield f"| `{_cell(name)}` | {_cell(text)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def files() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    schemas = {REPO / "configs" / "schema" / f"{name}.json": pretty(json_schema(name)) for name in SCHEMAS}
    return {REPO / "docs" / "cli.md": cli_markdown(), **schemas}


def stale() -> list[Path]:
    """The generated files that are missing or differ."""
    return [
        path
        for path, text in files().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str]) -> int:
    """Write the files, or say which are out of date."""
    if arguments == ["--write"]:
        for path, text in files().items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return 0
    if arguments == ["--check"]:
        old = stale()
        for path in old:
            print(f"out of date: {path.relative_to(REPO)}", file=sys.stderr)
        return 1 if old else 0
    print("usage: python -m moeplan.cli.docs --write|--check", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
