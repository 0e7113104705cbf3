"""configs/engines/*.yaml: how engines are started, read into EngineTable values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from moeplan.domain.deployment import EngineOption, EngineTable, OptionKind
from moeplan.provenance import Source, SourceKind
from moeplan.readers.paths import shipped_configs
from moeplan.readers.yaml_convert import convert
from moeplan.readers.yaml_doc import load_document

TABLES = ("vllm", "sglang", "tgi", "llama.cpp", "ollama")


class SourceWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Provenance as written in YAML."""

    kind: SourceKind
    ref: str
    retrieved: str = ""
    note: str = ""


class OptionWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An option that is understood."""

    flags: Annotated[list[str], Meta(min_length=1)]
    means: str
    kind: OptionKind = "text"
    words: dict[str, str] = {}
    env: str = ""
    repeats: bool = False


class RefusedWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An option whose effect is not modelled."""

    flags: Annotated[list[str], Meta(min_length=1)]
    why: str
    above: float | None = None
    kind: OptionKind = "text"
    env: str = ""


class IgnoredWire(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options without effect here, as blank-separated words; ``*`` at the end stands for anything."""

    switches: str = ""
    values: str = ""


class TableWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """configs/engines/<id>.yaml."""

    id: str
    engine: str
    version: str
    sources: list[SourceWire]
    commands: list[str]
    images: list[str]
    positional: str = ""
    gpus: Literal["all", "tensor_parallel"] = "all"
    default_context_tokens: int | None = None
    default_quant: str = ""
    options: list[OptionWire]
    not_modelled: list[RefusedWire] = []
    ignored: IgnoredWire = IgnoredWire()


def read_engine_table(id: str, configs: Path | None = None) -> EngineTable:
    """The table of one engine; SpecError with the place of a mistake."""
    document = load_document((configs or shipped_configs()) / "engines" / f"{id}.yaml")
    wire: TableWire = convert(document, TableWire)
    options: dict[str, EngineOption] = {}
    for entry in wire.options:
        option = EngineOption(
            flags=tuple(entry.flags),
            means=entry.means,
            kind=entry.kind,
            words=entry.words,
            env=entry.env,
            repeats=entry.repeats,
        )
        options.update(dict.fromkeys(entry.flags, option))
    for refused in wire.not_modelled:
        option = EngineOption(
            flags=tuple(refused.flags),
            kind=refused.kind,
            env=refused.env,
            why=refused.why,
            above=refused.above,
        )
        options.update(dict.fromkeys(refused.flags, option))
    return EngineTable(
        id=wire.id,
        engine=wire.engine,
        version=wire.version,
        sources=tuple(Source(s.kind, s.ref, s.retrieved, s.note) for s in wire.sources),
        commands=tuple(tuple(command.split()) for command in wire.commands),
        images=tuple(wire.images),
        options=options,
        positional=wire.positional,
        gpus=wire.gpus,
        ignored_switches=frozenset(wire.ignored.switches.split()),
        ignored_values=frozenset(wire.ignored.values.split()),
        default_context_tokens=wire.default_context_tokens,
        default_quant=wire.default_quant,
    )


class EngineTables:
    """The tables of all engines, each read when it is first asked for."""

    def __init__(self, configs: Path | None = None) -> None:
        self._configs = configs
        self._read: dict[str, EngineTable] = {}

    def get(self, id: str) -> EngineTable:
        """The table ``id``."""
        if id not in self._read:
            self._read[id] = read_engine_table(id, self._configs)
        return self._read[id]

    def all(self) -> list[EngineTable]:
        """Every table."""
        return [self.get(id) for id in TABLES]
