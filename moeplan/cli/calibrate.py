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
    from collections import Counter
    from datetime import date as calendar
    from pathlib import Path

    from moeplan.api.calibrate import fit_calibration, save_fit
    from moeplan.api.resolve import Session
    from moeplan.cli.output import note, write_file
    from moeplan.errors import SpecError

    if report is not None and not held_out:
        raise SpecError("--report tells errors of rows left out: not with --no-held-out")
    try:
        day = (calendar.fromisoformat(date) if date else calendar.today()).isoformat()
    except ValueError:
        raise SpecError(f"--date: expected a day such as 2026-11-30; got {opt.shown(date or '')}") from None
    result = fit_calibration(
        [Path(path) for path in corpus],
        Session(opt.open_catalog(configs)),
        id=id,
        date=day,
        held_out=held_out,
    )
    save_fit(result, Path(output))
    n_setups = len({sample.setup for sample in result.samples})
    rows = f"{len(result.samples)} rows of {n_setups} setups"
    note(f"{output}: {len(result.calibration.coefficients)} coefficients from {rows}")
    for skipped, n in Counter(row.reason for row in result.skipped).most_common():
        note(f"skipped {n}: {skipped}")
    if not held_out:
        note("ranges come from the fitted rows themselves, which are closer than new ones will be")
    if report is not None:
        from moeplan.api.accuracy import accuracy_markdown

        write_file(report, accuracy_markdown(result), "--report")
