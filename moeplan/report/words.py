"""The wording that all renderers of one result share: titles, placement, verdict, confidence."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.domain.graph import ParamCounts
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.model import ModelSpec, MoeFfn
from moeplan.domain.result import Confidence, DeviceMemory, Estimate, Range
from moeplan.domain.workload import Placement, Workload
from moeplan.units import fmt_bytes, fmt_number, fmt_params, fmt_si

PARTS = (
    ("weights", "weights"),
    ("kv", "KV cache"),
    ("state", "state"),
    ("compute", "compute"),
    ("output", "output"),
    ("overhead", "overhead"),
)
"""(field of DeviceMemory without _bytes, name) of the parts of a device's memory, in order."""


def part_bytes(device: DeviceMemory, part: str) -> int:
    """Bytes of one of PARTS on ``device``."""
    return int(getattr(device, f"{part}_bytes"))


def title(e: Estimate) -> str:
    """The model, quantisation, machine and engine in one line."""
    return f"{e.model.name} at {e.quant} on {e.hardware.name} with {e.workload.engine}"


def model_facts(model: ModelSpec, params: ParamCounts) -> str:
    """Size and kind of the model: ``46.7B parameters, 12.9B active per token, 8 experts of which 2``."""
    text = f"{fmt_params(params.total)} parameters"
    moe = first_moe(model)
    if moe is None:
        return f"{text}, dense, {model.n_layers} layers"
    experts = f"{moe.n_active} of {moe.n_experts} experts"
    if moe.n_shared:
        experts += f" + {moe.n_shared} shared"
    return f"{text}, {fmt_params(params.active)} active per token, {experts}, {model.n_layers} layers"


def first_moe(model: ModelSpec) -> MoeFfn | None:
    """The experts of the model's first MoE layer; None for a dense model."""
    for index in model.layout:
        ffn = model.blocks[index].ffn
        if isinstance(ffn, MoeFfn):
            return ffn
    return None


def machine_facts(hardware: HardwareSpec) -> str:
    """The memories of the machine and their rates."""
    parts = []
    kinds: dict[str, int] = {}  # in order, each with how many there are
    for gpu in hardware.gpus:
        memory = "unified memory" if gpu.unified_memory else "VRAM"
        kind = f"{fmt_bytes(gpu.memory_bytes)} {memory} at {fmt_si(gpu.bandwidth_bytes_per_s, 'B/s')}"
        kinds[kind] = kinds.get(kind, 0) + 1
    for kind, n in kinds.items():
        parts.append(f"{n} x {kind}" if n > 1 else kind)
    if not hardware.unified:
        host = hardware.host
        cpu = f"{host.cpu.name} with " if hardware.gpus else ""
        parts.append(f"{cpu}{fmt_bytes(host.ram_bytes)} RAM at {fmt_si(host.ram_bytes_per_s, 'B/s')}")
    return "; ".join(parts)


def workload_facts(e: Estimate) -> str:
    """What is asked: context, prompt, output, sequences."""
    w = e.workload
    depth = f", {w.depth_tokens:,} tokens before the prompt" if w.depth_tokens else ""
    sequences = f"{w.n_sequences:,} sequence{'s' if w.n_sequences != 1 else ''}"
    return (
        f"context {w.context_tokens:,} tokens, prompt {w.prompt_tokens:,}, output {w.output_tokens:,}, "
        f"{sequences}, KV {kv_words(w)}{_cache_words(w)}{depth}"
    )


def kv_words(w: Workload) -> str:
    """Type of the cache, keys before values where they differ."""
    return w.kv_type_k if w.kv_type_k == w.kv_type_v else f"{w.kv_type_k}/{w.kv_type_v}"


def reserved_words(e: Estimate) -> str:
    """What a serving engine takes of each GPU, where all of them hold as many blocks as the one with the
    least room; empty for other engines and for what does not fit."""
    if not e.memory.reservations or not e.fits:
        return ""
    r = min(e.memory.reservations, key=lambda reservation: reservation.n_kv_blocks)
    return (
        f"{fmt_bytes(r.reserved_bytes)} a GPU, of which {fmt_bytes(r.kv_pool_bytes)} for the cache: "
        f"{r.n_kv_blocks:,} blocks of {r.kv_block_tokens} tokens, "
        f"{r.concurrency:,} sequence{'' if r.concurrency == 1 else 's'} of {e.workload.context_tokens:,}"
    )


def _cache_words(w: Workload) -> str:
    """How the cache is laid out, where that was asked for."""
    told = {
        f" in {w.n_slots:,} slots": w.n_slots > w.n_sequences,
        ", one cache for all": w.kv_unified,
        ", windows as long as the context": w.swa_full,
        ", in RAM": not w.kv_offload,
    }
    return "".join(words for words, holds in told.items() if holds)


