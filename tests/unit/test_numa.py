"""Memory nodes: found in a made-up /sys, and real threads pinned to real cores."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

import pytest

from moeplan.calibrate.host import derive
from moeplan.hw.numa import NumaNode, cpu_list, numa_nodes
from moeplan.measure.device import Device
from moeplan.measure.numa import jobs, node_bandwidth, pinned
from moeplan.measure.timing import sample_of

USABLE = frozenset(range(16))


def fake(
    root: Path, number: int, cpus: str, kib: int = 1 << 20, siblings: dict[int, str] | None = None
) -> None:
    node = root / f"sys/devices/system/node/node{number}"
    node.mkdir(parents=True)
    (node / "cpulist").write_text(f"{cpus}\n")
    (node / "meminfo").write_text(f"Node {number} MemTotal:       {kib} kB\nNode {number} MemFree: 1 kB\n")
    for cpu, of in (siblings or {}).items():
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{of}\n")


def test_nodes_are_found_with_one_thread_of_each_core(tmp_path: Path) -> None:
    smt = {cpu: f"{cpu % 4},{cpu % 4 + 8}" for cpu in (0, 1, 2, 3, 8, 9, 10, 11)}
    fake(tmp_path, 0, "0-1,8-9", siblings={cpu: smt[cpu] for cpu in (0, 1, 8, 9)})
    fake(tmp_path, 1, "2-3,10-11", siblings={cpu: smt[cpu] for cpu in (2, 3, 10, 11)})
    fake(tmp_path, 2, "")  # memory without cores
    fake(tmp_path, 3, "4", kib=0)  # cores without memory
    assert numa_nodes(tmp_path, USABLE) == (NumaNode(0, (0, 1)), NumaNode(1, (2, 3)))
    # where only the second thread of a core may be used, that one reads
    assert numa_nodes(tmp_path, frozenset({9, 2, 10})) == (NumaNode(0, (9,)), NumaNode(1, (2,)))


def test_without_the_folder_there_are_no_nodes(tmp_path: Path) -> None:
    assert numa_nodes(tmp_path, USABLE) == ()


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-2,5", (0, 1, 2, 5)), ("7", (7,)), ("", ()), ("0-x", ()), ("-1", ())]
)
def test_cpu_lists(text: str, numbers: tuple[int, ...]) -> None:
    assert cpu_list(text) == numbers


def test_one_node_is_not_measured_and_two_are_from_both_sides() -> None:
    cpu = Device(None, "cpu", 1 << 30)
    one, two = NumaNode(0, (0,)), NumaNode(1, (1,))
    assert list(jobs(cpu, (one,))) == []
    assert list(jobs(Device(None, "cuda", 1 << 30), (one, two))) == []
    assert [what for what, _, _ in jobs(cpu, (one, two))] == [
        "memory of node 0 from cores of node 0",
        "memory of node 1 from cores of node 1",
        "memory of node 1 from cores of node 0",
    ]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no threads")
def test_work_runs_on_the_cores_named_and_leaves_the_rest_alone() -> None:
    before = os.sched_getaffinity(0)
    cpus = sorted(before)[:2]
    with pinned(cpus) as run:
        where = run([partial(os.sched_getaffinity, 0)] * len(cpus))
        names = run([lambda: threading.current_thread().name] * len(cpus))
    assert where == [{cpu} for cpu in cpus]
    assert len(set(names)) == len(cpus), "a thread for each"
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no threads")
def test_memory_is_read_across_two_cores_that_stand_for_nodes() -> None:
    torch = pytest.importorskip("torch")
    first, *_, last = sorted(os.sched_getaffinity(0)) * 2
    near, far = NumaNode(0, (first,)), NumaNode(1, (last,))
    sample = node_bandwidth(Device(torch, "cpu", 64 << 20), near, far, 0.05)
    assert (sample.setup["node"], sample.setup["memory"], sample.setup["threads"]) == (0, 1, 1)
    assert sample.setup["bytes"] == 32 << 20
    assert sample.median > 1e8


def test_nodes_enter_the_calibration_by_reader_and_memory() -> None:
    sample = sample_of("node read bandwidth", {"node": 0, "memory": 1, "threads": 8}, "B/s", [5e10] * 5)
    assert derive([sample])["read.node0.memory1.bytes_per_s"].value == 5e10


def test_large_pages_have_a_coefficient_of_their_own() -> None:
    setup = {"device": "cpu", "threads": 1}
    small = sample_of("read bandwidth", setup, "B/s", [17e9] * 5)
    large = sample_of("read bandwidth", setup | {"pages": "large"}, "B/s", [29e9] * 5)
    found = derive([small, large])
    assert found["read.t1.bytes_per_s"].value == 17e9
    assert found["read.t1.large-pages.bytes_per_s"].value == 29e9


def test_a_kernel_without_large_pages_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from moeplan.measure import pages

    class Small(pages.mmap.mmap):  # type: ignore[name-defined,misc]
        def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(pages.mmap, "mmap", Small)
    assert pages.large_pages(1 << 20) is None
