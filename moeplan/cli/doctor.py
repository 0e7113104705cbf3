"""`moeplan doctor`: what is installed, what is found, and whether a known answer comes out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from moeplan.cli import options as opt
from moeplan.cli.tree import Command, new_app

if TYPE_CHECKING:
    from moeplan.readers.catalog import Catalog
    from moeplan.report.listing import Card

app = new_app()

EXAMPLES = """\
moeplan doctor
moeplan doctor --format json
"""

PACKAGES = ("typer", "rich", "PyYAML", "msgspec", "psutil", "nvidia-ml-py")
EXTRAS = {"torch": "profile", "huggingface_hub": "hub", "plotille": "plot", "resvg_py": "plot"}
"""Optional module -> the extra that brings it."""

# mistralai/Mixtral-8x7B-v0.1 on Hugging Face, model.safetensors.index.json: total_size 93405585408
# bytes in bfloat16, two bytes a parameter.
_KNOWN_MODEL, _KNOWN_PARAMS = "mixtral-8x7b", 93_405_585_408 // 2


@app.command(cls=Command, epilog=EXAMPLES)
def doctor(
    format: opt.Format = "table",
    output: opt.Output = None,
    configs: opt.Configs = None,
) -> None:
    """Check the installation, the catalog and this machine, and compute one known estimate.

    Exit code 1 when the self-test fails.
    """
    from moeplan.cli.output import emit_card

    catalog = opt.open_catalog(configs)
    found = {
        "schema": "moeplan/doctor@1",
        **_versions(),
        "config_roots": [str(root) for root in catalog.roots],
        "catalog": _counts(catalog),
        "gpu": _gpu(),
        "self_test": _self_test(catalog),
    }
    emit_card(lambda: _card(found), lambda: found, format, output)
    if not found["self_test"]["ok"]:
        raise typer.Exit(1)


def _versions() -> dict[str, Any]:
    import platform
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    from moeplan._version import __version__

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {
        "moeplan": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "packages": {name: installed(name) for name in PACKAGES},
        "extras": {name: find_spec(name) is not None for name in EXTRAS},
    }


def _counts(catalog: Catalog) -> dict[str, int]:
    from moeplan.readers.catalog import KINDS
    from moeplan.readers.quants import load_quants

    return {**{kind: len(catalog.ids(kind)) for kind in KINDS}, "quants": len(load_quants().schemes)}


def _gpu() -> dict[str, Any]:
    """The NVIDIA GPUs that the driver shows, or why there are none."""
    import os

    from moeplan.hw.nvml import find_nvidia_gpus

    gpus, notes = find_nvidia_gpus(dict(os.environ))
    return {
        "gpus": [gpu.name for gpu in gpus],
        "notes": notes if gpus else [*notes, "not yet run on a GPU: NVML shows none here"],
    }


def _self_test(catalog: Catalog) -> dict[str, Any]:
    """One estimate, of a model whose parameters are known to the last one."""
    from moeplan.api.estimate import run_estimate
    from moeplan.domain.request import EstimateRequest
    from moeplan.errors import MoeplanError

    what = f"{_KNOWN_MODEL} at q4_k_m on rtx-4090"
    try:
        answer = run_estimate(
            EstimateRequest(model=_KNOWN_MODEL, hardware="rtx-4090", quant="q4_k_m"), catalog
        )
    except MoeplanError as error:
        return {"ok": False, "what": what, "result": str(error)}
    rate = answer.decode_step_s.inverse()
    speed = f"decode {rate.low:.1f} to {rate.high:.1f} tok/s" if answer.fits else "does not fit"
    counted = f"{answer.params.total:,} parameters, the published weights have {_KNOWN_PARAMS:,}"
    return {"ok": answer.params.total == _KNOWN_PARAMS, "what": what, "result": f"{counted}; {speed}"}


def _card(found: dict[str, Any]) -> Card:
    from moeplan.report.listing import Card

    packages = ", ".join(f"{name} {version or 'missing'}" for name, version in found["packages"].items())
    absent = [name for name, ok in found["extras"].items() if not ok]
    missing = [f"{name} (pip install 'moeplan[{EXTRAS[name]}]')" for name in absent]
    present = ", ".join(name for name, ok in found["extras"].items() if ok)
    gpu, test = found["gpu"], found["self_test"]
    return Card(
        f"moeplan {found['moeplan']} on Python {found['python']}",
        [
            ("platform", found["platform"]),
            ("python", found["executable"]),
            ("packages", packages),
            ("extras", present or "none"),
            ("catalog", ", ".join(f"{n} {kind}" for kind, n in found["catalog"].items())),
            ("GPUs", "; ".join([*gpu["gpus"], *gpu["notes"]])),
            ("self-test", f"{'ok' if test['ok'] else 'FAILED'}: {test['what']}: {test['result']}"),
        ],
        {"without": missing, "searched": found["config_roots"]},
    )
