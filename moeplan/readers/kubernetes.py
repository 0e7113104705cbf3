"""Kubernetes manifests: every container of every workload, its arguments, environment and limits.

References: Kubernetes API v1.34 (PodSpec, resource quantities), KServe v1beta1 InferenceService,
LeaderWorkerSet v1. Kinds that run no containers (Service, ConfigMap ...) are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from moeplan.domain.deployment import Launch, Word
from moeplan.errors import SpecError
from moeplan.readers.launches import expand, visible_gpus
from moeplan.readers.yaml_words import WordDict, dig, entries, key_line, list_of, mapping_of

GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe", "habana.ai/gaudi")
# Slices of a GPU, whose memory the manifest's reader cannot know: nvidia.com/mig-1g.10gb and shared GPUs.
_SLICES = ("nvidia.com/mig-", "nvidia.com/gpu.shared")
_SUFFIXES: dict[str, int | str] = {
    "": 1, "m": "0.001", "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip


def is_kubernetes(document: Any) -> bool:
    """Whether ``document`` is a Kubernetes object."""
    return isinstance(document, WordDict) and "apiVersion" in document and "kind" in document


def kubernetes_launches(path: str, document: Any) -> list[Launch]:
    """The containers of one object, ``List`` objects included."""
    if document.get("kind") == "List":
        items = list_of(document.get("items"))
        return [launch for item in items if is_kubernetes(item) for launch in kubernetes_launches(path, item)]
    if document.get("kind") == "LeaderWorkerSet":
        _refuse_groups(path, document)
    name = dig(document, "metadata", "name") or dig(document, "metadata", "generateName") or document["kind"]
    found: list[Launch] = []
    for container in _containers(document):
        found += _container(path, str(name), container)
    return found


def _refuse_groups(path: str, document: Any) -> None:
    size = dig(document, "spec", "leaderWorkerTemplate", "size")
    if isinstance(size, Word) and size != "1":
        raise SpecError(
            f"not modelled: one server over several pods (LeaderWorkerSet of size {size})",
            path=path,
            line=size.line,
            column=size.column,
        )


def _containers(value: Any, depth: int = 0) -> Iterator[WordDict]:
    """Every entry of a ``containers`` list below ``value``; KServe's ``model`` counts as one."""
    if depth > 30:
        return
    if isinstance(value, list):
        for item in value:
            yield from _containers(item, depth + 1)
    for key, item in mapping_of(value).items():
        if key == "containers":
            yield from (c for c in list_of(item) if isinstance(c, WordDict))
        elif key == "model" and isinstance(item, WordDict) and "modelFormat" in item:
            yield _served_model(item)
        elif key not in ("initContainers", "ephemeralContainers"):
            yield from _containers(item, depth + 1)


def _served_model(model: WordDict) -> WordDict:
    """KServe's ``predictor.model`` as the container of the runtime that its format asks for."""
    container = WordDict(model)
    container.line, container.column = model.line, model.column
    format_ = dig(model, "modelFormat", "name")
    if "image" not in container and isinstance(format_, Word):
        container["image"] = format_.at(str(format_).lower())
    uri = model.get("storageUri")
    args = [word for word in list_of(model.get("args")) if isinstance(word, Word)]
    if isinstance(uri, Word) and not any(
        word.startswith("--model") and "/mnt/models" not in word for word in args
    ):
        args = [uri.at(f"--model={uri}"), *(word for word in args if not word.startswith("--model"))]
    container["args"] = args
    container.pop("name", None)
    return container


def _container(path: str, owner: str, container: WordDict) -> list[Launch]:
    env = _environment(container)
    command = _words(container.get("command"), env)
    argv = command + _words(container.get("args"), env)
    image = container.get("image")
    label = container.get("name")
    n_gpus, gpus_line, notes = _gpus(path, container)
    ram, ram_line = _memory(path, container)
    name = owner if not label or str(label) == owner else f"{owner}/{label}"
    launch = Launch(
        path=path,
        kind="kubernetes",
        name=name,
        line=container.line,
        argv=argv,
        env=env,
        image=image if isinstance(image, Word) and not command else None,
        n_gpus=visible_gpus(env, n_gpus),
        gpus_line=gpus_line,
        ram_bytes=ram,
        ram_line=ram_line,
        notes=notes,
    )
    return expand(launch)


def _environment(container: WordDict) -> dict[str, Word]:
    env: dict[str, Word] = {}
    for item in list_of(container.get("env")):
        name, value = mapping_of(item).get("name"), mapping_of(item).get("value")
        if isinstance(name, Word):
            unknown = Word(f"$({name})", name.line, name.column)  # valueFrom: known in the cluster alone
            env[str(name)] = value if isinstance(value, Word) else unknown
    return env


def _words(value: Any, env: dict[str, Word]) -> tuple[Word, ...]:
    """Words of ``command`` or ``args``; Kubernetes fills ``$(NAME)`` in from the environment."""
    return tuple(_fill(word, env) for word in list_of(value) if isinstance(word, Word))


def _fill(word: Word, env: dict[str, Word]) -> Word:
    text = str(word)
    for name, value in env.items():
        text = text.replace(f"$({name})", str(value))
    return word.at(text)


def _gpus(path: str, container: WordDict) -> tuple[int | None, int, tuple[str, ...]]:
    """(GPUs, line, remarks) of the container's limits; a GPU has a limit or it is not given."""
    limits = mapping_of(dig(container, "resources", "limits"))
    requests = mapping_of(dig(container, "resources", "requests"))
    for key, value in [*entries(limits), *entries(requests)]:
        if any(str(key).startswith(slice_) for slice_ in _SLICES):
            raise SpecError(
                f"not modelled: {key}, a slice of a GPU; name a GPU of its size with --hardware and give "
                "the container nvidia.com/gpu",
                path=path,
                line=key.line,
                column=key.column,
            )
        if key in GPU_RESOURCES and isinstance(value, Word):
            if not value.isdigit():
                raise SpecError(
                    f"{key}: expected a whole number of GPUs, got {str(value)!r}",
                    path=path,
                    line=value.line,
                    column=value.column,
                    hint="GPUs are counted; their memory is that of --hardware",
                )
            return int(value), key.line, ()
    return (
        None,
        0,
        ("no GPU limit in the manifest: Kubernetes gives the container no GPU unless its runtime does",),
    )


def _memory(path: str, container: WordDict) -> tuple[int | None, int]:
    limits = mapping_of(dig(container, "resources", "limits"))
    value = limits.get("memory")
    if not isinstance(value, Word):
        return None, 0
    return quantity(value, path), key_line(limits, "memory")


def quantity(word: Word, path: str) -> int:
    """A Kubernetes quantity of memory in bytes; SpecError for what Kubernetes refuses (``64gb``)."""
    n = len(word)
    while n and not (word[n - 1].isdigit() or word[n - 1] in ". "):
        n -= 1
    digits, suffix = word[:n], word[n:]
    try:
        number = Decimal(digits)
    except InvalidOperation:
        number = Decimal(-1)
    if suffix not in _SUFFIXES or number < 0 or digits != digits.strip():
        raise SpecError(
            f"{str(word)!r} is not a Kubernetes quantity",
            path=path,
            line=word.line,
            column=word.column,
            hint="write 64Gi (2^30) or 64G (10^9)",
        )
    return int(number * Decimal(_SUFFIXES[suffix]))
