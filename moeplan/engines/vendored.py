"""Whose kernels an engine runs, and of which day: Ollama ships llama.cpp's.

Ollama's repository, read 2026-11-30: the commit in Makefile.sync (llama/build-info.cpp before) of its
releases, and PR 16031, after which llama-server is its only engine for GGUF files.
"""

from __future__ import annotations

from msgspec.structs import replace

from moeplan.domain.workload import Workload
from moeplan.engines.builds import before
from moeplan.engines.traits import EngineTraits

_SERVES_SINCE = "2026-06"  # v0.30.0 of 2026-06-01
# (releases from, day of the code in them), newest first. Before, it followed llama.cpp by a week or two.
_CODE = (
    ("2025-12-18", "2025-12-16"),  # v0.13.5, until v0.24
    ("2025-12-07", "2025-11-20"),  # v0.13.2
    ("2025-11-13", "2025-10-24"),  # v0.12.11
    ("2025-10-09", "2025-10-01"),  # v0.12.4
    ("2025-08-18", "2025-08-14"),  # v0.11.5
    ("2025-05-14", "2025-05-12"),  # v0.7.0
    ("2025-03-03", "2025-02-26"),  # v0.5.13
    ("2024-12-16", "2024-12-14"),  # v0.5.3
    ("2024-10-17", "2024-10-14"),  # v0.3.14
)


def as_vendored(engine: EngineTraits, workload: Workload) -> tuple[EngineTraits, Workload]:
    """``engine`` and the date of its build as its kernels have them."""
    date = workload.engine_date
    if engine.id != "ollama":
        return engine, workload
    if not before(date, _SERVES_SINCE):
        return replace(engine, id="llama.cpp"), workload
    return engine, replace(workload, engine_date=_day_of_code(date))


def _day_of_code(date: str) -> str:
    """The day of llama.cpp's code in a release of ``date``."""
    return next((code for since, code in _CODE if not before(date, since)), date)
