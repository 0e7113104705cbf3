"""Docker Compose files: services, their commands, environment and GPU reservations.

Reference: the Compose specification (compose-spec/spec.md, deploy.md), 2026.
"""

from __future__ import annotations

from typing import Any

from moeplan.domain.deployment import Launch, Word
from moeplan.errors import SpecError
from moeplan.readers.launches import Gpus, expand, visible_gpus, whole, words_of
from moeplan.readers.shell import interpolate
from moeplan.readers.yaml_words import dig, entries, key_line, list_of, mapping_of
from moeplan.units import parse_bytes

# Compose: b, k, m, g with an optional b, powers of 1024 (compose-spec, "Specifying byte values").
_UNITS = {"b": "b", "k": "kib", "kb": "kib", "m": "mib", "mb": "mib", "g": "gib", "gb": "gib"}


def compose_launches(path: str, document: Any, variables: dict[str, Word]) -> list[Launch]:
    """The services of one Compose file; ``variables`` are those of an ``.env`` file beside it."""
    services = mapping_of(mapping_of(document).get("services"))
    found: list[Launch] = []
    for name, service in entries(services):
        if isinstance(service, dict):
            found += _service(path, name, mapping_of(service), variables)
    return found


def _service(path: str, name: Word, service: Any, variables: dict[str, Word]) -> list[Launch]:
    if "extends" in service:
        line = key_line(service, "extends")
        raise SpecError(
            f"service {name}: `extends` is not followed; check the merged file",
            path=path,
            line=line,
            help="docker compose config > merged.yaml",
        )
    env = _environment(service.get("environment"), variables)
    entrypoint = words_of(service.get("entrypoint"), variables, path, f"entrypoint of {name}")
    command = words_of(service.get("command"), variables, path, f"command of {name}")
    image = service.get("image")
    n_gpus, gpus_line = _gpus(path, service, variables)
    ram = _memory(path, service, variables)
    launch = Launch(
        path=path,
        kind="compose",
        name=str(name),
        line=name.line,
        argv=entrypoint + command,
        env=env,
        image=interpolate(image, variables) if isinstance(image, Word) and not entrypoint else None,
        n_gpus=visible_gpus(env, n_gpus),
        gpus_line=gpus_line,
        ram_bytes=ram,
    )
    return expand(launch)


def _environment(value: Any, variables: dict[str, Word]) -> dict[str, Word]:
    env: dict[str, Word] = {}
    for key, word in entries(value):
        env[str(key)] = (
            interpolate(word, variables) if isinstance(word, Word) else Word("", key.line, key.column)
        )
    for item in list_of(value):
        if isinstance(item, Word):
            name, equals, text = item.partition("=")
            known = variables.get(name, item.at("$" + name))
            env[name] = interpolate(item.at(text), variables) if equals else known
    return env


def _gpus(path: str, service: Any, variables: dict[str, Word]) -> tuple[Gpus, int]:
    """(GPUs, line) of ``deploy.resources.reservations.devices`` or of ``gpus``."""
    devices = list_of(dig(service, "deploy", "resources", "reservations", "devices"))
    gpus = service.get("gpus")
    if isinstance(gpus, Word):
        return ("all" if gpus == "all" else whole(interpolate(gpus, variables), path, "gpus")), gpus.line
    total: Gpus = None
    line = 0
    for device in [*devices, *list_of(gpus)]:
        device = mapping_of(device)
        capabilities = [str(c) for c in list_of(device.get("capabilities"))]
        if capabilities and "gpu" not in capabilities:
            continue
        count, ids = device.get("count"), list_of(device.get("device_ids"))
        line = key_line(device, "count") or key_line(device, "device_ids") or device.line
        if ids:
            total = (total or 0) + len(ids) if total != "all" else "all"
        elif count is None or count in ("all", "-1"):
            total = "all"  # the Compose specification: all are reserved when neither is set
        elif total != "all":
            total = (total or 0) + whole(interpolate(count, variables), path, "count of GPUs")
    return total, line


def _memory(path: str, service: Any, variables: dict[str, Word]) -> int | None:
    limit = dig(service, "deploy", "resources", "limits", "memory") or service.get("mem_limit")
    if not isinstance(limit, Word):
        return None
    text = interpolate(limit, variables).strip().lower()
    digits = text.rstrip("bkmg")
    unit = text[len(digits) :] or "b"
    if unit not in _UNITS or not digits.replace(".", "", 1).isdigit():
        raise SpecError(
            f"memory limit {str(limit)!r} is not a Compose size",
            path=path,
            line=limit.line,
            column=limit.column,
            hint="write 512m, 64g or 64gb",
        )
    return parse_bytes(f"{digits}{_UNITS[unit]}")
