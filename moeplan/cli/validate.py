"""`moeplan validate`: predictions against measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moeplan.cli import options as opt
from moeplan.cli.tree import Command, new_app

if TYPE_CHECKING:
    from moeplan.api.validation import Validation

app = new_app()

EXAMPLES = """\
moeplan validate --corpus my_runs.csv
moeplan validate --corpus my_runs.csv --by gpu,engine --format markdown
moeplan validate --corpus my_runs.csv --max-median 0.15 --min-coverage 0.7 --format json
moeplan validate --corpus my_runs.csv --plot predicted.svg
"""


@app.command(cls=Command, epilog=EXAMPLES)
def validate(
    corpus: Annotated[
        str,
        typer.Option("--corpus", metavar="FILE.csv", help="Measurements; docs/corpus.md has the columns."),
    ],
    kind: Annotated[
        Literal["speed", "serving", "memory", "training", "finetune"] | None,
        typer.Option("--kind", help="What the file measures. Default: told by its columns."),
    ] = None,
    by: Annotated[
        str, typer.Option("--by", metavar="COLUMN,...", help="Split the summary by these columns as well.")
    ] = "",
    max_median: Annotated[
        str | None,
        typer.Option(
            "--max-median",
            metavar="P",
            help="Exit 1 if a regime's median factor error is above P (0.1 is 10%).",
        ),
    ] = None,
    min_coverage: Annotated[
        str | None,
        typer.Option("--min-coverage", metavar="P", help="Exit 1 if fewer setups of a regime lie in range."),
    ] = None,
    calibration: opt.Calibration = None,
    level: opt.Level = "0.8",
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Draw predicted against measured: .svg or .png."),
    ] = None,
    format: opt.Format = "table",
    output: opt.Output = None,
    configs: opt.Configs = None,
) -> None:
    """Predict every row of a corpus from its setup columns and score the predictions.

    Rows are reduced to one value per setup. The factor error is max(p/m, m/p) - 1, so that guessing low
    is no cheaper than guessing high. Rows that cannot be predicted are listed with the reason.
    """
    from pathlib import Path

    from moeplan.api.validation import run_validation
    from moeplan.errors import SpecError

    if plot is not None:
        from moeplan.report import picture

        picture.check_name(plot)
    most = opt.positive(max_median, "--max-median")
    least = None if min_coverage is None else opt.fraction(min_coverage, "--min-coverage", high=True)
    result = run_validation(
        Path(corpus),
        opt.open_catalog(configs),
        kind=kind,
        by=tuple(name.strip() for name in by.split(",") if name.strip()),
        level=opt.fraction(level, "--level"),
        calibration=calibration,
    )
    if least is not None and not result.ranged:
        raise SpecError(f"--min-coverage: {result.kind} is predicted as one number, without a range")
    if plot is not None:
        from moeplan.cli.output import write_picture
        from moeplan.report.validate_svg import render

        unit = {"speed": "tok/s", "memory": "MiB"}.get(result.kind, "")
        title = f"{Path(corpus).name}: {len(result.rows)} rows"
        write_picture(plot, render(result.rows, title, unit))
    _show(result, format, output)
    if not _within(result, most, least):
        raise typer.Exit(1)


def _show(result: Validation, format: str, output: str | None) -> None:
    from collections import Counter

    from moeplan.cli.output import emit, emit_lines, note
    from moeplan.report import validate_json
    from moeplan.report.listing import listing_lines, listing_markdown
    from moeplan.report.validate_table import summary_listing, worst_listing

    if format == "json":
        skipped = [(row.id, row.reason) for row in result.skipped]
        emit(
            validate_json.render(
                result.kind, result.calibration, result.level, result.rows, skipped, result.summary
            ),
            output,
        )
        return
    summary, worst = summary_listing(result.summary, ranged=result.ranged), worst_listing(result.rows)
    if not result.rows:
        emit(f"{summary.note}\n", output)
    elif format == "markdown":
        emit(listing_markdown(summary) + "\nWorst rows:\n\n" + listing_markdown(worst), output)
    else:
        emit_lines(
            lambda screen: [*listing_lines(summary, screen), [], *listing_lines(worst, screen)], output
        )
    for reason, n in Counter(row.reason for row in result.skipped).most_common():
        ids = [row.id for row in result.skipped if row.reason == reason]
        note(f"skipped {n}: {reason} [{', '.join(ids[:3])}{', ...' if n > 3 else ''}]")
    if result.ranged and result.rows:
        note(
            f"errors are smaller on rows that {result.calibration} was fitted on than on new ones: "
            "docs/accuracy.md has those of rows left out"
        )


def _within(result: Validation, most: float | None, least: float | None) -> bool:
    """Whether every regime keeps the limits; the others are named."""
    from moeplan.cli.output import note

    kept = True
    if not result.summary and (most is not None or least is not None):
        note("no row could be predicted, so no limit is kept")
        kept = False
    for s in result.summary:
        if most is not None and s.median_factor_error_frac > most:
            error = _percent(s.median_factor_error_frac)
            note(f"{s.regime}: median factor error {error} is above {_percent(most)}")
            kept = False
        if least is not None and s.coverage_frac < least:
            note(f"{s.regime}: {_percent(s.coverage_frac)} in range is below {_percent(least)}")
            kept = False
    return kept


def _percent(share: float) -> str:
    """With as many digits as tell a missed limit from a kept one."""
    return f"{100 * share:.4g}%"
