"""How kernels that work on tiles take their weights, and what copies of unpinned memory cost."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moeplan.cost.host_rates import host_rates
from moeplan.cost.law import step_ops
from moeplan.cost.ops import ONCE, Op
from moeplan.cost.row_kernels import attention_marks
from moeplan.cost.streams import stream_op
from moeplan.cost.tiled_kernels import NO_TILES, tiles_of
from moeplan.domain.hardware import CpuSpec
from moeplan.engines.offload import pins_weights
from moeplan.engines.traits import EngineTraits, find_engine
from moeplan.predict.phases import prefill_steps
from moeplan.predict.placement import on_cpu, split
from tests.support.problems import dense_spec, gpu, graph_of, machine, moe_spec, workload

LLAMA, IK, RTR, KT, HF = (
    find_engine(name)
    for name in ("llama.cpp", "ik_llama.cpp", "ik_llama.cpp (rtr)", "ktransformers", "transformers")
)
ZEN4 = replace(machine().host.cpu, isa=("avx2", "avx512"), microarchitecture="Zen 4", segment="desktop")
ZEN5, ZEN3 = replace(ZEN4, microarchitecture="Zen 5"), replace(ZEN4, isa=("avx2",), microarchitecture="Zen 3")
BEFORE, AFTER = "2025-06-11", "2025-06-18"


@pytest.mark.parametrize(
    ("engine", "date", "stored", "rows", "way", "sort"),
    [
        (IK, BEFORE, "q4_k", 512, "stored", "type"),
        (IK, AFTER, "q4_k", 512, "repacked", "two-numbers"),  # PR 525: Q8_1_R8
        (IK, AFTER, "q4_k", 31, "stored", "type"),  # "kicks in at 32 tokens"
        (IK, AFTER, "q6_k", 512, "repacked", "block"),  # PR 531: Q8_0_R8
        (IK, AFTER, "iq3_xxs", 512, "repacked", "type"),
        (IK, BEFORE, "iq3_xxs", 512, "stored", "codebook"),
        (IK, BEFORE, "q8_0", 512, "stored", "block"),
        (IK, BEFORE, "iq4_nl", 512, "stored", "block"),
        (IK, "", "iq4_k_r4", 512, "interleaved", "type"),
        (RTR, "", "q8_0", 512, "interleaved", "type"),
        (RTR, BEFORE, "iq6_k", 512, "stored", "type"),  # has no interleaved form
    ],
)
def test_ways_with_weights(
    engine: EngineTraits, date: str, stored: str, rows: float, way: str, sort: str
) -> None:
    tiles = tiles_of(engine, date, ZEN4, stored, rows)
    assert (tiles.way, tiles.sort) == (way, sort)
    assert tiles.names == (f"local.cpu.tiled.{way}.{sort}.compute",)


def test_others_have_one_way() -> None:
    for engine, quant in ((LLAMA, "q4_k"), (KT, "q4_k"), (IK, "f16"), (IK, "mxfp4"), (RTR, "bf16")):
        assert tiles_of(engine, "", ZEN4, quant, 512) is NO_TILES
    assert tiles_of(IK, "", ZEN4, "q4_k", 512, prompt=False) is NO_TILES
    assert NO_TILES.names == () and NO_TILES.times(ONCE) is ONCE


def test_arm_repacks_a_few_days_later() -> None:
    arm = replace(ZEN4, isa=("neon",))
    # PRs 546 to 553
    assert [tiles_of(IK, d, arm, "q4_k", 512).way for d in (AFTER, "2025-06-24")] == ["stored", "repacked"]


def test_repacking_costs_the_product_of_29_rows() -> None:
    few, many = (tiles_of(IK, "", ZEN4, "iq4_k", rows).times(ONCE).computing for rows in (32, 512))
    assert few == pytest.approx(61 / 32) and many == pytest.approx(541 / 512)
    assert tiles_of(IK, BEFORE, ZEN4, "iq4_k", 512).times(ONCE) is ONCE


@pytest.mark.parametrize(
    ("engine", "date", "stored", "wide"),
    [
        (RTR, BEFORE, "q8_0", True), (RTR, BEFORE, "iq4_xs", True), (RTR, BEFORE, "q4_k", False),
        (IK, BEFORE, "iq3_k_r4", False), (IK, BEFORE, "iq6_k", True), (IK, BEFORE, "q8_0", False),
        (IK, "2025-08", "q8_0", True), (IK, "2025-08-21", "iq4_k", False), (IK, "2025-08-22", "iq4_k", True),
        (IK, "2026-04-05", "q4_k", False), (IK, "2026-04-06", "q4_k", True),
    ],
)  # fmt: skip
def test_dot_products_of_512_bits(engine: EngineTraits, date: str, stored: str, *, wide: bool) -> None:
    def names(cpu: CpuSpec) -> tuple[str, ...]:
        return tiles_of(engine, date, cpu, stored, 512).names

    assert ("local.cpu.tiled.wide.compute" in names(ZEN5)) is wide
    for narrow in (ZEN4, ZEN3, replace(ZEN5, segment="laptop")):
        assert "local.cpu.tiled.wide.compute" not in names(narrow)


def test_the_law_asks_how_many_rows_each_expert_sees() -> None:
    graph = graph_of(moe_spec(n_experts=64, n_active=2))
    graph = replace(graph, tensors=tuple(replace(t, qtype="iq4_k") for t in graph.tensors))
    hardware = machine()
    hardware = replace(hardware, host=replace(hardware.host, cpu=ZEN4))

    def op(n: int, what: str) -> Op:
        work = workload(prompt_tokens=n, ubatch_tokens=n, batch_tokens=n)
        (step, _), *_ = prefill_steps(graph.spec, work, IK)
        ops, _, _ = step_ops(graph, hardware, work, on_cpu(graph), IK, step)
        return next(op for op in ops if op.term == f"CPU {what}")

    # 512 x 2 / 64 = 16 rows an expert, 2,048 x 2 / 64 = 64
    stored, repacked = (f"local.cpu.tiled.{way}.type.compute" for way in ("stored", "repacked"))
    assert stored in op(512, "experts").computing and repacked in op(512, "weights").computing
    assert repacked in op(2048, "experts").computing
    for what, n, rows in (("weights", 512, 512), ("experts", 2048, 64)):
        found = op(n, what)
        rate = host_rates(hardware, None, IK, "", "iq4_k", decode=False).flop_per_s
        assert found.computing_s == pytest.approx(found.flop / rate * (1 + 29 / rows))


def test_attention_of_grouped_heads_has_tiles_in_prompts() -> None:
    spec, tiled = dense_spec(), ("local.cpu.tiled.attention.compute",)
    assert attention_marks(IK, workload(), spec, decode=False) == tiled
    assert attention_marks(IK, workload(), spec, decode=True) == ()
    assert attention_marks(KT, workload(), spec, decode=False) == ()
    early = replace(workload(), flash_attention=True, engine_date="2025-04")
    assert attention_marks(LLAMA, early, spec, decode=False) == ("local.cpu.row_attention.compute",)


def test_memory_that_is_pinned() -> None:
    def pinned(engine: EngineTraits, date: str = "", *, mmap: bool = True, named: bool = True) -> bool:
        return pins_weights(replace(engine, mmap=mmap), date, overridden=named)

    # llama.cpp: never while mapped; by name and without mmap since PR 14990 of July 2025, else always
    assert not pinned(LLAMA) and not pinned(LLAMA, named=False)
    assert pinned(LLAMA, mmap=False) and not pinned(LLAMA, "2025-07-30", mmap=False)
    assert pinned(LLAMA, "2025-07-30", mmap=False, named=False)
    # ik_llama.cpp: by name always, since PR 1510 of March 2026; without mmap or repacked no earlier
    assert [pinned(IK, date) for date in ("2026-03-25", "2026-03-26", "")] == [False, True, True]
    assert not pinned(IK, "2025-07", mmap=False) and not pinned(RTR, "2025-07")
    assert not pinned(IK, named=False) and pinned(RTR, named=False)
    assert pinned(HF)


def test_copies_of_mapped_memory_go_through_one_core() -> None:
    graph = graph_of(moe_spec(n_experts=8, n_active=2))
    hardware = machine((gpu(),), pcie_gbps=20)
    placement = split(graph, hardware, LLAMA, graph.spec.n_layers + 1, 4)
    assert placement.kind in ("experts", "mixed")
    mapped = stream_op(hardware, LLAMA, workload(), placement, 32e9)
    # 1.6 s over the link, 2 s for a core at 16 GB/s
    assert (mapped.moving_s, mapped.computing_s) == pytest.approx((1.6, 2.0))
    assert mapped.computing[0] == "local.staged.bandwidth" and mapped.moving == ("local.stream.bandwidth",)
    pinned = stream_op(hardware, replace(LLAMA, mmap=False), workload(), placement, 32e9)
    assert (pinned.moving_s, pinned.computing_s) == pytest.approx((1.6, 0.0))
    xeon = replace(hardware, host=replace(hardware.host, cpu=replace(ZEN4, name="Intel Xeon Gold 6138")))
    for of, name in ((xeon, "xeon"), (replace(xeon, host=replace(xeon.host, cpu=ZEN4)), "desktop")):
        op = stream_op(of, LLAMA, workload(), placement, 32e9)
        assert op.computing[1] == f"local.staged.{name}.bandwidth"
    # managed memory comes in pages of its own
    assert not stream_op(hardware, LLAMA, workload(), replace(placement, streamed=True), 32e9).computing_s
