"""From names and options to a Problem: models, machines, quants and defaults resolved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.errors import NotModelled, UnknownName

if TYPE_CHECKING:
    from moeplan.domain.calibration import Calibration
    from moeplan.domain.graph import ModelGraph
    from moeplan.domain.hardware import FoundMachine, HardwareSpec
    from moeplan.domain.model import ModelSpec
    from moeplan.domain.profile import HostCalibration
    from moeplan.domain.quant import QuantTable
    from moeplan.engines.traits import EngineTraits
    from moeplan.predict.problem import Problem
    from moeplan.readers.catalog import Catalog
    from moeplan.readers.hardware_parts import Parts


class Session:
    """Reads each specification once: for one estimate, or for thousands of rows of a corpus."""

    def __init__(self, catalog: Catalog, calibration: str | None = None) -> None:
        self.catalog = catalog
        self._calibration_path = calibration
        self._calibration: Calibration | None = None
        self._measured: tuple[HostCalibration | None] | None = None
        self._quants: QuantTable | None = None
        self._sources: dict[str, Any] = {}
        self._graphs: dict[tuple[str, str, bool], ModelGraph] = {}
        self._machines: dict[tuple[str | None, MachineFlags], HardwareSpec] = {}
        self._parts: Parts | None = None

    @property
    def quants(self) -> QuantTable:
        """The quantisation types and schemes."""
        if self._quants is None:
            from moeplan.readers.quants import load_quants

            self._quants = load_quants()
        return self._quants

    @property
    def calibration(self) -> Calibration:
        """The coefficients in force: the file asked for, else those that ship."""
        if self._calibration is None:
            from moeplan.api.measured import is_measured_file
            from moeplan.readers.calibration import read_calibration

            path = self._calibration_path
            shipped = path in (None, "none") or is_measured_file(path)
            self._calibration = read_calibration(None if shipped else Path(str(path)))
        return self._calibration

    def use(self, calibration: Calibration) -> None:
        """Put other coefficients in force."""
        self._calibration = calibration

    def source(self, model: str) -> Any:
        """What ``model`` names (see readers.models.resolve_model)."""
        if model not in self._sources:
            from moeplan.readers.models import resolve_model

            self._sources[model] = resolve_model(model, self.catalog, self.quants)
        return self._sources[model]

    def add(self, spec: ModelSpec) -> None:
        """Make a model that stands in no file known under its id (a dense twin)."""
        from moeplan.domain.source import ModelSource

        self._sources[spec.id] = ModelSource(spec=spec, kind="made", path="")

    def graph(self, model: str, quant: str, *, gguf: bool = True) -> ModelGraph:
        """The typed inventory: a file's own tensor table, or the architecture's under ``quant``.

        ``gguf`` says which layout a name means that both GGUF and safetensors use (f16, bf16, mxfp4).
        """
        key = (model, quant, gguf)
        if key not in self._graphs:
            self._graphs[key] = self._build_graph(self.source(model), quant, gguf)
        return self._graphs[key]

    def loaded(self, model: str, quant: str, engine: EngineTraits) -> ModelGraph:
        """``graph`` as ``engine`` keeps it in memory."""
        from moeplan.graph.loaded import as_loaded

        key = (model, f"{quant} in {engine.id}", engine.gguf)
        if key not in self._graphs:
            self._graphs[key] = as_loaded(self.graph(model, quant, gguf=engine.gguf), engine)
        return self._graphs[key]

    def _build_graph(self, source: Any, quant: str, gguf: bool) -> ModelGraph:
        from msgspec.structs import replace

        from moeplan.graph.inventory import build_tensors, summarise
        from moeplan.graph.quantise import assign_types

        if source.tensors is not None and quant == source.file_quant:
            graph = summarise(source.spec, quant, source.tensors, "file")
        else:
            tensors = assign_types(source.spec, build_tensors(source.spec), quant, self.quants, gguf=gguf)
            graph = summarise(source.spec, quant, tensors, "rules")
        return graph if gguf else replace(graph, expert_group=self._expert_group(quant))

    def _expert_group(self, quant: str) -> int:
        """Columns of an expert's matrix that ``quant`` keeps together; 1 for a file's own, unnamed layout."""
        from moeplan.engines.shards import expert_group

        try:
            return expert_group(self.quants.find(quant))
        except (NotModelled, UnknownName):
            return 1

    def resized(self, graph: ModelGraph, file_bytes: float) -> ModelGraph:
        """``graph`` as large as its file is stated to be, when that is believable.

        Within 1% the two differ by header and rounding; beyond a factor of 1.6 the file is another one.
        ik_llama.cpp's files are named by the type of their experts, and recipes differ in the rest: there a
        smaller file has a smaller rest, be it by less than 1% of all. Dynamic files (UD) give the experts of
        some layers more bits, none fewer: a larger file has larger experts, a smaller one a smaller rest.
        """
        ratio = file_bytes / graph.file_bytes
        chosen_rest = graph.spec.is_moe and self._names_experts(graph.quant) and 1 / 1.6 < ratio < 1.0
        if not chosen_rest and (abs(ratio - 1.0) < 0.01 or not 1 / 1.6 < ratio < 1.6):
            return graph
        dynamic = graph.spec.is_moe and graph.origin == "rules" and graph.quant.startswith("ud-")
        size = f"{graph.quant}@{file_bytes:.0f} for {graph.weights_bytes}"
        key = (graph.spec.id, size, graph.origin == "rules")
        if key not in self._graphs:
            from moeplan.graph.resize import resized, resized_experts, resized_rest

            resize = resized_rest if chosen_rest or dynamic else resized
            if dynamic and ratio > 1.0:
                resize = resized_experts
            self._graphs[key] = resize(graph, file_bytes)
        return self._graphs[key]

    def _names_experts(self, quant: str) -> bool:
        """Whether files called ``quant`` have that type in their experts, and others elsewhere."""
        scheme = self.quants.find(quant)
        return scheme.engine == "ik_llama.cpp" and "*" in scheme.moe_recipe

    def run_problem(self, request: EstimateRequest, spec: ModelSpec) -> Problem:
        """The problem of a model that is in no catalog, on a machine that is."""
        from moeplan.api.workload import build_workload
        from moeplan.engines.traits import find_engine
        from moeplan.graph.inventory import build_tensors, summarise
        from moeplan.graph.quantise import assign_types
        from moeplan.predict.problem import Problem
        from moeplan.readers.hardware import resolve_hardware

        engine = find_engine(request.engine or "llama.cpp")
        quant = self.quants.find(request.quant or "f16").id
        key = (f"run:{spec.id}", quant, engine.gguf)
        if key not in self._graphs:
            tensors = assign_types(spec, build_tensors(spec), quant, self.quants, gguf=engine.gguf)
            self._graphs[key] = summarise(spec, quant, tensors, "rules")
        hardware = resolve_hardware(None, request.machine, self.catalog, detect=_detect)
        workload = build_workload(request, spec, engine, [])
        return Problem(self._graphs[key], hardware, workload, engine, self.calibration)

    def problem(self, request: EstimateRequest, assumptions: list[str], *, measured: bool = False) -> Problem:
        """Resolve names and defaults of ``request``; every default used is added to ``assumptions``.

        ``measured``: it ran so, which shows that its groups of weights could be shared among its GPUs.
        """
        from msgspec.structs import replace

        from moeplan.api.asked import check_request
        from moeplan.api.parallel import check_whole_experts, first_gpus, sharing_heads
        from moeplan.api.workload import build_workload
        from moeplan.engines.formats import refuse_format, sole_reader, unreadable
        from moeplan.engines.machines import refuse_machine
        from moeplan.engines.options import refuse_foreign
        from moeplan.engines.traits import default_engine
        from moeplan.engines.weight_types import refuse_type, type_notes
        from moeplan.graph.gguf_mixes import published_experts
        from moeplan.predict.problem import Problem

        check_request(request)
        source = self.source(request.model)
        quant = request.quant or source.file_quant
        if quant is None:
            quant = source.spec.native_quant
            assumptions.append(f"quant {quant}: the model's native type")
        if source.tensors is not None and quant == source.file_quant:
            scheme, kind, quant_id = None, "gguf-file" if source.kind == "gguf" else "method", quant
        else:
            scheme = self.quants.find(quant)
            kind, quant_id = scheme.kind, scheme.id
        hardware = self._machine(request)
        own = "" if scheme is None else sole_reader(scheme)
        engine = self._engine(request, own or default_engine(kind), quant_id, hardware, assumptions)
        if scheme is not None and not measured:  # what was measured did run, whatever it is called
            if request.quant and request.engine:
                refuse_format(engine, scheme)
            elif why := unreadable(engine, scheme):
                assumptions.append(f"files of another format, as wide as {quant_id}: {engine.id} {why}")
        refuse_foreign(request, engine, source.spec)
        if request.placement not in ("cpu", "disk") and request.gpu_layers != 0:
            refuse_machine(engine, hardware)
            refuse_type(engine, quant_id, hardware)
            assumptions.extend(type_notes(engine, quant_id, hardware))
        engine = _adjusted(engine, request)
        graph = self.loaded(request.model, quant_id, engine)
        if measured and graph.expert_group > 1:
            graph = replace(graph, expert_group=1)
        if engine.multi_gpu == "tensor-parallel":
            hardware = sharing_heads(hardware, graph, engine, request, assumptions)
        elif len(hardware.gpus) > 1 and engine.multi_gpu not in engine.splits:
            assumptions.append(
                f"one of {len(hardware.gpus)} GPUs used: {engine.id} over several is not modelled"
            )
            hardware = first_gpus(hardware, 1)
        check_whole_experts(request.expert_parallel or 1, source.spec, len(hardware.gpus))
        if graph.origin == "rules" and (kept := published_experts(source.spec, quant_id, gguf=engine.gguf)):
            assumptions.append(f"experts in {kept}: files of this model keep them so, whatever their type")
        workload = build_workload(request, source.spec, engine, assumptions)
        if request.mla is not None:
            from moeplan.engines.latent import with_latent_mode

            graph, engine = with_latent_mode(graph, engine, request.mla)
        assumptions.extend(hardware.assumptions)
        problem = Problem(graph, hardware, workload, engine, self.calibration)
        return self._as_measured(problem, request, assumptions)

    def _as_measured(self, problem: Problem, request: EstimateRequest, assumptions: list[str]) -> Problem:
        """``problem`` with what `moeplan profile` measured here, where it is about this machine."""
        from moeplan.api.measured import load_measured, with_measured

        if self._measured is None:
            self._measured = (load_measured(self._calibration_path, request, assumptions),)
        host = self._measured[0]
        return problem if host is None else with_measured(problem, host, assumptions)

    def _machine(self, request: EstimateRequest) -> HardwareSpec:
        """The machine of ``request``, put together once."""
        from moeplan.readers.hardware import resolve_hardware
        from moeplan.readers.hardware_parts import Parts

        key = (request.hardware, request.machine)
        if key not in self._machines:
            self._parts = self._parts or Parts(self.catalog)
            self._machines[key] = resolve_hardware(*key, self.catalog, detect=_detect, parts=self._parts)
        return self._machines[key]

    def _engine(
        self,
        request: EstimateRequest,
        usual: str,
        quant: str,
        hardware: HardwareSpec,
        assumptions: list[str],
    ) -> EngineTraits:
        from moeplan.engines.machines import lacks
        from moeplan.engines.traits import find_engine

        if request.engine is not None:
            return find_engine(request.engine)
        shared = usual == "vllm" and not _serves(hardware)
        engine = find_engine("llama.cpp" if shared else usual)
        where = "default without a discrete GPU" if shared else f"default for {quant}"
        if usual == "vllm" and not shared and (why := lacks(engine, hardware)):
            engine, where = find_engine("llama.cpp"), f"{engine.id}, the default for {quant}: {why}"
        assumptions.append(f"engine {engine.id}: {where}")
        return engine


def _serves(hardware: HardwareSpec) -> bool:
    """Whether people run server engines there, which want a GPU of its own.

    Where a desktop's CPU and GPU share their memory they run llama.cpp, but for NVIDIA's, sold with vLLM.
    """
    if not hardware.gpus:
        return False
    gpu = hardware.gpus[0]
    return not gpu.unified_memory or gpu.vendor == "nvidia" or gpu.segment == "datacenter"


def _adjusted(engine: EngineTraits, request: EstimateRequest) -> EngineTraits:
    """``engine`` as the request tunes it: its share of memory, its use of mapped files."""
    from msgspec.structs import replace

    if request.memory_utilization is not None:
        engine = replace(engine, memory_utilization_frac=request.memory_utilization)
    return engine if request.mmap is None else replace(engine, mmap=request.mmap)


def _detect() -> FoundMachine:
    from moeplan.hw.detect import detect

    return detect()
