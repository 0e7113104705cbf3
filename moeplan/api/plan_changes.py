"""What would help: the smallest changes when nothing fits, and what another machine would bring."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from moeplan.domain.plan import Change, PlanRequest
from moeplan.errors import SpecError, nearest
from moeplan.search.search import Found, Search, Variant, describe
from moeplan.units import GIB, fmt_si, parse_bytes, parse_rate

if TYPE_CHECKING:
    from moeplan.api.plan_space import Space
    from moeplan.domain.hardware import HardwareSpec, LinkSpec

N_CHANGES = 3
MOST_GIB = 4096
"""Beyond, a change is no answer."""
_KEYS = ("vram", "ram", "ram_gbs", "vram_gbs", "pcie", "storage_gbs", "gpus")


class _Tried(NamedTuple):
    what: str
    found: Found


def helpful_changes(space: Space, request: PlanRequest) -> tuple[Change, ...]:
    """Up to three changes, each tried: settings before hardware, the smallest of each kind."""
    tried: list[_Tried] = []
    attempts = (
        _relaxed_speed,
        _narrower,
        _cache_type,
        _shorter,
        _more_ram,
        _more_vram,
        _narrower_and_ram,
        _paged,
    )
    for attempt in attempts:
        found = attempt(space, request)
        if found is not None:
            tried.append(found)
        if len(tried) == N_CHANGES:
            break
    return tuple(_change(t.what, t.found, None) for t in tried)


def _least_memory(variants: Iterable[Variant]) -> list[Variant]:
    """The variant with the fewest bytes of weights and the smallest micro-batch, alone: if it does not fit,
    none does."""

    def size(variant: Variant) -> tuple[int, int, int]:
        work = variant.problem.workload
        return variant.problem.graph.weights_bytes, work.n_sequences, work.ubatch_tokens

    every = list(variants)
    return [min(every, key=size)] if every else []


def _first(request: PlanRequest, variants: Iterable[Variant]) -> Found | None:
    """The best of ``variants``; when the least of them does not fit, the others are not tried."""
    every = list(variants)
    limits = request.limits
    if limits.min_tokens_per_s is None and limits.max_ttft_s is None:
        least = Search(request.objective, limits)
        least.run(_least_memory(every))
        if least.best is None or len(every) == 1:
            return least.best
    search = Search(request.objective, limits)
    search.run(every)
    return search.best


def _relaxed_speed(space: Space, request: PlanRequest) -> _Tried | None:
    """The speed that can be had, where only a limit of speed is missed."""
    limits = request.limits
    if limits.min_tokens_per_s is None and limits.max_ttft_s is None:
        return None
    relaxed = replace(limits, min_tokens_per_s=None, max_ttft_s=None)
    found = _first(replace(request, limits=relaxed, objective="decode"), space.variants())
    if found is None:
        return None
    if limits.max_ttft_s is not None and found.prefill_s > limits.max_ttft_s:
        return _Tried(
            f"--max-ttft-ms {found.prefill_s * 1e3:.0f} instead of {limits.max_ttft_s * 1e3:.0f}", found
        )
    if limits.min_tokens_per_s is not None and found.decode_s * limits.min_tokens_per_s > 1:
        return _Tried(f"--min-tps {1 / found.decode_s:.3g} instead of {limits.min_tokens_per_s:.3g}", found)
    return None


def _narrower(space: Space, request: PlanRequest) -> _Tried | None:
    """The widest type of weights below the floor that has a plan."""
    allowed = {variant.problem.graph.quant for variant in space.variants()}
    others = [v for v in space.variants(narrower=True) if v.problem.graph.quant not in allowed]
    for variant in sorted(others, key=lambda v: -v.bits):
        found = _first(request, [variant])
        if found is not None:
            quant = found.problem.graph.quant
            return _Tried(f"--min-quant {quant} ({variant.bits:.1f} bits per weight)", found)
    return None


def _cache_type(space: Space, request: PlanRequest) -> _Tried | None:
    for name in ("q8_0", "q4_0") if any(engine.gguf for engine in space.engines) else ("fp8",):
        found = _first(request, space.variants(kv_types=(name,)))
        if found is not None:
            return _Tried(f"--kv-type {name}", found)
    return None


def _shorter(space: Space, request: PlanRequest) -> _Tried | None:
    """The longest context of a power of two that has a plan."""
    now = max((v.problem.workload.context_tokens for v in space.variants()), default=0)
    tokens = 1 << max(0, (now - 1).bit_length() - 1)
    if now > (made_for := space.source.spec.context_tokens):
        tokens = min(tokens, made_for)
    while tokens >= 512:
        found = _first(request, space.variants(context=tokens))
        if found is not None:
            return _Tried(f"--context {tokens} instead of {now}", found)
        tokens //= 2
    return None


def _more_vram(space: Space, request: PlanRequest) -> _Tried | None:
    if not space.hardware.gpus:
        return None
    limits = request.limits
    most = limits.max_vram_bytes

    def attempt(gib: int) -> Found | None:
        freed = replace(limits, max_vram_bytes=None if most is None else most + gib * GIB)
        hardware = with_vram(space.hardware, gib * GIB)
        return _first(replace(request, limits=freed), _least_memory(space.variants(hardware=hardware)))

    if most is not None:
        found = _least(attempt, "")
        gib = -(-(most + _amount(found) * GIB) // GIB) if found else 0
        return found and found._replace(what=f"--max-vram-gib {gib} on such a GPU")
    if space.hardware.unified:
        return _least(attempt, "GiB more memory")
    return _least(attempt, f"GiB more VRAM{' on every GPU' if len(space.hardware.gpus) > 1 else ''}")


def _amount(tried: _Tried) -> int:
    """The number that ``what`` starts with."""
    return int(tried.what.split()[0])


def _more_ram(space: Space, request: PlanRequest, *, narrower: bool = False) -> _Tried | None:
    if space.hardware.unified:
        return None

    def attempt(gib: int) -> Found | None:
        host = space.hardware.host
        hardware = replace(space.hardware, host=replace(host, ram_bytes=host.ram_bytes + gib * GIB))
        return _first(request, _least_memory(space.variants(hardware=hardware, narrower=narrower)))

    return _least(attempt, "GiB more RAM")


def _narrower_and_ram(space: Space, request: PlanRequest) -> _Tried | None:
    """More RAM together with the narrowest type of weights."""
    allowed = {variant.problem.graph.quant for variant in space.variants()}
    if _narrower(space, request) is not None:
        return None  # that alone is enough
    found = _more_ram(space, request, narrower=True)
    if found is None or found.found.problem.graph.quant in allowed:
        return None
    return found._replace(what=f"--min-quant {found.found.problem.graph.quant} and {found.what}")


def _paged(space: Space, request: PlanRequest) -> _Tried | None:
    """What RAM cannot hold is read from the file at every step, where the engine maps it."""
    from moeplan.predict.choice import choose_placement
    from moeplan.search.pricing import exact_memory, exact_seconds

    allowed = {variant.problem.graph.quant for variant in space.variants()}
    for problem, bits in _least_memory(space.variants(narrower=True)):
        if not problem.engine.mmap:
            return None
        placement = choose_placement(problem, kind=None, gpu_layers=None, cpu_moe=None)
        if placement.kind != "disk" or not exact_memory(problem, placement).fits:
            return None
        narrower = "" if problem.graph.quant in allowed else f"--min-quant {problem.graph.quant} and "
        what = f"{narrower}part of the file read from disk at every step"
        return _Tried(what, Found((), problem, bits, placement, *exact_seconds(problem, placement)))
    return None


def _least(attempt: Callable[[int], Found | None], what: str) -> _Tried | None:
    """The smallest whole number of GiB with a plan: doubling, then halving the gap.

    The most is tried first: where no amount helps, that is all.
    """
    if attempt(MOST_GIB) is None:
        return None
    high, found = 1, attempt(1)
    while found is None:
        high *= 2
        found = attempt(high)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        trial = attempt(middle)
        if trial is None:
            low = middle
        else:
            high, found = middle, trial
    return _Tried(f"{high} {what}", found)


# ── what if ──────────────────────────────────────────────────────────────────────────────────────


def what_if(space: Space, request: PlanRequest, best: Found) -> tuple[Change, ...]:
    """The best plan with each change of ``--what-if`` alone, and with all of them."""
    pairs = _pairs(request.what_if)
    changes = []
    everything = space.hardware
    for text, key, value in pairs:
        everything = changed(space, everything, key, value)
        found = _first(request, space.variants(hardware=changed(space, space.hardware, key, value)))
        changes.append(_change(text, found, best) if found else Change(what=text))
    if len(pairs) > 1:
        found = _first(request, space.variants(hardware=everything))
        changes.append(_change("all of these", found, best) if found else Change(what="all of these"))
    return tuple(changes)


def _pairs(text: str) -> list[tuple[str, str, str]]:
    pairs = []
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        key = key.strip().replace("-", "_").removesuffix("_gib")
        if not equals or not value.strip():
            raise SpecError(
                f"--what-if: expected KEY=VALUE, got {part.strip()!r}", hint="vram=+8GiB,ram_gbs=90"
            )
        if key not in _KEYS:
            close = nearest(key, _KEYS)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(_KEYS)}"
            raise SpecError(f"--what-if: unknown key {key!r}", hint=hint)
        pairs.append((part.strip(), key, value.strip()))
    return pairs


def changed(space: Space, hardware: HardwareSpec, key: str, value: str) -> HardwareSpec:
    """``hardware`` with one thing changed; ``+`` and ``-`` add to what it has."""
    host, option = hardware.host, f"--what-if {key}"
    match key:
        case "vram":
            return with_vram(
                hardware, _delta(value, lambda v: parse_bytes(v, "gib", option), _vram(hardware))
            )
        case "ram":
            more = _delta(value, lambda v: parse_bytes(v, "gib", option), host.ram_bytes)
            return replace(hardware, host=replace(host, ram_bytes=max(0, host.ram_bytes + more)))
        case "ram_gbs":
            rate = _rate(value, option, host.ram_bytes_per_s)
            return replace(hardware, host=replace(host, ram_bytes_per_s=rate, ram_basis="stated"))
        case "vram_gbs":
            gpus = tuple(
                replace(gpu, bandwidth_bytes_per_s=_rate(value, option, gpu.bandwidth_bytes_per_s))
                for gpu in hardware.gpus
            )
            return replace(hardware, gpus=gpus)
        case "storage_gbs":
            disk = replace(host.storage, read_bytes_per_s=_rate(value, option, host.storage.read_bytes_per_s))
            return replace(hardware, host=replace(host, storage=disk))
        case "gpus":
            return _with_gpus(hardware, value)
    return replace(hardware, pcie=_link(space, value))


def _link(space: Space, value: str) -> LinkSpec | None:
    """The link that ``--pcie value`` means."""
    from moeplan.domain.request import MachineFlags
    from moeplan.readers.hardware import resolve_hardware

    base = space.request.base
    known = {name: getattr(base.machine, name) for name in MachineFlags.__struct_fields__}
    flags = MachineFlags(**{**known, "pcie": value})
    return resolve_hardware(space.hardware_name, flags, space.session.catalog).pcie


def _vram(hardware: HardwareSpec) -> int:
    return min((gpu.memory_bytes for gpu in hardware.gpus), default=0)


def _delta(value: str, parse: Callable[[str], float], now: float) -> int:
    """What is added: ``+8GiB`` and ``-8GiB`` are relative, ``24GiB`` is the new amount."""
    if value[0] in "+-":
        amount = parse(value[1:])
        return round(amount if value[0] == "+" else -amount)
    return round(parse(value) - now)


def _rate(value: str, option: str, now: float) -> float:
    """Bytes per second that ``value`` makes of ``now``. Raises SpecError where nothing would be left."""
    rate = now + _delta(value, lambda v: parse_rate(v, "gb/s", option), now)
    if rate <= 0:
        raise SpecError(f"{option}: {value} leaves nothing of {fmt_si(now, 'B/s')}")
    return rate


def with_vram(hardware: HardwareSpec, more_bytes: int) -> HardwareSpec:
    """``hardware`` with that much more memory on every GPU."""
    gpus = tuple(
        replace(
            gpu,
            memory_bytes=max(0, gpu.memory_bytes + more_bytes),
            visible_bytes=None if gpu.visible_bytes is None else max(0, gpu.visible_bytes + more_bytes),
        )
        for gpu in hardware.gpus
    )
    return replace(hardware, gpus=gpus)


def _with_gpus(hardware: HardwareSpec, value: str) -> HardwareSpec:
    if not hardware.gpus:
        raise SpecError("--what-if gpus: this machine has none to copy")
    digits = value.lstrip("+-")
    if not digits.isdecimal() or len(digits) > 3:
        raise SpecError(f"--what-if gpus: expected a number such as 2 or +1, got {value!r}")
    n = len(hardware.gpus) + int(value) if value[0] in "+-" else int(digits)
    if n < 1:
        raise SpecError("--what-if gpus: at least one must be left")
    return replace(hardware, gpus=tuple(hardware.gpus[i % len(hardware.gpus)] for i in range(n)))


def _change(what: str, found: Found, best: Found | None) -> Change:
    n = found.problem.workload.n_sequences
    rate = n / found.decode_s
    gain = None
    if best is not None:
        gain = rate / (best.problem.workload.n_sequences / best.decode_s) - 1
    return Change(
        what=what,
        placement=describe(found.placement),
        quant=found.problem.graph.quant,
        decode_tokens_per_s=rate,
        ttft_s=found.prefill_s,
        gain_frac=gain,
    )
