"""What moeplan answers: memory per device, time per step, and both together as an Estimate."""

from __future__ import annotations

from typing import NamedTuple

from moeplan.domain.calibration import Badge
from moeplan.domain.graph import ParamCounts
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.model import ModelSpec
from moeplan.domain.value import Value
from moeplan.domain.workload import Placement, Workload
from moeplan.provenance import Term


class Range(Value):
    """low <= expected <= high."""

    low: float
    expected: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.expected <= self.high:
            raise ValueError(f"range out of order: {self.low}, {self.expected}, {self.high}")

    def inverse(self, numerator: float = 1.0) -> Range:
        """numerator / self, so that a range of seconds becomes one of rates."""
        return Range(low=numerator / self.high, expected=numerator / self.expected, high=numerator / self.low)


class DeviceMemory(Value):
    """What one tier holds, in bytes; ``capacity_bytes`` is usable memory, reserves taken off."""

    device: str
    name: str
    weights_bytes: int
    kv_bytes: int
    state_bytes: int
    compute_bytes: int
    output_bytes: int
    overhead_bytes: int
    capacity_bytes: int
    margin_bytes: int = 0
    """Kept free before it is said to fit, where the engine's memory is reasoned and not measured."""
    droppable_bytes: int = 0
    """Of the total: pages of a mapped file that nobody reads again, which the system may take back."""

    @property
    def total_bytes(self) -> int:
        """Sum of the parts."""
        return (
            self.weights_bytes
            + self.kv_bytes
            + self.state_bytes
            + self.compute_bytes
            + self.output_bytes
            + self.overhead_bytes
        )

    @property
    def resident_bytes(self) -> int:
        """What must be in memory at once."""
        return self.total_bytes - self.droppable_bytes

    @property
    def headroom_bytes(self) -> int:
        """Capacity left beyond what must be resident and the margin; negative when it does not fit."""
        return self.capacity_bytes - self.resident_bytes - self.margin_bytes


class Reservation(Value):
    """What a serving engine takes at its start, whatever the load needs: the cache pool fills its share."""

    device: str
    reserved_bytes: int
    kv_pool_bytes: int
    kv_block_tokens: int
    n_kv_blocks: int
    kv_tokens: int
    """Tokens of context the pool holds."""
    concurrency: int
    """Sequences of the asked context that it holds at once."""


class CurvePoint(Value):
    """Memory at one context: (device, total bytes) of every tier."""

    context_tokens: int
    device_bytes: tuple[tuple[str, int], ...]
    fits: bool


class BufferCheck(NamedTuple):
    """One buffer as predicted and as a real engine allocated it."""

    name: str
    predicted_bytes: int
    allocated_bytes: int


class MemoryReport(Value):
    """Memory of every tier that holds something."""

    devices: tuple[DeviceMemory, ...]
    reservations: tuple[Reservation, ...] = ()
    """One per GPU of a serving engine; the need stands in ``devices``."""

    @property
    def fits(self) -> bool:
        """Whether every tier has room."""
        return all(device.headroom_bytes >= 0 for device in self.devices)


class PhaseTime(Value):
    """Time of one decode step or of one whole prefill, expected value, with what makes it up."""

    seconds: float
    bound: str
    """The term that takes most: ``gpu0 weights``, ``ram experts``, ``pcie`` ..."""
    terms: tuple[tuple[str, float], ...]
    """(name, seconds), summing to ``seconds``."""
    badge: Badge
    """Worst source among the terms that carry at least a tenth of the time."""
    flop: float
    bytes_read: float
    unseen: tuple[str, ...] = ()
    """Coefficients of terms that matter which no measurement informed: an architecture, engine or type."""
    guessed: tuple[str, ...] = ()
    """Coefficients of terms that matter which tables or guesses alone inform, no row of a corpus."""
    assumed_s: float = 0.0
    """Seconds that rest on an assumed RAM bandwidth."""
    guess_log: float = 0.0
    """Log of the factor either way that guesses leave open of ``seconds`` in eight cases of ten: of the
    host's memory, of rates that no row of any corpus speaks of."""


class Support(Value):
    """What measurements stand behind the range of a phase."""

    regime: str
    n_reference_setups: int
    extrapolated: bool
    """Whether few or none do, and the range of the regime's class stands in."""
    unseen: tuple[str, ...] = ()
    """Architectures, engines and types that none of them has: the range is wider for it."""


class Confidence(Value):
    """How sure, and why: of decode, with what stands behind the prompt beside it."""

    badge: Badge
    regime: str
    n_reference_setups: int
    extrapolated: bool
    engine_status: str
    prefill: Support
    unseen: tuple[str, ...] = ()


class Estimate(Value):
    """The answer of ``moeplan estimate``."""

    model: ModelSpec
    quant: str
    params: ParamCounts
    weights_bytes: int
    hardware: HardwareSpec
    workload: Workload
    placement: Placement
    memory: MemoryReport
    fits: bool
    fix: str
    """The smallest change that would make it fit; empty when it fits."""
    level: float
    decode: PhaseTime
    decode_step_s: Range
    prefill: PhaseTime
    prefill_s: Range
    load_s: float
    flop_prefill: float
    flop_decode_per_token: float
    experts_touched_per_layer: float | None
    """Expected distinct experts a MoE layer reads in one decode step; None for a dense model."""
    confidence: Confidence
    not_modelled: tuple[str, ...]
    assumptions: tuple[str, ...]
    explain: tuple[Term, ...]
    context_curve: tuple[CurvePoint, ...] = ()
    """Memory against context; filled when the largest context or batch was asked for."""
    engine_check: tuple[BufferCheck, ...] = ()
    """Filled by the live check (`--verify-with-engine`)."""
