"""Says in words what is wrong with a document that does not match its wire struct.

msgspec names the place as ``$.blocks[...].mixer.n_heads``: a key of a mapping with free keys is lost.
So the place is found again by converting piece by piece, and described from the struct's own types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import inspect

from moeplan.errors import SpecError, nearest
from moeplan.readers.own_files import HARDWARE, kind_of, kind_of_wire
from moeplan.readers.yaml_doc import Document, KeyPath

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping of keys to values",
    "null": "nothing",
}
_LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length")
_YAML_11_BOOLEANS = frozenset(["yes", "no", "on", "off", "y", "n", "true", "false"])


def explain(
    document: Document, wire: type, error: Exception, synonyms: Mapping[str, str], help: str | None
) -> SpecError:
    """The SpecError for ``error``, raised when ``document.data`` was converted to ``wire``."""
    found, expected = kind_of(document.data), kind_of_wire(wire)
    if found and expected and found != expected and not {found, expected} <= HARDWARE:
        return SpecError(
            f"describes {found}, where {expected} was expected", path=str(document.path), help=help
        )
    place = _locate(document.data, inspect.type_info(wire), str(error), ())
    message, path, value, hint = _describe(place, synonyms)
    return document.error(message, path, value=value, hint=hint, help=help)


class _Place:
    """A mismatch: ``problem`` in msgspec's words, the path, the data and the type found there."""

    __slots__ = ("data", "path", "problem", "type")

    def __init__(self, problem: str, path: KeyPath, data: Any, type_: inspect.Type) -> None:
        self.problem = problem
        self.path = path
        self.data = data
        self.type = type_


def _locate(data: Any, info: inspect.Type, text: str, path: KeyPath) -> _Place:
    problem, _, place = text.partition(" - at `$")
    for step in re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]|(\[\.\.\.\])", place):
        name, index, any_key = step
        if any_key:
            return _locate_in_mapping(data, info, problem, path)
        key: str | int = name or int(index)
        info, data, path = _child_type(info, data, key), _child(data, key), (*path, key)
    return _Place(problem, path, data, info)


def _locate_in_mapping(data: Any, info: inspect.Type, problem: str, path: KeyPath) -> _Place:
    """Find the entry of a mapping with free keys that msgspec stumbled over: the first that fails."""
    mapping = _resolve(info, data)
    if isinstance(mapping, inspect.DictType) and isinstance(data, dict):
        value_type = _annotation(mapping.value_type)
        for key, value in data.items():
            try:
                msgspec.convert(value, value_type, strict=True)
            except msgspec.ValidationError as error:
                return _locate(value, mapping.value_type, str(error), (*path, key))
    return _Place(problem, path, data, info)


def _annotation(info: inspect.Type) -> Any:
    """A type that msgspec can convert to and that fails where ``info`` fails."""
    info = _bare(info)
    if isinstance(info, inspect.StructType):
        return info.cls
    if isinstance(info, inspect.UnionType):
        return Union[tuple(_annotation(part) for part in info.types)]  # noqa: UP007 - built at run time
    if isinstance(info, inspect.LiteralType):
        return Literal[tuple(info.values)]
    if isinstance(info, inspect.DictType):
        return dict[str, _annotation(info.value_type)]  # type: ignore[misc]
    if isinstance(info, (inspect.ListType, inspect.VarTupleType)):
        return list[_annotation(info.item_type)]  # type: ignore[misc]
    base = {"BoolType": bool, "IntType": int, "FloatType": float, "StrType": str, "NoneType": None}.get(
        type(info).__name__, Any
    )
    limits = {name: getattr(info, name, None) for name in _LIMITS}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return Annotated[base, msgspec.Meta(**given)] if given else base


def _child(data: Any, key: str | int) -> Any:
    try:
        return data[key]
    except (KeyError, IndexError, TypeError):
        return None


def _bare(info: inspect.Type) -> inspect.Type:
    """``info`` without the descriptions around it."""
    while isinstance(info, inspect.Metadata):
        info = info.type
    return info


def _child_type(info: inspect.Type, data: Any, key: str | int) -> inspect.Type:
    info = _bare(info)
    if isinstance(info, inspect.UnionType):
        structs = [part for part in info.types if isinstance(part, inspect.StructType)]
        if any(part.tag_field == key for part in structs):
            return inspect.LiteralType(tuple(part.tag for part in structs))
    info = _resolve(info, data)
    if isinstance(info, inspect.StructType):
        for field in info.fields:
            if field.encode_name == key:
                return field.type
    if isinstance(info, (inspect.ListType, inspect.VarTupleType)):
        return info.item_type
    if isinstance(info, inspect.DictType):
        return info.value_type
    return inspect.AnyType()


