"""`moeplan.compare`: models side by side on one machine, or a MoE beside its dense twin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from msgspec.structs import replace

from moeplan.domain.comparison import BatchPoint, ComparedModel, CompareRequest, Comparison, TwinKind
from moeplan.errors import MoeplanError, NotModelled, SpecError

if TYPE_CHECKING:
    from moeplan.api.resolve import Session
    from moeplan.domain.description import QuantSize
    from moeplan.domain.model import ModelSpec
    from moeplan.domain.request import EstimateRequest
    from moeplan.domain.result import Estimate
    from moeplan.domain.workload import Placement
    from moeplan.predict.problem import Problem
    from moeplan.readers.catalog import Catalog

MAX_MODELS = 8
MAX_BATCHES = 64
MAX_RANK = 65_536
SIZES = ("bf16", "q8_0", "q4_k_m")
"""Quantisations of 16, 8 and 4 bits whose sizes are compared, beside the one asked for."""


def compare(
    models: Sequence[str],
    hardware: str | None = None,
    *,
    twin: TwinKind | None = None,
    batches: Sequence[int] | None = None,
    lora_rank: int = 16,
    mfu: float | None = None,
    configs: Any = None,
    **options: Any,
) -> Comparison:
    """``models`` side by side on ``hardware``; with ``twin`` each MoE beside a dense model of equal size.

    ``options`` are those of ``moeplan.estimate`` (``quant="bf16"``, ``n_gpus=2`` ...), without batch and
    placement. Raises a MoeplanError; a model that does not fit is a result, not an error.

    >>> moeplan.compare(["llama-2-70b", "mixtral-8x7b"], hardware="h200-sxm")  # doctest: +SKIP
    """
    from moeplan.api.options import named, request_of
    from moeplan.readers.catalog import Catalog

    options = named(options)
    for name in ("batch", "placement", "gpu_layers", "cpu_moe", "expert_parallel"):
        if options.get(name) is not None:
            raise SpecError(f"compare has no option {name!r}: it chooses for each model and batch")
    request = CompareRequest(
        models=(models,) if isinstance(models, str) else tuple(models),
        base=request_of("", hardware, options),
        twin=twin,
        lora_rank=lora_rank,
        mfu_frac=mfu,
    )
    if batches is not None:
        request = replace(request, batches=tuple(batches))
    return run_compare(request, Catalog(configs))


def run_compare(request: CompareRequest, catalog: Catalog) -> Comparison:
    """The comparison that ``request`` asks for, with names resolved through ``catalog``."""
    from moeplan.advise.compare import verdicts
    from moeplan.api.resolve import Session
    from moeplan.api.textbook import DEFAULT_MFU_FRAC, MFU_NOTE
    from moeplan.predict.compare import batch_context_tokens

    _check(request)
    request = replace(request, batches=tuple(sorted(set(request.batches))))
    session = Session(catalog, request.base.calibration)
    common: list[str] = []
    base = _one_context(request, session, common)
    entries = [_entry(session, replace(base, model=model)) for model in request.models]
    if request.twin is not None:
        entries = _with_twins(entries, session, request.twin)
    if len(entries) < 2:
        raise SpecError("compare needs two models, or one MoE and --twin active, total or memory")
    mfu_frac = DEFAULT_MFU_FRAC if request.mfu_frac is None else request.mfu_frac
    if request.mfu_frac is None:
        common.append(f"training MFU {DEFAULT_MFU_FRAC}: {MFU_NOTE}")
    models = _compared(entries, request, session, mfu_frac)
    shared, own = _shared([list(model.estimate.assumptions) for model in models])
    notes, own_notes = _shared([list(model.not_modelled) for model in models])
    labels = [model.label for model in models]
    return Comparison(
        models=models,
        verdicts=verdicts(models),
        level=base.level,
        mfu_frac=mfu_frac,
        batch_context_tokens=max(batch_context_tokens(entry.problem) for entry in entries),
        assumptions=(*common, *shared, *_named(labels, own)),
        not_modelled=(*notes, *_named(labels, own_notes)),
    )


class _Entry(NamedTuple):
    """A model on the machine, before anything is computed; a ``twin`` was made from the MoE ``twin_of``."""

    request: EstimateRequest
    problem: Problem
    assumptions: tuple[str, ...]
    twin: TwinKind | None = None
    twin_of: str = ""


def _check(request: CompareRequest) -> None:
    from moeplan.api.asked import check_count, check_name, check_request

    n = len(request.models)
    for model in request.models:
        check_name(model, "model")
    check_request(replace(request.base, model=request.models[0] if n else "none"))
    if n == 0:
        raise SpecError("compare needs two models, or one MoE and --twin active, total or memory")
    if request.twin is not None and request.twin not in get_args(TwinKind):
        raise SpecError(f"--twin: expected one of {', '.join(get_args(TwinKind))}, got {request.twin!r}")
    for batch in request.batches:
        check_count(batch, "--batches")
    check_count(request.lora_rank, "--lora-rank")
    if n > MAX_MODELS:
        raise SpecError(f"compare takes at most {MAX_MODELS} models, got {n:,}")
    twice = [model for model, count in Counter(request.models).items() if count > 1]
    if twice:
        raise SpecError(f"{twice[0]} is named twice")
    if request.base.context == "max":
        raise SpecError(
            "--context max: a comparison has one context; the largest that fits is shown for each"
        )
    if not 1 <= request.lora_rank <= MAX_RANK:
        raise SpecError(f"--lora-rank: expected 1 to {MAX_RANK:,}, got {request.lora_rank:,}")
    if request.mfu_frac is not None and not 0 < request.mfu_frac <= 1:
        raise SpecError(f"--mfu: expected a number above 0 and at most 1, got {request.mfu_frac:g}")
    if not 1 <= len(request.batches) <= MAX_BATCHES:
        raise SpecError(f"--batches: expected 1 to {MAX_BATCHES} batch sizes")


def _one_context(request: CompareRequest, session: Session, assumptions: list[str]) -> EstimateRequest:
    """The request with a context for all: the smallest of the models' defaults."""
    from moeplan.api.workload import _default_context

    base = request.base
    if base.context is not None:
        return base
    context = min(_default_context(base, session.source(model).spec) for model in request.models)
    assumptions.append(f"context {context:,} tokens for all models")
    return replace(base, context=context)


