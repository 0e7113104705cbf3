"""Data-sheet rates of a processor and its memory, and the names of the coefficients that make them real."""

from __future__ import annotations

import math

from moeplan.cost.ops import Names
from moeplan.cost.rates import ONE_AFTER_THE_OTHER, Rates, doublings
from moeplan.cost.type_groups import dot_group
from moeplan.domain.hardware import CpuSpec, HardwareSpec, HostSpec
from moeplan.engines.traits import EngineTraits

# Instruction sets from fastest to slowest: the first one a CPU has picks its per-core rate.
ISA_ORDER = ("amx", "avx512", "avx2", "neon")

# Rates of cores are those at 2.5 GHz, the base clock of the machine whose runs fix them; a core's rate grows
# with its base clock. Where that is unknown 3 GHz stand for it: the median of the catalog's 264 (2026-11-30).
_REFERENCE_HZ, _USUAL_HZ = 2.5e9, 3.0e9

PAPER_FLOP_PER_S = {"amx": 8e10, "avx512": 7e10, "avx2": 3.5e10, "neon": 1.75e10, "scalar": 4.4e9}
"""Of a core at the reference clock, where the law starts from (calibrate/priors.py has the sources)."""


def host_rates(
    hardware: HardwareSpec, threads: int | None, engine: EngineTraits, era: str, quant: str, *, decode: bool
) -> Rates:
    """Rates of the CPU on weights in RAM. ``decode``: matrix-vector kernels, else matrix-matrix ones."""
    host, run = hardware.host, f"local.engine.{engine.id}"
    # What was measured is what programs get, on as many sockets as they are spread over.
    n_sockets = host.cpu.sockets if host.ram_basis == "measured" else sockets_used(host.cpu, threads)
    moving = _host_moving(host, run, n_sockets)
    cores, speed = min(threads or host.cpu.cores, host.cpu.cores), clock_frac(host.cpu)
    per_core = f"local.cpu.flop_per_s_per_core.{kernel_isa(host.cpu, engine, decode=decode)}"
    scalar_products = f"local.cpu.flop_per_s_per_core.{kernel_isa(host.cpu, engine, decode=True)}"
    # ``host.*``: what `moeplan profile` measured on this very machine, on top of what holds for all.
    step = "decode" if decode else "prefill"
    computing = (
        per_core,
        *(f"{n}.cpu_compute" for n in (run, f"local.quants.{dot_group(quant)}", f"local.quant.{quant}")),
        *(("local.cpu.decode.compute",) if decode else ()),
        f"host.{step}.compute",
        *((f"{run}{era}.cpu_compute",) if era else ()),
    )
    attending = (
        scalar_products,
        "local.cpu.attention.compute",
        f"{run}.cpu_attention_compute",
        f"host.attention.{step}.compute",
    )
    return Rates(
        bytes_per_s=reachable_bytes_per_s(host) * n_sockets / host.cpu.sockets,
        flop_per_s=cores * speed,
        score_flop_per_s=cores * speed,
        watts=None,
        drawing=(),
        norms=ONE_AFTER_THE_OTHER,
        weights=(moving, computing),
        experts=(moving, (*computing, "local.cpu.experts.compute", f"host.experts.{step}.compute")),
        cache=((*moving, "local.ram.cache.bandwidth"), attending),
        fixed=_host_fixed(engine, run, quant),
        inputs={
            "ram_bytes_per_s": reachable_bytes_per_s(host),
            "sockets_used": n_sockets,
            "n_cores": cores,
            "clock_hz": host.cpu.base_hz or _USUAL_HZ,
        },
    )


def _host_moving(host: HostSpec, run: str, n_sockets: int) -> Names:
    """Names of the bandwidth of RAM; a measured one holds for all sockets."""
    loss = 0 if host.ram_basis == "measured" else doublings(n_sockets)
    return (
        "local.ram.bandwidth",
        f"local.ram.{host.ram_basis}.bandwidth",
        f"local.ram.{host.cpu.segment}.bandwidth",
        f"{run}.ram_bandwidth",
        *("local.ram.sockets.bandwidth",) * loss,
    )


def _host_fixed(engine: EngineTraits, run: str, quant: str) -> Names:
    """Names of the fixed time of a layer on a CPU."""
    if engine.eager:  # Python launches the layers of a CPU as well, and nothing goes on meanwhile
        return ("local.layer_s", f"{run}.layer_time", f"{run}.quants.{quant}.layer_time")
    return ("local.cpu.layer_s", f"{run}.cpu_layer_time")


# Share of channels x rate that STREAM-like programs reach, where the coefficient of RAM starts from, and the
# least of it: where less was seen (24 of the 67 processors whose entry states it), something else holds the
# cores back.
_STREAM_FRAC, _LEAST_STREAM_FRAC = 0.85, 0.8


def reachable_bytes_per_s(host: HostSpec) -> float:
    """RAM bandwidth as the coefficients count it, of what the cores reach: links between dies can carry less.

    One die of a Ryzen 7000 reads 64 GB/s from channels of 83, the cores of a Ryzen AI Max 125 of 256;
    memory that is faster than usual changes nothing there.
    """
    most, usual = host.cpu.measured_high_bytes_per_s, host.cpu.ram_bytes_per_s
    if host.ram_basis == "measured" or not most or not usual or most >= _LEAST_STREAM_FRAC * usual:
        return host.ram_bytes_per_s
    return min(host.ram_bytes_per_s, most / _STREAM_FRAC)


def clock_frac(cpu: CpuSpec) -> float:
    """Base clock over that of the machine whose runs fix the rates of cores."""
    return (cpu.base_hz or _USUAL_HZ) / _REFERENCE_HZ


def sockets_used(cpu: CpuSpec, threads: int | None) -> int:
    """Sockets that ``threads`` need: threads that fit on one are kept beside its memory."""
    return min(cpu.sockets, math.ceil(threads * cpu.sockets / cpu.cores)) if threads else cpu.sockets


def kernel_isa(cpu: CpuSpec, engine: EngineTraits, *, decode: bool) -> str:
    """The instruction set of an engine's kernels: tiles (AMX) serve matrices of several rows only.

    llama.cpp takes VNNI for one row and has no attention on tiles (PRs 7707, 8998), KTransformers AVX-512 for
    decoding (doc/en/AMX.md); ik_llama.cpp has no AMX at all (issue 437, open in August 2026).
    """
    return best_isa(cpu, tiles=engine.uses_tiles and not decode)


def best_isa(cpu: CpuSpec, *, tiles: bool = True) -> str:
    """The instruction set that decides a CPU's arithmetic rate; "scalar" when none is known.

    ``tiles``: whether AMX counts.
    """
    usable = ISA_ORDER if tiles else ISA_ORDER[1:]
    return next((isa for isa in usable if isa in cpu.isa), "scalar")
