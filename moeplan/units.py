"""Unit constants, parsing at the door and formatting at the edge. Inside, everything is SI.

GB is 10^9 bytes and GiB is 2^30 bytes; they are never mixed and never printed without their unit.
"""

from __future__ import annotations

import math
import re

from moeplan.errors import SpecError

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12

_BYTES = {
    "b": 1, "kb": KB, "mb": MB, "gb": GB, "tb": TB, "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB,
}  # fmt: skip
_RATES = {"mb/s": MB, "gb/s": GB, "tb/s": TB}
# An exabyte, or an exabyte per second: more is a typing error, and overflows further on.
_MOST = 10**18
_QUANTITY = re.compile(r"\s*([-+]?[\d_.,]+(?:e[-+]?\d+)?)\s*([a-z/]*)\s*", re.IGNORECASE)


def _split(text: str, what: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    number = math.nan
    if match:
        try:
            number = float(match[1].replace("_", "").replace(",", ""))
        except ValueError:
            number = math.nan
    if match is None or not math.isfinite(number):
        raise SpecError(f"{what}: cannot read {text!r} as a quantity such as '24GiB' or '24'")
    return number, match[2].lower()


def parse_bytes(text: str | float, default_unit: str = "gib", what: str = "size") -> int:
    """Bytes of ``text``, e.g. ``'24GiB'``, ``'24 GB'`` or ``24`` in ``default_unit``; never negative."""
    number, unit = _split(str(text), what)
    factor = _BYTES.get(unit or default_unit.lower())
    if factor is None:
        raise SpecError(f"{what}: unknown unit {unit!r}", hint="use B, kB, MB, GB, TB, KiB, MiB, GiB or TiB")
    if number < 0:
        raise SpecError(f"{what}: must not be negative, got {text}")
    if number * factor > _MOST:
        raise SpecError(f"{what}: {text} is more than any machine has")
    return round(number * factor)


def parse_rate(text: str | float, default_unit: str = "gb/s", what: str = "bandwidth") -> float:
    """Bytes per second of ``text``, e.g. ``'80GB/s'`` or ``80``; always positive (GB = 10^9 bytes)."""
    number, unit = _split(str(text), what)
    factor = _RATES.get(unit or default_unit.lower())
    if factor is None:
        raise SpecError(f"{what}: unknown unit {unit!r}", hint="use MB/s, GB/s or TB/s")
    if number <= 0:
        raise SpecError(f"{what}: must be above zero, got {text}")
    if number * factor > _MOST:
        raise SpecError(f"{what}: {text} is more than any machine has")
    return number * factor


def fmt_bytes(n_bytes: float) -> str:
    """``n_bytes`` in the binary unit that reads best: ``'512 B'``, ``'4.2 MiB'``, ``'24.0 GiB'``."""
    for unit, size in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(n_bytes) >= size * (10 if unit == "TiB" else 1):
            value = n_bytes / size
            return f"{value:.2f} {unit}" if abs(value) < 10 else f"{value:,.1f} {unit}"
    return f"{n_bytes:.0f} B"


def fmt_si(value: float, unit: str, digits: int = 3) -> str:
    """``value`` with an SI prefix and ``digits`` significant digits: ``'13.5 GFLOP'``, ``'936 GB/s'``."""
    if value == 0:
        return f"0 {unit}"
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size * (1 - 0.5 * 10.0**-digits):  # what rounds to 1,000 G is 1.00 T
            return f"{fmt_number(value / size, digits)} {prefix}{unit}"
    return f"{fmt_number(value, digits)} {unit}"


def fmt_number(value: float, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits, thousands separated, never in scientific form."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    rounded = float(f"{abs(value):.{digits - 1}e}")  # 9.996 is 10.0, not 10.00
    decimals = max(0, digits - 1 - math.floor(math.log10(rounded)))
    return f"{value:,.{decimals}f}"


def fmt_seconds(seconds: float) -> str:
    """``seconds`` as ``'12.3 ms'``, ``'4.56 s'``, ``'3.2 min'`` or ``'1.5 h'``."""
    if seconds < 1e-3:
        return f"{fmt_number(seconds * 1e6)} us"
    if seconds < 1:
        return f"{fmt_number(seconds * 1e3)} ms"
    if seconds < 120:
        return f"{fmt_number(seconds)} s"
    if seconds < 7200:
        return f"{fmt_number(seconds / 60)} min"
    return f"{fmt_number(seconds / 3600)} h"


def fmt_params(n: float) -> str:
    """A parameter count as people write it: ``'46.7B'``, ``'135M'``."""
    for suffix, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(n) >= 0.9995 * size:  # what rounds to 1,000M is 1.00B
            return f"{fmt_number(n / size, 3)}{suffix}"
    return str(round(n))
