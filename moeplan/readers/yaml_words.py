"""YAML that others wrote (Compose, Kubernetes, Helm): anchors, merge keys, several documents.

Every scalar becomes a Word, text with its line and column, whatever type YAML gives it: a manifest's numbers
are read by whoever knows what they mean. Plain ``null``, ``~`` and nothing become None. The specification
files of moeplan itself are read strictly, by yaml_doc.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moeplan.domain.deployment import Word
from moeplan.errors import SpecError
from moeplan.readers.paths import read_text

MAX_NODES = 100_000
"""Values a file may expand to: anchors can make a small file huge."""
MAX_DEPTH = 60
MAX_DOCUMENTS = 500

TEMPLATE_HELP = "a Helm template is not YAML: check what `helm template` prints, or the values file"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


class WordDict(dict[str, Any]):
    """A mapping that knows where it starts; its keys are Words."""

    line: int = 0
    column: int = 0


def read_word_documents(path: Path) -> list[Any]:
    """Every document of the file; SpecError with the place of what is not YAML."""
    return word_documents(read_text(path), str(path))


def word_documents(text: str, path: str) -> list[Any]:
    """Every document of ``text`` that holds anything."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    builder = _Builder(path, text)
    found = []
    try:
        for node in yaml.compose_all(text, Loader=loader):
            if node is not None:
                found.append(builder.value(node, 0))
            if len(found) > MAX_DOCUMENTS:
                raise SpecError(f"holds more than {MAX_DOCUMENTS} documents", path=path)
    except yaml.MarkedYAMLError as error:
        raise _broken(error, path, text) from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise SpecError(f"not valid YAML: {str(error).splitlines()[0]}", path=path) from None
    except RecursionError:
        raise SpecError("nested too deeply", path=path) from None
    return [document for document in found if document is not None]


def _broken(error: Any, path: str, text: str) -> SpecError:
    what = " ".join(part for part in (error.context, error.problem) if part)
    mark = error.problem_mark or error.context_mark
    lines = text.splitlines()
    if mark is None:
        return SpecError(f"not valid YAML: {what}", path=path)
    snippet = lines[mark.line] if mark.line < len(lines) and len(lines[mark.line]) < 160 else None
    template = "{{" in text
    help = TEMPLATE_HELP if template else None
    return SpecError(
        f"not valid YAML: {what}",
        path=path,
        line=mark.line + 1,
        column=mark.column + 1,
        snippet=snippet,
        help=help,
    )


class _Builder:
    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.lines = text.splitlines()
        self.n_nodes = 0

    def value(self, node: Any, depth: int) -> Any:
        self.n_nodes += 1
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        if self.n_nodes > MAX_NODES or depth > MAX_DEPTH:
            why = f"nested deeper than {MAX_DEPTH} levels" if depth > MAX_DEPTH else "expands to too much"
            raise SpecError(why, path=self.path, line=line, column=column)
        kind = node.id
        if kind == "scalar":
            return self.scalar(node, line, column)
        if kind == "sequence":
            return [self.value(item, depth + 1) for item in node.value]
        return self.mapping(node, depth, line, column)

    def scalar(self, node: Any, line: int, column: int) -> Word | None:
        if node.style is None and node.value in _NULLS and node.tag != "tag:yaml.org,2002:str":
            return None
        if node.style == ">":
            return self.folded(node, line)
        if node.style == "|":
            return Word(node.value, line + 1, self.indent(line + 1))
        return Word(node.value, line, column + (1 if node.style else 0))

    def folded(self, node: Any, line: int) -> Word:
        """A folded text with its line breaks as shell continuations, so that its words keep their lines."""
        last = node.end_mark.line if node.end_mark.column == 0 else node.end_mark.line + 1
        lines = [text.strip() for text in self.lines[line:last]]
        while lines and not lines[-1]:
            lines.pop()
        plain = " ".join(lines) == node.value.strip()
        text = " \\\n".join(text.removesuffix("\\").rstrip() for text in lines) if plain else node.value
        return Word(text, line + 1, self.indent(line + 1))

    def indent(self, line: int) -> int:
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        return len(text) - len(text.lstrip()) + 1

    def mapping(self, node: Any, depth: int, line: int, column: int) -> WordDict:
        result = WordDict()
        result.line, result.column = line, column
        merged: list[Any] = []
        for key_node, value_node in node.value:
            key = self.value(key_node, depth + 1)
            if isinstance(key, (dict, list)):
                template = any("{{" in text for text in self.lines)
                help = TEMPLATE_HELP if template else None
                raise SpecError("a key must be text", path=self.path, line=line, column=column, help=help)
            value = self.value(value_node, depth + 1)
            if key == "<<" and key_node.tag == "tag:yaml.org,2002:merge":
                merged += value if isinstance(value, list) else [value]
                continue
            result[key if key is not None else Word("null", line, column)] = value
        for source in merged:
            for key, value in source.items() if isinstance(source, dict) else ():
                result.setdefault(key, value)
        return result


def mapping_of(value: Any) -> WordDict:
    """``value`` when it is a mapping, else an empty one."""
    return value if isinstance(value, WordDict) else WordDict()


def list_of(value: Any) -> list[Any]:
    """``value`` when it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def entries(value: Any) -> list[tuple[Word, Any]]:
    """The entries of a mapping, their keys with their places; none when it is no mapping."""
    return [(key if isinstance(key, Word) else Word(key), item) for key, item in mapping_of(value).items()]


def key_line(mapping: dict[str, Any], key: str) -> int:
    """The line of ``key`` in ``mapping``; 0 where it is absent."""
    return next((getattr(k, "line", 0) for k in mapping if k == key), 0)


def dig(value: Any, *keys: str) -> Any:
    """The value under nested ``keys``, or None."""
    for key in keys:
        value = mapping_of(value).get(key)
    return value