def _entry(session: Session, request: EstimateRequest) -> _Entry:
    from moeplan.api.parallel import sharing_experts

    assumptions: list[str] = []
    problem = sharing_experts(session.problem(request, assumptions), request, assumptions)
    return _Entry(request, problem, tuple(assumptions))


# ── twins ───────────────────────────────────────────────────────────────────────────────────────


def _with_twins(entries: list[_Entry], session: Session, kind: TwinKind) -> list[_Entry]:
    """Every MoE followed by its dense twin."""
    if not any(entry.problem.graph.spec.is_moe for entry in entries):
        raise SpecError("--twin: none of the models is a MoE")
    result = []
    for entry in entries:
        result.append(entry)
        if entry.problem.graph.spec.is_moe:
            result.append(_twin(entry, session, kind))
    return result


def _twin(entry: _Entry, session: Session, kind: TwinKind) -> _Entry:
    from moeplan.graph.inventory import build_tensors, param_counts, summarise
    from moeplan.graph.quantise import assign_types
    from moeplan.predict.twin import dense_twin

    graph, engine = entry.problem.graph, entry.problem.engine

    def params(spec: ModelSpec) -> float:
        return param_counts(spec, build_tensors(spec)).total

    def weights_bytes(spec: ModelSpec) -> float:
        tensors = assign_types(spec, build_tensors(spec), graph.quant, session.quants, gguf=engine.gguf)
        return summarise(spec, graph.quant, tensors, "rules").weights_bytes

    target: float = {
        "active": graph.params.active,
        "total": graph.params.total,
        "memory": graph.weights_bytes,
    }[kind]
    growth = graph.params.total / graph.params.active
    size = weights_bytes if kind == "memory" else params
    spec = dense_twin(graph.spec, kind, size, target, growth)
    session.add(spec)
    request = replace(entry.request, model=spec.id, quant=graph.quant, engine=engine.asked)
    problem = session.problem(request, [])
    assumptions = [*entry.assumptions]
    if problem.graph.weights_bytes / params(spec) > _UNLIKE_TYPES * graph.weights_bytes / graph.params.total:
        assumptions.append(
            f"{graph.quant} stores experts in few bits and dense FFNs in {_bits(problem):.0f}: a type for "
            "both, such as --quant q4_k_m, compares like with like"
        )
    return _Entry(request, problem, tuple(assumptions), kind, graph.spec.id)


# A twin that takes this many times the bits of its MoE is stored otherwise.
_UNLIKE_TYPES = 1.25


