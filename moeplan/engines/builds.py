"""Dates of builds: what an engine did before a month."""

from __future__ import annotations

_MID_YEAR = "-07"


def before(date: str, month: str) -> bool:
    """Whether a build of ``date`` is older than ``month`` (YYYY-MM); "" is now, a bare year its middle."""
    return date != "" and (date + _MID_YEAR if len(date) == 4 else date) < month
