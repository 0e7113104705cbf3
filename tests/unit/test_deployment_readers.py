"""Scripts, Compose, Kubernetes, Helm and Modelfiles: what is started, with what, and where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeplan.domain.deployment import Launch, Word
from moeplan.errors import SpecError
from moeplan.readers.kubernetes import quantity
from moeplan.readers.manifests import read_deployment
from moeplan.readers.shell import split_commands
from moeplan.readers.yaml_words import word_documents


def launches(tmp_path: Path, name: str, text: str) -> list[Launch]:
    """The launches of a file with this name and text."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_deployment(path, name)


def words(launch: Launch) -> str:
    """The command line of a launch."""
    return " ".join(launch.argv)


# ── shell ───────────────────────────────────────────────────────────────────────────────────────


def test_shell_words_know_their_lines() -> None:
    (command,) = split_commands('vllm serve "a b" \\\n  --x=1 # no\n', line=10)
    assert [(str(word), word.line, word.column) for word in command.words] == [
        ("vllm", 10, 1),
        ("serve", 10, 6),
        ("a b", 10, 12),
        ("--x=1", 11, 3),
    ]


@pytest.mark.parametrize(
    ("script", "commands"),
    [
        ("A=1\nrun $A ${A} ${B:-2} ${C}", ["run 1 1 2 ${C}"]),
        ("export A=x; A=y run $A; run $A", ["run x", "run x"]),
        ("run a && run b || run c | run d &", ["run a", "run b", "run c", "run d"]),
        ("exec nohup env X=1 run a", ["run a"]),
        ("if true; then run a; fi", ["true", "run a", "fi"]),
        ("run '$A' \"$(nproc)\" `id`", ["run $A $(nproc) `id`"]),
        ("run a# b #c", ["run a# b"]),
        ("run ${A:-${B:-3}}", ["run 3"]),
        ("run 'unfinished", ["run unfinished"]),
    ],
)
def test_shell_commands(script: str, commands: list[str]) -> None:
    assert [" ".join(command.words) for command in split_commands(script)] == commands


def test_docker_run_is_the_container_it_starts(tmp_path: Path) -> None:
    text = (
        "docker run -d --rm -it --gpus '\"device=0,1\"' --shm-size 1g -e HF_TOKEN=x -e A \\\n"
        "  -v ~/.cache:/cache --name chat -p 8000:8000 vllm/vllm-openai:latest \\\n  --model m\n"
    )
    (launch,) = launches(tmp_path, "run.sh", text)
    assert (launch.name, launch.n_gpus, words(launch)) == ("chat", 2, "--model m")
    assert launch.image == "vllm/vllm-openai:latest"
    assert launch.argv[0].line == 3


@pytest.mark.parametrize(
    ("line", "n_gpus"),
    [
        ("CUDA_VISIBLE_DEVICES=0,3 vllm serve m", 2),
        ("CUDA_VISIBLE_DEVICES= vllm serve m", None),
        ("CUDA_VISIBLE_DEVICES=-1 llama-server -m m", 0),
        ("vllm serve m", None),
        ("docker run --gpus all i m", "all"),
        ("docker run --gpus 4 i m", 4),
        ("docker run --gpus=2 -e CUDA_VISIBLE_DEVICES=0 i m", 1),
    ],
)
def test_gpus_a_script_gives(tmp_path: Path, line: str, n_gpus: object) -> None:
    (launch,) = launches(tmp_path, "a.sh", line)
    assert launch.n_gpus == n_gpus


# ── Compose ─────────────────────────────────────────────────────────────────────────────────────

COMPOSE = """\
x-base: &base
  image: ghcr.io/ggml-org/llama.cpp:server-cuda
services:
  a:
    <<: *base
    environment: {LLAMA_ARG_CTX_SIZE: 4096}
    command: ["-m", "/m/${MODEL:-a.gguf}"]
    deploy:
      resources:
        limits: {memory: 64g}
        reservations:
          devices:
            - {driver: nvidia, count: 2, capabilities: [gpu]}
            - {driver: nvidia, device_ids: ["3"], capabilities: [gpu]}
  b:
    <<: *base
    gpus: all
    entrypoint: /app/llama-server
    command: >
      -m b.gguf
      -c ${CTX}
"""


def test_compose_services(tmp_path: Path) -> None:
    a, b = launches(tmp_path, "compose.yaml", COMPOSE)
    assert (a.name, words(a), a.n_gpus, a.ram_bytes) == ("a", "-m /m/a.gguf", 3, 64 * 2**30)
    assert a.image == "ghcr.io/ggml-org/llama.cpp:server-cuda"
    assert a.env["LLAMA_ARG_CTX_SIZE"] == "4096"
    assert a.env["LLAMA_ARG_CTX_SIZE"].line == 6
    # an entry point of its own: the words are the command line
    assert (words(b), b.image, b.n_gpus) == ("/app/llama-server -m b.gguf -c ${CTX}", None, "all")
    assert b.argv[-1].line == 21


