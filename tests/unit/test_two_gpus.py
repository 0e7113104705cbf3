"""The search over two GPUs stops where it should: at its limits of work, and at the limits of the plan."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moeplan.domain.plan import Limits
from moeplan.engines.traits import find_engine
from moeplan.predict.problem import Problem
from moeplan.search import two
from moeplan.search.layout import Layout
from moeplan.search.objective import aim_of
from moeplan.search.pricing import Table
from moeplan.search.two import TwoGpus
from tests.support.problems import calibration, gpu, graph_of, machine, moe_spec, workload

LLAMA = find_engine("llama.cpp")


def searched(limits: Limits, n_layers: int = 16) -> tuple[TwoGpus, list[Layout]]:
    """The search of a model over two unlike GPUs that hold a third of it each, which remembers no plan."""
    graph = graph_of(moe_spec(n_layers=n_layers, expert=1024))
    cards = tuple(
        replace(gpu(1, rate), memory_bytes=graph.weights_bytes // 3 + 2**29) for rate in (1000, 400)
    )
    problem = Problem(graph, machine(cards, 1000), workload(), LLAMA, calibration())
    visited: list[Layout] = []
    aim = aim_of("decode", problem.workload)
    assert aim is not None
    search = TwoGpus(Table(problem), aim, limits, visited.append, lambda kind: None)
    search.run(leaves=False)
    return search, visited


def test_a_single_box_does_not_run_past_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    # without a best plan so far every layout of a box is worth a visit: more than one a box
    monkeypatch.setattr(two, "MOST_VISITS", 5)
    assert len(searched(Limits())[1]) == 5


def test_looks_are_counted_where_nothing_is_visited(monkeypatch: pytest.MonkeyPatch) -> None:
    # the aim is decode, so that a limit of the first token is seen at each layout alone
    monkeypatch.setattr(two, "MOST_LOOKS", 7)
    search, visited = searched(Limits(max_ttft_s=1e-9))
    assert (search.n_looks, visited) == (7, [])


def test_a_speed_that_no_layout_has_ends_the_search_at_once() -> None:
    search, visited = searched(Limits(min_tokens_per_s=1e9))
    assert (search.n_looks, visited) == (0, [])
