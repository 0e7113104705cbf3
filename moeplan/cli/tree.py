"""The tree of commands. A command's module is imported when it is called, not before."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from moeplan._version import __version__

COMMANDS = {
    "estimate": "Memory, speed and fit of one model on one machine.",
    "plan": "The best way to run a model on a machine, as a command to paste.",
    "compare": "Dense and MoE models side by side on one machine.",
    "textbook": "The simple formulas of articles, from bare numbers.",
    "check": "Budgets and deployment files against predictions, for CI.",
    "profile": "Measure this machine: bandwidth, real forward passes, engines; writes a calibration.",
    "validate": "Predictions against measurements.",
    "calibrate": "Coefficients from a corpus.",
    "models": "The model catalog.",
    "hardware": "The hardware catalog, and this machine.",
    "quants": "The quantisations.",
    "schema": "JSON Schemas of the file formats and results.",
    "doctor": "What is installed, what is found, and a self-test.",
}
"""Name and one line of help of every command; its module is ``moeplan.cli.<name>``."""


class HelpMixin:
    """Help in sections: one per ``rich_help_panel``, examples as they are written."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):  # type: ignore[attr-defined] # of the class it is mixed into
            record = param.get_help_record(ctx)
            if record is not None:
                argument = param.param_type_name == "argument"
                name = "Arguments" if argument else getattr(param, "rich_help_panel", None) or "Options"
                sections.setdefault(name, []).append(record)
        general = sections.pop("Options", [])
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records)
        with formatter.section("Options"):
            formatter.write_dl(general)
        if isinstance(self, TyperGroup):
            self.format_commands(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples line by line."""
        if self.epilog:  # type: ignore[attr-defined] # likewise
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():  # type: ignore[attr-defined] # likewise
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class Command(HelpMixin, TyperCommand):
    """A command with sectioned help. An option that holds one value may be given once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read ``args``; a UsageError for an option whose first value would be lost."""
        single = {
            name: param.opts[0]
            for param in self.get_params(ctx)
            if param.param_type_name == "option" and not getattr(param, "is_flag", False)
            if not getattr(param, "multiple", False)
            for name in param.opts
        }
        given: set[str] = set()
        for word in args[: args.index("--")] if "--" in args else args:
            option = single.get(word.partition("=")[0])
            if option in given:
                hint = (
                    "; GPUs of several kinds are joined by +: rtx-3090+rtx-3060-12gb"
                    if option == "--gpu"
                    else ""
                )
                ctx.fail(f"{option} is given twice{hint}")
            if option is not None:
                given.add(option)
        rest: list[str] = super().parse_args(ctx, args)
        return rest


class Group(HelpMixin, TyperGroup):
    """A group of commands with sectioned help."""


class Root(Group):
    """The top of the tree: finds commands by importing their module, and turns failures into exit codes."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command ``cmd_name``, or None."""
        return load(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, with the whole table to suggest from."""
        self.commands = dict.fromkeys(COMMANDS, self)  # its names are all that is looked at
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run and exit. Never a traceback, unless MOEPLAN_DEBUG is set."""
        from moeplan.cli.failure import guarded

        run = super().main
        sys.exit(guarded(lambda: run(args, "moeplan", standalone_mode=False)))


def load(name: str) -> Any:
    """The command of the module ``moeplan.cli.<name>``, under that name."""
    command = typer.main.get_command(import_module(f"moeplan.cli.{name}").app)
    command.name = name
    return command


def new_app(**settings: Any) -> typer.Typer:
    """A typer application with the settings that all modules share."""
    settings.setdefault("cls", Group)
    return typer.Typer(
        add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, **settings
    )


app = new_app(cls=Root, no_args_is_help=True, name="moeplan")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moeplan {__version__}")
        raise typer.Exit


EXAMPLES = """\
moeplan estimate mixtral-8x7b --hardware rtx-4090 --quant q4_k_m
moeplan estimate model.gguf --gpu rtx-3090 --ram-gib 64 --context max
moeplan models list --moe
moeplan COMMAND --help
"""


@app.callback(epilog=EXAMPLES)
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Will this model run on this machine, how fast, with which placement, and how sure are we?

    Exit codes: 0 done; 1 does not fit or a check failed; 2 wrong use, unreadable file, unknown
    name; 101 internal error.
    """
