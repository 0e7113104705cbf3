"""Data-sheet rates of a processor and its memory, and the names of the coefficients that make them real."""

from __future__ import annotations

from moeplan.cost.cores import (
    USUAL_HZ,
    best_isa,
    clock_frac,
    neon_names,
    sockets_used,
    tiled_isa,
    tiled_names,
)
from moeplan.cost.ops import Names
from moeplan.cost.rates import ONE_AFTER_THE_OTHER, Rates, doublings
from moeplan.cost.row_kernels import one_row_kernels
from moeplan.cost.tiled_kernels import has_ways
from moeplan.cost.type_groups import dot_group
from moeplan.domain.hardware import CpuSpec, HardwareSpec, HostSpec
from moeplan.engines.traits import EngineTraits


def host_rates(
    hardware: HardwareSpec,
    threads: int | None,
    engine: EngineTraits,
    eras: tuple[str, ...],
    quant: str,
    *,
    decode: bool,
    rows: float | None = None,
    attention: Names = (),
) -> Rates:
    """Rates of the CPU on weights in RAM in a step of ``rows``: of one sequence unless given.

    ``attention``: more names of the rate of attention (``attention_marks``).
    """
    rows = (1.0 if decode else float("inf")) if rows is None else rows
    quant = quant.removesuffix("_r4")  # whose kernels have names of their own (cost/tiled_kernels.py)
    host, run = hardware.host, f"local.engine.{engine.id}"
    # What was measured is what programs get, on as many sockets as they are spread over.
    n_sockets = host.cpu.sockets if host.ram_basis == "measured" else sockets_used(host.cpu, threads)
    moving = _host_moving(host, run, n_sockets)
    cores, speed = min(threads or host.cpu.cores, host.cpu.cores), clock_frac(host.cpu)
    tiled = tiled_isa(host.cpu, engine, "f16" if decode else quant)  # AMX is for several rows
    isa = tiled or best_isa(host.cpu, decode=decode)
    per_core = (f"local.cpu.flop_per_s_per_core.{isa}", *neon_names(host.cpu, isa))
    # ``host.*``: what `moeplan profile` measured on this very machine, on top of what holds for all.
    step = "decode" if decode else "prefill"

    def computing(*, experts: bool) -> Names:
        by_type: Names
        if tiled and not decode and has_ways(engine, quant):  # the width of their units is by type
            by_type = (tiled_names(host.cpu, tiled)[0], f"{run}.cpu_tiled_compute")
        elif tiled:
            by_type = _tiled_by_type(host.cpu, tiled, run, quant, decode=decode)
        else:
            by_type = _by_type(run, quant, isa, one_row=one_row_kernels(engine, quant, rows, experts=experts))
        return (
            *per_core,
            *by_type,
            *(("local.cpu.experts.compute",) if experts else ()),
            f"host.{step}.compute",
            *((f"host.experts.{step}.compute",) if experts else ()),
            *(f"{run}{era}.cpu_compute" for era in eras),
        )

    # Such kernels do attention as well, of single tokens too: heads that share keys are the rows of a tile.
    shape = tiled_isa(host.cpu, engine, "f16")
    scoring = shape or best_isa(host.cpu, decode=True)
    attending = (
        f"local.cpu.flop_per_s_per_core.{scoring}",
        *neon_names(host.cpu, scoring),
        *tiled_names(host.cpu, shape),
        "local.cpu.attention.compute",
        *attention,
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
        weights=(moving, computing(experts=False)),
        experts=(moving, computing(experts=True)),
        cache=((*moving, "local.ram.cache.bandwidth"), attending),
        fixed=(fixed := _host_fixed(engine, run, quant)),
        routed=fixed,
        inputs={
            "ram_bytes_per_s": reachable_bytes_per_s(host),
            "sockets_used": n_sockets,
            "n_cores": cores,
            "clock_hz": host.cpu.base_hz or USUAL_HZ,
        },
    )


def _by_type(run: str, quant: str, isa: str, *, one_row: bool) -> Names:
    """Names of what types differ by, apart for kernels of one row; interleaved rows gain more on Arm."""
    what, group = "cpu_row_compute" if one_row else "cpu_compute", dot_group(quant)
    names = (f"{run}.cpu_compute", f"local.quants.{group}.{what}", f"local.quant.{quant}.{what}")
    if one_row:
        return (*names, "local.cpu.one_row.compute")
    return (
        (*names, "local.cpu.neon.interleaved.compute") if (isa, group) == ("neon", "interleaved") else names
    )


def _tiled_by_type(cpu: CpuSpec, isa: str, run: str, quant: str, *, decode: bool) -> Names:
    """The same of kernels that multiply nearly all types at one rate, single tokens by others."""
    if not decode:
        return (*tiled_names(cpu, isa), f"{run}.cpu_tiled_compute")
    slow = ("local.quants.codebook.cpu_row_compute",) if dot_group(quant) == "codebook" else ()
    return ("local.cpu.tiled.one_row.compute", *slow, f"{run}.cpu_compute")


def _host_moving(host: HostSpec, run: str, n_sockets: int) -> Names:
    """Names of the bandwidth of RAM; a measured one holds for all sockets, one that somebody states may be
    measured or of the data sheet and has no factor of its own."""
    known = () if host.ram_basis == "stated" else (f"local.ram.{host.ram_basis}.bandwidth",)
    loss = 0 if host.ram_basis == "measured" else doublings(n_sockets)
    return (
        "local.ram.bandwidth",
        *known,
        f"local.ram.{host.cpu.segment}.bandwidth",
        f"{run}.ram_bandwidth",
        *("local.ram.sockets.bandwidth",) * loss,
    )


def _host_fixed(engine: EngineTraits, run: str, quant: str) -> Names:
    """Names of the fixed time of a layer on a CPU."""
    if engine.eager:  # Python launches the layers of a CPU as well, and nothing goes on meanwhile
        return ("local.eager_layer_s", f"{run}.layer_time", f"{run}.quants.{quant}.layer_time")
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
