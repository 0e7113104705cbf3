"""From names and options to a Problem: models, machines, quants and defaults resolved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeplan.domain.request import EstimateRequest
from moeplan.errors import SpecError

if TYPE_CHECKING:
    from moeplan.domain.calibration import Calibration
    from moeplan.domain.graph import ModelGraph
    from moeplan.domain.hardware import FoundMachine, HardwareSpec
    from moeplan.domain.model import ModelSpec
    from moeplan.domain.quant import QuantTable
    from moeplan.domain.workload import Workload
    from moeplan.engines.traits import EngineTraits
    from moeplan.predict.problem import Problem
    from moeplan.readers.catalog import Catalog

DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_PROMPT_TOKENS = 512
DEFAULT_OUTPUT_TOKENS = 128


class Session:
    """Reads each specification once: for one estimate, or for thousands of rows of a corpus."""

    def __init__(self, catalog: Catalog, calibration: str | None = None) -> None:
        self.catalog = catalog
        self._calibration_path = calibration
        self._calibration: Calibration | None = None
        self._quants: QuantTable | None = None
        self._sources: dict[str, Any] = {}
        self._graphs: dict[tuple[str, str, bool], ModelGraph] = {}

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
            from moeplan.readers.calibration import read_calibration

            path = self._calibration_path
            self._calibration = read_calibration(None if path in (None, "none") else Path(str(path)))
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

    def graph(self, model: str, quant: str, *, gguf: bool = True) -> ModelGraph:
        """The typed inventory: a file's own tensor table, or the architecture's under ``quant``.

        ``gguf`` says which layout a name means that both GGUF and safetensors use (f16, bf16, mxfp4).
        """
        key = (model, quant, gguf)
        if key not in self._graphs:
            self._graphs[key] = self._build_graph(self.source(model), quant, gguf)
        return self._graphs[key]

    def _build_graph(self, source: Any, quant: str, gguf: bool) -> ModelGraph:
        from moeplan.graph.inventory import build_tensors, summarise
        from moeplan.graph.quantise import assign_types

        if source.tensors is not None and quant == source.file_quant:
            return summarise(source.spec, quant, source.tensors, "file")
        tensors = assign_types(source.spec, build_tensors(source.spec), quant, self.quants, gguf=gguf)
        return summarise(source.spec, quant, tensors, "rules")

    def problem(self, request: EstimateRequest, assumptions: list[str]) -> Problem:
        """Resolve names and defaults of ``request``; every default used is added to ``assumptions``."""
        from moeplan.engines.traits import default_engine, find_engine
        from moeplan.predict.problem import Problem
        from moeplan.readers.hardware import resolve_hardware

        if not 0 < request.level < 1:
            raise SpecError(f"--level must lie between 0 and 1, got {request.level}")
        source = self.source(request.model)
        quant = request.quant or source.file_quant
        if quant is None:
            quant = source.spec.native_quant
            assumptions.append(f"quant {quant}: the model's native type")
        if source.tensors is not None and quant == source.file_quant:
            kind, quant_id = "gguf-file" if source.kind == "gguf" else "method", quant
        else:
            scheme = self.quants.find(quant)
            kind, quant_id = scheme.kind, scheme.id
        engine_name = request.engine or default_engine(kind)
        if request.engine is None:
            assumptions.append(f"engine {engine_name}: default for {quant_id}")
        engine = find_engine(engine_name)
        hardware = resolve_hardware(request.hardware, request.machine, self.catalog, detect=_detect)
        if engine.multi_gpu == "tensor-parallel" and request.tensor_parallel:
            hardware = _first_gpus(hardware, request.tensor_parallel)
        graph = self.graph(request.model, quant_id, gguf=engine.gguf)
        workload = build_workload(request, source.spec, engine, assumptions)
        assumptions.extend(hardware.assumptions)
        return Problem(graph, hardware, workload, engine, self.calibration)


def build_workload(
    request: EstimateRequest, spec: ModelSpec, engine: EngineTraits, assumptions: list[str]
) -> Workload:
    """Sizes of the work, defaults filled in and checked against the model's context."""
    from moeplan.domain.workload import Workload
    from moeplan.engines.kv import kv_type

    def count(value: int | None, default: int, option: str, what: str) -> int:
        if value is None:
            assumptions.append(f"{what} {default:,}")
            return default
        if value < 1:
            raise SpecError(f"{option} must be at least 1, got {value}")
        return value

    default_context = min(DEFAULT_CONTEXT_TOKENS, spec.context_tokens)
    asked = spec.context_tokens if request.context == "max" else request.context
    context = count(asked, default_context, "--context", "context in tokens")
    if context > spec.context_tokens:
        assumptions.append(
            f"context {context:,} is beyond the {spec.context_tokens:,} tokens {spec.id} was made for: "
            "it needs position scaling, which changes neither memory nor speed here"
        )
    prompt = count(
        request.prompt_tokens, min(DEFAULT_PROMPT_TOKENS, max(1, context // 2)), "--prompt", "prompt tokens"
    )
    output = count(
        request.output_tokens,
        min(DEFAULT_OUTPUT_TOKENS, max(1, context - prompt)),
        "--output-tokens",
        "output tokens",
    )
    if request.depth_tokens < 0:
        raise SpecError(f"--depth must not be negative, got {request.depth_tokens}")
    if request.depth_tokens + prompt + output > context:
        raise SpecError(
            f"--depth + --prompt + --output-tokens ({request.depth_tokens + prompt + output:,}) "
            f"exceed the context of {context:,} tokens"
        )
    if request.batch == "max":
        raise SpecError("--batch max is not available yet; name the number of sequences")
    type_k, type_v = _kv_types(request.kv_type, kv_type)
    ubatch = count(request.ubatch, engine.ubatch_tokens, "--ubatch", "micro-batch tokens")
    return Workload(
        context_tokens=context,
        prompt_tokens=prompt,
        output_tokens=output,
        n_sequences=1 if request.batch is None else count(request.batch, 1, "--batch", "sequences"),
        kv_type_k=type_k,
        kv_type_v=type_v,
        engine=engine.id,
        ubatch_tokens=ubatch,
        batch_tokens=max(ubatch, 2048),
        flash_attention=True if request.flash_attention is None else request.flash_attention,
        threads=None if request.threads is None else count(request.threads, 1, "--threads", "threads"),
        depth_tokens=request.depth_tokens,
    )


def _kv_types(asked: str | None, canonical: Any) -> tuple[str, str]:
    """K and V cache types of ``f16`` or ``q8_0,f16``."""
    parts = (asked or "f16").split(",")
    if len(parts) > 2:
        raise SpecError(f"--kv-type takes one type or K,V, got {asked!r}")
    return canonical(parts[0]), canonical(parts[-1])


def _first_gpus(hardware: HardwareSpec, n: int) -> HardwareSpec:
    from msgspec.structs import replace

    if n > len(hardware.gpus):
        raise SpecError(f"--tp {n}: the machine has {len(hardware.gpus)} GPUs")
    return replace(hardware, gpus=hardware.gpus[:n])


def _detect() -> FoundMachine:
    from moeplan.hw.detect import detect

    return detect()
