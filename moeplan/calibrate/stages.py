"""Which coefficients are fitted on which rows, in which order, and where the others come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from moeplan.calibrate.fit import Bounds
from moeplan.domain.calibration import Coefficient
from moeplan.provenance import Source


class RowKind(NamedTuple):
    """What decides whether a row informs a coefficient."""

    phase: str
    placement: str
    device: str
    """gpu, apple or unified: what coefficients of device memory go by."""
    arch: str
    family: str


class Stage(NamedTuple):
    """Coefficients fitted together on the rows that ``uses`` picks, those before them held."""

    name: str
    uses: Callable[[RowKind], bool]
    free: dict[str, Bounds]


_EFFICIENCY = Bounds(0.02, 0.98)
_STEP_S = Bounds(1e-4, 1e-2)

STAGES = (
    Stage(
        "decode in device memory",
        lambda r: r.phase == "decode" and r.placement in ("gpu", "unified") and r.family == "local",
        {
            "local.gpu.weights_efficiency": _EFFICIENCY,
            "local.apple.weights_efficiency": _EFFICIENCY,
            "local.unified.weights_efficiency": _EFFICIENCY,
            "local.step_dense_s": _STEP_S,
            "local.step_moe_s": _STEP_S,
        },
    ),
    *(
        Stage(
            f"prefill, {kind}, {arch}",
            lambda r, kind=kind, arch=arch: (  # type: ignore[misc]
                r.placement in ("gpu", "unified") and (r.phase, r.device, r.arch) == ("prefill", kind, arch)
            ),
            {f"local.{kind}.{what}_flop_efficiency": _EFFICIENCY},
        )
        for kind in ("gpu", "apple", "unified")
        for arch, what in (("dense", "dense"), ("moe", "expert"))
    ),
    Stage(
        "CPU",
        lambda r: r.placement == "cpu",
        {
            "local.ram.weights_efficiency": _EFFICIENCY,
            "local.cpu.flop_per_s_per_core.amx": Bounds(1e10, 1e12),
        },
    ),
    Stage(
        "experts on the CPU",
        lambda r: r.placement in ("experts", "mixed") and r.phase == "decode",
        {"local.cpu_moe_layer_s": Bounds(2e-5, 1e-3)},
    ),
    Stage(
        "servers at low concurrency",
        lambda r: r.family == "server" and r.phase == "decode",
        {"server.gpu.weights_efficiency": _EFFICIENCY, "server.layer_s": Bounds(1e-5, 5e-4)},
    ),
)

_LLAMA_CPU = "llama.cpp (ggml 0.25.3) on a 2-core Xeon 2.5 GHz with AVX-512 VNNI"


def _given(value: float, unit: str, kind: str, ref: str, note: str = "") -> Coefficient:
    return Coefficient(value=value, unit=unit, source=Source(kind, ref, "2026-11", note))  # type: ignore[arg-type]


# Where a fit starts, and what stands where too few rows speak: measured or assumed, never tuned to a row.
GIVEN: dict[str, Coefficient] = {
    "local.gpu.weights_efficiency": _given(0.80, "1", "fitted", "published llama.cpp decode speeds"),
    "local.gpu.dense_flop_efficiency": _given(0.5, "1", "assumed", "start of the fit"),
    "local.gpu.expert_flop_efficiency": _given(0.25, "1", "assumed", "start of the fit"),
    "local.apple.weights_efficiency": _given(0.80, "1", "fitted", "published llama.cpp decode speeds"),
    "local.unified.weights_efficiency": _given(0.80, "1", "fitted", "published llama.cpp decode speeds"),
    "local.apple.dense_flop_efficiency": _given(0.5, "1", "assumed", "start of the fit"),
    "local.unified.dense_flop_efficiency": _given(0.5, "1", "assumed", "start of the fit"),
    "local.apple.expert_flop_efficiency": _given(0.25, "1", "assumed", "start of the fit"),
    "local.unified.expert_flop_efficiency": _given(0.25, "1", "assumed", "start of the fit"),
    "local.step_dense_s": _given(1.6e-3, "s", "fitted", "published llama.cpp decode speeds"),
    "local.step_moe_s": _given(3.0e-3, "s", "fitted", "published llama.cpp decode speeds"),
    "local.ram.weights_efficiency": _given(0.75, "1", "fitted", "published llama.cpp decode speeds"),
    "local.ram.cache_efficiency": _given(
        0.15, "1", "measured", _LLAMA_CPU, "extra time per KV byte at depth 2k and 8k: 0.05-0.3 of STREAM"
    ),
    "local.cpu.flop_per_s_per_core.amx": _given(8e10, "FLOP/s", "assumed", "start of the fit"),
    "local.cpu.flop_per_s_per_core.avx512": _given(
        7.0e10,
        "FLOP/s",
        "measured",
        _LLAMA_CPU,
        "prefill of a 1.1B model: F16 121, Q8_0 99, Q4_K_M 175, Q4_0 149 "
        "GFLOP/s on two cores; median per core",
    ),
    "local.cpu.flop_per_s_per_core.avx2": _given(
        3.5e10, "FLOP/s", "assumed", "half of the AVX-512 rate: half the vector width"
    ),
    "local.cpu.flop_per_s_per_core.neon": _given(
        1.75e10, "FLOP/s", "assumed", "a quarter of the AVX-512 rate: a quarter of the vector width"
    ),
    "local.cpu.flop_per_s_per_core.scalar": _given(
        4.4e9, "FLOP/s", "assumed", "one sixteenth of the AVX-512 rate"
    ),
    "local.cpu.expert_flop_efficiency": _given(
        0.5,
        "1",
        "measured",
        _LLAMA_CPU,
        "MoE prefill reaches half the dense FLOP rate (44-94 of 99-175 GFLOP/s)",
    ),
    "local.cpu_moe_layer_s": _given(1e-4, "s", "fitted", "published llama.cpp speeds with experts in RAM"),
    "local.disk.moe_read_factor": _given(
        5.5,
        "1",
        "measured",
        _LLAMA_CPU,
        "a mapped MoE file under a memory limit reads 4 to 7 times the missed bytes",
    ),
    "server.gpu.weights_efficiency": _given(0.85, "1", "fitted", "published TPOT at low concurrency"),
    "server.gpu.dense_flop_efficiency": _given(
        0.6, "1", "assumed", "large bf16 GEMMs reach 60-75% of the data sheet's rate"
    ),
    "server.gpu.expert_flop_efficiency": _given(
        0.3, "1", "assumed", "fused MoE kernels reach half the dense rate"
    ),
    "server.unified.weights_efficiency": _given(0.8, "1", "assumed", "as on discrete GPUs"),
    "server.unified.dense_flop_efficiency": _given(0.5, "1", "assumed", "as on discrete GPUs"),
    "server.unified.expert_flop_efficiency": _given(0.25, "1", "assumed", "half of the dense rate"),
    "server.layer_s": _given(8e-5, "s", "fitted", "published TPOT at low concurrency: 57-95 us per layer"),
}
