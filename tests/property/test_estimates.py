"""What must hold for any model on any machine: sums, order, and that more hardware is never slower."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.result import Estimate
from moeplan.domain.workload import Workload
from moeplan.engines.traits import find_engine
from moeplan.predict.choice import choose_placement
from moeplan.predict.estimate import estimate
from moeplan.predict.problem import Problem
from moeplan.provenance import Ledger, Term
from tests.support.problems import calibration, dense_spec, gpu, graph_of, machine, moe_spec, workload

GRAPHS: tuple[ModelGraph, ...] = (
    graph_of(dense_spec(n_layers=6), "q4_k_m"),
    graph_of(moe_spec(n_layers=6, n_dense=1), "q4_k_m"),
    graph_of(moe_spec(n_layers=6, n_experts=32, n_active=4), "f16"),
)
LLAMA = find_engine("llama.cpp")

graphs = st.sampled_from(GRAPHS)
# The tiny models hold 10-50 MiB, so memory is drawn around that, above the fixed overheads.
vram_gib = st.floats(0.5, 0.62)
ram_gib = st.floats(2.02, 2.2)
machines = st.builds(
    lambda vram, ram, gbps, ram_gbps, pcie, disk, n: machine(
        tuple(gpu(vram, gbps, tflops=20) for _ in range(n)), ram, ram_gbps, pcie, disk
    ),
    vram_gib, ram_gib, st.floats(50, 3000), st.floats(5, 600), st.floats(1, 100), st.floats(0.1, 20),
    st.integers(0, 3),
)  # fmt: skip
workloads = st.builds(
    lambda context, prompt, batch, ubatch, flash: workload(
        context_tokens=context,
        prompt_tokens=min(prompt, context - 128),
        n_sequences=batch,
        ubatch_tokens=ubatch,
        flash_attention=flash,
    ),
    st.integers(256, 8192), st.integers(1, 8000), st.integers(1, 8), st.sampled_from([64, 512]),
    st.booleans(),
)  # fmt: skip


def _estimate(
    graph: ModelGraph, hardware: HardwareSpec, work: Workload, ledger: Ledger | None = None
) -> Estimate:
    problem = Problem(graph, hardware, work, LLAMA, calibration())
    placement = choose_placement(problem, kind=None, gpu_layers=None, cpu_moe=None)
    return estimate(problem, placement, level=0.8, **({"ledger": ledger} if ledger else {}))  # type: ignore[arg-type]


def _check_sums(term: Term) -> None:
    if term.children:
        total = sum(child.value for child in term.children)
        assert abs(total - term.value) <= 1e-9 * abs(term.value)
        for child in term.children:
            _check_sums(child)


@given(graphs, machines, workloads)
def test_parts_sum_and_ranges_are_ordered(graph: ModelGraph, hardware: HardwareSpec, work: Workload) -> None:
    ledger = Ledger()
    told = _estimate(graph, hardware, work, ledger)
    assert told.decode.seconds == _estimate(graph, hardware, work).decode.seconds
    for term in told.explain:
        _check_sums(term)
    assert sum(d.weights_bytes for d in told.memory.devices) == graph.weights_bytes
    for span in (told.decode_step_s, told.prefill_s):
        assert 0 < span.low <= span.expected <= span.high
    for d in told.memory.devices:
        assert 0 <= d.droppable_bytes <= d.weights_bytes
    assert told.fits == all(d.resident_bytes <= d.capacity_bytes for d in told.memory.devices)
    assert told.fits or told.fix


@given(
    graphs, machines, workloads, st.floats(1.0, 4.0), st.sampled_from(["vram", "ram", "gpu", "host", "disk"])
)
def test_more_hardware_is_never_slower(
    graph: ModelGraph, hardware: HardwareSpec, work: Workload, factor: float, what: str
) -> None:
    before, after = _estimate(graph, hardware, work), _estimate(graph, _grow(hardware, factor, what), work)
    if before.fits:
        assert after.fits
        assert after.decode.seconds <= before.decode.seconds * (1 + 1e-9)


@given(graphs, machines, workloads, st.floats(1.0, 4.0), st.sampled_from(["gpu", "host", "pcie", "disk"]))
def test_faster_parts_never_slow_a_fixed_placement(
    graph: ModelGraph, hardware: HardwareSpec, work: Workload, factor: float, what: str
) -> None:
    before = _estimate(graph, hardware, work)
    problem = Problem(graph, _grow(hardware, factor, what), work, LLAMA, calibration())
    after = estimate(problem, before.placement, level=0.8)
    assert after.decode.seconds <= before.decode.seconds * (1 + 1e-9)
    assert after.prefill.seconds <= before.prefill.seconds * (1 + 1e-9)


@given(graphs, machines, workloads, st.integers(1, 4000))
def test_memory_grows_with_context_and_batch(
    graph: ModelGraph, hardware: HardwareSpec, work: Workload, more: int
) -> None:
    problem = Problem(graph, hardware, work, LLAMA, calibration())
    placement = choose_placement(problem, kind=None, gpu_layers=None, cpu_moe=None)
    base = estimate(problem, placement, level=0.8).memory
    longer = problem._replace(workload=replace(work, context_tokens=work.context_tokens + more))
    wider = problem._replace(workload=replace(work, n_sequences=work.n_sequences + 1))
    for larger in (longer, wider):
        grown = estimate(larger, placement, level=0.8).memory
        for small, big in zip(base.devices, grown.devices, strict=True):
            for part in ("weights_bytes", "kv_bytes", "state_bytes", "output_bytes", "overhead_bytes"):
                assert getattr(big, part) >= getattr(small, part), part
            # A compute buffer is the result of the engine's best-fit packing, which is not monotone: a real
            # llama.cpp takes less for a longer context now and then (crosscheck/test_llama_cpp_logits.py).
            # Small models on hosts have hardly anything else: there the total fell by 1.01%.
            assert big.total_bytes - big.compute_bytes >= small.total_bytes - small.compute_bytes
            assert big.total_bytes >= small.total_bytes * 0.97


def _grow(hardware: HardwareSpec, factor: float, what: str) -> HardwareSpec:
    host = hardware.host
    if what in ("vram", "gpu"):
        field = "memory_bytes" if what == "vram" else "bandwidth_bytes_per_s"
        gpus = tuple(
            replace(g, **{field: type(getattr(g, field))(getattr(g, field) * factor)}) for g in hardware.gpus
        )
        return replace(hardware, gpus=gpus)
    if what == "pcie":
        assert hardware.pcie is not None
        rate = hardware.pcie.effective_bytes_per_s * factor
        return replace(hardware, pcie=replace(hardware.pcie, effective_bytes_per_s=rate))
    if what == "ram":
        return replace(hardware, host=replace(host, ram_bytes=int(host.ram_bytes * factor)))
    if what == "host":
        return replace(hardware, host=replace(host, ram_bytes_per_s=host.ram_bytes_per_s * factor))
    storage = replace(host.storage, read_bytes_per_s=host.storage.read_bytes_per_s * factor)
    return replace(hardware, host=replace(host, storage=storage))
