"""Layouts and their prices: each against an independent way to get the same."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from moeplan.api.plan import EVEN_FRAC, plainer
from moeplan.api.plan_space import BATCHES
from moeplan.domain.graph import ModelGraph
from moeplan.domain.plan import Limits
from moeplan.engines.shards import undivided
from moeplan.engines.traits import find_engine
from moeplan.memory.report import memory_report
from moeplan.predict.choice import choose_placement
from moeplan.predict.phases import decode_time, prefill_time
from moeplan.predict.placement import split
from moeplan.predict.problem import Problem
from moeplan.search.candidates import explore
from moeplan.search.chain import MOST_CHOICES, choices
from moeplan.search.layout import hosted_last, one_gpu, several_gpus, to_placement
from moeplan.search.objective import broken, score
from moeplan.search.overrides import tensor_overrides, tensor_split
from moeplan.search.pricing import Table
from moeplan.search.search import Found, Search, Variant
from tests.support.problems import calibration, dense_spec, gpu, graph_of, machine, moe_spec, workload

LLAMA = find_engine("llama.cpp")
MOE = graph_of(moe_spec(n_layers=6, n_dense=1), "q4_k_m")


def problem(n_gpus: int = 1, graph: object = MOE, **changes: object) -> Problem:
    box = machine(tuple(gpu(8) for _ in range(n_gpus)))
    return Problem(graph, box, workload(**changes), LLAMA, calibration())  # type: ignore[arg-type]


# ── layouts ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("in_ram", "until"), [(0, 0), (0, 3), (2, 2), (2, 5), (1, 6)])
def test_a_layout_is_the_placement_that_estimate_makes(in_ram: int, until: int) -> None:
    p = problem()
    # layer 0 is dense; cpu_moe counts MoE layers, those in RAM as a whole included
    moe = max(0, until - 1) if until > in_ram else 0
    expected = split(MOE, p.hardware, LLAMA, 7 - in_ram, moe)
    made = to_placement(one_gpu(6, in_ram, until), MOE, LLAMA)
    assert replace(made, kind=expected.kind) == expected
    assert made.kind == expected.kind


def test_layers_over_gpus_are_consecutive() -> None:
    layout = several_gpus(6, 1, (3, 6), (1, 0))
    placement = to_placement(layout, MOE, LLAMA)
    assert placement.dense_tiers == ("ram", "gpu0", "gpu0", "gpu1", "gpu1", "gpu1")
    assert placement.expert_tiers == ("ram", "ram", "gpu0", "gpu1", "gpu1", "gpu1")
    assert (placement.kind, placement.gpu_layers, placement.cpu_moe, placement.head_tier) == (
        "mixed",
        6,
        1,
        "gpu1",
    )


# ── prices: one code path ────────────────────────────────────────────────────────────────────────


def random_layouts(n_gpus: int, n: int = 60) -> list[tuple]:  # type: ignore[type-arg]
    rng = random.Random(7)
    layouts: list[tuple] = []  # type: ignore[type-arg]
    while len(layouts) < n:
        if n_gpus == 1:
            in_ram = rng.randrange(6)
            layouts.append(
                rng.choice([one_gpu(6, in_ram, rng.randrange(in_ram, 7)), hosted_last(6, rng.randrange(7))])
            )
        else:
            cuts = sorted(rng.randrange(6) for _ in range(n_gpus))
            ends = (*cuts[1:], 6)
            hosted = [rng.randrange(7) for _ in range(n_gpus)]
            layouts += [several_gpus(6, cuts[0], ends, hosted), several_gpus(6, 0, ends, [0] * n_gpus)]
    return layouts


@pytest.mark.parametrize("n_gpus", [1, 3])
@pytest.mark.parametrize("prompt", [16, 2048])  # of 2,048 four micro-batches: GPUs work on them in turn
def test_prices_are_those_of_the_full_functions(n_gpus: int, prompt: int) -> None:
    p = problem(n_gpus, prompt_tokens=prompt)
    unequal = tuple(gpu(8 + g, 500 / (1 + g), 50 / (1 + g)) for g in range(n_gpus))
    p = p._replace(hardware=replace(p.hardware, gpus=unequal))
    table = Table(p)
    for layout in random_layouts(n_gpus):
        placement = table.placement(layout)
        memory = memory_report(p.graph, p.hardware, p.workload, placement, LLAMA)
        exact = {d.device: d.total_bytes for d in memory.devices}
        need = dict(zip(table.devices, table.need(layout), strict=True))
        assert {d: round(n) for d, n in need.items() if n} == {d: n for d, n in exact.items() if n}
        args = (p.graph, p.hardware, p.workload, placement, LLAMA, p.calibration)
        assert table.seconds(layout) == pytest.approx(
            (decode_time(*args).seconds, prefill_time(*args).seconds), rel=1e-9
        )


def test_a_limit_on_vram_counts() -> None:
    layout = one_gpu(6, 0, 0)
    need = Table(problem()).need(layout)[0]
    assert Table(problem(), round(need)).price(layout) is not None
    assert Table(problem(), round(need) - 1).price(layout) is None


# ── two GPUs ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(5))
def test_what_two_gpus_leave_out_is_no_better(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    graph = graph_of(moe_spec(n_layers=13, n_experts=16, n_dense=rng.randrange(3), expert=512), "q4_k_m")
    gib = graph.weights_bytes / 2**30
    cards = tuple(
        gpu(0.7 + gib * rng.uniform(0, 0.6), rng.uniform(50, 2000), rng.uniform(5, 200)) for _ in "12"
    )
    box = machine(cards, 2.2 + gib * rng.uniform(0.5, 2), rng.uniform(10, 400), rng.uniform(2, 60))
    p = problem(graph=graph, prompt_tokens=rng.choice((100, 2000)))._replace(hardware=box)

    def best(objective: str, limits: Limits, every: int) -> tuple[float, ...] | None:
        monkeypatch.setattr("moeplan.search.candidates.EVERY", every)
        search = Search(objective, limits)  # type: ignore[arg-type]
        search.run([Variant(p, 5.0)])
        return search.best and search.best.score[:2]

    fastest = {o: best(o, Limits(), 0) for o in ("decode", "ttft", "request")}
    assert all(fastest.values())
    assert fastest["request"] == pytest.approx(best("request", Limits(), 10**6), rel=1e-9)
    if fastest["decode"] and fastest["ttft"]:  # the one, with a limit on the other
        decode_s, prefill_s = (fastest["decode"][0] + fastest["ttft"][1]) / 2, fastest["ttft"][0] * 1.1
        for objective, limits in (
            ("ttft", Limits(min_tokens_per_s=1 / decode_s)),
            ("decode", Limits(max_ttft_s=prefill_s)),
        ):
            assert best(objective, limits, 0) == pytest.approx(best(objective, limits, 10**6), rel=1e-9)


def test_of_two_equal_gpus_the_first_holds_what_one_can() -> None:
    search = Search("decode", Limits())
    search.run([Variant(problem(2), 5.0)])
    assert search.best is not None
    assert tensor_split(search.best.placement, 2) == (7, 0)


# ── what wins ────────────────────────────────────────────────────────────────────────────────────


def split_wins(sync_s: float) -> str:
    """The kind of the best plan where a layer with hosted experts costs ``sync_s`` of waiting."""
    coefficients = calibration()
    sync = replace(coefficients.coefficients["local.cpu_moe_layer_s"], value=sync_s)
    coefficients = replace(
        coefficients, coefficients={**coefficients.coefficients, "local.cpu_moe_layer_s": sync}
    )
    graph = graph_of(moe_spec(n_layers=12, n_experts=32, n_active=4, expert=1024))
    need = Table(problem(graph=graph)).need(one_gpu(12, 0, 0))[0]
    box = machine((replace(gpu(8), memory_bytes=round(need * 0.75)),))
    search = Search("decode", Limits())
    search.run([Variant(Problem(graph, box, workload(), LLAMA, coefficients), 16.0)])
    assert search.best is not None
    return search.best.placement.kind


def test_whole_layers_win_where_hosted_experts_wait_too_long() -> None:
    # Reported for Qwen3-30B-A3B on a 12 GB card: 29.4 tok/s by whole layers, 26.6 by experts. A layer moved
    # as a whole reads its attention in RAM too; hosted experts wait for the GPU and back. That decides.
    assert split_wins(0.0) == "experts"
    assert split_wins(5e-3) == "layers"


def test_a_mixed_split_gives_way_to_an_even_plain_one() -> None:
    def found(kind: str, decode_s: float, prefill_s: float = 1.0) -> Found:
        layout = {"mixed": one_gpu(6, 1, 3), "experts": one_gpu(6, 0, 3), "gpu": one_gpu(6, 0, 0)}[kind]
        return Found((decode_s,), problem(), 5.0, to_placement(layout, MOE, LLAMA), decode_s, prefill_s)

    even = 1.0 + EVEN_FRAC
    best = found("mixed", 1.0)
    assert plainer(found("experts", even), best, "decode")
    assert not plainer(found("experts", even + 1e-6), best, "decode")
    assert not plainer(found("experts", even, 1.1), best, "decode")
    assert not plainer(found("experts", even), best, "ttft")
    assert not plainer(found("mixed", even), best, "decode")
    assert not plainer(found("mixed", even), found("experts", 1.0), "decode")


def test_near_misses_say_what_is_missing() -> None:
    need = Table(problem()).need(one_gpu(6, 0, 0))[0]
    box = machine((replace(gpu(8), memory_bytes=round(need) - 1),))
    search = Search("decode", Limits())
    search.run([Variant(problem()._replace(hardware=box), 5.0)])
    missed = next(r for r in search.missed if r.kind == "gpu")
    assert (missed.need_bytes - missed.have_bytes, missed.device) == (1, "gpu0")


def test_limits_of_speed() -> None:
    limits = Limits(min_tokens_per_s=10.0, max_ttft_s=1.0)
    assert broken(limits, 0.1, 1.0) is None
    assert broken(limits, 0.1001, 1.0) == "too slow"
    assert broken(limits, 0.1, 1.001) == "too late"


def test_scores_put_the_objective_first() -> None:
    w = workload(output_tokens=100, n_sequences=4, context_tokens=4096)

    def first(objective: str) -> float:
        return score(objective, w, 5.0, 0.5, 2.0, 7.0)[0]  # type: ignore[arg-type]

    names = ("decode", "ttft", "request", "throughput", "context", "quality", "memory")
    assert [first(name) for name in names] == [0.5, 2.0, 52.0, 0.125, -4096, -5.0, 7.0]


def test_tensor_parallel_degrees_divide_heads_and_experts() -> None:
    # 8 query heads, 2 KV heads (replicated above 2), experts of width 96: 3 divides 96 but not 8
    graph = graph_of(moe_spec(expert=96))
    assert degrees(graph) == [1, 2, 4, 8]
    assert degrees(graph_of(moe_spec(expert=12))) == [1, 2, 4]
    # slices of whole groups of 32 columns: 96 = 3 groups cannot be cut in two
    assert degrees(graph, 32) == [1]
    assert undivided(graph.spec, 8, 32) == "experts of width 96 in whole groups of 32"


def degrees(graph: ModelGraph, group: int = 1) -> list[int]:
    return [n for n in range(1, 9) if undivided(graph.spec, n, group) is None]


def test_ktransformers_hosts_the_experts_of_all_layers_or_of_none() -> None:
    p = problem()._replace(engine=find_engine("ktransformers"))
    shown: list[object] = []
    explore(p, shown.append, shown.append)
    assert shown == [one_gpu(6, 0, 0), one_gpu(6, 0, 6)]
    # `estimate` left to choose the depth: as few layers as fit with llama.cpp, all five that route with this
    for engine, hosted in (("ktransformers", 5), ("llama.cpp", 1)):
        trial = p._replace(engine=find_engine(engine))
        chosen = choose_placement(trial, kind="experts", gpu_layers=None, cpu_moe=None)
        assert chosen.cpu_moe == hosted


def test_dense_models_have_no_experts_to_host() -> None:
    dense = graph_of(dense_spec())
    p = problem(graph=dense)
    assert tensor_overrides(split(dense, p.hardware, LLAMA, 3, 0)) == ()


def test_the_margin_of_reasoned_engines_is_part_of_the_need() -> None:
    ollama = find_engine("ollama")
    p = problem(graph=graph_of(dense_spec()))._replace(engine=ollama)
    table = Table(p)
    for in_ram in range(4):
        layout = one_gpu(4, in_ram, in_ram)
        memory = memory_report(p.graph, p.hardware, p.workload, table.placement(layout), ollama)
        exact = {d.device: d.capacity_bytes - d.headroom_bytes for d in memory.devices}
        need = dict(zip(table.devices, table.need(layout), strict=True))
        assert need == pytest.approx(exact, abs=4)  # margins are rounded device by device
        assert exact["gpu0"] > next(d.total_bytes for d in memory.devices if d.device == "gpu0")


@pytest.mark.parametrize("n_gpus", [1, 2])
def test_experts_that_loading_makes_larger_are_part_of_the_need(n_gpus: int) -> None:
    transformers = find_engine("transformers")
    p = problem(n_gpus, graph=replace(MOE, quant="bnb-nf4"))._replace(engine=transformers)
    table = Table(p)
    for in_ram in range(3):
        layout = one_gpu(6, in_ram, in_ram) if n_gpus == 1 else several_gpus(6, in_ram, (4, 6), (0, 0))
        memory = memory_report(p.graph, p.hardware, p.workload, table.placement(layout), transformers)
        exact = {d.device: d.capacity_bytes - d.headroom_bytes for d in memory.devices}
        need = dict(zip(table.devices, table.need(layout), strict=True))
        assert need == pytest.approx(exact, abs=4)


def test_a_rack_of_equal_gpus_is_not_tried_subset_by_subset() -> None:
    """72 of them have 2^72 subsets and 72 different ones; the search never came back."""
    assert choices([gpu()] * 72) == [tuple(range(size)) for size in range(72, 72 - MOST_CHOICES, -1)]
    one, other = gpu(24), gpu(48)
    assert choices([one, other, one]) == [(0, 1, 2), (0, 1), (0, 2), (1, 2), (0,), (1,)]


def test_the_most_sequences_that_leave_weights_in_ram_to_the_cpu_are_tried() -> None:
    """One more and all of them are copied for every step: up to 25 times as long over a slow link."""
    least = find_engine("llama.cpp").stream_prefill_min_tokens
    assert least is not None and {least - 1, least} <= set(BATCHES)
