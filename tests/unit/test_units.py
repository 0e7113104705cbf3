"""Numbers as people read them; the edge cases are where rounding carries into the next digit or prefix."""

from __future__ import annotations

import pytest

from moeplan.units import fmt_number, fmt_params, fmt_si


@pytest.mark.parametrize(
    ("value", "text"),
    [(9.996, "10.0"), (0.9999, "1.00"), (99.96, "100"), (1234.5, "1,234"), (0.012345, "0.0123"), (0, "0")],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert fmt_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(999_885_952, "1.00B"), (999_400_000, "999M"), (46.7e9, "46.7B"), (12, "12")]
)
def test_parameters(value: float, text: str) -> None:
    assert fmt_params(value) == text


def test_si_prefix_follows_the_rounded_number() -> None:
    assert fmt_si(999.7e9, "B/s") == "1.00 TB/s"
    assert fmt_si(936e9, "B/s") == "936 GB/s"
