"""What a prediction is a function of."""

from __future__ import annotations

from typing import NamedTuple

from moeplan.domain.calibration import Calibration
from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.workload import Workload
from moeplan.engines.traits import EngineTraits


class Problem(NamedTuple):
    """Everything but where the weights go."""

    graph: ModelGraph
    hardware: HardwareSpec
    workload: Workload
    engine: EngineTraits
    calibration: Calibration
