"""`moeplan check`: budget files and deployment files in, verdicts out. One code path with `estimate`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from moeplan._version import __version__
from moeplan.api.check_fix import fix_for
from moeplan.api.check_results import Case, digest, fingerprints, result_of
from moeplan.api.check_sizing import Sizer
from moeplan.domain.budget import Budget, BudgetCase, CaseResult, CheckReport, DeploymentEntry
from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.errors import MoeplanError, NotModelled, OptionError, SpecError, UnknownName

if TYPE_CHECKING:
    from moeplan.check.launch import Sizing
    from moeplan.domain.deployment import Launch
    from moeplan.readers.catalog import Catalog

DEFAULT_FILE = "moeplan.check.yaml"
Unsure = Literal["fail", "warn"]


class Options:
    """What the command line adds to the files."""

    def __init__(
        self,
        *,
        hardware: str | None = None,
        machine: MachineFlags | None = None,
        unsure: Unsure = "fail",
        ignore_flags: Sequence[str] = (),
        calibration: str | None = None,
        explain: bool = False,
    ) -> None:
        if hardware == "local":
            raise SpecError(
                "--hardware local: a check names its machine, or it differs from runner to runner"
            )
        self.hardware = hardware
        self.machine = machine or MachineFlags()
        self.unsure: Unsure = unsure
        self.ignore_flags = frozenset(ignore_flags)
        self.calibration = calibration
        self.explain = explain

    @property
    def names_machine(self) -> bool:
        """Whether the command line says on what machine deployments run."""
        return bool(self.hardware or self.machine.gpu or self.machine.cpu)


class Checker:
    """Checks files below ``root``; results name them relative to it."""

    def __init__(self, catalog: Catalog, options: Options, root: Path | None = None) -> None:
        from moeplan.api.resolve import Session
        from moeplan.readers.engine_tables import EngineTables

        self.catalog = catalog
        self.options = options
        self.root = root or Path()
        self.session = Session(catalog, options.calibration)
        self.sizer = Sizer(self.session)
        self.tables = EngineTables()
        self.notes: list[str] = []

    def check(self, paths: Sequence[str]) -> CheckReport:
        """Every budget of every file. SpecError with file and line for what cannot be understood."""
        from moeplan.check.policy import overall

        results = tuple(result for path in paths for result in self.file(path))
        results = _distinct(results)
        used = sorted({(r.inputs.model, r.inputs.hardware) for r in results if r.inputs})
        calibration = self.session.calibration
        return CheckReport(
            verdict=overall(results, self.options.unsure, against_baseline=False),
            results=results,
            calibration=f"{calibration.id} {calibration.date}",
            catalog=digest(used),
            program=__version__,
            unsure=self.options.unsure,
            notes=tuple(dict.fromkeys(self.notes)),
        )

    def file(self, name: str) -> list[CaseResult]:
        """The results of one file."""
        from moeplan.readers.paths import require_file

        path = self.root / name
        if _holds_budgets(path):
            return list(self.budget_file(path))
        self.refuse_own(path)
        require_file(path)
        if not self.options.names_machine:
            raise SpecError(
                f"{name}: --hardware is needed: the file says how many GPUs, not which",
                help="moeplan check FILE --hardware a100-sxm-80gb; or name it in moeplan.check.yaml",
            )
        entry = DeploymentEntry(
            file=str(path), hardware=self.options.hardware, machine=self.options.machine,
            ignore_flags=self.options.ignore_flags,
        )  # fmt: skip
        return list(self.deployment(entry))

    def refuse_own(self, path: Path) -> None:
        """Raise for a file that describes a machine, a model or the like: nothing is deployed there."""
        from moeplan.readers.own_files import HARDWARE, kind_of_file

        kind = kind_of_file(path)
        if not kind:
            return
        help = "moeplan check FILE --hardware a100-sxm-80gb, or a budget file: moeplan schema budget"
        if kind in HARDWARE:
            help = f"moeplan check FILE --hardware {self.shown(path)} checks FILE on it"
        raise SpecError(
            f"describes {kind}; expected are budgets (moeplan.check.yaml) or a deployment",
            path=self.shown(path),
            help=help,
        )

    # ── budget files ──────────────────────────────────────────────────────────────────────────

    def budget_file(self, path: Path) -> Iterator[CaseResult]:
        """The matrix, then the deployments of a budget file."""
        from moeplan.readers.budget_file import read_budget_file

        budgets = read_budget_file(path, self.shown(path))
        for case in budgets.cases:
            yield from self.budget_case(case)
        for entry in budgets.deployments:
            yield from self.deployment(entry, budgets.path, entry.line)

    def budget_case(self, asked: BudgetCase) -> Iterator[CaseResult]:
        """One case of the matrix."""
        try:
            sized = self.sizer.size(asked.request)
        except MoeplanError as error:
            field = error.field if isinstance(error, OptionError) else ""
            file, line, column = asked.places.get(field, (asked.file, asked.line, 0))
            raise placed(error, file, line, f"case {asked.id}", column) from None
        case = Case(id=asked.id, sized=sized, file=asked.file, line=asked.line)
        yield from self.results(case, asked.budgets)

    def results(
        self, case: Case, budgets: Sequence[Budget], sizing: Sizing | None = None
    ) -> Iterator[CaseResult]:
        """Every budget of one case, with a fix where one fails."""
        from msgspec.structs import replace

        for budget in budgets:
            try:
                result = result_of(case, budget, self.sizer)
                if result.verdict != "pass":
                    result = replace(result, fix=fix_for(case, budget, self.sizer, sizing))
            except MoeplanError as error:
                raise placed(error, budget.file or case.file, budget.line or case.line, case.id) from None
            if self.options.explain and budget.kind == "fits":
                result = replace(result, explain=self.explanation(case))
            yield result

    def explanation(self, case: Case) -> tuple[str, ...]:
        """What the figures rest on: placement, assumptions, what is not modelled."""
        from moeplan.report import words

        estimate = case.sized.estimate
        return (
            words.title(estimate),
            f"placement: {words.placement_words(estimate.placement)}",
            f"workload: {words.workload_facts(estimate)}",
            f"confidence: {words.confidence_words(estimate.confidence)}",
            *(f"assumed: {text}" for text in estimate.assumptions),
            *(f"not modelled: {text}" for text in estimate.not_modelled),
        )

    # ── deployments ───────────────────────────────────────────────────────────────────────────

    def deployment(self, entry: DeploymentEntry, file: str = "", line: int = 0) -> Iterator[CaseResult]:
        """Every engine that a deployment file starts."""
        found = 0
        path = Path(entry.file)
        names: dict[str, int] = {}
        for launch in self.launches(path, file, line):
            sizing = self.sizing(launch, entry)
            if sizing is None:
                self.note_unknown(launch)
                continue
            # a line of a script has no name that outlives an edit above it: the model names it
            name = launch.name or sizing.request.model
            if entry.only and name != entry.only and not name.endswith("/" + entry.only):
                continue
            found += 1
            n = names[name] = names.get(name, 0) + 1
            id_ = f"{launch.path}:{name}" + (f"#{n}" if n > 1 else "")
            yield from self.launch(id_, sizing, entry)
        if not found:
            self.refuse_own(path)
            what = (
                f"no engine named {entry.only!r}"
                if entry.only
                else "no command of an engine that moeplan knows"
            )
            engines = ", ".join(table.id for table in self.tables.all())
            raise SpecError(what, path=self.shown(path), help=f"engines: {engines}")

    def note_unknown(self, launch: Launch) -> None:
        """A container that gets GPUs but starts no known engine is told, not passed over in silence."""
        if launch.kind != "shell" and launch.n_gpus:
            what = launch.image or " ".join(launch.argv[:3]) or "its entry point"
            self.notes.append(f"not checked: {launch.name} gets GPUs, but {what} is no engine that is known")

    def launches(self, path: Path, file: str, line: int) -> list[Launch]:
        """What the file starts; a missing one is an error where it is named."""
        from moeplan.readers.manifests import read_deployment

        try:
            return read_deployment(path, self.shown(path))
        except SpecError as error:
            if file and error.line is None and not path.exists():
                raise SpecError(f"{self.shown(path)}: {error.message}", path=file, line=line) from None
            raise

    def sizing(self, launch: Launch, entry: DeploymentEntry) -> Sizing | None:
        """What the launch asks; None when it is no engine."""
        from moeplan.check.launch import sizing_of
        from moeplan.engines.flags import parse, recognise
        from moeplan.readers.quant_names import quant_in_name

        known = recognise(launch, self.tables.all())
        if known is None:
            return None
        table, words = known
        ignore = entry.ignore_flags | self.options.ignore_flags
        settings = parse(table, words, launch, ignore)
        stated = settings.get("model")
        if stated is None:
            raise SpecError(f"{table.id} is started without a model", path=launch.path, line=launch.line)
        file_word = settings.get("model_file")
        name = str(stated.value)
        try:
            model = self.model_id(name, Path(launch.path).parent)
            source = self.session.source(model)
            quant = (entry.overrides.quant if entry.overrides else None) or quant_in_name(
                str(file_word.value) if file_word else name, self.session.quants
            )
        except MoeplanError as error:
            raise placed(
                error, launch.path, stated.word.line or launch.line, "", stated.word.column
            ) from None
        return sizing_of(
            launch,
            settings,
            source.spec,
            model=model,
            named_quant=quant,
            hardware=entry.hardware,
            machine=entry.machine,
            n_machine_gpus=self.gpus_of_machine(entry),
            has_quant=source.tensors is not None,
        )

    def model_id(self, name: str, folder: Path) -> str:
        """The model that an engine's option names: a file of the checkout, else a name of the catalog.

        Absolute paths are those of the container or server: only their last parts can name a model.
        """
        beside = self.root / folder / name
        if not name.startswith(("/", "~", "http")) and ("/" in name or "." in name) and beside.exists():
            return os.path.relpath(beside)
        parts = [part for part in name.split("/") if part]
        forms = [name, *(["/".join(parts[-2:])] if len(parts) > 2 else []), *parts[-1:], *parts[-2:-1]]
        for form in forms:
            id_ = self.catalog.resolve("models", form)
            if id_ is not None:
                return id_
        raise UnknownName(
            "model", name, self.catalog.nearest("models", name),
            help="moeplan models list; a YAML spec or config.json in the repository works too",
        )  # fmt: skip

    def gpus_of_machine(self, entry: DeploymentEntry) -> int | None:
        """GPUs of a whole machine; None for a kind of GPU, whose count the deployment says."""
        if entry.machine.n_gpus is not None:
            return entry.machine.n_gpus
        name = entry.hardware
        if name is None or self.catalog.resolve("hardware/node", name) is None:
            is_file = name is not None and name.endswith((".yaml", ".yml"))
            if not is_file and self.catalog.resolve("hardware/cpu", name or "") is None:
                return None
        from moeplan.readers.hardware import resolve_hardware

        n = len(resolve_hardware(name, entry.machine, self.catalog).gpus)
        return None if n == 1 and name is not None and name.endswith((".yaml", ".yml")) else n

    def launch(self, id_: str, sizing: Sizing, entry: DeploymentEntry) -> Iterator[CaseResult]:
        """Fits, then the budgets of one engine."""
        launch = sizing.launch
        line = sizing.impossible_line or sizing.line_of("context", "context_total", "model")
        request = _with_overrides(sizing.request, entry.overrides)
        try:
            sized = self.sizer.size(request, sizing.static_frac)
        except OptionError as error:
            raise placed(error, launch.path, sizing.line_of(error.field), launch.name) from None
        except MoeplanError as error:
            raise placed(error, launch.path, line, launch.name) from None
        case = Case(
            id=id_, sized=sized, file=launch.path, line=line, notes=sizing.notes,
            least_context=sizing.least_context, impossible=sizing.impossible,
        )  # fmt: skip
        fits = Budget(kind="fits", file=launch.path, line=line)
        yield from self.results(case, (fits, *entry.budgets), sizing)

    def shown(self, path: Path) -> str:
        """``path`` as results name it: relative to the root, with forward slashes."""
        text = (
            os.path.relpath(path, self.root) if not path.is_absolute() or self.root != Path() else str(path)
        )
        return Path(text).as_posix()


def placed(error: MoeplanError, file: str, line: int, what: str, column: int | None = None) -> MoeplanError:
    """``error`` with the place in the user's file that caused it; errors with a place keep theirs."""
    if isinstance(error, SpecError) and error.line is not None:
        return error
    if not isinstance(error, SpecError | UnknownName | NotModelled):
        return error
    message = error.message if isinstance(error, SpecError) else str(error)
    if isinstance(error, SpecError) and error.path:
        message = f"{error.path}: {message}"
    return SpecError(
        f"{what}: {message}" if what else message,
        path=file,
        line=line or None,
        column=column or None,
        help=error.help,
    )


