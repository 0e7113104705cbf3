"""Curves of a plan: points, knee, what is shown of them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moeplan.domain.plan import Curve, CurvePoint, Limits
from moeplan.engines.traits import find_engine
from moeplan.predict.phases import decode_time
from moeplan.predict.problem import Problem
from moeplan.report import plan_words
from moeplan.search.curves import curves, elbow
from moeplan.search.search import Search, Variant
from tests.support.problems import calibration, gpu, graph_of, machine, moe_spec, workload


def test_elbow_is_farthest_above_the_chord() -> None:
    # chord from (0, 0) to (10, 10): heights above it are 0.6 - 0.2 at x = 2 and 0.8 - 0.6 at x = 6
    assert elbow([(0, 0.0), (2, 6.0), (6, 8.0), (10, 10.0)]) == 2
    assert elbow([(0, 0.0), (5, 4.0), (10, 10.0)]) is None
    assert elbow([(0, 0.0), (10, 10.0)]) is None


def test_a_sample_keeps_ends_knee_and_choice() -> None:
    points = tuple(
        CurvePoint(
            x=x, fits=True, decode_tokens_per_s=1.0, prefill_tokens_per_s=1.0, ttft_s=1.0, vram_bytes=1
        )
        for x in range(61)
    )
    curve = Curve(name="cpu_moe", points=points, chosen=23, knee=22)
    shown = [p.x for p in plan_words.sampled(curve)]
    assert {0, 22, 23, 60} <= set(shown)
    assert len(shown) <= 11


def test_over_two_gpus_every_point_has_its_own_split() -> None:
    graph = graph_of(moe_spec(n_layers=8, n_experts=16, n_dense=1, expert=512), "q4_k_m")
    weights_bytes = graph.weights_bytes
    cards = tuple(replace(gpu(1, rate), memory_bytes=2**29 + 2**26 + int(weights_bytes * share))
                  for rate, share in ((900, 0.0), (300, 0.05)))  # fmt: skip
    llama = find_engine("llama.cpp")
    p = Problem(graph, machine(cards), workload(), llama, calibration())
    search = Search("decode", Limits())
    search.run([Variant(p, 5.0)])
    best = next(found for found in search.found.values() if found.placement.kind == "experts")
    curve = next(c for c in curves(p, best.placement, None) if c.name == "cpu_moe")
    assert [point.x for point in curve.points] == list(range(8))
    speeds = [point.decode_tokens_per_s for point in curve.points if point.decode_tokens_per_s is not None]
    assert speeds and max(speeds) <= 1 / best.decode_s * (1 + 1e-9)
    assert curve.chosen is not None  # the plan's experts are those of the first layers
    full = decode_time(graph, p.hardware, p.workload, best.placement, llama, p.calibration).seconds
    assert curve.points[curve.chosen].decode_tokens_per_s == pytest.approx(1 / full, rel=1e-9)
    assert not curve.points[0].fits and curve.points[-1].fits
