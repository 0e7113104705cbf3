"""`moeplan schema`: the JSON Schemas of file formats and results."""

from __future__ import annotations

from typing import Annotated

import typer

from moeplan.cli import options as opt
from moeplan.cli.tree import Command, new_app

app = new_app()

EXAMPLES = """\
moeplan schema
moeplan schema model
moeplan schema estimate --output estimate.schema.json
"""


@app.command(cls=Command, epilog=EXAMPLES)
def schema(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Which schema; without it, they are listed.")
    ] = None,
    format: opt.Format = "table",
    output: opt.Output = None,
) -> None:
    """Print a JSON Schema (draft 2020-12), or list those there are.

    A schema is JSON whatever --format says; an editor that reads it completes and checks YAML files.
    """
    from moeplan.cli.output import emit_json, emit_listing
    from moeplan.report.schemas import SCHEMAS, json_schema

    if name is not None:
        emit_json(json_schema(name), output)
        return
    from moeplan.report.listing import Column, Listing

    rows = [(key, what) for key, (_, what) in SCHEMAS.items()]
    emit_listing(
        lambda: Listing([Column("name"), Column("describes")], rows),
        lambda: {"schema": "moeplan/schemas@1", "schemas": dict(rows)},
        format,
        output,
    )