def _with_overrides(request: EstimateRequest, overrides: EstimateRequest | None) -> EstimateRequest:
    from msgspec.structs import replace

    if overrides is None:
        return request
    fields = {name: getattr(overrides, name) for name in ("prompt_tokens", "output_tokens", "batch")}
    return replace(request, **{name: value for name, value in fields.items() if value is not None})


def _distinct(results: tuple[CaseResult, ...]) -> tuple[CaseResult, ...]:
    """Results with ids made distinct: two files may call their cases the same."""
    from msgspec.structs import replace

    seen: dict[str, int] = {}
    told = []
    for result in results:
        n = seen[result.id] = seen.get(result.id, 0) + 1
        told.append(result if n == 1 else replace(result, id=f"{result.id}#{n}"))
    return tuple(told)


def _holds_budgets(path: Path) -> bool:
    """Whether ``path`` is a budget file; only YAML can be one."""
    from moeplan.readers.budget_file import is_budget_file
    from moeplan.readers.yaml_words import read_word_documents

    if not path.name.endswith((".yaml", ".yml")):
        return False
    if is_budget_file(path, None):
        return True
    documents = read_word_documents(path)
    return len(documents) == 1 and is_budget_file(path, documents[0])


__all__ = ["DEFAULT_FILE", "Checker", "Options", "fingerprints", "placed"]
