"""What the readers of scripts and manifests share: containers, command lines, counts and quantities."""

from __future__ import annotations

from typing import Any, Literal

from moeplan.domain.deployment import FileKind, Launch, Word
from moeplan.errors import SpecError
from moeplan.readers.shell import Command, interpolate, split_commands

_SHELLS = frozenset({"sh", "bash", "zsh", "dash", "ash"})
_CONTAINER_TOOLS = frozenset({"docker", "podman", "nerdctl"})
_DEVICE_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
)
# `docker run` options that take no value (docker run --help, Docker 28); every other one takes one.
_DOCKER_SWITCHES = frozenset(
    {
        "-d",
        "--detach",
        "-i",
        "--interactive",
        "-t",
        "--tty",
        "--rm",
        "--init",
        "--privileged",
        "-P",
        "--publish-all",
        "--read-only",
        "-q",
        "--quiet",
        "--no-healthcheck",
        "--oom-kill-disable",
        "--sig-proxy",
        "--disable-content-trust",
        "--replace",
        "--tls-verify",
    }
)

Gpus = int | Literal["all"] | None


def script_of(argv: tuple[Word, ...]) -> Word | None:
    """The script of ``sh -c SCRIPT``; None when ``argv`` is no such call."""
    if len(argv) < 3 or argv[0].rsplit("/", 1)[-1] not in _SHELLS:
        return None
    for i, word in enumerate(argv[1:-1], start=1):
        if word.startswith("-") and not word.startswith("--") and word.endswith("c"):
            return argv[i + 1]
    return None


def expand(launch: Launch) -> list[Launch]:
    """The commands of a container that runs a shell; other launches as they are."""
    from msgspec.structs import replace

    script = script_of(launch.argv)
    if script is None:
        return [launch]
    commands = split_commands(script, script.line, script.column, dict(launch.env))
    return [replace(_from_command(launch, command), image=None) for command in commands]


def _from_command(launch: Launch, command: Command) -> Launch:
    from msgspec.structs import replace

    return replace(
        launch,
        argv=command.words,
        env=command.env,
        line=command.words[0].line,
        n_gpus=visible_gpus(command.env, launch.n_gpus),
    )


def script_launches(path: str, text: str, kind: FileKind = "shell", name: str = "") -> list[Launch]:
    """Every command of a script; ``docker run IMAGE`` becomes the container that it starts."""
    found: list[Launch] = []
    for command in split_commands(text):
        launch = Launch(
            path=path,
            kind=kind,
            name=name,
            line=command.words[0].line,
            argv=command.words,
            env=command.env,
            n_gpus=visible_gpus(command.env, None),
        )
        tool = command.words[0].rsplit("/", 1)[-1]
        if tool in _CONTAINER_TOOLS and "run" in command.words[1:3]:
            launch = _container(launch, command.words)
        found += expand(launch)
    return found


def _container(launch: Launch, words: tuple[Word, ...]) -> Launch:
    """``docker run OPTIONS IMAGE ARGS`` taken apart."""
    from msgspec.structs import replace

    env: dict[str, Word] = {}
    n_gpus: Gpus = launch.n_gpus
    gpus_line, name = 0, launch.name
    entrypoint: tuple[Word, ...] = ()
    i = words.index("run") + 1
    while i < len(words) and words[i].startswith("-"):
        flag, equals, value = words[i].partition("=")
        word = words[i].at(value)
        if not equals and flag not in _DOCKER_SWITCHES and not _is_switch_bundle(flag):
            i += 1
            word = words[i] if i < len(words) else words[-1].at("")
        if flag in ("-e", "--env"):
            key, _, text = word.partition("=")
            env[key] = word.at(text if "=" in word else str(launch.env.get(key, "$" + key)))
        elif flag == "--gpus":
            n_gpus, gpus_line = _docker_gpus(word, launch.path), word.line
        elif flag == "--entrypoint":
            entrypoint = (word,)
        elif flag == "--name":
            name = str(word)
        i += 1
    if i >= len(words):
        return launch
    argv = (*entrypoint, *words[i + 1 :])
    return replace(
        launch,
        name=name,
        argv=argv,
        env=env,
        image=None if entrypoint else words[i],
        n_gpus=visible_gpus(env, n_gpus),
        gpus_line=gpus_line or launch.gpus_line,
    )


def _is_switch_bundle(flag: str) -> bool:
    """``-it``, ``-dit``: several switches in one word."""
    return not flag.startswith("--") and len(flag) > 2 and set(flag[1:]) <= set("dit")


def _docker_gpus(word: Word, path: str) -> Gpus:
    text = word.strip("'\"")
    if text == "all":
        return "all"
    if text.startswith("device="):
        return len([d for d in text[len("device=") :].split(",") if d])
    text = text.removeprefix("count=")
    return "all" if text == "-1" else whole(word.at(text), path, "--gpus")


def visible_gpus(env: Any, given: Gpus) -> Gpus:
    """GPUs that an environment leaves visible; ``given`` where it does not say."""
    for name in _DEVICE_VARIABLES:
        text = str(env.get(name) or "").strip()
        if not text or text in ("all", "void") or "$" in text:
            continue
        if text in ("none", "-1"):
            return 0
        return len([device for device in text.split(",") if device.strip()])
    return given


def whole(word: Word, path: str, what: str) -> int:
    """``word`` as a whole number; SpecError at its place."""
    if not word.isdigit() or len(word) > 9:
        raise SpecError(
            f"{what}: expected a whole number, got {str(word)[:60]!r}",
            path=path,
            line=word.line,
            column=word.column,
        )
    return int(word)


def words_of(value: Any, env: dict[str, Word], path: str, what: str) -> tuple[Word, ...]:
    """A command given as a list or as one line; variables of ``env`` are filled in."""
    from moeplan.readers.shell import split_words

    if value is None:
        return ()
    if isinstance(value, Word):
        return split_words(value, env)
    if isinstance(value, list) and all(isinstance(word, Word) or word is None for word in value):
        return tuple(interpolate(word, env) for word in value if word is not None)
    raise SpecError(f"{what}: expected a list of words or one line of text", path=path)
