"""`moeplan calibrate`: coefficients from a corpus."""

from __future__ import annotations

from typing import Annotated

import typer

from moeplan.cli import options as opt
from moeplan.cli.tree import Command, new_app

app = new_app(no_args_is_help=True)

EXAMPLES = """\
moeplan calibrate fit --corpus corpus/ --output my.yaml
"""
FIT_EXAMPLES = """\
moeplan calibrate fit --corpus corpus/ --output my.yaml
moeplan calibrate fit --corpus speed.csv --corpus serving.csv --output my.yaml --report accuracy.md
moeplan calibrate fit --corpus my_runs.csv --output my.yaml --no-held-out
"""


@app.callback(epilog=EXAMPLES)
def calibrate() -> None:
    """Coefficients of the cost law."""


@app.command(cls=Command, epilog=FIT_EXAMPLES)
def fit(
    corpus: Annotated[
        list[str],
        typer.Option(
            "--corpus", metavar="PATH", help="A speed or serving file, or a folder of them; may be repeated."
        ),
    ],
    output: Annotated[str, typer.Option("--output", metavar="FILE.yaml", help="The calibration to write.")],
    id: Annotated[str, typer.Option("--id", metavar="ID", help="Id of the calibration.")] = "fitted",
    date: Annotated[
        str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="Its date. Default: today.")
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option(
            "--held-out/--no-held-out",
            help="Take intervals from rows of sources and devices left out in turn (a minute or two).",
        ),
    ] = True,
    report: Annotated[
        str | None,
        typer.Option("--report", metavar="FILE.md", help="Write errors by regime, held out, as Markdown."),
    ] = None,
    configs: opt.Configs = None,
) -> None:
    """Fit the coefficients of the cost law to measurements. The same input gives the same file. Needs numpy.

    Grade C rows are left out. Use the file with --calibration.
    """
    from datetime import date as calendar
    from pathlib import Path

    from moeplan.api.calibrate import fit_calibration, save_fit
    from moeplan.api.resolve import Session
    from moeplan.cli.output import note, write_file
    from moeplan.errors import SpecError

    if report is not None and not held_out:
        raise SpecError("--report tells errors of rows left out: not with --no-held-out")
    day = date or calendar.today().isoformat()
    result = fit_calibration(
        [Path(path) for path in corpus],
        Session(opt.open_catalog(configs)),
        id=id,
        date=day,
        held_out=held_out,
    )
    save_fit(result, Path(output))
    note(f"{output}: {len(result.calibration.coefficients)} coefficients from {len(result.samples)} rows")
    if report is not None:
        from moeplan.api.accuracy import accuracy_markdown

        write_file(report, accuracy_markdown(result), "--report")
