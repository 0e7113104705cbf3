"""From the log of one load to the question moeplan would have been asked, and its answer per buffer."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.domain.result import DeviceMemory
from moeplan.engines.builds import before
from moeplan.engines.traits import EngineTraits
from moeplan.readers.corpus_memory import MemoryRow
from moeplan.units import GIB, MIB
from moeplan.validate.rows import Unpredictable

# The processor of a log is not stated and decides no buffer; any large one stands in.
_ANY_CPU = "epyc-9654"
# The Hadamard rotation of quantised caches, and graphs that keep all rows for a draft head, came in 2026.
_ROTATES_SINCE = "2026-03"
# Masks came to the device in f32, and graphs held no room for given embeddings, before September 2025.
_F16_MASK_SINCE = "2025-09"
_SIZE_TOLERANCE_FRAC = 0.2
_ENGINES = ("llama.cpp", "ik_llama.cpp")


def request_of(load: Sequence[MemoryRow]) -> EstimateRequest:
    """The request behind the rows of one load. Raises Unpredictable."""
    row = load[0]
    if row.engine not in _ENGINES:
        raise Unpredictable(f"engine {row.engine!r}: no placement rules for its logs")
    if row.n_ctx is None:
        raise Unpredictable("the context is not stated")
    gpus = gpus_of(load)
    kinds = [t for t in (row.kv_type_k, row.kv_type_v) if t]
    hosted = next((r.cpu_moe for r in load if r.cpu_moe is not None), None)
    layers = layers_on_gpu(row)
    return EstimateRequest(
        model=row.model,
        machine=MachineFlags(gpu="+".join(gpus) or None, cpu=_ANY_CPU, ram_gib=4096),
        quant=row.quant,
        engine=row.engine,
        context=row.n_ctx,
        prompt_tokens=1,
        output_tokens=1,
        kv_type=",".join(kinds) or None,
        ubatch=row.n_ubatch,
        flash_attention=row.flash_attn,
        gpu_layers=layers if gpus else None,
        cpu_moe=hosted or None,
        placement=None if gpus else "cpu",
        mla=row.mla,
    )


def gpus_of(load: Sequence[MemoryRow]) -> tuple[str, ...]:
    """Ids of the GPUs of a load, in order; a kind that only one row names stands for all."""
    named = {r.device_kind: r.gpu for r in load if r.device_kind.startswith("gpu") and r.gpu}
    n = max([r.n_gpus for r in load] + [sum(kind[3:].isdigit() for kind in named)])
    some = next(iter(named.values()), "")
    if n and not some:
        raise Unpredictable("the GPU is not stated")
    return tuple(named.get(f"gpu{i}", some) for i in range(n))


def layers_on_gpu(row: MemoryRow) -> int | None:
    """Layers on GPUs as ``-ngl`` counts; from ``33/33`` where the option itself is not stated."""
    if row.gpu_layers is not None:
        return row.gpu_layers
    first = row.gpu_layers_raw.split("/")[0].strip()
    return int(first) if first.isdigit() else None


def aged(engine: EngineTraits, row: MemoryRow) -> EngineTraits:
    """``engine`` as it was when the log was written."""
    from msgspec.structs import replace

    if before(row.date, _F16_MASK_SINCE):
        engine = replace(engine, casts_mask=True, reserves_embeddings=False)
    if before(row.date, _ROTATES_SINCE):
        engine = replace(engine, rotates_quantised_cache=False, crops_late=frozenset())
    return engine


def buffers_of(
    row: MemoryRow, devices: Sequence[DeviceMemory], pinned_bytes: int | None = None
) -> dict[str, tuple[float, float]]:
    """(logged, predicted) MiB of every buffer the row states: model, kv, compute, total.

    A logged total is the sum of the logged buffers; where only a total was measured on the device, the
    process's own share is part of it. ``pinned_bytes``: weights of the host that the log counts apart, as
    those of its pinned buffer; None where it has one buffer for all.
    """
    if row.device_kind.startswith("gpu") and not row.device_kind[3:].isdigit():
        raise Unpredictable(f"a sum over GPUs ({row.device_kind})")
    device = _device(row, devices)
    weights = device.weights_bytes
    if pinned_bytes is not None and device.device == "ram":
        weights = pinned_bytes if row.device_kind == "host" else weights - pinned_bytes
    predicted = {
        "model": weights / MIB,
        "kv": (device.kv_bytes + device.state_bytes) / MIB,
        "compute": device.compute_bytes / MIB,
    }
    stated = {"model": row.model_mib, "kv": row.kv_mib, "compute": row.compute_mib}
    found = {name: (value, predicted[name]) for name, value in stated.items() if value}
    if row.total_mib:
        parts = sum(predicted[name] for name in found) if found else device.total_bytes / MIB
        found["total"] = (row.total_mib, parts)
    return found


def check_size(row: MemoryRow, weights_bytes: int) -> None:
    """Raise Unpredictable where the file's size shows that its name does not say what is in it."""
    if row.file_gib and abs(weights_bytes / GIB / row.file_gib - 1) > _SIZE_TOLERANCE_FRAC:
        size = f"{weights_bytes / GIB:.0f} GiB"
        raise Unpredictable(f"a file of {row.file_gib:g} GiB is not {row.quant}, which would take {size}")


def split_unknown(load: Sequence[MemoryRow], devices: Sequence[DeviceMemory]) -> bool:
    """Whether the load put tensors where its columns do not say.

    So when everything on the GPUs would be more than they have, or whole layers and experts were spread
    over several of them by hand.
    """
    gpus = [d for d in devices if d.device.startswith("gpu")]
    hosted = any(row.cpu_moe for row in load)
    too_large = any(d.weights_bytes > d.capacity_bytes for d in gpus)
    return too_large or (hosted and len(gpus) > 1)


def _device(row: MemoryRow, devices: Sequence[DeviceMemory]) -> DeviceMemory:
    name = row.device_kind if row.device_kind.startswith("gpu") else "ram"
    for device in devices:
        if device.device == name:
            return device
    raise Unpredictable(f"nothing was placed on {row.device_kind!r}")
