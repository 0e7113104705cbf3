"""From what a user calls a model (an id, a name, a file, ``hf:org/name``) to what is known about it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from moeplan.domain.source import ModelSource
from moeplan.errors import MissingExtra, SpecError
from moeplan.readers.catalog import Catalog
from moeplan.readers.paths import require_file

if TYPE_CHECKING:
    from moeplan.domain.quant import QuantTable

_HELP = "a model is a catalog id, a .yaml spec, a config.json or its directory, a .gguf or .safetensors file"
# Endings that no model name has: such an argument is meant as a file even where there is none.
_FILE_SUFFIXES = (
    ".gguf", ".yaml", ".yml", ".json", ".safetensors", ".bin", ".pt", ".pth", ".txt", ".toml", ".csv",
)  # fmt: skip
_PATH_STARTS = ("/", "./", "../", "~")


def resolve_model(name: str, catalog: Catalog, quants: QuantTable) -> ModelSource:
    """The model that ``name`` stands for. ``quants`` types the tensors of weight files.

    A bare word is a catalog name first and a local directory second; anything with a slash that exists
    is a path. Raises SpecError for unusable files, UnknownName for unknown names, MissingExtra for
    ``hf:`` without the package.
    """
    if not name.strip() or "\0" in name:
        raise SpecError("no model given" if not name.strip() else "not a model name", help=_HELP)
    if name.startswith("hf:"):
        return _from_hub(name[3:])
    path = Path(os.path.expanduser(name))  # noqa: PTH111 - Path's raises for an unknown user
    is_file_name = name.lower().endswith(_FILE_SUFFIXES) or name.startswith(_PATH_STARTS)
    exists = _exists(path)
    if is_file_name and not exists:
        raise SpecError("no such file", path=name, help=_HELP)
    if exists and (is_file_name or "/" in name or catalog.resolve("models", name) is None):
        return read_model_path(path, quants)
    return _from_catalog(name, catalog)


def read_model_path(path: Path, quants: QuantTable) -> ModelSource:
    """The model in the file or directory ``path``, by what it is rather than by what it claims."""
    if path.is_dir():
        return _from_directory(path, quants)
    size = require_file(path)
    lower = path.name.lower()
    if size == 0:
        raise SpecError("is empty", path=str(path))
    magic = _magic(path)
    if magic == b"GGUF" or lower.endswith(".gguf"):
        return _from_gguf(path, quants)
    if lower == "adapter_model.safetensors":
        raise _adapter(path)
    if lower.endswith((".safetensors", ".safetensors.index.json")):
        return _from_safetensors(path, quants)
    if lower.endswith((".yaml", ".yml")):
        return _from_yaml(path, "yaml")
    if lower.endswith(".json") or magic.lstrip()[:1] == b"{":
        return _from_config(path)
    raise SpecError("not a kind of file that describes a model", path=str(path), help=_HELP)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # e.g. a name longer than file names may be
        return False


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror or error}", path=str(path)) from None


def _from_catalog(name: str, catalog: Catalog) -> ModelSource:
    return _from_yaml(catalog.find("models", name), "catalog")


def _from_yaml(path: Path, kind: str) -> ModelSource:
    from moeplan.readers.model_yaml import read_model_yaml

    return ModelSource(
        spec=read_model_yaml(path), kind="catalog" if kind == "catalog" else "yaml", path=str(path)
    )


def _from_config(path: Path) -> ModelSource:
    from moeplan.readers.hf import read_config

    return ModelSource(spec=read_config(path), kind="config", path=str(path))


def _from_directory(path: Path, quants: QuantTable) -> ModelSource:
    """A checkpoint with weights, a bare config.json, or one GGUF file (the first of a split set)."""
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror or error}", path=str(path)) from None
    weights = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]
    if "config.json" in names:
        return _from_safetensors(path, quants) if weights else _from_config(path)
    ggufs = [name for name in names if name.endswith(".gguf")]
    firsts = [name for name in ggufs if "-of-" not in name or "-00001-of-" in name]
    if len(firsts) == 1:
        return _from_gguf(path / firsts[0], quants)
    if len(firsts) > 1:
        raise SpecError(f"holds {len(firsts)} GGUF files; name one, e.g. {firsts[0]}", path=str(path))
    if "adapter_config.json" in names:
        raise _adapter(path)
    raise SpecError("this directory has no config.json", path=str(path), help=_HELP)


def _adapter(path: Path) -> SpecError:
    return SpecError("is a LoRA adapter, not a model", path=str(path), help="name its base model")


def _from_gguf(path: Path, quants: QuantTable) -> ModelSource:
    from moeplan.readers.gguf import read_gguf

    model = read_gguf(path, quants)
    return ModelSource(
        spec=model.spec,
        kind="gguf",
        path=str(path),
        tensors=model.tensors,
        file_quant=model.quant,
        file_bytes=model.file_bytes,
    )


def _from_safetensors(path: Path, quants: QuantTable) -> ModelSource:
    from moeplan.readers.safetensors import read_safetensors

    model = read_safetensors(path, quants)
    return ModelSource(
        spec=model.spec,
        kind="safetensors",
        path=str(path),
        tensors=model.tensors,
        file_quant=model.quant,
        file_bytes=model.file_bytes,
        note=model.note,
    )


def _from_hub(repo: str) -> ModelSource:
    """``org/name`` on the Hugging Face Hub: only its config.json is fetched."""
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise SpecError(f"expected hf:org/name, got 'hf:{repo[:80]}'")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise MissingExtra("huggingface_hub", "hub") from None
    try:
        file = hf_hub_download(repo, "config.json", etag_timeout=5)
    except Exception as error:  # noqa: BLE001 - its own, requests' or httpx' errors, by version
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SpecError(
            f"cannot fetch config.json of {repo} from the Hugging Face Hub: {reason}",
            hint="offline, a private or gated repository, or no such repository",
            help="download config.json yourself and pass its path",
        ) from None
    return _from_config(Path(file))
