"""`moeplan estimate`: one model on one machine."""

# ruff: noqa: I002
# No `from __future__ import annotations`: typer would compile every annotation four times (4 ms).

from typing import TYPE_CHECKING, Annotated

import typer

from moeplan.cli import options as opt
from moeplan.cli.tree import Command, new_app

if TYPE_CHECKING:
    from moeplan.domain.result import Estimate

app = new_app()

EXAMPLES = """\
moeplan estimate mixtral-8x7b --hardware rtx-4090 --quant q4_k_m
moeplan estimate gpt-oss-120b --gpu rtx-3090 --n-gpus 2 --ram-gib 128
moeplan estimate model.gguf --context max --explain
moeplan estimate qwen3-30b-a3b --hardware local --format json --output out.json
"""


@app.command(cls=Command, epilog=EXAMPLES)
def estimate(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Catalog id, Hugging Face name, .gguf or .safetensors file, config.json or YAML.",
        ),
    ],
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
    context: opt.Context = None,
    prompt: opt.Prompt = None,
    output_tokens: opt.OutputTokens = None,
    depth: opt.Depth = None,
    batch: opt.Batch = None,
    kv_type: opt.KvType = None,
    ubatch: opt.Ubatch = None,
    flash_attn: opt.FlashAttn = None,
    slots: opt.Slots = None,
    kv_unified: opt.KvUnified = False,
    swa_full: opt.SwaFull = False,
    mmap: opt.Mmap = None,
    repack: opt.Repack = None,
    kv_offload: opt.KvOffload = None,
    gpu_memory_utilization: opt.Utilization = None,
    mla: opt.Mla = None,
    placement: opt.PlacementOption = None,
    gpu_layers: opt.GpuLayers = None,
    cpu_moe: opt.CpuMoe = None,
    tp: opt.Tp = None,
    pp: opt.Pp = None,
    ep: opt.Ep = None,
    dp: opt.Dp = None,
    threads: opt.Threads = None,
    calibration: opt.Calibration = None,
    level: opt.Level = "0.8",
    explain: opt.Explain = False,
    plot: opt.Plot = None,
    verify_with_engine: opt.Verify = False,
    engine_binary: opt.EngineBinary = None,
    format: opt.Format = "table",
    output: opt.Output = None,
    configs: opt.Configs = None,
) -> None:
    """Memory per device, decode and prefill speed, what binds, and whether it fits.

    Exit code 1 when it does not fit; the result is printed all the same.
    """
    request = opt.estimate_request(ctx.params)
    if plot is not None:
        from moeplan.report import picture

        picture.check_name(plot)
    from moeplan.api.estimate import run_estimate
    from moeplan.provenance import NULL_LEDGER, Ledger

    ledger = Ledger() if explain else NULL_LEDGER
    catalog = opt.open_catalog(configs)
    result = run_estimate(request, catalog, ledger)
    if verify_with_engine or engine_binary is not None:
        from msgspec.structs import replace

        from moeplan.api.verify_memory import verify

        result = replace(result, engine_check=verify(request, catalog, binary=engine_binary))
    if plot is not None:
        from moeplan.cli.output import write_picture
        from moeplan.report import estimate_svg

        write_picture(plot, estimate_svg.render(result))
    show(result, format, output)
    if not result.fits:
        raise typer.Exit(1)


def show(result: "Estimate", format: str, output: str | None) -> None:
    """Render ``result`` and write it."""
    from moeplan.cli.output import emit, emit_lines

    if format == "json":
        from moeplan.report import estimate_json

        emit(estimate_json.render(result), output)
    elif format == "markdown":
        from moeplan.report import estimate_markdown

        emit(estimate_markdown.render(result), output)
    else:
        from moeplan.report.estimate_table import estimate_lines
        from moeplan.report.explain import explain_lines
        from moeplan.report.layout import join_blocks

        emit_lines(
            lambda screen: join_blocks(estimate_lines(result, screen), explain_lines(result.explain, screen)),
            output,
        )
