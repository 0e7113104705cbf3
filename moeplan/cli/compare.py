"""`moeplan compare`: models side by side on one machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moeplan.cli import options as opt
from moeplan.cli.textbook import batch_sizes
from moeplan.cli.tree import Command, new_app

if TYPE_CHECKING:
    from moeplan.domain.comparison import Comparison

app = new_app()

EXAMPLES = """\
moeplan compare llama-2-70b mixtral-8x7b --hardware a100-sxm-80gb --n-gpus 2 --quant bf16
moeplan compare mixtral-8x7b --twin active --hardware rtx-4090 --quant q4_k_m
moeplan compare qwen3-32b qwen3-30b-a3b gpt-oss-20b --gpu rtx-3090 --ram-gib 64 --format markdown
moeplan compare llama-3.1-8b olmoe-1b-7b --hardware h100-sxm-80gb --batches 1,16,256 --format json
"""
BATCHES = "1,2,4,8,16,32,64,128,256,512,1024"


@app.command(cls=Command, epilog=EXAMPLES)
def compare(
    ctx: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Two models or more, or one MoE with --twin."),
    ],
    twin: Annotated[
        Literal["active", "total", "memory"] | None,
        typer.Option("--twin", help="Put beside each MoE a made-up dense model of equal size."),
    ] = None,
    hardware: opt.Hardware = None,
    gpu: opt.Gpu = None,
    n_gpus: opt.NGpus = None,
    cpu: opt.Cpu = None,
    ram_gib: opt.RamGib = None,
    ram_gbs: opt.RamGbs = None,
    pcie: opt.Pcie = None,
    link: opt.Link = None,
    storage_gbs: opt.StorageGbs = None,
    reserve_vram_gib: opt.ReserveVram = None,
    quant: opt.Quant = None,
    engine: opt.Engine = None,
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            metavar="N",
            help="Tokens the cache of a sequence holds. Default: 8192, or what all models allow.",
            rich_help_panel="Workload",
        ),
    ] = None,
    prompt: opt.Prompt = None,
    output_tokens: opt.OutputTokens = None,
    depth: opt.Depth = None,
    kv_type: opt.KvType = None,
    ubatch: opt.Ubatch = None,
    flash_attn: opt.FlashAttn = None,
    batches: Annotated[
        str,
        typer.Option(
            "--batches", metavar="N,N...", help="Batch sizes to compare.", rich_help_panel="Workload"
        ),
    ] = BATCHES,
    tp: opt.Tp = None,
    threads: opt.Threads = None,
    lora_rank: Annotated[str, typer.Option("--lora-rank", metavar="N", help="Rank of the adapters.")] = "16",
    mfu: Annotated[
        str | None,
        typer.Option("--mfu", metavar="P", help="Share of the peak that training reaches. Default: 0.4."),
    ] = None,
    calibration: opt.Calibration = None,
    level: opt.Level = "0.8",
    format: opt.Format = "table",
    output: opt.Output = None,
    configs: opt.Configs = None,
) -> None:
    """Models side by side on one machine: size, speed by batch, offload, training, and who is ahead.

    Speeds are those of one sequence unless a batch is named. Exit code 1 when none of the models fits.
    """
    from moeplan.api.compare import run_compare
    from moeplan.domain.comparison import CompareRequest

    request = CompareRequest(
        models=tuple(models),
        base=opt.estimate_request({**_UNSAID, **ctx.params, "model": ""}),
        twin=twin,
        batches=batch_sizes(batches),
        lora_rank=opt.count(lora_rank, "--lora-rank"),
        mfu_frac=opt.positive(mfu, "--mfu"),
    )
    result = run_compare(request, opt.open_catalog(configs))
    show(result, format, output)
    if not any(model.estimate.fits for model in result.models):
        raise typer.Exit(1)


# Options of `estimate` that a comparison chooses itself.
_UNSAID = dict.fromkeys(("batch", "placement", "gpu_layers", "cpu_moe", "pp", "ep", "dp"))


def show(result: Comparison, format: str, output: str | None) -> None:
    """Render ``result`` and write it."""
    from moeplan.cli.output import emit, emit_lines

    if format == "json":
        from moeplan.report import compare_json

        emit(compare_json.render(result), output)
    elif format == "markdown":
        from moeplan.report import compare_markdown

        emit(compare_markdown.render(result), output)
    else:
        from moeplan.report.compare_table import compare_lines

        emit_lines(lambda screen: compare_lines(result, screen), output)
