"""`moeplan check`: sizing as a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moeplan.cli import options as opt
from moeplan.cli.tree import Command, new_app
from moeplan.errors import SpecError

if TYPE_CHECKING:
    from moeplan.api.check import Options
    from moeplan.domain.budget import CheckReport
    from moeplan.readers.catalog import Catalog

app = new_app()

EXAMPLES = """\
moeplan check
moeplan check deploy.yaml --hardware a100-sxm-80gb
moeplan check serve.sh --gpu rtx-4090 --n-gpus 2 --ram-gib 128 --explain
moeplan check moeplan.check.yaml --git-base origin/main --format markdown
moeplan check --baseline main.json --format github --report sarif=check.sarif
moeplan check --init --hardware h100-sxm-80gb
"""
FORMATS = ("table", "json", "markdown", "junit", "sarif", "github", "gitlab")


@app.command(cls=Command, epilog=EXAMPLES)
def check(
    ctx: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Budget files, or deployments: Compose, Kubernetes, Helm values, shell scripts, Modelfiles. "
            "Default: moeplan.check.yaml.",
        ),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            "--hardware",
            metavar="HARDWARE",
            help="GPU or machine that deployments run on. There is no default.",
            rich_help_panel="Machine",
        ),
    ] = None,
    gpu: opt.Gpu = None,
    n_gpus: opt.NGpus = None,
    cpu: opt.Cpu = None,
    ram_gib: opt.RamGib = None,
    ram_gbs: opt.RamGbs = None,
    pcie: opt.Pcie = None,
    link: opt.Link = None,
    storage_gbs: opt.StorageGbs = None,
    reserve_vram_gib: opt.ReserveVram = None,
    unsure: Annotated[
        Literal["fail", "warn"],
        typer.Option("--unsure", help="What an interval that straddles its budget does."),
    ] = "fail",
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="FILE", help="JSON of an earlier run: only what got worse blocks."
        ),
    ] = None,
    git_base: Annotated[
        str | None,
        typer.Option("--git-base", metavar="COMMIT", help="Compare with the files of this commit."),
    ] = None,
    ignore_flag: Annotated[
        list[str] | None,
        typer.Option("--ignore-flag", metavar="FLAG", help="Pass over this option of an engine; repeatable."),
    ] = None,
    init: Annotated[
        bool, typer.Option("--init", help="Write a first moeplan.check.yaml from the deployments found here.")
    ] = False,
    calibration: opt.Calibration = None,
    explain: opt.Explain = False,
    report: Annotated[
        list[str] | None,
        typer.Option("--report", metavar="FORMAT=FILE", help="Also write FILE in FORMAT; repeatable."),
    ] = None,
    format: Annotated[
        Literal["table", "json", "markdown", "junit", "sarif", "github", "gitlab"],
        typer.Option("--format", help="How to print the result."),
    ] = "table",
    output: opt.Output = None,
    configs: opt.Configs = None,
) -> None:
    """Budgets and deployment files against predictions: fits or not, fast enough or not, worse or not.

    Exit code 1 when a budget does not hold, or is unsure and --unsure is fail; 2 when a file cannot be
    understood or asks for what is not modelled. Nothing is taken from the machine it runs on.
    """
    from moeplan.api.check import DEFAULT_FILE, Options

    options = Options(
        hardware=hardware,
        machine=opt.machine_flags(ctx.params),
        unsure=unsure,
        ignore_flags=tuple(ignore_flag or ()),
        calibration=calibration,
        explain=explain,
    )
    if init:
        write_first(options, configs, output or DEFAULT_FILE)
        return
    from moeplan.api.check_run import run_check

    extra = [_report_target(text) for text in report or ()]
    result = run_check(
        files or [DEFAULT_FILE], options, catalog_of(configs), baseline=baseline, git_base=git_base
    )
    show(result, format, output)
    for name, path in extra:
        write_report(result, name, path)
    if result.verdict != "pass":
        raise typer.Exit(1)


def catalog_of(configs: str | None) -> Catalog:
    """The catalog without the user's own directory: it differs from machine to machine."""
    from pathlib import Path

    from moeplan.readers.catalog import Catalog
    from moeplan.readers.paths import shipped_configs

    return Catalog(Path(configs) if configs is not None else None, user=shipped_configs())


def show(result: CheckReport, format: str, output: str | None) -> None:
    """Render ``result`` and write it."""
    from moeplan.cli.output import emit, emit_lines

    if format == "table":
        from moeplan.report.check_table import check_lines

        emit_lines(lambda screen: check_lines(result, screen), output)
    else:
        emit(render(result, format), output)


def render(result: CheckReport, format: str) -> str:
    """The text of ``result`` in one format."""
    if format == "json":
        from moeplan.report.check_json import check_json
        from moeplan.report.estimate_json import pretty

        return pretty(check_json(result))
    if format == "markdown":
        from moeplan.report.check_markdown import render as markdown

        return markdown(result)
    if format == "table":
        from moeplan.report.check_table import check_lines
        from moeplan.report.layout import Screen, plain

        return plain(check_lines(result, Screen(100, False)))
    from moeplan.report import check_ci

    return {
        "junit": check_ci.junit,
        "sarif": check_ci.sarif,
        "github": check_ci.github,
        "gitlab": check_ci.gitlab,
    }[format](result)


def write_report(result: CheckReport, format: str, path: str) -> None:
    """Write one more file; a GitHub step summary is added to, like every step does."""
    import os

    from moeplan.cli.output import write_file

    text = render(result, format)
    if path and path == os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123 - the runner's own file
            file.write(text)
        return
    write_file(path, text, "--report")


def _report_target(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or name not in FORMATS or not path:
        raise SpecError(
            f"--report: expected FORMAT=FILE, got {opt.shown(text)}", help=f"formats: {', '.join(FORMATS)}"
        )
    return name, path


def write_first(options: Options, configs: str | None, target: str) -> None:
    """Write a first budget file; an existing one is left alone."""
    from pathlib import Path

    from moeplan.api.check import Checker
    from moeplan.api.check_init import first_budget_file
    from moeplan.cli.output import note, write_file

    if not options.hardware:
        raise SpecError("--init needs --hardware: what the deployments run on")
    if Path(target).exists():
        raise SpecError("exists already; --output names another file", path=target)
    text, remarks = first_budget_file(Checker(catalog_of(configs), options))
    write_file(target, text)
    for remark in remarks:
        note(remark)
    note(f"wrote {target}; now: moeplan check {target}")
