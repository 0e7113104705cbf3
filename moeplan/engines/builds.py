"""Dates of builds: what an engine did before a month."""

from __future__ import annotations


def before(date: str, month: str) -> bool:
    """Whether a build of ``date`` is taken to be older than ``month`` (YYYY-MM); "" is now.

    A date is that of a measurement, so its build is no newer: a change counts only where it is certain to be
    in. A bare year, or a span of dates, may begin before the month, and then it is older.

    >>> before("2025", "2025-07"), before("2025-08-15..2025-10-02", "2025-09"), before("2026", "2025-09")
    (True, True, False)
    """
    return date != "" and date < month
