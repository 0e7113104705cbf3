"""A file that deploys a model, whatever kind it is: from its name and content to launches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moeplan.domain.deployment import Launch, Word
from moeplan.errors import SpecError
from moeplan.readers.paths import read_text

_HELP = (
    "a deployment is a Compose file, Kubernetes manifest, Helm values file, shell script with the command "
    "line of vLLM, SGLang, TGI or llama-server, or an Ollama Modelfile"
)
_SHELL_SUFFIXES = (".sh", ".bash", ".zsh", ".command", ".txt", ".service")
_YAML_SUFFIXES = (".yaml", ".yml", ".json")


def read_deployment(path: Path, shown: str | None = None) -> list[Launch]:
    """Everything ``path`` starts, in the order of the file. ``shown`` names it in answers.

    SpecError with the place of what cannot be read, or when it is no kind of file that is known.
    """
    text = read_text(path)
    name = shown or str(path)
    lower = path.name.lower()
    if lower.startswith("modelfile") or lower.endswith(".modelfile"):
        from moeplan.readers.modelfile import modelfile_launches

        return modelfile_launches(name, text)
    if lower.endswith(_YAML_SUFFIXES):
        return _yaml_launches(name, text, path)
    if lower.endswith(_SHELL_SUFFIXES) or text.startswith("#!"):
        return _script(name, text)
    from moeplan.readers.modelfile import looks_like_modelfile, modelfile_launches

    if looks_like_modelfile(text):
        return modelfile_launches(name, text)
    if lower.startswith(("dockerfile", "containerfile")):
        raise SpecError("not modelled: how an image is built; check what runs it", path=name, help=_HELP)
    return _script(name, text)


def _script(name: str, text: str) -> list[Launch]:
    from moeplan.readers.launches import script_launches

    if name.endswith(".service"):
        lines = text.splitlines()
        text = "\n".join(line.partition("=")[2] if line.startswith("ExecStart=") else "" for line in lines)
    return script_launches(name, text)


def _yaml_launches(name: str, text: str, path: Path) -> list[Launch]:
    from moeplan.readers.yaml_words import mapping_of, word_documents

    documents = word_documents(text, name)
    found: list[Launch] = []
    for document in documents:
        found += _document_launches(name, mapping_of(document), path)
    if not documents:
        raise SpecError("holds no data (only comments or blank lines)", path=name, help=_HELP)
    return found


def _document_launches(name: str, document: Any, path: Path) -> list[Launch]:
    from moeplan.readers.kubernetes import is_kubernetes, kubernetes_launches

    if is_kubernetes(document):
        return kubernetes_launches(name, document)
    if "services" in document:
        from moeplan.readers.compose import compose_launches

        return compose_launches(name, document, _dotenv(path.with_name(".env")))
    from moeplan.readers.helm import helm_launches

    return helm_launches(name, document)


def _dotenv(path: Path) -> dict[str, Word]:
    """The variables of the ``.env`` file that Compose reads beside its file."""
    if not path.is_file():
        return {}
    found: dict[str, Word] = {}
    for line in read_text(path).splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and key.isidentifier():
            found[key] = Word(value.strip().strip("'\""))
    return found
