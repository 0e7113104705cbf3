"""`moeplan hardware`: the hardware catalog, and this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moeplan.cli import options as opt
from moeplan.cli.tree import Command, new_app

if TYPE_CHECKING:
    from moeplan.domain.hardware import FoundMachine, HardwareSpec
    from moeplan.readers.catalog import Catalog
    from moeplan.readers.hardware_list import HardwareEntry

app = new_app(no_args_is_help=True)

EXAMPLES = """\
moeplan hardware list 4090
moeplan hardware show rtx-4090
moeplan hardware detect
"""
LIST_EXAMPLES = """\
moeplan hardware list
moeplan hardware list --kind gpu --min-memory-gib 48
moeplan hardware list epyc --format json
"""
SHOW_EXAMPLES = """\
moeplan hardware show rtx-4090
moeplan hardware show 2x-rtx-3090 --machine
moeplan hardware show local
"""
DETECT_EXAMPLES = """\
moeplan hardware detect
moeplan hardware detect --yaml --output my-machine.yaml
"""

Kind = Literal["gpu", "cpu", "node", "link", "storage"]


@app.callback(epilog=EXAMPLES)
def hardware() -> None:
    """GPUs, CPUs, whole machines, links and disks that moeplan knows by name, and this machine."""


@app.command("list", cls=Command, epilog=LIST_EXAMPLES)
def list_(
    text: Annotated[str, typer.Argument(metavar="[TEXT]", help="Part of an id, name or alias.")] = "",
    kind: Annotated[Kind | None, typer.Option("--kind", help="Only this kind.")] = None,
    min_memory_gib: Annotated[
        str | None,
        typer.Option("--min-memory-gib", metavar="SIZE", help="Only GPUs of at least this memory, in GiB."),
    ] = None,
    format: opt.Format = "table",
    output: opt.Output = None,
    configs: opt.Configs = None,
) -> None:
    """List the catalog's hardware: memory and the rate that binds inference."""
    from moeplan.cli.output import emit_listing
    from moeplan.report.catalog_cards import hardware_list_json, hardware_listing
    from moeplan.units import parse_bytes

    least = None if min_memory_gib is None else parse_bytes(min_memory_gib, what="--min-memory-gib")

    def wanted(entry: HardwareEntry) -> bool:
        names = " ".join((entry.id, entry.name, *getattr(entry, "aliases", ()))).casefold()
        return text.casefold() in names and (least is None or getattr(entry, "memory_bytes", -1) >= least)

    catalog = opt.open_catalog(configs)
    found = [entry for entry in _entries(catalog, kind) if wanted(entry)]
    emit_listing(lambda: hardware_listing(found), lambda: hardware_list_json(found), format, output)


@app.command(cls=Command, epilog=SHOW_EXAMPLES)
def show(
    name: Annotated[
        str,
        typer.Argument(metavar="HARDWARE", help="Id or alias of any kind, a YAML file, or local."),
    ],
    machine: Annotated[
        bool, typer.Option("--machine", help="Show the whole machine that a GPU or CPU stands for.")
    ] = False,
    format: opt.Format = "table",
    output: opt.Output = None,
    configs: opt.Configs = None,
) -> None:
    """Show one piece of hardware, or the machine that a name stands for."""
    from moeplan.cli.output import emit_card
    from moeplan.report.catalog_cards import hardware_card, hardware_json

    catalog = opt.open_catalog(configs)
    entry = _machine(catalog, name) if machine else _entry(catalog, name)
    emit_card(lambda: hardware_card(entry), lambda: hardware_json(entry), format, output)


@app.command(cls=Command, epilog=DETECT_EXAMPLES)
def detect(
    yaml: Annotated[
        bool, typer.Option("--yaml", help="Print a specification that --hardware takes.")
    ] = False,
    format: opt.Format = "table",
    output: opt.Output = None,
    configs: opt.Configs = None,
) -> None:
    """Look at this machine and show it as moeplan sees it."""
    from moeplan.cli.output import emit, emit_card
    from moeplan.report.catalog_cards import hardware_card, hardware_json

    found = _machine(opt.open_catalog(configs), "local")
    if yaml:
        from moeplan.readers.hardware_dump import dump_hardware_yaml

        emit(dump_hardware_yaml(found), output)
        return
    emit_card(lambda: hardware_card(found), lambda: hardware_json(found), format, output)


def _entries(catalog: Catalog, only: str | None) -> Iterator[HardwareEntry]:
    """Every entry of the catalog; one that cannot be read becomes a note."""
    from moeplan.cli.output import note
    from moeplan.errors import MoeplanError
    from moeplan.readers.hardware_list import KINDS, find_hardware

    for kind in KINDS:
        for id_ in catalog.ids(f"hardware/{kind}") if only in (None, kind) else []:
            try:
                yield find_hardware(catalog, id_, kind)[1]
            except MoeplanError as error:
                note(f"skipped: {error}")


def _entry(catalog: Catalog, name: str) -> HardwareEntry:
    """The catalog's entry of that name, of whatever kind, else the machine that the name describes."""
    from moeplan.errors import UnknownName
    from moeplan.readers.hardware_list import find_hardware

    try:
        return find_hardware(catalog, name)[1]
    except UnknownName:
        return _machine(catalog, name)


def _machine(catalog: Catalog, name: str) -> HardwareSpec:
    from moeplan.readers.hardware import resolve_hardware

    return resolve_hardware(name, catalog=catalog, detect=_look)


def _look() -> FoundMachine:
    from moeplan.hw.detect import detect as look

    return look()
