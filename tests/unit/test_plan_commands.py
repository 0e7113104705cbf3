"""Patterns and commands of plans: each against an independent way to get the same."""

from __future__ import annotations

import random
import re
import shlex

from msgspec.structs import replace

from moeplan.engines.shards import shares_experts
from moeplan.engines.traits import find_engine
from moeplan.predict.placement import on_cpu, split
from moeplan.predict.problem import Problem
from moeplan.readers.engine_tables import EngineTables
from moeplan.report import plan_words
from moeplan.search.candidates import whole_placements
from moeplan.search.commands import commands
from moeplan.search.layout import hosted_last, one_gpu, several_gpus, to_placement
from moeplan.search.overrides import device_map, n_cpu_moe, one_of, tensor_overrides, tensor_split
from tests.support.problems import calibration, gpu, graph_of, machine, moe_spec, workload

LLAMA = find_engine("llama.cpp")
MOE = graph_of(moe_spec(n_layers=6, n_dense=1), "q4_k_m")


def problem(n_gpus: int = 1, graph: object = MOE, **changes: object) -> Problem:
    box = machine(tuple(gpu(8) for _ in range(n_gpus)))
    return Problem(graph, box, workload(**changes), LLAMA, calibration())  # type: ignore[arg-type]


def test_one_of_matches_exactly_its_numbers() -> None:
    rng = random.Random(3)
    for _ in range(50):
        chosen = {n for n in range(130) if rng.random() < rng.random()}
        if chosen:
            pattern = re.compile(f"({one_of(tuple(chosen))})")
            assert {n for n in range(130) if pattern.fullmatch(str(n))} == chosen


def test_n_cpu_moe_counts_layers_from_the_first() -> None:
    # layer 0 is dense, so that the experts of layers 1 and 2 need --n-cpu-moe 3
    assert n_cpu_moe(MOE, to_placement(one_gpu(6, 0, 3), MOE, LLAMA)) == 3
    assert n_cpu_moe(MOE, to_placement(one_gpu(6, 0, 0), MOE, LLAMA)) == 0
    assert n_cpu_moe(MOE, to_placement(one_gpu(6, 2, 4), MOE, LLAMA)) == 4
    # the last layers cannot be said by a number
    last = to_placement(hosted_last(6, 4), MOE, LLAMA)
    assert n_cpu_moe(MOE, last) is None
    assert tensor_overrides(last) == (r"blk\.([4-5])\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU",)


def test_tensor_split_counts_the_output_layer() -> None:
    placement = to_placement(several_gpus(6, 1, (3, 6), (0, 0)), MOE, LLAMA)
    assert tensor_split(placement, 2) == (2, 4)
    assert sum(tensor_split(placement, 2)) == placement.gpu_layers


def test_device_map_names_every_module() -> None:
    assert device_map(MOE, split(MOE, problem().hardware, LLAMA, 5, 0)) == {
        "model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "cpu", "model.layers.2": 0,
        "model.layers.3": 0, "model.layers.4": 0, "model.layers.5": 0, "model.norm": 0, "model.rotary_emb": 0,
        "lm_head": 0,
    }  # fmt: skip


# ── commands ─────────────────────────────────────────────────────────────────────────────────────


def texts(p: Problem, placement: object) -> dict[tuple[str, str], str]:
    made = commands(p, placement, EngineTables().get, "m.gguf")  # type: ignore[arg-type]
    return {(c.engine, c.purpose): c.text for c in made}


def test_llama_commands_say_the_placement() -> None:
    p = problem(n_sequences=2, kv_type_k="q8_0", kv_type_v="q8_0", ubatch_tokens=4096)
    found = texts(p, to_placement(one_gpu(6, 0, 3), MOE, LLAMA))
    words = shlex.split(found["llama.cpp", "serve"])
    assert words[0] == "llama-server"
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options == {
        "--model": "m.gguf", "--ctx-size": "8192", "--parallel": "2", "--gpu-layers": "7", "--n-cpu-moe": "3",
        "--ubatch-size": "4096", "--batch-size": "4096", "--flash-attn": "on", "--cache-type-k": "q8_0",
        "--cache-type-v": "q8_0",
    }  # fmt: skip
    assert "--n-prompt 512 --n-gen 128" in found["llama.cpp", "measure"]
    assert "--override-tensor" in found["ik_llama.cpp", "serve"]
    # Ollama and LM Studio cannot be told of hosted experts
    assert ("ollama", "file") not in found


def test_a_modelfile_where_no_expert_moves() -> None:
    found = texts(problem(), split(MOE, problem().hardware, LLAMA, 4, 0))
    assert "PARAMETER num_gpu 4\n" in found["ollama", "file"]
    assert "--gpu 0.667" in found["lm-studio", "serve"]
    assert "--gpu off" in texts(problem(), on_cpu(MOE))["lm-studio", "serve"]


def test_several_gpus_are_split_by_counts() -> None:
    placement = to_placement(several_gpus(6, 0, (2, 6), (1, 1)), MOE, LLAMA)
    found = texts(problem(2), placement)
    assert "--tensor-split 2,5" in found["llama.cpp", "serve"]
    assert "--tensor-split 2/5" in found["llama.cpp", "measure"]


def test_folded_commands_still_parse() -> None:
    words = [
        "python",
        "-m",
        "server",
        "--model",
        "a b.gguf",
        "--gpu-layers",
        "37",
        "-ot",
        r"blk\.(1|2)=CPU",
        "-f",
    ]
    lines = plan_words.fold(shlex.join(words), 30)
    assert len(lines) > 2
    assert all(len(line) <= 30 for line in lines)
    # the shell drops a backslash with the line end behind it
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == words


def test_whole_experts_where_slices_do_not_divide() -> None:
    graph = graph_of(moe_spec(expert=96, n_experts=8), "bf16")
    vllm = find_engine("vllm")
    p = problem(4, graph)._replace(engine=vllm)
    shown = [(q.tensor_parallel, q.expert_parallel) for _, q in whole_placements(p)]
    assert shown == [(1, 1), (2, 1), (2, 2), (4, 1), (4, 4)]
    p = p._replace(graph=replace(graph, expert_group=32))
    cut = [(q.tensor_parallel, q.expert_parallel) for _, q in whole_placements(p)]
    assert cut == [(1, 1), (2, 2), (4, 4)]
    assert not shares_experts(graph.spec, 3)
    found = texts(p, list(whole_placements(p))[-1][1])
    assert shlex.split(found["vllm", "serve"])[-1] == "--enable-expert-parallel"
    assert "--ep-size 4" in found["sglang", "serve"]
    assert "--ep_size 4" in found["tensorrt-llm", "serve"]
