"""What `moeplan profile` measured: samples with their spread, the machine, and coefficients from them."""

from __future__ import annotations

from collections.abc import Mapping

from moeplan.domain.value import Value

SCHEMA = "moeplan/calibration@1"


class Sample(Value):
    """One measured quantity, ``unit`` per the name's last word; quantiles over ``n`` repeats.

    ``setup`` says what was measured: threads, dtype, rows, bytes ... as numbers and short words.
    """

    name: str
    setup: Mapping[str, str | int | float]
    unit: str
    median: float
    low: float
    """10% quantile (the slowest repeats of a rate, the quickest of a time)."""
    high: float
    """90% quantile."""
    best: float
    n: int
    stable: bool
    remedy: str = ""
    """Why it is not stable and what to do; empty when it is."""
    load: float = 0.0
    """Processes that other programs kept running meanwhile, in cores."""
    pace: float = 1.0
    """Speed of the memory meanwhile over its usual one, where a canary saw it much quicker; else 1."""


class HostFacts(Value):
    """The machine that a calibration belongs to. ``identity`` of two machines must agree to share one."""

    cpu: str
    isa: tuple[str, ...]
    sockets: int
    cores: int
    threads: int
    ram_bytes: int
    gpus: tuple[str, ...] = ()
    gpu_driver: str = ""
    power_limits_w: tuple[float, ...] = ()
    virtual: bool = False
    system: str = ""
    torch: str = ""
    notes: tuple[str, ...] = ()


class HostCoefficient(Value):
    """One number derived from samples, with the range that their spread supports."""

    value: float
    low: float
    high: float
    unit: str
    n: int
    note: str = ""


class HostCalibration(Value):
    """One run of `moeplan profile`: what a calibration file holds."""

    date: str
    version: str
    """Of moeplan."""
    mode: str
    """quick, default or full."""
    host: HostFacts
    samples: tuple[Sample, ...]
    coefficients: Mapping[str, HostCoefficient]
    notes: tuple[str, ...] = ()
    """What was left out or cut short, and why."""


# RAM may differ by what firmware and hypervisor keep from one boot to the next.
_RAM_TOLERANCE_FRAC = 0.02


def host_differences(measured: HostFacts, here: HostFacts) -> tuple[str, ...]:
    """What makes ``here`` another machine than ``measured``; empty when it is the same."""
    found = []
    for name in ("cpu", "isa", "sockets", "cores", "threads", "gpus"):
        theirs, ours = getattr(measured, name), getattr(here, name)
        if theirs != ours:
            found.append(f"{name}: measured on {_shown(theirs)}, here {_shown(ours)}")
    if abs(measured.ram_bytes - here.ram_bytes) > _RAM_TOLERANCE_FRAC * measured.ram_bytes:
        found.append(f"RAM: measured with {measured.ram_bytes:,} bytes, here {here.ram_bytes:,}")
    return tuple(found)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
