"""Which engine has which option. What is asked of an engine that lacks it is refused, never passed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from moeplan.domain.model import ModelSpec, MoeFfn
from moeplan.domain.request import EstimateRequest
from moeplan.engines.kv import kv_type
from moeplan.engines.traits import ENGINES, EngineTraits
from moeplan.errors import OptionError

_COMPUTES_ON_CPU = frozenset({"cpu", "layers", "experts"})


class Option(NamedTuple):
    """An option that only some engines have."""

    flag: str
    has: Callable[[EngineTraits], bool]
    asks_nothing: tuple[object, ...] = ()
    """Values that name what holds without the option; every engine takes them."""
    covers_all: bool = True
    """False: other engines may have it, but no formula here covers theirs."""


OPTIONS: dict[str, Option] = {
    "ubatch": Option("--ubatch", lambda e: e.chunks_prefill),
    "flash_attention": Option("--flash-attn", lambda e: e.chooses_attention),
    "threads": Option("--threads", lambda e: bool(e.splits & _COMPUTES_ON_CPU)),
    "gpu_layers": Option("--gpu-layers", lambda e: "layers" in e.splits, ("all",)),
    "cpu_moe": Option("--cpu-moe", lambda e: "experts" in e.splits, (0,)),
    "tensor_parallel": Option("--tp", lambda e: e.multi_gpu == "tensor-parallel", (1,), False),
    "expert_parallel": Option("--ep", lambda e: e.expert_parallel, (1,), False),
    "slots": Option("--slots", lambda e: e.gguf),
    "kv_unified": Option("--kv-unified", lambda e: e.gguf, (False,)),
    "swa_full": Option("--swa-full", lambda e: e.window_cache != "full", (False,)),
    "mmap": Option("--mmap", lambda e: e.mmap),
    "repack": Option("--repack", lambda e: e.repacks_on_cpu),
    "kv_offload": Option("--kv-offload", lambda e: e.gguf),
    "memory_utilization": Option("--gpu-memory-utilization", lambda e: e.shares_memory),
    "mla": Option("--mla", lambda e: e.latent_modes),
}
"""By the field of the request. Options that stand here not are those of every engine."""


def engines_with(field: str) -> tuple[str, ...]:
    """Ids of the engines that have the option of ``field``."""
    return tuple(engine.id for engine in ENGINES.values() if OPTIONS[field].has(engine))


def refuse_foreign(request: EstimateRequest, engine: EngineTraits, spec: ModelSpec) -> None:
    """Raise OptionError for the first option of ``request`` that ``engine`` does not have."""
    for field, option in OPTIONS.items():
        value = getattr(request, field)
        # What a plan fills in for an engine is its own micro-batch, however it is called there.
        own = field == "ubatch" and value == engine.ubatch_tokens
        if value is not None and not own and value not in option.asks_nothing and not option.has(engine):
            raise _foreign(field, _as_given(option.flag, value), engine)
    _check_hosted(request.cpu_moe, engine, spec)
    _check_cache_types(request.kv_type, engine)


def has_cache(engine: EngineTraits, types: str) -> bool:
    """Whether ``engine`` has caches of all of ``types``: one, or K and V apart."""
    return engine.kv_types is None or {kv_type(name) for name in types.split(",")} <= engine.kv_types


def _foreign(field: str, given: str, engine: EngineTraits) -> OptionError:
    owners = [owner for owner in engines_with(field) if owner != engine.id]
    have = "has" if len(owners) == 1 else "have"
    lacks = "has no such option" if OPTIONS[field].covers_all else "is not modelled with it"
    message = f"{given}: {engine.id} {lacks}; {_listed(owners)} {have} it"
    return OptionError(message, field=field, hint=f"--engine {owners[0]}")


def _as_given(flag: str, value: object) -> str:
    """The option as a user writes it: switches with their ``--no-``."""
    if value is False:
        return f"--no-{flag.removeprefix('--')}"
    return flag if value is True else f"{flag} {value}"


def _check_hosted(cpu_moe: int | str | None, engine: EngineTraits, spec: ModelSpec) -> None:
    """Some engines keep the experts of all layers in RAM, or of none."""
    if engine.hosts_any_layer or not isinstance(cpu_moe, int) or cpu_moe < 1:
        return
    n_moe = sum(isinstance(block.ffn, MoeFfn) for block in spec.layer_blocks())
    if 0 < cpu_moe < n_moe:
        raise OptionError(
            f"--cpu-moe {cpu_moe}: {engine.id} keeps the experts of all {n_moe} layers in RAM, or of none",
            field="cpu_moe",
            hint="--cpu-moe all",
        )


def _check_cache_types(asked: str | None, engine: EngineTraits) -> None:
    if asked is not None and engine.kv_types is not None and not has_cache(engine, asked):
        raise OptionError(
            f"--kv-type {asked}: {engine.id} has no such cache; it has {_listed(sorted(engine.kv_types))}",
            field="kv_type",
        )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
