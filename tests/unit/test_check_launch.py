"""From an engine's command line to what is asked of moeplan: defaults, GPUs, placement."""

from __future__ import annotations

import pytest

from moeplan.check.launch import Sizing, sizing_of
from moeplan.check.override import moved_layers
from moeplan.domain.deployment import Launch, Word
from moeplan.domain.request import MachineFlags
from moeplan.engines.flags import parse, recognise
from moeplan.errors import NotModelled, SpecError
from moeplan.readers.engine_tables import EngineTables
from moeplan.readers.shell import split_commands
from tests.support.problems import dense_spec, moe_spec

ENGINES = EngineTables()


def sizing(
    line: str, *, n_gpus: object = None, machine_gpus: int | None = None, image: str = "", moe: bool = True
) -> Sizing:
    """What a command line asks; the model is a small MoE of 32,768 tokens."""
    (command,) = split_commands(line)
    launch = Launch(
        path="x", kind="compose", name="x", line=1, argv=command.words,
        n_gpus=n_gpus, image=Word(image) if image else None, gpus_line=9,  # type: ignore[arg-type]
    )  # fmt: skip
    known = recognise(launch, ENGINES.all())
    assert known is not None
    settings = parse(known[0], known[1], launch)
    spec = moe_spec() if moe else dense_spec()
    return sizing_of(
        launch, settings, spec, model="m", named_quant=None, hardware="h", machine=MachineFlags(),
        n_machine_gpus=machine_gpus, has_quant=False,
    )  # fmt: skip


def test_llama_server_divides_its_context_among_its_slots() -> None:
    request = sizing("llama-server -hf org/m-GGUF -c 32768 -np 4").request
    assert (request.context, request.batch) == (8192, 4)
    assert sizing("llama-server -hf org/m-GGUF -c 32768").request.context == 32768


def test_llama_server_opens_four_slots_on_one_cache_by_itself() -> None:
    """tools/server/server.cpp: "n_parallel is set to auto, using n_parallel = 4 and kv_unified = true"."""

    def cache(line: str) -> tuple[int | None, bool, bool, int | None]:
        asked = sizing(line).request
        return asked.slots, asked.kv_unified, asked.swa_full, asked.output_rows

    assert cache("llama-server -hf org/m-GGUF -c 32768") == (4, True, False, 4)
    assert cache("llama-server -hf org/m-GGUF -c 32768 -np 2 --swa-full") == (2, False, True, 2)
    assert cache("llama-server -hf org/m-GGUF -c 32768 -np 2 -kvu") == (2, True, False, 2)
    assert cache("llama-cli -hf org/m-GGUF -c 32768") == (None, False, False, None)


def test_vllm_without_its_hybrid_allocator_caches_whole_contexts() -> None:
    assert not sizing("vllm serve m").request.swa_full
    assert sizing("vllm serve m --disable-hybrid-kv-cache-manager").request.swa_full


def test_llama_server_without_a_context_takes_what_fits() -> None:
    asked = sizing("llama-server -hf org/m-GGUF")
    assert (asked.request.context, asked.least_context) == ("max", 4096)
    assert sizing("llama-server -hf org/m-GGUF --fit off").request.context == 32768
    assert sizing("llama-server -hf org/m-GGUF --fit off").request.gpu_layers == "all"


def test_servers_without_a_length_take_the_models_and_tgi_what_fits() -> None:
    assert sizing("vllm serve m").request.context == 32768
    assert sizing("vllm serve m --max-model-len auto").request.context == "max"
    assert sizing("text-generation-launcher --model-id m").request.context == "max"
    tgi = sizing(
        "text-generation-launcher --model-id m --max-total-tokens 4096 --max-batch-total-tokens 20000"
    )
    assert (tgi.request.context, tgi.request.batch) == (4096, 4)


@pytest.mark.parametrize(
    ("flags", "mmap"),
    [
        ("", None),
        ("--mmap", None),
        ("--no-mmap", False),
        ("--mlock", False),
        ("-lm none", False),
        ("-lm mmap+mlock", False),
        ("-lm mmap", None),
    ],
)
def test_what_keeps_weights_resident(flags: str, mmap: bool | None) -> None:
    assert sizing(f"llama-server -hf org/m-GGUF {flags}").request.mmap is mmap


