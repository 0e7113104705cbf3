"""`moeplan quants`: the quantisations."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from moeplan.cli import options as opt
from moeplan.cli.tree import Command, new_app

app = new_app(no_args_is_help=True)

EXAMPLES = """\
moeplan quants list
moeplan quants show q4_k_m
"""
LIST_EXAMPLES = """\
moeplan quants list
moeplan quants list q4 --kind gguf-mix
"""
SHOW_EXAMPLES = """\
moeplan quants show q4_k_m
moeplan quants show gptq-int4-g128 --format json
"""


@app.callback(epilog=EXAMPLES)
def quants() -> None:
    """What names such as q4_k_m, fp8 or gptq-int4-g128 mean for every tensor."""


@app.command("list", cls=Command, epilog=LIST_EXAMPLES)
def list_(
    text: Annotated[str, typer.Argument(metavar="[TEXT]", help="Part of a name.")] = "",
    kind: Annotated[
        Literal["gguf-type", "gguf-mix", "method"] | None, typer.Option("--kind", help="Only this kind.")
    ] = None,
    format: opt.Format = "table",
    output: opt.Output = None,
) -> None:
    """List quantisations with the bits per weight of most of their matrices."""
    from moeplan.cli.output import emit_listing
    from moeplan.readers.quants import load_quants
    from moeplan.report.catalog_cards import quant_listing, quants_json

    table = load_quants()
    found = [
        scheme
        for scheme in table.schemes.values()
        if text.casefold() in " ".join((scheme.id, *scheme.aliases)).casefold()
        and (kind is None or scheme.kind == kind)
    ]
    emit_listing(lambda: quant_listing(found, table), lambda: quants_json(found, table), format, output)


@app.command(cls=Command, epilog=SHOW_EXAMPLES)
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Id or alias of a quantisation.")],
    format: opt.Format = "table",
    output: opt.Output = None,
) -> None:
    """Show what one quantisation does to which tensors."""
    from moeplan.cli.output import emit_card
    from moeplan.readers.quants import load_quants
    from moeplan.report.catalog_cards import quant_card, quant_json

    table = load_quants()
    scheme = table.find(name)
    emit_card(lambda: quant_card(scheme, table), lambda: quant_json(scheme, table), format, output)
