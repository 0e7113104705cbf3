"""Effective speeds of a tier: catalog rates times the coefficients of the calibration that apply."""

from __future__ import annotations

from typing import NamedTuple

from moeplan.domain.calibration import Calibration, Coefficient
from moeplan.domain.hardware import CpuSpec, GpuSpec, HardwareSpec
from moeplan.engines.traits import EngineTraits
from moeplan.errors import NotModelled

# Instruction sets from fastest to slowest: the first one a CPU has picks its per-core rate.
ISA_ORDER = ("amx", "avx512", "avx2", "neon")


class Rates(NamedTuple):
    """Speeds one tier reaches. ``overlaps``: bytes and FLOPs of one operation run side by side."""

    weights_bytes_per_s: float
    cache_bytes_per_s: float
    dense_flop_per_s: float
    expert_flop_per_s: float
    overlaps: bool
    inputs: dict[str, object]
    coefficients: tuple[Coefficient, ...]

    def seconds(self, n_bytes: float, flop: float, *, experts: bool) -> float:
        """Time of reading ``n_bytes`` of weights and computing ``flop``."""
        moving = n_bytes / self.weights_bytes_per_s
        computing = flop / (self.expert_flop_per_s if experts else self.dense_flop_per_s)
        return max(moving, computing) if self.overlaps else moving + computing

    def cache_seconds(self, n_bytes: float, flop: float) -> float:
        """Time of attention: reading ``n_bytes`` of cache, computing ``flop`` of scores and values."""
        moving, computing = n_bytes / self.cache_bytes_per_s, flop / self.dense_flop_per_s
        return max(moving, computing) if self.overlaps else moving + computing


def gpu_rates(gpu: GpuSpec, engine: EngineTraits, calibration: Calibration, n_shards: int = 1) -> Rates:
    """Rates of one GPU, or of ``n_shards`` working on the same operation under tensor parallelism."""
    family = engine.family
    kind = device_class(gpu, family)
    bandwidth = calibration.coefficients[f"{family}.{kind}.weights_efficiency"]
    dense = calibration.coefficients[f"{family}.{kind}.dense_flop_efficiency"]
    experts = calibration.coefficients[f"{family}.{kind}.expert_flop_efficiency"]
    peak = peak_flop_per_s(gpu)
    weights = gpu.bandwidth_bytes_per_s * bandwidth.value * n_shards
    return Rates(
        weights_bytes_per_s=weights,
        cache_bytes_per_s=weights,
        dense_flop_per_s=peak * dense.value * n_shards,
        expert_flop_per_s=peak * experts.value * n_shards,
        overlaps=True,
        inputs={
            "bandwidth_bytes_per_s": gpu.bandwidth_bytes_per_s,
            "weights_efficiency": bandwidth.value,
            "peak_flop_per_s": peak,
            "dense_flop_efficiency": dense.value,
            "expert_flop_efficiency": experts.value,
            "n_gpus": n_shards,
        },
        coefficients=(bandwidth, dense, experts),
    )


def device_class(gpu: GpuSpec, family: str) -> str:
    """Apple's GPUs reach twice the share of their peak in prefill that other unified machines do."""
    if not gpu.unified_memory:
        return "gpu"
    return "apple" if gpu.vendor == "apple" and family == "local" else "unified"


def peak_flop_per_s(gpu: GpuSpec) -> float:
    """The best dense rate with 16- or 32-bit inputs and FP32 accumulation. Raises NotModelled."""
    rates = [gpu.peak_flop_per_s[dtype] for dtype in ("fp16", "bf16", "fp32") if dtype in gpu.peak_flop_per_s]
    if not rates:
        raise NotModelled(f"prefill speed of {gpu.id}", missing=("peak_flop_per_s of fp16, bf16 or fp32",))
    return max(rates)


def host_rates(hardware: HardwareSpec, threads: int | None, calibration: Calibration) -> Rates:
    """Rates of the CPU on weights in RAM."""
    host = hardware.host
    bandwidth = calibration.coefficients["local.ram.weights_efficiency"]
    cache = calibration.coefficients["local.ram.cache_efficiency"]
    per_core = calibration.coefficients[f"local.cpu.flop_per_s_per_core.{best_isa(host.cpu)}"]
    experts = calibration.coefficients["local.cpu.expert_flop_efficiency"]
    cores = min(threads, host.cpu.cores) if threads else host.cpu.cores
    dense_flop_per_s = per_core.value * cores
    return Rates(
        weights_bytes_per_s=host.ram_bytes_per_s * bandwidth.value,
        cache_bytes_per_s=host.ram_bytes_per_s * cache.value,
        dense_flop_per_s=dense_flop_per_s,
        expert_flop_per_s=dense_flop_per_s * experts.value,
        overlaps=False,
        inputs={
            "ram_bytes_per_s": host.ram_bytes_per_s,
            "weights_efficiency": bandwidth.value,
            "cache_efficiency": cache.value,
            "n_cores": cores,
            "flop_per_s_per_core": per_core.value,
            "expert_flop_efficiency": experts.value,
        },
        coefficients=(bandwidth, cache, per_core, experts),
    )


def best_isa(cpu: CpuSpec) -> str:
    """The instruction set that decides a CPU's arithmetic rate; "scalar" when none is known."""
    return next((isa for isa in ISA_ORDER if isa in cpu.isa), "scalar")