def test_gpus_of_a_kind_are_counted_by_the_file() -> None:
    asked = sizing("vllm serve m -tp 2", n_gpus=4)
    assert (asked.request.machine.n_gpus, asked.request.tensor_parallel, asked.impossible) == (2, 2, "")
    assert "uses 2 of the 4 GPUs" in asked.notes[0]
    assert sizing("vllm serve m", n_gpus=4).request.tensor_parallel == 1
    assert sizing("text-generation-launcher --model-id m", n_gpus=4).request.tensor_parallel == 4
    assert sizing("llama-server -hf org/m-GGUF", n_gpus=4).request.machine.n_gpus == 4
    assert sizing("llama-server -hf org/m-GGUF -sm none", n_gpus=4).request.machine.n_gpus == 1
    assert sizing("llama-server -hf org/m-GGUF -dev none", n_gpus=4).request.gpu_layers == 0


def test_contradictions_are_answers_not_errors() -> None:
    asked = sizing("vllm serve m -tp 4", n_gpus=2)
    assert "-tp 4 needs 4 GPUs, and it gets 2" in asked.impossible
    asked = sizing("vllm serve m", n_gpus=4, machine_gpus=2)
    assert (asked.impossible, asked.impossible_line) == ("the file asks for 4 GPUs, the machine has 2", 9)
    assert "gets none" in sizing("vllm serve m", n_gpus=0).impossible


def test_a_whole_machine_keeps_its_gpus() -> None:
    assert sizing("llama-server -hf org/m-GGUF", machine_gpus=2).request.machine.n_gpus is None
    assert sizing("llama-server -hf org/m-GGUF", n_gpus=1, machine_gpus=2).request.machine.n_gpus == 1


def test_an_image_without_gpu_support_runs_on_the_cpu() -> None:
    cpu = sizing("-hf org/m-GGUF", image="ghcr.io/ggml-org/llama.cpp:server-b4719")
    assert cpu.request.gpu_layers == 0
    assert sizing("-hf org/m-GGUF", image="ghcr.io/ggml-org/llama.cpp:server-cuda").request.gpu_layers is None


def test_sglangs_share_is_of_weights_and_cache() -> None:
    asked = sizing("python -m sglang.launch_server --model-path m --mem-fraction-static 0.8")
    assert (asked.static_frac, asked.request.memory_utilization) == (0.8, 1.0)
    assert sizing("vllm serve m --gpu-memory-utilization 0.8").request.memory_utilization == 0.8


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("-ts 3,1", "uneven split"),
        ("-sm row", "-sm row"),
        ("-ot attn=CPU", "attn_q of layer 0"),
        ("-np 64 -c 64", "64 slots"),
    ],
)
def test_what_is_not_modelled_has_its_line(flags: str, message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("-", r"\-")) as caught:
        sizing(f"llama-server -hf org/m-GGUF {flags}")
    assert caught.value.line == 1
    assert sizing("llama-server -hf org/m-GGUF -ts 1,1").request.context == "max"


@pytest.mark.parametrize(
    ("patterns", "n_layers"),
    [
        (".ffn_.*_exps.=CPU", 4),
        ("exps=CPU", 4),
        (r"blk\.[01]\.ffn_.*_exps=CPU", 2),
        (r"blk\.0\.ffn_.*_exps=CPU,blk\.3\.ffn_.*_exps=CPU", 2),
        ("blk.9.ffn_up_exps=CPU", 0),
    ],
)
def test_experts_that_patterns_move(patterns: str, n_layers: int) -> None:
    assert moved_layers(patterns, moe_spec(n_layers=4)) == n_layers


@pytest.mark.parametrize(
    "patterns",
    ["ffn_up_exps=CPU", "exps=CUDA1", "(=CPU", "(.+)+x=CPU", "ffn=CPU", "exps", "x" * 400 + "=CPU"],
)
def test_other_patterns_are_refused(patterns: str) -> None:
    with pytest.raises(NotModelled):
        moved_layers(patterns, moe_spec())


def test_experts_in_ram_of_a_dense_model_are_none() -> None:
    asked = sizing("llama-server -hf org/m-GGUF --n-cpu-moe 9", moe=False)
    assert asked.request.cpu_moe is None
    assert any("the model has none" in note for note in asked.notes)


def test_experts_held_whole() -> None:
    vllm = "vllm serve m --tensor-parallel-size 4 --enable-expert-parallel"
    assert sizing(vllm, n_gpus=4).request.expert_parallel == 4
    assert sizing(vllm, n_gpus=4, moe=False).request.expert_parallel is None
    assert sizing("vllm serve m --tensor-parallel-size 4", n_gpus=4).request.expert_parallel is None
    sglang = "python -m sglang.launch_server --model-path m --tp 4"
    assert sizing(f"{sglang} --ep-size 4", n_gpus=4).request.expert_parallel == 4
    assert sizing(f"{sglang} --ep-size 2", n_gpus=4).request.expert_parallel is None
