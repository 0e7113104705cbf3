"""The best way to run a model on a machine: request in, Plan out."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from moeplan.api.plan_space import Space
from moeplan.domain.plan import Choice, Curve, Limits, MachineOffer, Objective, Plan, PlanRequest
from moeplan.errors import SpecError
from moeplan.search.commands import commands
from moeplan.search.curves import curves, filled
from moeplan.search.objective import Score, score
from moeplan.search.overrides import tensor_overrides
from moeplan.search.pricing import exact_seconds
from moeplan.search.search import Found, Search, Variant

if TYPE_CHECKING:
    from moeplan.api.resolve import Session
    from moeplan.domain.workload import Placement
    from moeplan.predict.problem import Problem
    from moeplan.readers.catalog import Catalog

N_REJECTED = 6
ENGINE_SETTINGS = (
    "slots", "kv_unified", "swa_full", "output_rows", "memory_utilization", "mmap", "repack", "kv_offload",
    "mla",
)  # fmt: skip
EVEN_FRAC = 0.005
"""Plans that differ by less in what is sought are even: no prediction tells them apart. A choice."""
KINDS_FIRST = 3
"""Runners-up that show another kind of placement come before those that differ in the quantisation."""


def plan(
    model: str,
    hardware: str | Sequence[str] | None = None,
    *,
    objective: Objective = "decode",
    max_vram_gib: str | float | None = None,
    min_tps: float | None = None,
    min_context: int | None = None,
    min_quant: str | None = None,
    max_ttft_ms: float | None = None,
    what_if: str = "",
    configs: Any = None,
    **options: Any,
) -> Plan:
    """The best way to run ``model`` on ``hardware``, or on the best of several machines.

    ``options`` are those of ``moeplan.estimate`` but the placement and the engine's own settings (``quant``,
    ``engine``, ``context``, ``ram_gib`` ...). Raises a MoeplanError; where nothing fits, ``best`` is None
    and ``changes`` help.

    >>> moeplan.plan("gpt-oss-120b", gpu="rtx-3090", ram_gib=128, context=32768)  # doctest: +SKIP
    """
    from moeplan.api.options import named, request_of
    from moeplan.readers.catalog import Catalog
    from moeplan.units import parse_bytes

    options = named(options)
    for name in ("placement", "gpu_layers", "cpu_moe", "tensor_parallel", "expert_parallel"):
        if options.get(name) is not None:
            raise SpecError(f"plan has no option {name!r}: it chooses that")
    for name in ENGINE_SETTINGS:
        if options.get(name) is not None:
            raise SpecError(f"plan has no option {name!r}: its commands would not say it; estimate has it")
    machines = (hardware,) if isinstance(hardware, str) else tuple(hardware or ())
    request = PlanRequest(
        base=request_of(model, machines[0] if len(machines) == 1 else None, options),
        objective=objective,
        limits=Limits(
            max_vram_bytes=None if max_vram_gib is None else parse_bytes(max_vram_gib, "gib", "max_vram_gib"),
            min_tokens_per_s=min_tps,
            min_context_tokens=min_context,
            min_quant=min_quant,
            max_ttft_s=None if max_ttft_ms is None else max_ttft_ms / 1e3,
        ),
        hardware=machines,
        what_if=what_if,
    )
    return run_plan(request, Catalog(configs))


def run_plan(request: PlanRequest, catalog: Catalog) -> Plan:
    """The plan that ``request`` asks for. Where nothing fits, ``best`` is None and ``changes`` help."""
    from moeplan.api.resolve import Session

    _check(request)
    session = Session(catalog, request.base.calibration)
    if request.objective == "cheapest" or len(request.hardware) > 1:
        return _over_machines(request, session)
    hardware = request.hardware[0] if request.hardware else request.base.hardware
    return plan_on(request, session, hardware)


def plan_on(request: PlanRequest, session: Session, hardware: str | None, *, brief: bool = False) -> Plan:
    """The plan on one machine; ``brief`` leaves out curves, what-if and changes."""
    from moeplan.api.plan_changes import helpful_changes, what_if

    start = perf_counter()
    space = Space(session, request, hardware)
    search = search_space(space, request)
    best, chosen = _best(search, space)
    while best is None and (other := space.fallback()) is not None:
        space, search = other, search_space(other, request)
        best, chosen = _best(search, space)
    others = _alternatives(search, space, best, chosen) if best and chosen else ()
    plan = Plan(
        request=request,
        best=chosen,
        alternatives=others,
        rejected=tuple(space.hinted(missed) for missed in search.missed[:N_REJECTED]),
        curves=(
            _curves(best, request.limits.max_vram_bytes) if best and request.curves and not brief else ()
        ),
        changes=() if best or brief else helpful_changes(space, request),
        what_if=what_if(space, request, best) if best and request.what_if and not brief else (),
        n_candidates=search.n_candidates,
        assumptions=(*space.assumptions, *(chosen.estimate.assumptions if chosen else ())),
        not_modelled=(*space.not_modelled, *_not_modelled(space)),
    )
    from msgspec.structs import replace

    return replace(plan, search_s=perf_counter() - start)


def search_space(space: Space, request: PlanRequest) -> Search:
    """The search over everything the request leaves open."""
    search = Search(request.objective, request.limits)
    if request.objective == "context" or request.base.context == "max":
        search.run(_longest(space, request))
    else:
        search.run(space.variants())
    return search


def _check(request: PlanRequest) -> None:
    from typing import get_args

    from moeplan.api.asked import check_count, check_name, check_positive, check_request

    if request.objective not in get_args(Objective):
        known = ", ".join(get_args(Objective))
        raise SpecError(f"--objective: expected one of {known}, got {request.objective!r}")
    for name in request.hardware:
        check_name(name, "hardware")
    check_request(request.base)
    check_count(request.limits.min_context_tokens, "--min-context")
    check_positive(request.limits.min_tokens_per_s, "--min-tps")
    check_positive(request.limits.max_ttft_s, "--max-ttft-ms")
    check_count(request.n_alternatives, "--alternatives", low=0)
    if request.objective == "quality" and request.limits.min_tokens_per_s is None:
        raise SpecError("--objective quality needs a floor of speed", hint="add --min-tps 10, say")
    if request.objective == "cheapest" and not request.hardware:
        raise SpecError("--objective cheapest needs machines to choose among", hint="--hardware a,b,c")
    if request.objective == "request" and None in (request.base.prompt_tokens, request.base.output_tokens):
        raise SpecError("--objective request needs --prompt and --output-tokens: they are its weights")


# ── the best and the others ──────────────────────────────────────────────────────────────────────


def _best(search: Search, space: Space) -> tuple[Found | None, Choice | None]:
    """The best found, checked once more by the full functions that `estimate` uses.

    A split of both kinds, whole layers and experts, gives way to a plain one of the same weights that is even
    by the objective, no slower at a full context and no later with its first token.
    """
    best: tuple[Found, Choice] | None = None
    for found in sorted(search.found.values(), key=lambda f: f.score):
        if best is not None and not plainer(found, best[0], space.request.objective):
            continue
        choice = _choice(found, space)
        if not choice.estimate.fits:
            continue
        if best is None:
            best = found, choice
        elif choice.full_decode_tokens_per_s >= best[1].full_decode_tokens_per_s:
            return found, choice
    return best or (None, None)


def plainer(found: Found, best: Found, objective: Objective) -> bool:
    """Whether ``best`` is a mixed split, and ``found`` a plain one that is even with it."""
    if best.placement.kind != "mixed" or objective not in ("decode", "request", "throughput"):
        return False
    same = found.problem.graph.quant == best.problem.graph.quant
    even = found.score[0] <= best.score[0] * (1 + EVEN_FRAC) and found.prefill_s <= best.prefill_s
    return same and even and found.placement.kind in ("layers", "experts")


def _choice(found: Found, space: Space, best: tuple[Found, Choice] | None = None) -> Choice:
    from moeplan.predict.estimate import estimate
    from moeplan.readers.engine_tables import EngineTables

    request, (problem, placement) = space.request, (found.problem, found.placement)
    answer = estimate(problem, placement, level=request.base.level)
    lost_by, within = "", False
    if best is not None:
        span = best[1].estimate.decode_step_s.inverse(best[0].problem.workload.n_sequences)
        rate = problem.workload.n_sequences / answer.decode_step_s.expected
        within = request.objective in ("decode", "throughput") and span.low <= rate <= span.high
        lost_by = _lost_by(found, best[0], request)
    return Choice(
        estimate=answer,
        bits_per_weight=found.bits,
        full_decode_tokens_per_s=_full_rate(problem, placement),
        tensor_overrides=tensor_overrides(placement) if problem.engine.gguf else (),
        lost_by=lost_by,
        within_range=within,
        commands=commands(
            problem, placement, EngineTables().get, space.source.path if space.source.kind == "gguf" else None
        ),
    )


def _curves(best: Found, max_vram_bytes: int | None) -> tuple[Curve, ...]:
    """The curves through the choice. One on which it does not fit belongs to another split over the GPUs."""
    every = curves(best.problem, best.placement, max_vram_bytes)
    return tuple(c for c in every if all(p.fits for p in c.points if p.x == c.chosen))


def _full_rate(problem: Problem, placement: Placement) -> float:
    """Decode speed at the end of a full context."""
    work = filled(problem, problem.workload.context_tokens)
    return work.n_sequences / exact_seconds(problem._replace(workload=work), placement)[0]


def _alternatives(search: Search, space: Space, best: Found, chosen: Choice) -> tuple[Choice, ...]:
    """Runners-up: other kinds of placement first, then other quantisations, each with what it loses."""
    others, shown = [], {_twin(best)}
    for found in sorted(search.found.values(), key=lambda f: f.score):
        if found is not best and _twin(found) not in shown:
            others.append(found)
            shown.add(_twin(found))
    kinds, seen = [], {best.placement.kind}
    for found in others:
        if found.placement.kind not in seen:
            kinds.append(found)
            seen.add(found.placement.kind)
    most = space.request.n_alternatives
    picked = kinds[:KINDS_FIRST]
    picked += [f for f in others if f not in picked][: max(0, most - len(picked))]
    picked = sorted(picked[:most], key=lambda f: f.score)
    return tuple(_choice(found, space, (best, chosen)) for found in picked)


def _twin(found: Found) -> tuple[object, ...]:
    """What tells runners-up apart: of whole and sliced experts on as many GPUs the better one is enough."""
    problem, placement = found.problem, found.placement
    work = problem.workload
    kv = (work.kv_type_k, work.kv_type_v)
    return problem.graph.quant, work.engine, kv, placement.kind, placement.tensor_parallel


def _lost_by(found: Found, best: Found, request: PlanRequest) -> str:
    """What the best has over it, by the objective."""
    match request.objective:
        case "ttft":
            return _more(found.prefill_s / best.prefill_s - 1, "later first token")
        case "request":
            n = best.problem.workload.output_tokens
            whole = (found.prefill_s + n * found.decode_s) / (best.prefill_s + n * best.decode_s)
            return _more(whole - 1, "longer request")
        case "context":
            mine, its = (f.problem.workload.context_tokens for f in (found, best))
            return f"{its - mine:,} tokens less context" if mine < its else _slower(found, best)
        case "quality":
            if found.bits < best.bits:
                return f"{best.bits - found.bits:.2f} bits per weight less"
            return _slower(found, best)
        case "memory":
            return _more(found.score[0] / best.score[0] - 1, "more memory")
        case _:
            return _slower(found, best)


def _slower(found: Found, best: Found) -> str:
    mine = found.decode_s / found.problem.workload.n_sequences
    its = best.decode_s / best.problem.workload.n_sequences
    if mine > its * 1.0005:
        return f"decode {1 - its / mine:.1%} slower"
    if found.prefill_s > best.prefill_s * 1.0005:
        return f"decodes as fast, first token {found.prefill_s / best.prefill_s - 1:.1%} later"
    return "as fast, slower at a full context" if mine < its else "as fast, more memory"


def _more(frac: float, what: str) -> str:
    return f"{frac:.1%} {what}" if frac > 0.0005 else "as good"


def _not_modelled(space: Space) -> tuple[str, ...]:
    notes, hardware = [], space.hardware
    if hardware.gpus and not hardware.unified and any(engine.gguf for engine in space.engines):
        notes.append("a cache in RAM under layers on a GPU (--no-kv-offload)")
        if space.source.spec.is_moe:
            notes.append("a cache of hot experts on the GPU")
    if len(hardware.gpus) > 1 and any(engine.family == "server" for engine in space.engines):
        notes.append("pipeline parallelism, data-parallel attention, experts shared by some of the GPUs only")
    return tuple(notes)


# ── the largest context ──────────────────────────────────────────────────────────────────────────


def _longest(space: Space, request: PlanRequest) -> list[Variant]:
    """The variants of the smallest memory at the largest context that has a plan, in steps of 256."""
    limit = space.source.spec.context_tokens
    least = request.limits.min_context_tokens or 256
    low, high = 0, -(-limit // 256)
    while low < high:
        middle = (low + high + 1) // 2
        trial = Search(request.objective, request.limits)
        trial.run(space.variants(context=min(limit, middle * 256)))
        if trial.found:
            low = middle
        else:
            high = middle - 1
    return list(space.variants(context=min(limit, max(low * 256, least))))


# ── several machines ─────────────────────────────────────────────────────────────────────────────


def _over_machines(request: PlanRequest, session: Session) -> Plan:
    """The cheapest machine that keeps the limits; for other objectives the best of all."""
    from msgspec.structs import replace

    from moeplan.domain.prices import cheapest_usd_per_hour
    from moeplan.readers.hardware import resolve_hardware
    from moeplan.readers.prices import read_prices

    start, offers = perf_counter(), read_prices()
    each = replace(request, objective="decode") if request.objective == "cheapest" else request
    machines, plans = [], []
    for name in request.hardware:
        plan = plan_on(each, session, name, brief=True)
        price = cheapest_usd_per_hour(resolve_hardware(name, request.base.machine, session.catalog), offers)
        why = "" if plan.best else (plan.rejected[0].reason if plan.rejected else "no placement")
        machines.append(
            MachineOffer(
                hardware=name,
                choice=plan.best,
                usd_per_hour=price[0] if price else None,
                price_source=price[1] if price else "",
                why_not=why,
            )
        )
        plans.append(plan)
    winner = _winner(request, machines)
    base = plans[winner] if winner is not None else plans[0]
    return replace(
        base,
        request=request,
        best=machines[winner].choice if winner is not None else None,
        machines=tuple(machines),
        n_candidates=sum(plan.n_candidates for plan in plans),
        search_s=perf_counter() - start,
        not_modelled=(
            *base.not_modelled,
            *(
                f"price of {m.hardware}: no offer in configs/prices.yaml"
                for m in machines
                if m.usd_per_hour is None
            ),
        ),
    )


def _winner(request: PlanRequest, machines: list[MachineOffer]) -> int | None:
    able = [i for i, m in enumerate(machines) if m.choice is not None]
    if request.objective == "cheapest":
        priced = [i for i in able if machines[i].usd_per_hour is not None]
        return min(priced, key=lambda i: machines[i].usd_per_hour or 0.0, default=None)
    scores = {i: _score(request.objective, c) for i in able if (c := machines[i].choice) is not None}
    return min(able, key=lambda i: scores[i], default=None)


def _score(objective: Objective, choice: Choice) -> Score:
    """How good a choice is beside that of another machine, as the search compares on one."""
    e = choice.estimate
    total_bytes = sum(device.total_bytes for device in e.memory.devices)
    return score(
        objective, e.workload, choice.bits_per_weight, e.decode.seconds, e.prefill.seconds, total_bytes
    )
