"""`moeplan plan`: the best way to run a model on a machine, with the command to paste."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from moeplan.cli import options as opt
from moeplan.cli.tree import Command, new_app
from moeplan.errors import SpecError

if TYPE_CHECKING:
    from moeplan.domain.plan import Limits, Plan, PlanRequest

app = new_app()

EXAMPLES = """\
moeplan plan gpt-oss-120b --gpu rtx-3090 --ram-gib 128 --ram-gbs 51 --context 32768
moeplan plan qwen3-30b-a3b --hardware laptop-rtx-4060 --what-if vram=+8GiB,ram_gbs=90
moeplan plan deepseek-v3 --gpu rtx-4090 --ram-gib 768 --ram-gbs 400 --objective quality --min-tps 8
moeplan plan qwen3-235b-a22b --hardware lambda-8x-h100-sxm --objective throughput --format json
moeplan plan gpt-oss-20b --hardware l4,l40s,h100-sxm-80gb --objective cheapest --min-tps 50
"""


def _goal(name: str, metavar: str, help: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help, rich_help_panel="Goal")


@app.command(cls=Command, epilog=EXAMPLES)
def plan(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Catalog id, Hugging Face name, .gguf or .safetensors file, config.json or YAML.",
        ),
    ],
    objective: Annotated[
        Literal["decode", "ttft", "request", "throughput", "context", "quality", "cheapest", "memory"],
        typer.Option(
            "--objective",
            metavar="GOAL",
            help="decode speed, ttft (time to first token), a whole request (--prompt and --output-tokens), "
            "throughput over batches, longest context, quality (widest weights above --min-tps), cheapest "
            "of several machines, or least memory.",
            rich_help_panel="Goal",
        ),
    ] = "decode",
    max_vram_gib: Annotated[str | None, _goal("--max-vram-gib", "SIZE", "Use no more of each GPU.")] = None,
    min_tps: Annotated[str | None, _goal("--min-tps", "RATE", "Tokens per second of one sequence.")] = None,
    min_context: Annotated[str | None, _goal("--min-context", "N", "Context it must hold.")] = None,
    min_quant: Annotated[
        str | None, _goal("--min-quant", "ID", "Narrowest type of weights. Default: 4 bits per weight.")
    ] = None,
    max_ttft_ms: Annotated[str | None, _goal("--max-ttft-ms", "MS", "Latest first token.")] = None,
    what_if: Annotated[
        str | None,
        _goal(
            "--what-if",
            "KEY=VALUE,...",
            "What another machine brings: vram, ram, ram_gbs, vram_gbs, pcie, storage_gbs, gpus; +8GiB adds.",
        ),
    ] = None,
    alternatives: Annotated[str, _goal("--alternatives", "N", "Runners-up to show.")] = "5",
    hardware: Annotated[
        str | None,
        typer.Option(
            "--hardware",
            metavar="HARDWARE,...",
            help="Catalog id of a GPU or machine, a YAML file, or local (default). Several: the best.",
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
    quant: Annotated[
        str | None,
        typer.Option(
            "--quant",
            metavar="ID,...",
            help="Choose among these types of weights. Default: the usual ones.",
            rich_help_panel="Workload",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="NAME,...",
            help="Choose among these engines. Default: llama.cpp; vllm too on data-centre GPUs.",
            rich_help_panel="Workload",
        ),
    ] = None,
    context: opt.Context = None,
    prompt: opt.Prompt = None,
    output_tokens: opt.OutputTokens = None,
    depth: opt.Depth = None,
    batch: opt.Batch = None,
    kv_type: Annotated[
        str | None,
        typer.Option(
            "--kv-type",
            metavar="TYPE|any",
            help="Type of the KV cache, or K,V; any: f16 or q8_0, whichever serves. Default: f16.",
            rich_help_panel="Workload",
        ),
    ] = None,
    ubatch: opt.Ubatch = None,
    flash_attn: opt.FlashAttn = None,
    threads: opt.Threads = None,
    calibration: opt.Calibration = None,
    level: opt.Level = "0.8",
    curves: Annotated[
        bool, typer.Option("--curves/--no-curves", help="Speed and memory with one setting varied.")
    ] = True,
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="Also draw the curves: .svg or .png.")
    ] = None,
    format: opt.Format = "table",
    output: opt.Output = None,
    configs: opt.Configs = None,
) -> None:
    """The best quantisation, placement and micro-batch for an objective, with the command that runs it.

    Speeds are expected values of the same functions as `estimate`. Exit code 1 when nothing fits or no plan
    keeps the limits; the smallest changes that would help are shown.
    """
    request = plan_request(ctx.params)
    if plot is not None:
        from moeplan.report import picture

        picture.check_name(plot)
    from moeplan.api.plan import run_plan

    result = run_plan(request, opt.open_catalog(configs))
    if plot is not None:
        from moeplan.cli.output import write_picture
        from moeplan.report import plan_svg

        write_picture(plot, plan_svg.render(result))
    show(result, format, output)
    if result.best is None:
        raise typer.Exit(1)


# Options of `estimate` that a plan chooses itself.
_UNSAID = dict.fromkeys(("placement", "gpu_layers", "cpu_moe", "tp", "pp", "ep", "dp"))


def plan_request(given: Mapping[str, Any]) -> PlanRequest:
    """The request that the options make (parameter name -> text), checked."""
    from moeplan.domain.plan import PlanRequest

    machines, quants, engines = (_names(given[key], f"--{key}") for key in ("hardware", "quant", "engine"))
    any_kv = given["kv_type"] == "any"
    base = opt.estimate_request(
        {
            **_UNSAID,
            **given,
            "hardware": machines[0] if len(machines) == 1 else None,
            "quant": quants[0] if len(quants) == 1 else None,
            "engine": engines[0] if len(engines) == 1 else None,
            "kv_type": None if any_kv else given["kv_type"],
        }
    )
    return PlanRequest(
        base=base,
        objective=given["objective"],
        limits=_limits(given),
        quants=quants,
        engines=engines,
        kv_types=("f16", "q8_0") if any_kv else (),
        hardware=machines,
        what_if=given["what_if"] or "",
        n_alternatives=opt.count(given["alternatives"], "--alternatives", low=0),
        curves=given["curves"],
    )


def _limits(given: Mapping[str, Any]) -> Limits:
    from moeplan.domain.plan import Limits
    from moeplan.units import parse_bytes

    vram = given["max_vram_gib"]
    late_ms = opt.positive(given["max_ttft_ms"], "--max-ttft-ms")
    return Limits(
        max_vram_bytes=None if vram is None else parse_bytes(vram, "gib", "--max-vram-gib"),
        min_tokens_per_s=opt.positive(given["min_tps"], "--min-tps"),
        min_context_tokens=opt.count(given["min_context"], "--min-context"),
        min_quant=given["min_quant"],
        max_ttft_s=None if late_ms is None else late_ms / 1e3,
    )


def _names(text: str | None, option: str) -> tuple[str, ...]:
    """``a,b,c`` as names; none when it is not given."""
    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise SpecError(f"{option}: expected names separated by commas; got {opt.shown(text)}")
    return tuple(dict.fromkeys(names))


def show(result: Plan, format: str, output: str | None) -> None:
    """Render ``result`` and write it."""
    from moeplan.cli.output import emit, emit_lines

    if format == "json":
        from moeplan.report import plan_json

        emit(plan_json.render(result), output)
    elif format == "markdown":
        from moeplan.report import plan_markdown

        emit(plan_markdown.render(result), output)
    else:
        from moeplan.report.plan_table import plan_lines

        emit_lines(lambda screen: plan_lines(result, screen), output)