def placement_words(placement: Placement) -> str:
    """Where the layers and the experts are, in words."""
    dense, experts = placement.dense_tiers, placement.expert_tiers
    n_layers = len(dense)
    n_gpus = len({tier for tier in dense if is_gpu(tier)})
    on_gpu = sum(map(is_gpu, dense))
    away = sum(is_gpu(d) and not is_gpu(x) for d, x in zip(dense, experts, strict=True))
    gpus = "the GPU" if n_gpus == 1 else f"{n_gpus} GPUs"
    match placement.kind:
        case "gpu":
            return "everything in VRAM"
        case "unified":
            return "everything in unified memory"
        case "cpu":
            return "everything in RAM, computed by the CPU"
        case "disk":
            return "memory-mapped: what RAM cannot hold is read from disk"
        case "tensor-parallel":
            n = placement.tensor_parallel
            if placement.expert_parallel > 1:
                return f"every layer split over {n} GPUs, experts whole (TP and EP)"
            return f"every layer split over {n} GPUs (tensor parallel)"
        case "layer-split":
            return f"layers split over {n_gpus} GPUs ({_per_tier(dense)})"
        case "layers":
            return f"{on_gpu} of {n_layers} layers on {gpus}, {n_layers - on_gpu} on the CPU"
        case "experts":
            return f"routed experts of {away} of {n_layers} layers in RAM, the rest on {gpus}"
        case "stream" if not placement.streamed:
            return f"{on_gpu} of {n_layers} layers on {gpus}, paged in from RAM where they do not fit"
        case "stream":
            return "weights in RAM, copied to the GPU at every step"
        case _:
            return f"{on_gpu} of {n_layers} layers on {gpus}, the routed experts of {away} of these in RAM"


def is_gpu(tier: str) -> bool:
    """Whether ``tier`` is the memory of a GPU."""
    return tier.startswith("gpu")


DeviceGroup = tuple[str, DeviceMemory]
"""Name of one or several GPUs that hold the same (``gpu0-3 each``), and one of them."""


def device_groups(devices: Sequence[DeviceMemory]) -> list[DeviceGroup]:
    """``devices`` with neighbouring GPUs of equal memory taken together."""
    groups: list[tuple[DeviceMemory, list[str]]] = []
    for device in devices:
        if groups and is_gpu(device.device) and _same_memory(groups[-1][0], device):
            groups[-1][1].append(device.device)
        else:
            groups.append((device, [device.device]))
    return [
        (names[0] if len(names) == 1 else f"{names[0]}-{names[-1].removeprefix('gpu')} each", device)
        for device, names in groups
    ]


def _same_memory(a: DeviceMemory, b: DeviceMemory) -> bool:
    parts = (f"{part}_bytes" for part, _ in (*PARTS, ("capacity", "")))
    return is_gpu(a.device) and all(getattr(a, part) == getattr(b, part) for part in parts)


def verdict(e: Estimate) -> str:
    """Whether it fits, with the tightest device or the smallest fix."""
    devices = [d for d in e.memory.devices if d.device != "disk"]
    tightest = min(devices, key=lambda d: d.headroom_bytes, default=None)
    if e.fits:
        if tightest is None:
            return "yes"
        return f"yes, {fmt_bytes(tightest.headroom_bytes)} left on {tightest.device}"
    over = [(name, d) for name, d in device_groups(devices) if d.headroom_bytes < 0]
    short = ", ".join(f"{fmt_bytes(-d.headroom_bytes)} short on {name}" for name, d in over)
    fix = f"; smallest fix: {e.fix}" if e.fix else ""
    return f"no, {short or 'too large for this machine'}{fix}"


def decode_work(e: Estimate) -> str:
    """FLOPs per token, bytes and experts read by one decode step."""
    text = f"{fmt_si(e.flop_decode_per_token, 'FLOP')} per token"
    text += f", {fmt_bytes(e.decode.bytes_read)} read per step"
    moe = first_moe(e.model)
    if e.experts_touched_per_layer is not None and moe is not None:
        text += f", {fmt_number(e.experts_touched_per_layer)} of {moe.n_experts} experts per layer"
    return text


def prefill_rate(e: Estimate) -> Range:
    """Prompt tokens per second; the prefill is that of all sequences."""
    return e.prefill_s.inverse(e.workload.prompt_tokens * e.workload.n_sequences)


def scaled(r: Range, factor: float) -> Range:
    """``r`` in another unit."""
    return Range(low=r.low * factor, expected=r.expected * factor, high=r.high * factor)


def confidence_words(confidence: Confidence) -> str:
    """Badge, regime and how many measured setups stand behind it; of the prompt where those are few."""
    c, prompt = confidence, confidence.prefill
    parts = [c.badge, f"{c.regime}, {_setups(c.n_reference_setups, c.extrapolated, c.unseen)}"]
    if prompt.extrapolated or not set(prompt.unseen) <= set(c.unseen):
        parts.append(f"prompts: {_setups(prompt.n_reference_setups, prompt.extrapolated, prompt.unseen)}")
    return "; ".join([*parts, f"engine {c.engine_status}"])


def _setups(n: int, extrapolated: bool, unseen: Sequence[str]) -> str:
    setups = f"{n} reference setup{'s' if n != 1 else ''}" if n else "no reference setup"
    if n and unseen:
        setups += f", none of {' or '.join(unseen)}"
    return f"{setups}, extrapolated" if extrapolated else setups


def _per_tier(tiers: tuple[str, ...]) -> str:
    return " + ".join(str(tiers.count(tier)) for tier in dict.fromkeys(tiers))
