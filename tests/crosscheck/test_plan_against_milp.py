"""Splits over several unequal GPUs against a mixed-integer program solved by HiGHS.

The program knows nothing of consecutive layers: it puts each layer that is not in RAM on any GPU, with or
without its experts, so its optimum is at least as fast as any plan that pays the same fixed costs.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from moeplan.domain.plan import Limits
from moeplan.engines.traits import find_engine
from moeplan.predict.problem import Problem
from moeplan.search.layout import RAM, several_gpus, shape_of
from moeplan.search.pricing import Table
from moeplan.search.search import Search, Variant
from tests.support import problems

highspy = pytest.importorskip("highspy")

ENGINE = find_engine("llama.cpp")


def milp_decode_s(table: Table) -> float:
    """Least decode time over all ways to place the layers.

    Whole layers in RAM are the first ones, as llama.cpp has it: one program for each number of them.
    """
    n = shape_of(table.problem.graph).n_layers
    return min(_program(table, in_ram, hosts=hosts) for in_ram in range(n) for hosts in (False, True))


def _program(table: Table, in_ram: int, *, hosts: bool) -> float:
    """Least decode time with the first ``in_ram`` layers in RAM; infinite when nothing fits.

    Buffers and fixed times are those of a layout with layers on every GPU, and with ``hosts`` experts in RAM.
    """
    n, n_gpus = shape_of(table.problem.graph).n_layers, len(table.problem.hardware.gpus)
    ends = [in_ram + (n - in_ram) * (g + 1) // n_gpus for g in range(n_gpus)]
    everywhere = several_gpus(n, in_ram, ends, [int(hosts)] * n_gpus)
    fixed_bytes, fixed_s = table.need(everywhere), table.seconds(everywhere)[0]
    for run in everywhere[1:] if in_ram else everywhere:
        option = table.sums(run.dense, run.experts)
        for device, prefix in option.bytes_by_device:
            fixed_bytes[device] -= prefix[run.end] - prefix[run.start]
        fixed_s -= option.decode_s[run.end] - option.decode_s[run.start]
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    gpus = [d for d in table.devices if d != RAM]
    used: list[list[object]] = [[] for _ in table.devices]
    seconds: list[object] = []
    for kind, count in Counter(table._kind_of[in_ram:]).items():
        first = table._kind_of.index(kind)
        variables = []
        for dense, experts in [(g, g) for g in gpus] + [(g, RAM) for g in gpus if hosts]:
            if dense != experts and not table._kinds[kind].expert_bytes:
                continue
            x = model.addVariable(lb=0, ub=count, type=highspy.HighsVarType.kInteger)
            variables.append(x)
            option = table.sums(dense, experts)
            seconds.append((option.decode_s[first + 1] - option.decode_s[first]) * 1e3 * x)
            for device, prefix in option.bytes_by_device:
                used[device].append((prefix[first + 1] - prefix[first]) / 2**20 * x)
        model.addConstr(sum(variables) == count)
    for terms, fixed, have in zip(used, fixed_bytes, table.capacity_bytes, strict=True):
        if terms:
            model.addConstr(sum(terms) <= (have - fixed) / 2**20)
    model.minimize(sum(seconds))
    if model.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return float("inf")
    return float(model.getObjectiveValue()) / 1e3 + fixed_s


def random_problem(rng: random.Random) -> Problem:
    """A model of two kinds of layers on two to four unequal GPUs that hold only a part of it."""
    spec = problems.moe_spec(
        n_layers=rng.randrange(12, 33), n_experts=32, n_active=4, expert=1024, n_dense=rng.randrange(0, 3)
    )
    graph = problems.graph_of(spec)
    total_gib = graph.weights_bytes / 2**30
    gpus = tuple(
        problems.gpu(0.7 + total_gib * rng.uniform(0.05, 0.35), rng.uniform(300, 1800), rng.uniform(20, 200))
        for _ in range(rng.randrange(2, 5))
    )
    machine = problems.machine(gpus, ram_gib=64, ram_gbps=rng.uniform(30, 300))
    return Problem(graph, machine, problems.workload(), ENGINE, problems.calibration())


@pytest.mark.parametrize("seed", range(12))
def test_within_one_percent_of_the_milp(seed: int) -> None:
    problem = random_problem(random.Random(seed))
    best = milp_decode_s(Table(problem))
    search = Search("decode", Limits())
    search.run([Variant(problem, 16.0)])
    assert search.best is not None
    assert search.best.decode_s <= best * 1.01