def _bits(problem: Problem) -> float:
    return 8 * problem.graph.weights_bytes / problem.graph.params.total


# ── rows ────────────────────────────────────────────────────────────────────────────────────────


def _compared(
    entries: list[_Entry], request: CompareRequest, session: Session, mfu_frac: float
) -> tuple[ComparedModel, ...]:
    from moeplan.api.offload import offloaded_estimates
    from moeplan.graph.lora import count_lora
    from moeplan.predict.capacity import largest_context
    from moeplan.predict.choice import choose_placement
    from moeplan.predict.compare import batch_points, coverage, textbook_view
    from moeplan.predict.estimate import estimate as predict
    from moeplan.readers.quality import read_quality

    def place(problem: Problem) -> Placement:
        return choose_placement(problem, kind=None, gpu_layers=None, cpu_moe=None)

    level = request.base.level
    specs = [entry.problem.graph.spec for entry in entries]
    scores = read_quality(spec.id for spec in specs)
    offloads = offloaded_estimates(session, [(e.request, e.problem) for e in entries])
    models = []
    for entry, label, key, offload in zip(
        entries, _labels(specs, entries), _keys(specs), offloads, strict=True
    ):
        problem, notes = entry.problem, []
        graph = problem.graph
        e = predict(problem, place(problem), level=level, assumptions=entry.assumptions)
        sizes, missing = _sizes(session, entry)
        points = batch_points(problem, request.batches, level)
        notes += _batch_notes(points, e)
        if isinstance(offload, NotModelled):
            notes.append(f"offloaded: {offload.why}")
        models.append(
            ComparedModel(
                key=key,
                label=label,
                estimate=e,
                sizes=sizes,
                by_batch=points,
                coverage=coverage(graph),
                offloaded=None if isinstance(offload, NotModelled) else offload,
                largest_context_tokens=largest_context(problem, graph.spec.context_tokens, place),
                textbook=textbook_view(e, mfu_frac, request.batches),
                lora=count_lora(graph.tensors, request.lora_rank),
                scores=scores.get(graph.spec.id, ()),
                twin=entry.twin,
                twin_of=entry.twin_of,
                not_modelled=(*e.not_modelled, *missing, *notes),
            )
        )
    return tuple(models)


def _sizes(session: Session, entry: _Entry) -> tuple[tuple[QuantSize, ...], list[str]]:
    """The weights in the type asked for and in each of SIZES; and what could not be computed."""
    from moeplan.domain.description import QuantSize

    graph = entry.problem.graph
    sizes, missing = [], []
    for quant in SIZES if graph.quant in SIZES else (graph.quant, *SIZES):
        try:
            asked = quant == graph.quant
            typed = graph if asked else session.graph(entry.request.model, quant, gguf=False)
            sizes.append(QuantSize(quant=quant, weights_bytes=typed.weights_bytes))
        except MoeplanError as error:
            missing.append(f"size in {quant}: {error}")
    return tuple(sizes), missing


def _batch_notes(points: Sequence[BatchPoint], e: Estimate) -> list[str]:
    """What the larger batches leave out beyond what one sequence does."""
    notes = dict.fromkeys(note for point in points for note in point.not_modelled)
    return [f"by batch: {note}" for note in notes if note not in e.not_modelled]


def _labels(specs: Sequence[ModelSpec], entries: Sequence[_Entry]) -> list[str]:
    """The models' names, told apart by quantisation or number where they are the same."""
    quants: dict[str, set[str]] = {}
    for spec, entry in zip(specs, entries, strict=True):
        quants.setdefault(spec.name, set()).add(entry.problem.graph.quant)
    return _unique(
        [
            f"{spec.name} {entry.problem.graph.quant}" if len(quants[spec.name]) > 1 else spec.name
            for spec, entry in zip(specs, entries, strict=True)
        ]
    )


def _keys(specs: Sequence[ModelSpec]) -> list[str]:
    return _unique([spec.id for spec in specs])


def _unique(names: list[str]) -> list[str]:
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return result


def _shared(lists: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """(what stands in every list, the rest of each)."""
    shared = [text for text in dict.fromkeys(lists[0]) if all(text in other for other in lists)]
    return shared, [[text for text in texts if text not in shared] for texts in lists]


def _named(labels: Sequence[str], texts: Sequence[Sequence[str]]) -> list[str]:
    return [f"{label}: {text}" for label, own in zip(labels, texts, strict=True) for text in own]
