"""What a processor reaches of its memory, delta rules before their kernel, files with a smaller rest."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from moeplan.api.resolve import Session
from moeplan.calibrate.priors import prior
from moeplan.cost.host_rates import host_rates, reachable_bytes_per_s
from moeplan.cost.law import step_ops
from moeplan.cost.recurrent import delta_marks, delta_rule_ops
from moeplan.cost.work import Step
from moeplan.domain.model import GatedDeltaNet
from moeplan.domain.request import MachineFlags
from moeplan.engines.traits import find_engine
from moeplan.graph.resize import resized_rest
from moeplan.predict.placement import on_cpu, on_gpus
from moeplan.readers.catalog import Catalog
from moeplan.readers.hardware import resolve_hardware
from tests.support.matching import PARTS
from tests.support.problems import attention, gpu, graph_of, machine, moe_spec, workload

ONE = Step(n_tokens=1, n_sequences=1, first_depth=64, n_head_rows=1)
# Qwen3-Next: a state of 2 MiB in each of 36 layers
DELTA = GatedDeltaNet(n_k_heads=16, n_v_heads=32, k_head_dim=128, v_head_dim=128, conv_width=4)


def seconds(engine: str, date: str, step: Step = ONE) -> float:
    ops = delta_rule_ops(DELTA, 36, step, find_engine(engine), date)
    return sum(op.moving_s for op in ops)


def test_delta_rules_take_as_long_as_measured_before_they_had_a_kernel() -> None:
    # a Threadripper 3995WX: 7.2 and 10.3 tokens/s where 22.6 were possible (ik_llama.cpp PRs 1266, 1278)
    assert seconds("llama.cpp", "2026-02-10") == pytest.approx(1 / 7.2 - 1 / 22.6, rel=0.05)
    assert seconds("llama.cpp", "2026-02-17") == pytest.approx(1 / 10.3 - 1 / 22.6, rel=0.05)
    assert seconds("ollama", "2026-02-10") == seconds("llama.cpp", "2026-02-10")


def test_prompts_went_through_states_once_for_64_tokens() -> None:
    """A prompt of two tokens was twice as fast as of one: it had no such cost."""

    def prompt(n: float) -> float:
        step = Step(n_tokens=n, n_sequences=1, first_depth=0, n_head_rows=1)
        return sum(
            op.moving_s for op in delta_rule_ops(DELTA, 36, step, find_engine("llama.cpp"), "2026-02-10")
        )

    assert prompt(1) == prompt(2) == prompt(64) > 0
    assert prompt(512) == pytest.approx(8 * prompt(64))


def test_delta_rules_cost_nothing_more_with_a_kernel_of_their_own() -> None:
    assert seconds("llama.cpp", "2026-03-11") == seconds("llama.cpp", "") == seconds("ollama", "") == 0
    assert seconds("ollama", "2026-05-14") > 0  # its pin was older than the kernel
    assert seconds("ik_llama.cpp", "2026-02-17") == seconds("transformers", "2026-02-10") == 0
    two = ONE._replace(n_tokens=2, n_sequences=2)
    assert seconds("llama.cpp", "2026-02-10", two) == 2 * seconds("llama.cpp", "2026-02-10")
    assert delta_rule_ops(attention(), 36, ONE, find_engine("llama.cpp"), "2026-02-10") == ()


def test_delta_rules_on_apples_gpus_were_many_kernels_before_they_had_one() -> None:
    def marked(engine: str, date: str, architecture: str = "local.apple.m4") -> bool:
        names = delta_marks(DELTA, architecture, find_engine(engine), date)
        return names == ("local.apple.split-delta.layer_time",)

    assert marked("llama.cpp", "2026-02-21") and not marked("llama.cpp", "2026-03-11")
    assert not marked("llama.cpp", "") and not marked("ik_llama.cpp", "2026-02-21")
    assert marked("ollama", "2026-05-14") and not marked("vllm", "2026-02-10")
    assert not marked("llama.cpp", "2026-02-21", "local.gpu.blackwell")  # graphs replay its kernels
    assert delta_marks(attention(), "local.apple.m4", find_engine("llama.cpp"), "2026-02-21") == ()
    # Qwen3.5-9B on an M4 Max: 57.0 tokens/s with one kernel, 50.8 without (llama.cpp PR 20091), 24 layers
    more_s = (1 / 50.8 - 1 / 57.0) / 24
    half_s = prior("local.apple.layer_s").value / 2
    plain = prior("local.gateddeltanet.layer_time").value * half_s
    assert plain * (prior("local.apple.split-delta.layer_time").value - 1) == pytest.approx(more_s, rel=0.1)


def test_a_layer_of_an_old_build_has_that_mark_on_apples_gpus_alone() -> None:
    spec = moe_spec()
    blocks = tuple(replace(block, mixer=DELTA) for block in spec.blocks)
    graph, runs = graph_of(replace(spec, blocks=blocks)), find_engine("llama.cpp")
    done = replace(workload(), engine_date="2026-02-21")
    m4 = replace(gpu(unified=True), vendor="apple", architecture="M4")
    for gpus, marked in (((m4,), True), ((gpu(),), False), ((), False)):
        hardware = machine(gpus)
        where = on_gpus(graph, hardware, runs) if gpus else on_cpu(graph)
        ops = step_ops(graph, hardware, done, where, runs, ONE)[0]
        names = [name for op in ops if op.term == "layer overhead" for name in op.moving]
        assert ("local.apple.split-delta.layer_time" in names) is marked


def test_cores_reach_no_more_than_the_links_between_their_dies_carry() -> None:
    host = machine(()).host
    held = replace(host.cpu, ram_bytes_per_s=83.2e9, measured_high_bytes_per_s=62e9)
    for ram, reached in ((83.2e9, 62e9 / 0.85), (96e9, 62e9 / 0.85), (60e9, 60e9)):
        slow = replace(host, cpu=held, ram_bytes_per_s=ram, ram_basis="theoretical")
        assert reachable_bytes_per_s(slow) == pytest.approx(reached)
    # what was measured is reached, and memory that yields its usual share is the limit itself
    measured = replace(host, cpu=held, ram_bytes_per_s=83.2e9, ram_basis="measured")
    assert reachable_bytes_per_s(measured) == 83.2e9
    free = replace(held, measured_high_bytes_per_s=70e9)
    faster = replace(host, cpu=free, ram_bytes_per_s=96e9, ram_basis="theoretical")
    assert reachable_bytes_per_s(faster) == 96e9


@pytest.mark.parametrize(
    ("cpu", "dies", "link"),
    [("epyc-9115", 2, 128e9), ("threadripper-pro-9955wx", 2, 64e9), ("threadripper-pro-9975wx", 4, 64e9),
     ("threadripper-pro-7965wx", 4, 60e9), ("threadripper-pro-5955wx", 2, 51.2e9)],
)  # fmt: skip
def test_few_dies_cannot_read_what_their_channels_carry(cpu: str, dies: int, link: float) -> None:
    host = resolve_hardware(None, MachineFlags(cpu=cpu), parts=PARTS).host
    assert reachable_bytes_per_s(host) == pytest.approx(dies * link / 0.85, rel=0.02)
    assert reachable_bytes_per_s(host) < 0.9 * host.ram_bytes_per_s


def test_a_smaller_ik_file_has_a_smaller_rest() -> None:
    session, gib = Session(Catalog()), 1024**3
    # Qwen3-235B-A22B mix-IQ3_K: 106.83 GiB, attention in iq6_k where the recipe has q8_0 (its load log)
    recipe = session.graph("qwen3-235b-a22b", "iq3_k")
    file = session.resized(recipe, 106.83 * gib)
    assert file.file_bytes == pytest.approx(106.83 * gib, rel=1e-6)
    assert sum(w.expert_bytes for w in file.layers) == sum(w.expert_bytes for w in recipe.layers)
    dense = sum(w.dense_bytes for w in file.layers) / sum(w.dense_bytes for w in recipe.layers)
    assert dense == pytest.approx(6.625 / 8.5, abs=0.04)
    # others, and larger files, are scaled in proportion
    plain = session.graph("qwen3-235b-a22b", "q4_k_m")
    smaller = session.resized(plain, 0.97 * plain.file_bytes)
    assert sum(w.expert_bytes for w in smaller.layers) < sum(w.expert_bytes for w in plain.layers)
    larger = session.resized(recipe, 1.05 * recipe.file_bytes)
    assert sum(w.expert_bytes for w in larger.layers) > sum(w.expert_bytes for w in recipe.layers)


def test_a_larger_dynamic_file_has_larger_experts_and_a_smaller_one_a_smaller_rest() -> None:
    session = Session(Catalog())
    recipe = session.graph("glm-4.5-air", "ud-q4_k_xl")
    experts, dense = (
        sum(getattr(w, part) for w in recipe.layers) for part in ("expert_bytes", "dense_bytes")
    )
    # 68.01 GiB; its experts' down projection is q5_0 and q8_0 by layer, and it holds a layer not decoded
    file = session.resized(recipe, 68.01 * 1024**3)
    assert file.file_bytes == pytest.approx(68.01 * 1024**3, rel=1e-6)
    assert sum(w.dense_bytes for w in file.layers) == dense
    assert file.head_bytes == recipe.head_bytes
    assert sum(w.expert_bytes for w in file.layers) - experts == pytest.approx(
        file.file_bytes - recipe.file_bytes, abs=len(file.layers)
    )
    assert sum(n for w in file.layers for _, n in w.bytes_by_qtype) == pytest.approx(
        sum(w.dense_bytes + w.expert_bytes for w in file.layers), rel=1e-6
    )
    smaller = session.resized(recipe, 0.98 * recipe.file_bytes)
    assert sum(w.expert_bytes for w in smaller.layers) == experts
    assert sum(w.dense_bytes for w in smaller.layers) < dense


def test_the_rest_of_a_file_has_at_least_half_of_its_recipe() -> None:
    graph = graph_of(moe_spec(n_layers=4))
    experts = sum(w.expert_bytes for w in graph.layers)
    small = resized_rest(graph, 0.5 * experts)
    assert small.file_bytes == pytest.approx(0.5 * experts, rel=0.01)
    rest = small.file_bytes - sum(w.expert_bytes for w in small.layers)
    assert rest / sum(w.expert_bytes for w in small.layers) == pytest.approx(
        0.5 * (graph.file_bytes - experts) / experts, rel=0.01
    )


def test_tiles_serve_prompts_of_engines_that_have_kernels_for_them() -> None:
    hardware = machine(())
    cpu = replace(hardware.host.cpu, isa=("avx2", "avx512", "amx"))
    hardware = replace(hardware, host=replace(hardware.host, cpu=cpu))

    def bases(engine: str, *, decode: bool) -> tuple[str, str]:
        rates = host_rates(hardware, None, find_engine(engine), (), "q8_0", decode=decode)
        return rates.weights[1][0].rpartition(".")[2], rates.cache[1][0].rpartition(".")[2]

    assert bases("llama.cpp", decode=False) == ("amx", "avx512")
    assert bases("ktransformers", decode=False) == ("avx512", "avx512")  # of GGUF files
    assert bases("llama.cpp", decode=True) == bases("ktransformers", decode=True) == ("avx512", "avx512")
    assert bases("ik_llama.cpp", decode=False) == ("avx512", "avx512")  # its issue 437


def test_trained_routers_read_less_before_any_row_says_so() -> None:
    # 0.37 of the bytes that an even router misses, at the drive's rate over 1.8
    assert prior("local.disk.moe_read_time").value == pytest.approx(0.37 * 1.8, rel=0.01)


def test_arm_cores_differ_by_their_units_and_what_these_can() -> None:
    def names(core: str, quant: str = "q8_0", engine: str = "llama.cpp") -> set[str]:
        cpu = replace(machine().host.cpu, isa=("neon",), microarchitecture=core)
        hardware = replace(machine(), host=replace(machine().host, cpu=cpu))
        found = host_rates(hardware, None, find_engine(engine), (), quant, decode=False).weights[1]
        return {name.removeprefix("local.cpu.neon.") for name in found if name.startswith("local.cpu.neon.")}

    assert names("Neoverse V2") == names("Apple M4") == set()
    assert names("Neoverse N1") == names("Cortex-A76") == {"narrow.compute"}
    assert names("Cortex-A72") == {"narrow.compute", "plain.compute"}
    assert names("Neoverse V2", "q4_0") == {"interleaved.compute"}
    # ik_llama.cpp's kernels for prompts multiply all types at one rate
    assert names("Neoverse N1", "q4_0", "ik_llama.cpp") == {"narrow.compute"}
    # a Pi 4 is slower per clock than a Pi 5, and both than a Graviton 4
    assert prior("local.cpu.neon.plain.compute").value < prior("local.cpu.neon.narrow.compute").value < 1
