"""What all tests share: hypothesis profiles, the `gpu` marker, where the repository is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from moeplan.domain.quant import QuantTable
from moeplan.readers.quants import load_quants

# A shared CI machine pauses at will: no deadlines. `ci` is the same on every run, so that a red build is
# about the change; `thorough` is for looking for trouble: HYPOTHESIS_PROFILE=thorough pytest tests/property
_slow_machine = [HealthCheck.too_slow]
settings.register_profile("default", deadline=None, max_examples=50, suppress_health_check=_slow_machine)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests where no driver answers."""
    if shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):  # not `item.keywords`: a parameter may be called gpu
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the repository (or of an unpacked sdist)."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def quants() -> QuantTable:
    """The quantisation types and schemes."""
    return load_quants()