def _resolve(info: inspect.Type, data: Any) -> inspect.Type:
    """The member of a union that ``data`` is meant to be (by its tag); other types as they are."""
    info = _bare(info)
    if not isinstance(info, inspect.UnionType):
        return info
    structs = [part for part in info.types if isinstance(part, inspect.StructType)]
    if isinstance(data, dict):
        for part in structs:
            if part.tag_field is None or data.get(part.tag_field) == part.tag:
                return part
        return next((part for part in info.types if isinstance(part, inspect.DictType)), info)
    if isinstance(data, list):
        lists = (inspect.ListType, inspect.VarTupleType)
        return next((part for part in info.types if isinstance(part, lists)), info)
    return info


def _describe(place: _Place, synonyms: Mapping[str, str]) -> tuple[str, KeyPath, bool, str | None]:
    """(message, path to point at, point at the value, hint) of a mismatch."""
    problem, path = place.problem, place.path
    quoted = re.findall(r"`([^`]*)`", problem)
    owner = _resolve(place.type, place.data)
    known = [field.encode_name for field in owner.fields] if isinstance(owner, inspect.StructType) else []
    if problem.startswith("Object contains unknown field"):
        key = quoted[0]
        return f"unknown key `{key}`{_within(path)}", (*path, key), False, _similar(key, known, synonyms)
    if problem.startswith("Object missing required field"):
        kind = place.data.get("kind") if isinstance(place.data, dict) else None
        which = f" (kind {kind})" if isinstance(kind, str) else ""
        return f"missing key `{quoted[0]}`{_within(path)}{which}", path, False, None
    if problem.startswith("Invalid "):
        return _describe_choice(place)
    if problem.startswith("Expected "):
        expected = re.sub(r"`([^`]*)`", lambda match: _in_words(match[1]), problem.split(", got ")[0][9:])
        hint = _type_hint(quoted[0] if quoted else "", place.data)
        return f"{_name(path)}expected {expected}, got {_show(place.data)}", path, True, hint
    return f"{_name(path)}{problem}", path, True, None


def _describe_choice(place: _Place) -> tuple[str, KeyPath, bool, str | None]:
    """A value outside a fixed set: a Literal field or the tag that picks a union's member."""
    path, info, value = place.path, _bare(place.type), place.data
    if isinstance(info, inspect.UnionType):
        literals = [part for part in map(_bare, info.types) if isinstance(part, inspect.LiteralType)]
        info = literals[0] if literals else info
    choices = [str(choice) for choice in info.values] if isinstance(info, inspect.LiteralType) else []
    close = nearest(str(value), choices, n=1)
    hint = f"did you mean `{close[0]}`?" if close else None
    listed = f"; one of {', '.join(choices)}" if choices else ""
    return f"{_name(path)}{_show(value)} is not possible here{listed}", path, True, hint


def _within(path: KeyPath) -> str:
    return f" in `{_dotted(path)}`" if path else ""


def _name(path: KeyPath) -> str:
    return f"`{_dotted(path)}`: " if path else ""


def _dotted(path: KeyPath) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else (f".{step}" if text else step)
    return text


def _similar(key: str, known: list[str], synonyms: Mapping[str, str]) -> str | None:
    folded = key.casefold().replace("-", "_")
    named = synonyms.get(folded)
    if named in known:
        return f"did you mean `{named}`?"
    close = nearest(folded, known, n=1)
    return f"did you mean `{close[0]}`?" if close else (f"known keys: {', '.join(known)}" if known else None)


def _in_words(names: str) -> str:
    return " or ".join(_WORDS.get(name, name) for name in names.split(" | "))


def _type_hint(expected: str, data: Any) -> str | None:
    if "str" in expected.split(" | ") and isinstance(data, (int, float, bool)):
        return "put quotes around it"
    if "bool" in expected.split(" | ") and isinstance(data, str) and data.lower() in _YAML_11_BOOLEANS:
        return "write `true` or `false`"
    return None


def _show(data: Any) -> str:
    if data is None:
        return "nothing"
    if isinstance(data, bool):
        return "true" if data else "false"
    if isinstance(data, dict):
        return "a mapping"
    if isinstance(data, list):
        return f"a list of {len(data)}"
    text = repr(data)
    return text if len(text) <= 60 else text[:57] + "..."
