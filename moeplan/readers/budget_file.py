"""From moeplan.check.yaml to cases: extends, the matrix, budgets in SI units with their lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from moeplan.domain.budget import Budget, BudgetCase, BudgetFile, BudgetKind, DeploymentEntry
from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.errors import SpecError, nearest
from moeplan.readers.budget_units import Part, budget_of
from moeplan.readers.budget_wire import (
    BudgetsWire,
    BudgetWire,
    Machine,
    ModelChoice,
    WorkloadWire,
)
from moeplan.readers.yaml_convert import convert
from moeplan.readers.yaml_doc import Document, KeyPath, load_document

MAX_CASES = 5000
HELP = "moeplan schema budget"

# Budgets that somebody may want and that moeplan has no formula for: named, never passed over.
_NOT_MODELLED = {
    "cost": "prices", "price": "prices", "usd": "prices", "usd_per_hour": "prices", "cost_usd": "prices",
    "usd_per_million_tokens": "prices", "usd_per_million_output_tokens": "prices",
    "energy": "power and energy", "power": "power and energy", "watts": "power and energy",
    "joules_per_token": "power and energy",
    "training": "training", "train": "training", "pretraining": "training",
    "finetune": "fine-tuning", "finetuning": "fine-tuning", "fine_tuning": "fine-tuning",
    "fine_tune": "fine-tuning", "lora": "fine-tuning", "qlora": "fine-tuning",
    "latency": "latency under load", "latency_under_load": "latency under load", "tpot": "latency under load",
    "itl": "latency under load", "e2e_latency": "latency under load", "slo": "latency under load",
    "serving": "latency under load", "goodput": "latency under load", "queue": "latency under load",
    "throughput": "throughput under load", "requests_per_s": "throughput under load",
    "rps": "throughput under load", "qps": "throughput under load",
    "quality": "quality of answers", "accuracy": "quality of answers", "perplexity": "quality of answers",
}  # fmt: skip
_SYNONYMS = {
    "gpus": "hardware",
    "machines": "hardware",
    "model": "models",
    "workload": "workloads",
    "budget": "budgets",
}
_FIELDS = {"tp": "tensor_parallel", "flash_attn": "flash_attention"}
"""Fields of a request that are called otherwise here."""
_KINDS: tuple[BudgetKind, ...] = ("memory", "decode", "prefill", "ttft", "context", "concurrency")


def read_budget_file(path: Path, shown: str | None = None) -> BudgetFile:
    """The cases of a budget file. SpecError with the line of every mistake."""
    document, wire = _load(path)
    parts = {key: _named(document, getattr(wire, key), key) for key in ("models", "hardware", "workloads")}
    budgets = _budget_parts(document, wire.budgets, ("budgets",))
    if wire.extends is not None:
        base_document, base = _base(document, wire.extends, path)
        for key, own in parts.items():
            parts[key] = {**_named(base_document, getattr(base, key), key), **own}
        budgets = {**_budget_parts(base_document, base.budgets, ("budgets",)), **budgets}
    builder = _Builder(shown or str(path), document, path.parent, parts, budgets)
    cases = [*builder.matrix(wire), *builder.included(wire)]
    deployments = tuple(builder.deployments(wire))
    if not cases and not deployments:
        raise SpecError(
            "asks nothing: it needs models and hardware, include, or deployments", path=str(path), help=HELP
        )
    return BudgetFile(path=shown or str(path), cases=tuple(cases), deployments=deployments)


def is_budget_file(path: Path, data: Any) -> bool:
    """Whether ``path`` holds budgets rather than a deployment, by its name or its keys."""
    if path.name.startswith("moeplan.check."):
        return True
    keys = set(data) if isinstance(data, dict) else set()
    if str(data.get("schema", "")).startswith("moeplan/budget") if isinstance(data, dict) else False:
        return True
    asks = keys & {"budgets", "deployments"} or {"models", "hardware"} <= keys
    return bool(asks) and not keys & {"apiVersion", "services"}


# ── reading ─────────────────────────────────────────────────────────────────────────────────────


def _load(path: Path) -> tuple[Document, BudgetWire]:
    document = load_document(path)
    _refuse_not_modelled(document)
    return document, convert(document, BudgetWire, synonyms=_SYNONYMS, help=HELP)


def _base(document: Document, name: str, path: Path) -> tuple[Document, BudgetWire]:
    target = path.parent / name
    if target.resolve() == path.resolve():
        raise document.error("`extends` names the file itself", ("extends",), value=True)
    try:
        base_document, base = _load(target)
    except SpecError as error:
        if error.line is None:
            raise document.error(f"`extends`: {name}: {error.message}", ("extends",), value=True) from None
        raise
    if base.extends is not None:
        raise base_document.error("`extends` goes one level deep; this file is extended itself", ("extends",))
    if base.include or base.deployments or base.exclude:
        raise base_document.error("an extended file holds models, hardware, workloads and budgets only")
    return base_document, base


def _refuse_not_modelled(document: Document) -> None:
    """Raise for the first budget that nothing here can compute, wherever it stands."""
    for path, budgets in _budget_mappings(document.data, ()):
        for key, value in budgets.items():
            folded = key.casefold().replace("-", "_")
            why = _NOT_MODELLED.get(folded)
            if why is None and isinstance(value, dict):
                percentile = next((k for k in value if k[:1] in "pP" and k[1:3].isdigit()), None)
                if percentile is not None:
                    raise document.error(
                        f"not modelled yet: budget `{key}.{percentile}` (latency under load)",
                        (*path, key, percentile),
                    )
            if why is not None:
                raise document.error(
                    f"not modelled yet: budget `{key}` ({why})",
                    (*path, key),
                    help=f"budgets: {', '.join(_KINDS)}",
                )


def _budget_mappings(data: Any, path: KeyPath) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    if isinstance(data, dict):
        for key, value in data.items():
            if key == "budgets" and isinstance(value, dict):
                yield (*path, key), value
            else:
                yield from _budget_mappings(value, (*path, key))
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from _budget_mappings(value, (*path, i))


def _named(document: Document, entries: Any, key: str) -> dict[str, Part]:
    if isinstance(entries, list):
        return {name: Part(name, document, (key, i)) for i, name in enumerate(entries)}
    return {name: Part(value, document, (key, name)) for name, value in entries.items()}


def _budget_parts(document: Document, wire: BudgetsWire | None, path: KeyPath) -> dict[str, Part]:
    """The budgets stated in one place, by kind."""
    if wire is None:
        return {}
    stated = {kind: getattr(wire, kind) for kind in _KINDS}
    return {kind: Part(value, document, (*path, kind)) for kind, value in stated.items() if value is not None}


# ── building ────────────────────────────────────────────────────────────────────────────────────


class _Builder:
    def __init__(
        self,
        path: str,
        document: Document,
        folder: Path,
        parts: Mapping[str, dict[str, Part]],
        budgets: Mapping[str, Part],
    ) -> None:
        self.path = path
        self.document = document
        self.folder = folder
        self.parts = parts
        self.budgets = budgets

    def matrix(self, wire: BudgetWire) -> Iterator[BudgetCase]:
        """models x hardware x workloads, without what is excluded."""
        self.check_exclusions(wire)
        workloads = self.parts["workloads"] or {"": Part(WorkloadWire(), self.document, ())}
        n = 0
        for model in self.parts["models"]:
            for hardware in self.parts["hardware"]:
                for workload, part in workloads.items():
                    names = (model, hardware, workload)
                    if any(_selects(selection, names) for selection in wire.exclude):
                        continue
                    n += 1
                    if n > MAX_CASES:
                        raise self.document.error(f"the matrix has more than {MAX_CASES:,} cases")
                    own = _budget_parts(part.document, part.value.budgets, (*part.path, "budgets"))
                    line = self.parts["models"][model].line
                    yield self.case(names, part.value, own, line)

    def check_exclusions(self, wire: BudgetWire) -> None:
        """A name under ``exclude`` that nothing has is a typing error, not an exclusion of nothing."""
        for i, selection in enumerate(wire.exclude):
            for field, key in (("model", "models"), ("hardware", "hardware"), ("workload", "workloads")):
                name = getattr(selection, field)
                if name is not None and name not in self.parts[key]:
                    raise self.unknown(name, key, ("exclude", i, field))

    def included(self, wire: BudgetWire) -> Iterator[BudgetCase]:
        """The cases beside the matrix."""
        for i, entry in enumerate(wire.include):
            where: KeyPath = ("include", i)
            workload = WorkloadWire()
            own: dict[str, Part] = {}
            if entry.workload is not None:
                part = self.parts["workloads"].get(entry.workload)
                if part is None:
                    raise self.unknown(entry.workload, "workloads", (*where, "workload"))
                workload = part.value
                own = _budget_parts(part.document, workload.budgets, (*part.path, "budgets"))
            own = {**own, **_budget_parts(self.document, entry.budgets, (*where, "budgets"))}
            names = (entry.model, entry.hardware, entry.workload or "")
            yield self.case(names, workload, own, self.document.location(where)[0])

    def case(
        self, names: tuple[str, str, str], workload: WorkloadWire, own: Mapping[str, Part], line: int
    ) -> BudgetCase:
        """One case; budgets of its own come before those of the file."""
        model = self.model(names[0])
        hardware, flags = self.machine(names[1])
        request = EstimateRequest(
            model=model.model,
            hardware=hardware,
            machine=flags,
            quant=model.quant,
            engine=model.engine,
            kv_type=model.kv_type,
            tensor_parallel=model.tp,
            gpu_layers=model.gpu_layers,
            cpu_moe=model.cpu_moe,
            placement=model.placement,
            ubatch=model.ubatch,
            flash_attention=model.flash_attn,
            memory_utilization=model.memory_utilization,
            mmap=model.mmap,
            context=workload.context,
            prompt_tokens=workload.prompt,
            output_tokens=workload.output,
            depth_tokens=workload.depth or 0,
            batch=workload.batch,
        )
        budgets = [budget_of(kind, part) for kind, part in {**self.budgets, **own}.items()]
        fits = Budget(kind="fits", file=self.path, line=line)
        return BudgetCase(
            id="/".join(name for name in names if name),
            request=request,
            budgets=(fits, *sorted(budgets, key=lambda b: _KINDS.index(b.kind))),
            file=self.path,
            line=line,
            places=self.places(names[0]),
        )

    def places(self, name: str) -> Mapping[str, tuple[str, int, int]]:
        """Where the model under ``name`` states each field of the request: (file, line, column)."""
        part = self.parts["models"].get(name)
        if part is None or isinstance(part.value, str):
            return {}
        stated = [key for key in ModelChoice.__struct_fields__ if getattr(part.value, key) is not None]
        return {
            _FIELDS.get(key, key): (str(part.document.path), *part.document.location((*part.path, key)))
            for key in stated
        }

    def deployments(self, wire: BudgetWire) -> Iterator[DeploymentEntry]:
        """The deployment files, resolved beside this one."""
        for i, entry in enumerate(wire.deployments):
            where: KeyPath = ("deployments", i)
            hardware, flags = self.machine(entry.hardware)
            own = _budget_parts(self.document, entry.budgets, (*where, "budgets"))
            yield DeploymentEntry(
                file=str(self.folder / entry.file),
                hardware=hardware,
                machine=flags,
                only=entry.only or "",
                overrides=EstimateRequest(
                    model="",
                    quant=entry.quant,
                    prompt_tokens=entry.prompt,
                    output_tokens=entry.output,
                    batch=entry.batch,
                ),
                budgets=tuple(budget_of(kind, part) for kind, part in {**self.budgets, **own}.items()),
                line=self.document.location((*where, "file"))[0],
                ignore_flags=frozenset(entry.ignore_flags),
            )

    def model(self, name: str) -> ModelChoice:
        """The model under ``name``, or ``name`` itself; files are looked for beside the budget file."""
        part = self.parts["models"].get(name)
        value = name if part is None else part.value
        choice = ModelChoice(model=value) if isinstance(value, str) else value
        beside = self.folder / choice.model
        if choice.model.startswith("hf:") or not _looks_like_file(choice.model) or not beside.exists():
            return choice
        return msgspec.structs.replace(choice, model=str(beside))

    def machine(self, name: str) -> tuple[str | None, MachineFlags]:
        """(id or file, flags) of the machine under ``name``, or of ``name`` itself."""
        part = self.parts["hardware"].get(name)
        value = name if part is None else part.value
        machine = Machine(machine=value) if isinstance(value, str) else value
        if machine.machine == "local" or (
            machine.machine is None and machine.gpu is None and machine.cpu is None
        ):
            place = part or Part(None, self.document, ())
            raise place.document.error(
                "a check names its machine: `local` or nothing would give another answer on every runner",
                place.path,
            )
        beside = self.folder / (machine.machine or "")
        id_ = str(beside) if machine.machine and _looks_like_file(machine.machine) else machine.machine
        fields = {f: getattr(machine, f) for f in MachineFlags.__struct_fields__ if hasattr(machine, f)}
        return id_, MachineFlags(**fields)

    def unknown(self, name: str, key: str, path: KeyPath) -> SpecError:
        """The error for a name that nothing in the file has."""
        close = nearest(name, self.parts[key], n=1)
        hint = (
            f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(self.parts[key]) or 'none'}"
        )
        return self.document.error(f"`{name}` is not under `{key}`", path, value=True, hint=hint)


def _looks_like_file(name: str) -> bool:
    return name.startswith((".", "/")) or name.endswith((".yaml", ".yml", ".gguf", ".json", ".safetensors"))


def _selects(selection: Any, names: tuple[str, str, str]) -> bool:
    wanted = (selection.model, selection.hardware, selection.workload)
    return all(want is None or want == name for want, name in zip(wanted, names, strict=True))
