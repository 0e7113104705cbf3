"""`moeplan profile`: measure this machine; `profile show` and `profile diff` look at the result."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moeplan.cli import options as opt
from moeplan.cli.tree import Command, new_app
from moeplan.errors import SpecError

if TYPE_CHECKING:
    from moeplan.api.profile_request import Mode, ProfileRequest
    from moeplan.domain.profile import HostCalibration

app = new_app(invoke_without_command=True)

EXAMPLES = """\
moeplan profile --quick
moeplan profile --engine llama.cpp --model model.gguf
moeplan profile --endpoint http://127.0.0.1:8080 --concurrency 1,4
moeplan profile show
"""
SHOW_EXAMPLES = """\
moeplan profile show
moeplan profile show this-machine.yaml --format json
"""
DIFF_EXAMPLES = """\
moeplan profile diff
moeplan profile diff before.yaml after.yaml
"""


def _kind(name: str, help: str, metavar: str) -> object:
    return typer.Option(name, metavar=metavar, help=help, rich_help_panel="What to measure")


@app.callback(epilog=EXAMPLES)
def profile(
    ctx: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="About 15 seconds.")] = False,
    full: Annotated[bool, typer.Option("--full", help="About five minutes.")] = False,
    gpu: Annotated[
        bool,
        typer.Option(
            "--gpu", help="Measure the GPU (CUDA, ROCm, XPU, MPS).", rich_help_panel="What to measure"
        ),
    ] = False,
    model: Annotated[
        str | None, _kind("--model", "Run this model's layers, or this .gguf with --engine.", "MODEL")
    ] = None,
    engine: Annotated[
        str | None,
        _kind("--engine", "llama.cpp (the default where it is installed) or none.", "NAME"),
    ] = None,
    binary: Annotated[str | None, _kind("--binary", "The llama-bench to run.", "FILE")] = None,
    endpoint: Annotated[
        str | None, _kind("--endpoint", "Measure a running server with the OpenAI API.", "URL")
    ] = None,
    concurrency: Annotated[
        str, _kind("--concurrency", "Requests at once, for --endpoint.", "N,N...")
    ] = "1,2,4",
    prompt: Annotated[str, _kind("--prompt", "Prompt tokens, for --endpoint.", "N")] = "128",
    output_tokens: Annotated[str, _kind("--output-tokens", "Answer tokens, for --endpoint.", "N")] = "32",
    timeout: Annotated[str, _kind("--timeout", "Seconds that an engine or server may take.", "S")] = "120",
    training: Annotated[
        bool,
        typer.Option(
            "--training", help="Also a training and a LoRA step.", rich_help_panel="What to measure"
        ),
    ] = False,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="Links between ranks; start with torchrun.",
            rich_help_panel="What to measure",
        ),
    ] = False,
    memory_share: Annotated[
        str, _kind("--memory-share", "Share of the free memory to use at most, 0..1.", "X")
    ] = "0.4",
    storage: Annotated[str | None, _kind("--storage", "Measure the disk of this directory.", "DIR")] = None,
    share: Annotated[
        str | None, typer.Option("--share", metavar="FILE", help="Also write anonymous corpus rows to FILE.")
    ] = None,
    format: opt.Format = "table",
    output: Annotated[
        str | None,
        typer.Option(
            "--output", metavar="FILE", help="Write the calibration here, not to the user's directory."
        ),
    ] = None,
    configs: opt.Configs = None,
) -> None:
    """Measure this machine and write a calibration that estimate, plan and check use from then on.

    Takes a minute, Ctrl-C keeps what was measured until then (exit code 130). Needs torch, except for
    --endpoint and --engine with --model. Not yet run on a GPU by its authors.
    """
    if ctx.invoked_subcommand is not None:
        return
    if quick and full:
        raise SpecError("--quick and --full exclude each other")
    if share is not None:
        _require_writable(share)
    mode: Mode = "quick" if quick else "full" if full else "default"
    request = _request(ctx, mode)
    if distributed:
        from moeplan.cli.profile_distributed import measure_links

        measure_links(request, format, output)
        return
    from moeplan.api.profile import earlier_calibration, run_profile, save, shared_rows

    earlier = earlier_calibration(output)
    with _Progress() as progress:
        result = run_profile(request, opt.open_catalog(configs), progress.show, earlier)
    path = save(result, output)
    if share is not None:
        from moeplan.cli.output import write_file

        write_file(share, shared_rows(result), "--share")
    _show(result, format, None)
    from moeplan.cli.output import note

    for text in result.notes:
        if "run again" in text:  # at the end of a long table, where it is seen
            note(f"warning: {text}")
    note(f"calibration written to {path}")
    if any(text.startswith("interrupted") for text in result.notes):
        raise typer.Exit(130)


@app.command(cls=Command, epilog=SHOW_EXAMPLES)
def show(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A calibration. Default: this machine's.")
    ] = None,
    format: opt.Format = "table",
    output: opt.Output = None,
) -> None:
    """Show a calibration: the machine, what was measured, how steady it was, and the coefficients."""
    _show(_read(file), format, output)


@app.command(cls=Command, epilog=DIFF_EXAMPLES)
def diff(
    before: Annotated[
        str | None,
        typer.Argument(
            metavar="[BEFORE]", help="A calibration. Default: the one that this machine's replaced."
        ),
    ] = None,
    after: Annotated[str | None, typer.Argument(metavar="[AFTER]", help="Default: this machine's.")] = None,
    format: opt.Format = "table",
    output: opt.Output = None,
) -> None:
    """Compare two calibrations: which rates changed, and by more than their spread."""
    from moeplan.cli.output import emit_listing
    from moeplan.readers.calibration_host import before_path
    from moeplan.report.profile_table import diff_json, diff_listing

    one, other = _read(before or str(before_path())), _read(after)
    emit_listing(lambda: diff_listing(one, other), lambda: diff_json(one, other), format, output)


def _request(ctx: typer.Context, mode: Mode) -> ProfileRequest:
    from moeplan.api.profile_request import ProfileRequest

    p = ctx.params
    counts = tuple(opt.count(part, "--concurrency") for part in p["concurrency"].split(","))
    if max(counts) > 256:
        raise SpecError("--concurrency: at most 256 requests at once")
    return ProfileRequest(
        mode=mode,
        gpu=p["gpu"],
        model=p["model"],
        engine=p["engine"],
        binary=p["binary"],
        endpoint=p["endpoint"],
        concurrency=counts,
        prompt_tokens=opt.count(p["prompt"], "--prompt"),
        output_tokens=opt.count(p["output_tokens"], "--output-tokens", low=2),
        timeout_s=float(opt.count(p["timeout"], "--timeout")),
        memory_share=_share(p["memory_share"]),
        training=p["training"],
        storage=p["storage"],
        age_s=time.perf_counter() - ctx.obj if ctx.obj else 0.0,
    )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise SpecError(f"--memory-share: expected a share above 0 and up to 1, got {opt.shown(text)}")
    return value


def _require_writable(path: str) -> None:
    if not Path(path).absolute().parent.is_dir():
        raise SpecError("--share: no such directory", path=path)


def _read(file: str | None) -> HostCalibration:
    from moeplan.readers.calibration_host import default_path, read_host_calibration

    path = Path(file) if file is not None else default_path()
    if file is None and not path.exists():
        raise SpecError("this machine has no calibration yet", path=str(path), hint="run `moeplan profile`")
    return read_host_calibration(path)


def _show(result: HostCalibration, format: str, output: str | None) -> None:
    from moeplan.cli.output import emit, emit_json, emit_lines
    from moeplan.readers.calibration_host import calibration_json
    from moeplan.report.profile_table import profile_lines, profile_markdown

    if format == "json":
        emit_json(calibration_json(result), output)
    elif format == "markdown":
        emit(profile_markdown(result), output)
    else:
        emit_lines(lambda screen: profile_lines(result, screen), output)


class _Progress:
    """What is being measured, on stderr: one line that changes on a terminal, else a line each."""

    def __enter__(self) -> _Progress:
        self.live = sys.stderr is not None and sys.stderr.isatty()
        return self

    def show(self, what: str, share: float) -> None:
        """Say what starts now."""
        if sys.stderr is None:
            return
        text = f"[{share:4.0%}] {what}"
        sys.stderr.write(f"\r\x1b[K{text}" if self.live else f"{text}\n")
        sys.stderr.flush()

    def __exit__(self, *details: object) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")
