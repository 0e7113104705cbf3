"""Values files of Helm charts that serve models: the charts' own keys, and containers written out.

References: vLLM production-stack helm/values.yaml (``servingEngineSpec.modelSpec``), vLLM's
examples/online_serving/chart-helm, and the common shape ``image`` + ``args`` + ``resources``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moeplan.domain.deployment import Launch, Word
from moeplan.readers.kubernetes import _container
from moeplan.readers.launches import whole
from moeplan.readers.yaml_words import WordDict, entries, list_of, mapping_of

# Keys of production-stack's `vllmConfig` -> the option of vLLM that the chart's template writes.
_VLLM_CONFIG = {
    "maxModelLen": "--max-model-len",
    "tensorParallelSize": "--tensor-parallel-size",
    "pipelineParallelSize": "--pipeline-parallel-size",
    "gpuMemoryUtilization": "--gpu-memory-utilization",
    "maxNumSeqs": "--max-num-seqs",
    "dtype": "--dtype",
}
# Keys of it that change nothing here.
_SWITCHES = frozenset({"enablePrefixCaching", "enableChunkedPrefill", "v1", "maxLoras"})
_ARGUMENT_KEYS = ("args", "extraArgs", "command")


def helm_launches(path: str, document: Any) -> list[Launch]:
    """The model servers of one values file."""
    found: list[Launch] = []
    for spec in list_of(mapping_of(mapping_of(document).get("servingEngineSpec")).get("modelSpec")):
        if isinstance(spec, WordDict):
            found.append(_model_spec(path, spec))
    if found:
        return found
    for name, mapping in _container_like(document, "values"):
        found += _container(path, name, mapping)
    return found


def _model_spec(path: str, spec: WordDict) -> Launch:
    """One entry of production-stack's ``modelSpec``."""
    name = spec.get("name") or Word("model", spec.line, spec.column)
    argv = [Word("vllm", name.line, name.column), Word("serve", name.line, name.column)]
    model = spec.get("modelURL")
    if isinstance(model, Word):
        argv.append(model)
    config = mapping_of(spec.get("vllmConfig"))
    for key, value in entries(config):
        flag = _VLLM_CONFIG.get(str(key))
        if flag and isinstance(value, Word):
            argv += [Word(flag, key.line, key.column), value]
        elif key == "extraArgs":
            argv += [word for word in list_of(value) if isinstance(word, Word)]
        elif key not in _SWITCHES:
            argv.append(Word(f"--{key}", key.line, key.column))  # unknown here: refused as vLLM's option
    gpus = spec.get("requestGPU")
    return Launch(
        path=path,
        kind="helm",
        name=str(name),
        line=name.line,
        argv=tuple(argv),
        n_gpus=whole(gpus, path, "requestGPU") if isinstance(gpus, Word) else None,
        gpus_line=gpus.line if isinstance(gpus, Word) else 0,
    )


def _container_like(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, WordDict]]:
    """Mappings that state an image and arguments, as containers; the image may be repository + tag."""
    mapping = mapping_of(value)
    if depth > 20 or not mapping:
        return
    image = mapping.get("image")
    if any(key in mapping for key in _ARGUMENT_KEYS) or isinstance(mapping_of(image).get("command"), list):
        container = WordDict(mapping)
        container.line, container.column = mapping.line, mapping.column
        inner = mapping_of(image)
        repository = inner.get("repository")
        if isinstance(repository, Word):
            container["image"] = repository
        container["command"] = mapping.get("command") or inner.get("command")
        container["args"] = [*list_of(mapping.get("args")), *list_of(mapping.get("extraArgs"))]
        container.pop("name", None)
        yield name, container
        return
    for key, item in mapping.items():
        yield from _container_like(item, str(key), depth + 1)
        for i, entry in enumerate(list_of(item)):
            label = mapping_of(entry).get("name") or f"{key}[{i}]"
            yield from _container_like(entry, str(label), depth + 1)
