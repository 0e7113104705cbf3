"""Data-sheet rates of a processor and its memory, and the names of the coefficients that make them real."""

from __future__ import annotations

from moeplan.cost.cores import USUAL_HZ, best_isa, clock_frac, sockets_used, tiled_isa, tiled_names
from moeplan.cost.ops import Names
from moeplan.cost.rates import ONE_AFTER_THE_OTHER, Rates, doublings
from moeplan.cost.type_groups import dot_group
from moeplan.domain.hardware import HardwareSpec, HostSpec
from moeplan.engines.traits import EngineTraits


def host_rates(
    hardware: HardwareSpec, threads: int | None, engine: EngineTraits, era: str, quant: str, *, decode: bool
) -> Rates:
    """Rates of the CPU on weights in RAM. ``decode``: matrix-vector kernels, else matrix-matrix ones."""
    host, run = hardware.host, f"local.engine.{engine.id}"
    # What was measured is what programs get, on as many sockets as they are spread over.
    n_sockets = host.cpu.sockets if host.ram_basis == "measured" else sockets_used(host.cpu, threads)
    moving = _host_moving(host, run, n_sockets)
    cores, speed = min(threads or host.cpu.cores, host.cpu.cores), clock_frac(host.cpu)
    tiled = "" if decode else tiled_isa(host.cpu, engine, quant)
    per_core = f"local.cpu.flop_per_s_per_core.{tiled or best_isa(host.cpu, decode=decode)}"
    # ``host.*``: what `moeplan profile` measured on this very machine, on top of what holds for all.
    step = "decode" if decode else "prefill"
    computing = (
        per_core,
        *(_by_type(run, quant) if not tiled else (*tiled_names(host.cpu, tiled), f"{run}.cpu_tiled_compute")),
        *(("local.cpu.decode.compute",) if decode else ()),
        f"host.{step}.compute",
        *((f"{run}{era}.cpu_compute",) if era else ()),
    )
    # Such kernels do attention as well, of single tokens too: heads that share keys are the rows of a tile.
    shape = tiled_isa(host.cpu, engine, "f16")
    attending = (
        f"local.cpu.flop_per_s_per_core.{shape or best_isa(host.cpu, decode=True)}",
        *tiled_names(host.cpu, shape),
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
        fixed=(fixed := _host_fixed(engine, run, quant)),
        routed=fixed,
        inputs={
            "ram_bytes_per_s": reachable_bytes_per_s(host),
            "sockets_used": n_sockets,
            "n_cores": cores,
            "clock_hz": host.cpu.base_hz or USUAL_HZ,
        },
    )


def _by_type(run: str, quant: str) -> Names:
    """Names of what types differ by."""
    return tuple(
        f"{n}.cpu_compute" for n in (run, f"local.quants.{dot_group(quant)}", f"local.quant.{quant}")
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
