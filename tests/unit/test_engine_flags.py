"""Engine command lines: what the tables know, what is refused, and the way back."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeplan.domain.deployment import Launch, ServeSettings, Word
from moeplan.engines.flags import parse, recognise, write
from moeplan.errors import SpecError
from moeplan.readers.engine_tables import TABLES, EngineTables
from moeplan.readers.shell import split_commands

ENGINES = EngineTables()


def launch_of(line: str, env: dict[str, str] | None = None, image: str | None = None) -> Launch:
    """A launch of one command line."""
    commands = split_commands(line)
    return Launch(
        path="serve.sh",
        kind="shell",
        name="",
        line=1,
        argv=commands[0].words if commands else (),
        env={key: Word(value, 3, 5) for key, value in (env or {}).items()},
        image=Word(image) if image else None,
    )


def settings_of(line: str, **more: object) -> ServeSettings:
    """The settings of one command line."""
    launch = launch_of(line, **more)  # type: ignore[arg-type]
    known = recognise(launch, ENGINES.all())
    assert known is not None, f"not recognised: {line}"
    return parse(known[0], known[1], launch)


def values(line: str, **more: object) -> dict[str, object]:
    """Setting -> value of one command line."""
    return {means: setting.value for means, setting in settings_of(line, **more).settings.items()}


@pytest.mark.parametrize("id", TABLES)
def test_every_table_states_its_version_and_source(id: str) -> None:
    table = ENGINES.get(id)
    assert table.version
    assert table.sources[0].retrieved.startswith("20")
    assert table.options


@pytest.mark.parametrize(
    ("line", "engine"),
    [
        ("vllm serve m", "vllm"),
        ("/opt/venv/bin/vllm serve m", "vllm"),
        ("python3 -m vllm.entrypoints.openai.api_server --model m", "vllm"),
        ("python -u -m sglang.launch_server --model-path m", "sglang"),
        ("uv run vllm serve m", "vllm"),
        ("text-generation-launcher --model-id m", "tgi"),
        ("./build/bin/llama-server -m m.gguf", "llama.cpp"),
        ("llama-server.exe -m m.gguf", "llama.cpp"),
    ],
)
def test_commands_are_recognised(line: str, engine: str) -> None:
    assert settings_of(line).table.id == engine


@pytest.mark.parametrize("line", ["echo vllm serve m", "nginx -g x", "pip install vllm", "vllm bench m"])
def test_other_commands_are_not(line: str) -> None:
    assert recognise(launch_of(line), ENGINES.all()) is None


def test_an_image_whose_entry_point_is_the_engine() -> None:
    image = "registry.example.com:5000/mirror/vllm/vllm-openai:v0.9.2@sha256:abc"
    assert values("--model m --max-model-len 1024", image=image) == {"model": "m", "context": 1024}
    assert recognise(launch_of("--model m", image="nginx:1"), ENGINES.all()) is None


def test_spellings_of_one_option() -> None:
    wanted = {"model": "m", "tensor_parallel": 2, "context": 32768}
    for line in (
        "vllm serve m --tensor-parallel-size 2 --max-model-len 32768",
        "vllm serve m -tp 2 --max_model_len=32768",
        "vllm serve --tensor-parallel-size=2 --max-model-len 32K m",
    ):
        assert values(line) == wanted


def test_vllm_counts_small_letters_in_thousands_and_capitals_in_1024() -> None:
    # vllm/utils/argparse_utils.py, human_readable_int: 1k -> 1,000, 1K -> 1,024, 25.6k -> 25,600
    assert values("vllm serve m --max-model-len 16k")["context"] == 16_000
    assert values("vllm serve m --max-model-len 16K")["context"] == 16_384
    assert values("vllm serve m --max-model-len 25.6k")["context"] == 25_600
    assert values("vllm serve m --max-model-len auto")["context"] == "max"


def test_switches_do_not_eat_the_word_behind_them() -> None:
    assert values("vllm serve --enforce-eager m")["model"] == "m"
    assert values("vllm serve --trust-remote-code m")["model"] == "m"
    assert values("llama-server --flash-attn -m a.gguf") == {"flash_attention": True, "model": "a.gguf"}
    assert values("llama-server -fa off -m a.gguf")["flash_attention"] is False


def test_llama_server_reads_its_environment_and_the_command_line_wins() -> None:
    env = {"LLAMA_ARG_MODEL": "/m/a.gguf", "LLAMA_ARG_CTX_SIZE": "8192", "LLAMA_ARG_MLOCK": "0"}
    assert values("llama-server", env=env) == {"model": "/m/a.gguf", "context_total": 8192}
    assert values("llama-server -c 4096", env=env)["context_total"] == 4096


def test_a_value_that_means_unset_leaves_the_default() -> None:
    assert "context_total" not in values("llama-server -m a.gguf -c 0")
    assert values("llama-server -m a.gguf -ngl all")["gpu_layers"] == "all"
    assert "gpu_layers" not in values("llama-server -m a.gguf -ngl auto")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("vllm serve m --max-model-length 1", "unknown option '--max-model-length'"),
        ("vllm serve m --max-model-len 8GB", "expected a whole number"),
        ("vllm serve m --max-model-len", "needs a value"),
        ("vllm serve m --max-model-len $LEN", "only running the script"),
        ("vllm serve m --gpu-memory-utilization 90", "a share between 0 and 1"),
        ("vllm serve m --gpu-memory-utilization 0", "a share between 0 and 1"),
        ("vllm serve m --pipeline-parallel-size 2", "not modelled: --pipeline-parallel-size"),
        ("vllm serve m --cpu-offload-gb 8", "not modelled: --cpu-offload-gb"),
        ("vllm serve m n", "unexpected word 'n'"),
        ("vllm serve m -tp 0", "expected a whole number from 1"),
        ("llama-server -m a.gguf -md b.gguf", "speculative decoding"),
        ("llama-server -m a.gguf --lora x", "LoRA"),
        ("llama-server -m a.gguf -c 32k", "write 32768"),
    ],
)
def test_what_is_not_understood_is_an_error_on_its_line(line: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        settings_of(line)
    assert message in f"{caught.value} {caught.value.hint}"
    assert caught.value.path == "serve.sh"
    assert caught.value.line == 1
    assert caught.value.column is not None


def test_harmless_values_of_refused_options_pass() -> None:
    line = "vllm serve m --pipeline-parallel-size 1 --cpu-offload-gb 0 -dp 1"
    assert values(line) == {"model": "m"}


def test_a_flag_the_user_vouches_for_is_passed_over() -> None:
    launch = launch_of("vllm serve m --brand-new 3 -tp 2")
    table, words = recognise(launch, ENGINES.all()) or (None, ())
    assert table is not None
    settings = parse(table, words, launch, frozenset({"--brand-new"}))
    assert {k: s.value for k, s in settings.settings.items()} == {"model": "m", "tensor_parallel": 2}
    assert settings.unused == ("--brand-new",)


@given(
    st.fixed_dictionaries(
        {"model": st.sampled_from(["org/name", "m"])},
        optional={
            "context": st.integers(1, 10**6),
            "tensor_parallel": st.integers(1, 64),
            "memory_utilization": st.floats(0.01, 1).map(lambda x: round(x, 4)),
            "max_sequences": st.integers(1, 4096),
            "kv_type": st.sampled_from(["auto", "fp8"]),
        },
    )
)
def test_vllm_lines_read_back_as_written(settings: dict[str, str | int | float]) -> None:
    assert values(" ".join(write(ENGINES.get("vllm"), settings))) == settings


@given(
    st.fixed_dictionaries(
        {"model": st.just("a.gguf")},
        optional={
            "context_total": st.integers(1, 10**6),
            "batch": st.integers(1, 64),
            "ubatch": st.integers(1, 8192),
            "gpu_layers": st.integers(0, 200),
            "cpu_moe": st.integers(0, 200),
            "flash_attention": st.booleans(),
            "mmap_off": st.just(True),
            "kv_type_k": st.sampled_from(["f16", "q8_0"]),
        },
    )
)
def test_llama_server_lines_read_back_as_written(settings: dict[str, str | int | bool]) -> None:
    assert values(" ".join(write(ENGINES.get("llama.cpp"), settings))) == settings


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for command in split_commands(text):
        launch = Launch(path="x", kind="shell", name="", line=1, argv=command.words, env=command.env)
        known = recognise(launch, ENGINES.all())
        if known is not None:
            with suppress(SpecError):
                parse(known[0], known[1], launch)
