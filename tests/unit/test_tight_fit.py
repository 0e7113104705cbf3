"""A fit by a hair is said aloud: what moeplan does not model may be larger than what is left."""

from __future__ import annotations

from moeplan.domain.result import Estimate
from moeplan.engines.traits import find_engine
from moeplan.predict.estimate import Problem, estimate
from moeplan.predict.notes import TIGHT_BYTES
from moeplan.predict.placement import on_gpus
from moeplan.units import GIB
from tests.support.problems import calibration, dense_spec, gpu, graph_of, machine, workload


def _on(memory_bytes: int) -> Estimate:
    llama = find_engine("llama.cpp")
    graph = graph_of(dense_spec())
    hardware = machine((gpu(memory_gib=memory_bytes / GIB),))
    problem = Problem(graph, hardware, workload(), llama, calibration())
    return estimate(problem, on_gpus(graph, hardware, llama), level=0.8)


def test_little_room_is_a_note_and_much_is_not() -> None:
    need = _on(8 * GIB).memory.devices[0].total_bytes
    assert not any("only" in note for note in _on(need + TIGHT_BYTES + GIB // 64).not_modelled)
    tight = _on(need + TIGHT_BYTES // 2)
    assert tight.fits
    assert any("gpu0: only 128.0 MiB are left" in note for note in tight.not_modelled)
    assert not _on(need - 1).fits
    assert not any("only" in note for note in _on(need - 1).not_modelled)
