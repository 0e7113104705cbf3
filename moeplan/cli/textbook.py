"""`moeplan textbook`: the simple formulas of articles, from bare numbers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from moeplan.cli import options as opt
from moeplan.cli.tree import Command, new_app
from moeplan.errors import SpecError

app = new_app()

_NUMBERS = "moeplan textbook --dense-b 70 --moe-total-b 47 --moe-active-b 13 --hbm-gbs 2000 --tflops 312"
EXAMPLES = f"""\
{_NUMBERS}
{_NUMBERS} --gpus 64 --mfu 0.45
{_NUMBERS} --batches 1,64,564 --format json
"""


def _number(name: str, metavar: str, help: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help)


@app.command(cls=Command, epilog=EXAMPLES)
def textbook(
    dense_b: Annotated[str, _number("--dense-b", "N", "Parameters of the dense model, in 10^9.")],
    moe_total_b: Annotated[str, _number("--moe-total-b", "N", "All parameters of the MoE, in 10^9.")],
    moe_active_b: Annotated[str, _number("--moe-active-b", "N", "Those active for a token, in 10^9.")],
    hbm_gbs: Annotated[str, _number("--hbm-gbs", "RATE", "Memory bandwidth of a GPU in GB/s (10^9 bytes).")],
    tflops: Annotated[str, _number("--tflops", "RATE", "Peak of a GPU in TFLOP/s (10^12).")],
    gpus: Annotated[str, _number("--gpus", "N", "GPUs to train on.")] = "1",
    mfu: Annotated[
        str | None, _number("--mfu", "P", "Share of the peak that training reaches, 0 to 1. Default: 0.4.")
    ] = None,
    bytes_per_param: Annotated[str, _number("--bytes-per-param", "N", "Bytes of a parameter.")] = "2",
    batches: Annotated[
        str, _number("--batches", "N,N...", "Sequences decoded together, to compare.")
    ] = "1,8,32,128",
    format: opt.Format = "table",
    output: opt.Output = None,
) -> None:
    """The simple formulas of articles, from bare numbers, and what they leave out.

    Latency is the slower of reading all parameters and computing with the active ones; training takes
    6 FLOPs a token and active parameter. For real models on real machines: moeplan compare.
    """
    from moeplan.api.textbook import textbook as compute
    from moeplan.cli.output import emit, emit_lines

    result = compute(
        dense_b=_positive(dense_b, "--dense-b"),
        moe_total_b=_positive(moe_total_b, "--moe-total-b"),
        moe_active_b=_positive(moe_active_b, "--moe-active-b"),
        hbm_gbs=_positive(hbm_gbs, "--hbm-gbs"),
        tflops=_positive(tflops, "--tflops"),
        gpus=opt.count(gpus, "--gpus"),
        mfu=opt.positive(mfu, "--mfu"),
        bytes_per_param=_positive(bytes_per_param, "--bytes-per-param"),
        batches=batch_sizes(batches),
    )
    if format == "json":
        from moeplan.report import textbook_json

        emit(textbook_json.render(result), output)
    elif format == "markdown":
        from moeplan.report.textbook_table import markdown

        emit(markdown(result), output)
    else:
        from moeplan.report.textbook_table import textbook_lines

        emit_lines(lambda screen: textbook_lines(result, screen), output)


def _positive(text: str, option: str) -> float:
    number = opt.positive(text, option)
    assert number is not None
    return number


def batch_sizes(text: str) -> tuple[int, ...]:
    """``1,8,32`` as numbers in rising order, each once."""
    if len(text) > 1000:
        raise SpecError(f"--batches: expected a list such as 1,8,32; got {len(text):,} characters")
    return tuple(sorted({opt.count(part, "--batches") for part in text.split(",")}))