def test_compose_reads_the_env_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CTX=2048\nMODEL='z.gguf'\n", encoding="utf-8")
    a, b = launches(tmp_path, "compose.yaml", COMPOSE)
    assert words(a) == "-m /m/z.gguf"
    assert words(b).endswith("-c 2048")


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("64g", "64Gi", 10, "not a Compose size"),
        ("count: 2", "count: many", 13, "expected a whole number"),
        ("    gpus: all", "    extends: {file: x.yaml}", 17, "`extends` is not followed"),
    ],
)
def test_compose_mistakes_have_a_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        launches(tmp_path, "compose.yaml", COMPOSE.replace(old, new))
    assert caught.value.line == line


# ── Kubernetes ──────────────────────────────────────────────────────────────────────────────────


def pod(container: str) -> str:
    """A Pod with one container, given in flow style on line 5."""
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers: [{container}]\n"


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("64Gi", 64 * 2**30),
        ("64G", 64 * 10**9),
        ("512Mi", 512 * 2**20),
        ("1e9", 10**9),
        ("0.5Ti", 2**39),
        ("1000", 1000),
        ("1000m", 1),
    ],
)
def test_kubernetes_quantities(text: str, n_bytes: int) -> None:
    # https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    assert quantity(Word(text, 1, 1), "x") == n_bytes


@pytest.mark.parametrize("text", ["64gb", "64 Gi", "64GiB", "-1Gi", "much", ""])
def test_what_kubernetes_refuses_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="not a Kubernetes quantity"):
        quantity(Word(text, 7, 3), "x")


def test_kubernetes_container(tmp_path: Path) -> None:
    container = (
        "{name: c, image: i, args: [--model, $(M), $(X)], "
        "env: [{name: M, value: m}, {name: X, valueFrom: {}}], "
        "resources: {limits: {memory: 1Gi, nvidia.com/gpu: 2}}}"
    )
    (launch,) = launches(tmp_path, "p.yaml", pod(container))
    assert (launch.name, words(launch), launch.n_gpus) == ("p/c", "--model m $(X)", 2)
    assert (launch.ram_bytes, launch.line, launch.image) == (2**30, 5, "i")


def test_kubernetes_script_in_a_shell(tmp_path: Path) -> None:
    text = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n    - name: p\n"
        "      command: [/bin/bash, -lc]\n      args:\n        - |\n          set -e\n"
        "          vllm serve m \\\n            --max-model-len 5\n"
    )
    commands = launches(tmp_path, "p.yaml", text)
    assert [words(launch) for launch in commands] == ["set -e", "vllm serve m --max-model-len 5"]
    assert [word.line for word in commands[1].argv] == [11, 11, 11, 12, 12]


def test_lists_and_several_documents(tmp_path: Path) -> None:
    one = pod("{name: c, image: i}")
    many = "---\n".join([one, "", "# nothing\n", one])
    assert len(launches(tmp_path, "p.yaml", many)) == 2
    items = f"apiVersion: v1\nkind: List\nitems:\n- {one.replace(chr(10), chr(10) + '  ')}"
    assert len(launches(tmp_path, "l.yaml", items)) == 1


def test_a_small_file_cannot_expand_without_end(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for i in range(1, 9):
        bomb += f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n"
    with pytest.raises(SpecError, match="expands to too much"):
        word_documents(bomb, "bomb.yaml")
    with pytest.raises(SpecError, match=r"nested|recursi|deep"):
        word_documents("[" * 500 + "]" * 500, "deep.yaml")


# ── Helm, Modelfile ─────────────────────────────────────────────────────────────────────────────


def test_production_stack_values(tmp_path: Path) -> None:
    text = (
        "servingEngineSpec:\n  modelSpec:\n  - name: a\n    modelURL: org/m\n    requestGPU: 2\n"
        "    vllmConfig: {maxModelLen: 4096, tensorParallelSize: 2, extraArgs: [--dtype, half], "
        "lmcache: true}\n"
    )
    (launch,) = launches(tmp_path, "values.yaml", text)
    assert launch.n_gpus == 2
    # an option of the chart that is not known here must not vanish
    assert words(launch) == (
        "vllm serve org/m --max-model-len 4096 --tensor-parallel-size 2 --dtype half --lmcache"
    )


def test_values_with_image_and_arguments(tmp_path: Path) -> None:
    text = (
        "global: {x: 1}\nserver:\n  image: {repository: vllm/vllm-openai, tag: v1}\n"
        "  extraArgs: [--model, m]\n  resources: {limits: {nvidia.com/gpu: 1}}\n"
    )
    (launch,) = launches(tmp_path, "values.yaml", text)
    assert (launch.name, launch.image, words(launch), launch.n_gpus) == (
        "server",
        "vllm/vllm-openai",
        "--model m",
        1,
    )


def test_modelfile(tmp_path: Path) -> None:
    text = 'from mixtral:8x7b\nPARAMETER num_ctx 8192\nSYSTEM """\nFROM x\n"""\n# c\nPARAMETER stop "a"\n'
    (launch,) = launches(tmp_path, "Modelfile", text)
    assert words(launch) == "ollama --from mixtral:8x7b --num-ctx 8192 --stop a"
    with pytest.raises(SpecError, match="unknown instruction") as caught:
        launches(tmp_path, "Modelfile", "FROM x\nPARAMETR num_ctx 1\n")
    assert caught.value.line == 2
    with pytest.raises(SpecError, match="needs FROM"):
        launches(tmp_path, "Modelfile", "PARAMETER num_ctx 1\n")
