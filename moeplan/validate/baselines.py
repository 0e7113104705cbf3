"""Speed formulas of other tools, as published, to be scored on the same rows as moeplan.

Each takes what its tool takes and leaves out what its tool leaves out. Decode speed in tokens per second of
one sequence; None where a tool has no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

GB = 1e9


class Facts(NamedTuple):
    """What the formulas ask for."""

    params: float
    active_params: float
    weights_bytes: float
    active_bytes: float
    kv_bytes: float
    """Cache read in one step."""
    gpu_bytes_per_s: float
    """Of one GPU; 0 without."""
    ram_bytes_per_s: float
    gpu_share: float
    """Of the active bytes, how much is in GPU memory."""
    moe: bool
    n_gpus: int
    n_layers: int
    cpu_moe_layers: int
    quant: str
    vendor: str
    unified: bool
    peak_flop_per_s: float


def naive(f: Facts) -> float | None:
    """All weight bytes over the bandwidth of where they are."""
    bandwidth = f.gpu_bytes_per_s if f.gpu_share > 0.5 else f.ram_bytes_per_s
    return bandwidth / f.weights_bytes if bandwidth else None


def active(f: Facts) -> float | None:
    """Active bytes over bandwidth, each part where it is."""
    return _two_tier(f, 1.0, 1.0)


def simple_law(f: Facts) -> float | None:
    """Active bytes / (0.80 x GPU or 0.75 x RAM bandwidth) + 1.6 ms (MoE: 3 ms) + 0.1 ms per CPU MoE layer."""
    return simple_law_with(f, 1.0, 3e-3 if f.moe else 1.6e-3)


def simple_law_with(f: Facts, share: float, step_s: float) -> float | None:
    """The simple law with its bandwidths times ``share`` and ``step_s`` seconds a step."""
    speed = _two_tier(f, 0.80 * share, 0.75 * share)
    if speed is None:
        return None
    return 1.0 / (1.0 / speed + step_s + 1e-4 * f.cpu_moe_layers)


def llmfit(f: Facts) -> float | None:
    """llmfit 1.1.10, fit.rs estimate_tps: 0.55 of bandwidth, run-mode factors, MoE tiers."""
    if not f.gpu_bytes_per_s:
        return f.ram_bytes_per_s / f.weights_bytes * 0.55 * 0.3
    if f.gpu_share < 0.99 and f.moe:
        return 0.8 / (f.active_bytes / f.ram_bytes_per_s + f.active_bytes / (f.gpu_bytes_per_s * 0.55))
    if f.gpu_share < 0.99:
        return f.gpu_bytes_per_s / f.weights_bytes * 0.55 * 0.5
    return f.gpu_bytes_per_s / (f.active_bytes if f.moe else f.weights_bytes) * 0.55 * (0.8 if f.moe else 1.0)


def whichllm(f: Facts) -> float | None:
    """whichllm, engine/performance.py: bandwidth / read x efficiency of the type x vendor."""
    if not f.gpu_bytes_per_s:
        return 18.0 / (f.params / 1e9)
    efficiency = next((e for key, e in (("q8", 0.45), ("16", 0.40), ("q2", 0.45)) if key in f.quant), 0.55)
    vendor = {"nvidia": 1.0, "amd": 0.78, "apple": 0.82, "intel": 0.65}.get(f.vendor, 1.0)
    floor = min(0.25, 0.05 * max(1.0, f.gpu_bytes_per_s / GB / 256))
    ratio = max(f.active_params / f.params, floor) if f.moe else 1.0
    spilled = 1.0 if f.gpu_share > 0.99 else 0.85 if f.unified else 0.45
    return f.gpu_bytes_per_s / (f.weights_bytes * ratio) * efficiency * vendor * spilled


def ggufit(f: Facts) -> float | None:
    """ggufit, calculator.py: active bytes at 0.80 of GPU and 0.85 of RAM bandwidth."""
    return _two_tier(f, 0.80, 0.85)


def iaexplore(f: Facts) -> float | None:
    """iaexplore, core.py: 0.72 of bandwidth, a tenth and a half of the cache, RAM fixed at 70 GB/s x 0.60."""
    if not f.gpu_bytes_per_s:
        return None
    n_bytes = f.active_bytes * 1.08
    on_gpu = f.gpu_bytes_per_s * 0.72
    seconds = f.gpu_share * n_bytes / on_gpu + (1 - f.gpu_share) * n_bytes / (70 * GB * 0.60)
    return 1.0 / (seconds + 0.15 * f.kv_bytes / on_gpu)


def gguf_parser(f: Facts) -> float | None:
    """gguf-parser-go, file_estimate__llamacpp.go: all weights at full bandwidth, MoE as dense."""
    seconds = 0.0
    if f.gpu_bytes_per_s:
        on_gpu = f.gpu_share * f.weights_bytes / f.gpu_bytes_per_s
        seconds += max(2 * f.params / f.peak_flop_per_s if f.peak_flop_per_s else 0.0, on_gpu)
        seconds += f.kv_bytes / f.gpu_bytes_per_s
    if f.gpu_share < 1.0:
        seconds += (1 - f.gpu_share) * f.weights_bytes / f.ram_bytes_per_s
    return 1.0 / seconds if seconds else None


def two_term(f: Facts) -> float | None:
    """Servers: bytes / (n x bandwidth x 0.85) + 80 us a layer."""
    if not f.gpu_bytes_per_s:
        return None
    return 1.0 / (f.active_bytes / (f.n_gpus * f.gpu_bytes_per_s * 0.85) + 80e-6 * f.n_layers)


BASELINES: Mapping[str, Callable[[Facts], float | None]] = {
    "naive": naive,
    "active": active,
    "simple law": simple_law,
    "llmfit": llmfit,
    "whichllm": whichllm,
    "ggufit": ggufit,
    "iaexplore": iaexplore,
    "gguf-parser": gguf_parser,
}
SERVER_BASELINES: Mapping[str, Callable[[Facts], float | None]] = {"two-term": two_term}


def _two_tier(f: Facts, on_gpu: float, in_ram: float) -> float | None:
    seconds = 0.0
    if f.gpu_share > 0:
        seconds += f.gpu_share * f.active_bytes / (f.gpu_bytes_per_s * on_gpu)
    if f.gpu_share < 1:
        seconds += (1 - f.gpu_share) * f.active_bytes / (f.ram_bytes_per_s * in_ram)
    return 1.0 / seconds if seconds else None
