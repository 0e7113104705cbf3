"""`moeplan models`: the model catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moeplan.cli import options as opt
from moeplan.cli.tree import Command, new_app

if TYPE_CHECKING:
    from moeplan.domain.description import ModelSummary

app = new_app(no_args_is_help=True)

EXAMPLES = """\
moeplan models list --moe
moeplan models show mixtral-8x7b
"""
LIST_EXAMPLES = """\
moeplan models list
moeplan models list qwen --moe --max-params-b 40
moeplan models list --family DeepSeek --format json
"""
SHOW_EXAMPLES = """\
moeplan models show mixtral-8x7b
moeplan models show ./model.gguf --format markdown
"""


@app.callback(epilog=EXAMPLES)
def models() -> None:
    """The models that moeplan knows by name."""


@app.command("list", cls=Command, epilog=LIST_EXAMPLES)
def list_(
    text: Annotated[str, typer.Argument(metavar="[TEXT]", help="Part of an id, name or hub name.")] = "",
    moe: Annotated[
        bool | None, typer.Option("--moe/--dense", help="Only mixtures of experts, or only dense models.")
    ] = None,
    family: Annotated[str | None, typer.Option("--family", help="Only this family.")] = None,
    max_params_b: Annotated[
        str | None,
        typer.Option("--max-params-b", metavar="B", help="At most this many parameters, in billions."),
    ] = None,
    format: opt.Format = "table",
    output: opt.Output = None,
    configs: opt.Configs = None,
) -> None:
    """List models: parameters in all and per token, experts, context."""
    limit = opt.positive(max_params_b, "--max-params-b")
    from moeplan.api.describe import list_models
    from moeplan.cli.output import emit_listing, note

    def wanted(model: ModelSummary) -> bool:
        spec = model.spec
        names = " ".join((spec.id, spec.name, *spec.hf_ids, *spec.aliases)).casefold()
        return (
            text.casefold() in names
            and (moe is None or spec.is_moe is moe)
            and (family is None or spec.family.casefold() == family.casefold())
            and (limit is None or model.params.total <= limit * 1e9)
        )

    catalog = opt.open_catalog(configs)
    found = [m for m in list_models(catalog, lambda error: note(f"skipped: {error}")) if wanted(m)]
    from moeplan.report.model_card import model_listing, models_json

    emit_listing(lambda: model_listing(found), lambda: models_json(found), format, output)


@app.command(cls=Command, epilog=SHOW_EXAMPLES)
def show(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Whatever `moeplan estimate` takes: an id, a name, a file."),
    ],
    quant: opt.Quant = None,
    format: opt.Format = "table",
    output: opt.Output = None,
    configs: opt.Configs = None,
) -> None:
    """Show one model: layers, parameters by part, sizes by quantisation, cache by context."""
    from moeplan.api.describe import describe_model
    from moeplan.cli.output import emit_card
    from moeplan.report.model_card import model_card, model_show_json

    found = describe_model(model, opt.open_catalog(configs), quant)
    emit_card(lambda: model_card(found), lambda: model_show_json(found), format, output)
