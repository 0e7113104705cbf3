"""The search finds what trying everything finds, and more hardware never gives a slower best plan."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations_with_replacement, pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.plan import Limits
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.traits import find_engine
from moeplan.memory.report import memory_report
from moeplan.predict.phases import decode_time, prefill_time
from moeplan.predict.placement import moe_layers, on_cpu, on_gpus, split
from moeplan.predict.problem import Problem
from moeplan.search.layout import Layout, several_gpus
from moeplan.search.pricing import Table
from moeplan.search.search import Search, Variant
from tests.support.problems import calibration, dense_spec, gpu, graph_of, machine, moe_spec, workload

LLAMA = find_engine("llama.cpp")


@cache
def graph(kind: str) -> ModelGraph:
    """Small models: dense, MoE with a dense layer first, MoE with many small experts; one too deep for the
    search to price all of its layouts over two GPUs (search/candidates.py, EVERY)."""
    spec = {
        "dense": lambda: dense_spec(n_layers=7),
        "moe": lambda: moe_spec(n_layers=7, n_dense=1, expert=1024),
        "wide": lambda: moe_spec(n_layers=6, n_experts=32, n_active=4, expert=512),
        "deep": lambda: moe_spec(n_layers=13, n_dense=1, n_experts=16, expert=512),
    }[kind]()
    return graph_of(spec, "q4_k_m" if kind in ("moe", "deep") else "f16")


@st.composite
def problems(draw: st.DrawFn, n_gpus: int = 1) -> Problem:
    """A model and a machine whose GPUs hold between nothing and all of it."""
    kinds = {1: ("dense", "moe", "wide"), 2: ("dense", "wide", "moe", "deep"), 3: ("dense", "wide", "moe")}[
        n_gpus
    ]
    model = graph(draw(st.sampled_from(kinds)))
    context = draw(st.integers(1024, 8192))
    work = workload(
        context_tokens=context,
        prompt_tokens=draw(st.integers(1, context - 256)),
        n_sequences=draw(st.integers(1, 4)),
        ubatch_tokens=draw(st.sampled_from((16, 128, 512))),
    )
    roomy = machine(tuple(gpu(1000) for _ in range(n_gpus)), ram_gib=1000)
    ram_bytes = needs(model, roomy, work, on_cpu(model))["ram"]
    gpu_bytes = needs(model, roomy, work, on_gpus(model, roomy, LLAMA))["gpu0"]
    least = gpu_bytes - model.weights_bytes
    cards = tuple(
        replace(
            gpu(1, draw(st.floats(50, 2000)), draw(st.floats(5, 200))),
            memory_bytes=round(least + draw(st.floats(-0.05, 1.2)) * model.weights_bytes),
        )
        for _ in range(n_gpus)
    )
    box = machine(cards, 1000, draw(st.floats(10, 400)), draw(st.floats(2, 60)))
    spare = 1000 * 2**30 - memory_report(model, roomy, work, on_cpu(model), LLAMA).devices[-1].capacity_bytes
    ram = round(spare + ram_bytes * draw(st.floats(0.2, 2.0)))
    box = replace(box, host=replace(box.host, ram_bytes=ram))
    return Problem(model, box, work, LLAMA, calibration())


def needs(model: ModelGraph, box: HardwareSpec, work: Workload, placement: Placement) -> dict[str, int]:
    """Bytes by device."""
    return {d.device: d.total_bytes for d in memory_report(model, box, work, placement, LLAMA).devices}


def best_of(problem: Problem, objective: str = "decode") -> Search:
    """The search of one problem."""
    search = Search(objective, Limits())  # type: ignore[arg-type]
    search.run([Variant(problem, 16.0)])
    return search


def every_placement(problem: Problem) -> list[Placement]:
    """All that one GPU and RAM allow, built by the functions that `estimate` uses."""
    model, box = problem.graph, problem.hardware
    n, moe = model.spec.n_layers, moe_layers(model.spec)
    found = [on_cpu(model), on_gpus(model, box, LLAMA)]
    for gpu_layers, cpu_moe in product(range(1, n + 2), range(len(moe) + 1)):
        found.append(split(model, box, LLAMA, gpu_layers, cpu_moe))
    whole = found[1]
    for first in moe:  # experts of the last layers
        experts = tuple("ram" if i in moe and i >= first else "gpu0" for i in range(n))
        found.append(
            replace(whole, kind="experts", expert_tiers=experts, cpu_moe=sum(e == "ram" for e in experts))
        )
    return found


@settings(max_examples=200, deadline=None)
@given(problems(), st.sampled_from(("decode", "ttft")))
def test_equal_to_trying_everything(problem: Problem, objective: str) -> None:
    model, box, work, engine, coefficients = problem
    args = [(model, box, work, p, engine, coefficients) for p in every_placement(problem)]
    timer = decode_time if objective == "decode" else prefill_time
    seconds = [timer(*a).seconds for a in args if memory_report(*a[:5]).fits]
    best = best_of(problem, objective).best
    if not seconds:
        assert best is None
        return
    assert best is not None
    assert (best.decode_s if objective == "decode" else best.prefill_s) == pytest.approx(
        min(seconds), rel=1e-9
    )
    assert memory_report(model, box, work, best.placement, engine).fits


def every_layout(n: int, n_gpus: int) -> Iterator[Layout]:
    """Consecutive layers on each GPU, the first of all in RAM, the first experts of each GPU in RAM."""
    for in_ram in range(n):
        for ends in combinations_with_replacement(range(in_ram, n + 1), n_gpus - 1):
            cuts = (in_ram, *ends, n)
            for hosted in product(*(range(b - a + 1) for a, b in pairwise(cuts))):
                yield several_gpus(n, in_ram, cuts[1:], hosted)


@settings(max_examples=200, deadline=None)
@given(problems(n_gpus=2), st.sampled_from(("decode", "ttft")), st.booleans())
def test_two_gpus_are_equal_to_trying_everything(problem: Problem, objective: str, by_bounds: bool) -> None:
    """``by_bounds``: a model that is small enough to try everything is searched like a deep one."""
    with pytest.MonkeyPatch.context() as patch:
        if by_bounds:
            patch.setattr("moeplan.search.candidates.EVERY", 0)
        equal_to_trying_everything(problem, objective)


@settings(max_examples=50, deadline=None)
@given(problems(n_gpus=3), st.sampled_from(("decode", "ttft")))
def test_three_gpus_are_equal_to_trying_everything(problem: Problem, objective: str) -> None:
    equal_to_trying_everything(problem, objective)


def equal_to_trying_everything(problem: Problem, objective: str) -> None:
    n, table = problem.graph.spec.n_layers, Table(problem)
    phase = "decode_s" if objective == "decode" else "prefill_s"
    priced = (table.price(layout) for layout in every_layout(n, len(problem.hardware.gpus)))
    seconds = [getattr(p, phase) for p in priced if p is not None]
    cpu = table.exact(on_cpu(problem.graph))
    seconds += [getattr(cpu, phase)] if cpu else []
    best = best_of(problem, objective).best
    assert (best is None) == (not seconds)
    if best is None:
        return
    assert getattr(best, phase) == pytest.approx(min(seconds), rel=1e-9)
    timer = decode_time if objective == "decode" else prefill_time
    model, box, work, engine, coefficients = problem
    assert timer(model, box, work, best.placement, engine, coefficients).seconds == pytest.approx(
        getattr(best, phase), rel=1e-9
    )
    assert memory_report(model, box, work, best.placement, engine).fits


CHANGES = {
    "vram": lambda h: replace(
        h, gpus=tuple(replace(g, memory_bytes=g.memory_bytes * 5 // 4) for g in h.gpus)
    ),
    "ram": lambda h: replace(h, host=replace(h.host, ram_bytes=h.host.ram_bytes * 5 // 4)),
    "ram bandwidth": lambda h: replace(
        h, host=replace(h.host, ram_bytes_per_s=h.host.ram_bytes_per_s * 1.25)
    ),
    "vram bandwidth": lambda h: replace(
        h, gpus=tuple(replace(g, bandwidth_bytes_per_s=g.bandwidth_bytes_per_s * 1.25) for g in h.gpus)
    ),
    "pcie": lambda h: replace(
        h, pcie=replace(h.pcie, effective_bytes_per_s=h.pcie.effective_bytes_per_s * 1.25)
    ),
}


@settings(max_examples=120, deadline=None)
@given(
    st.integers(1, 3).flatmap(problems), st.sampled_from(("decode", "ttft")), st.sampled_from(sorted(CHANGES))
)
def test_more_hardware_is_never_slower(problem: Problem, objective: str, change: str) -> None:
    before = best_of(problem, objective).best
    after = best_of(problem._replace(hardware=CHANGES[change](problem.hardware)), objective).best
    if before is None:
        return
    assert after is not None
    worse = after.decode_s / before.decode_s if objective == "decode" else after.prefill_s / before.prefill_s
    assert worse <= 1.0 + 1e-9
