"""The parts of a step as the law sees them: a time at data-sheet rates and the coefficients it needs.

Keeping both apart lets one formula serve a prediction (with numbers) and a fit (with unknowns).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from moeplan.domain.calibration import Calibration, Coefficient
from moeplan.errors import NotModelled
from moeplan.provenance import KINDS

Names = tuple[str, ...]

# Norms that join the time of moving bytes and of computing: 1 adds them (a CPU does one after the
# other), a high one is close to the larger of the two (a GPU overlaps them).
SUM, PARTLY, OVERLAP = 1.0, 2.0, 4.0


class Op(NamedTuple):
    """Alike work at one place: bytes moved, FLOPs computed, and the energy that they draw at the power limit.

    ``moving``, ``computing`` and ``drawing`` name what ``*_s`` is divided by; so does ``waiting``, the time
    in which the host launches all this from Python: the device works meanwhile, and the longer one counts
    (``waiting_norm``; 1 where the host waits for it).
    ``unpacking`` joins moving by a norm of its own: making weights ready for units that multiply meanwhile.
    All of it takes no less than moving and ``least_unpacking_s``, joined by ``least_norm``: a step of several
    rows holds the work of fewer.

    A name that ends in ``_s`` or ``_time`` multiplies instead; the first of a tuple must be in the
    calibration, the others (of an architecture, an engine, a quantisation) count as one when they are not.
    A name that stands twice counts twice.
    """

    term: str
    moving_s: float
    moving: Names
    computing_s: float = 0.0
    computing: Names = ()
    drawing_s: float = 0.0
    drawing: Names = ()
    norm: float = SUM
    n_bytes: float = 0.0
    flop: float = 0.0
    formula: str = ""
    inputs: Mapping[str, object] = {}
    waiting_s: float = 0.0
    waiting: Names = ()
    unpacking_s: float = 0.0
    unpacking: Names = ()
    unpacking_norm: float = SUM
    waiting_norm: float = OVERLAP
    least_unpacking_s: float = 0.0
    least_norm: float = SUM

    def seconds(self, scales: Scales) -> float:
        """Time under ``scales``. Raises NotModelled when a base coefficient is missing."""
        working = self._working(scales)
        if not self.waiting_s:
            return working
        return _join(working, self.waiting_s * scales.factor(self.waiting), self.waiting_norm)

    def _working(self, scales: Scales) -> float:
        moving = self.moving_s * scales.factor(self.moving) if self.moving_s else 0.0
        least = 0.0
        if self.least_unpacking_s:
            least = _join(moving, self.least_unpacking_s * scales.factor(self.unpacking), self.least_norm)
        if self.unpacking_s:
            moving = _join(moving, self.unpacking_s * scales.factor(self.unpacking), self.unpacking_norm)
        if not self.computing_s:
            return max(least, moving)
        computing = self.computing_s * scales.factor(self.computing)
        if self.drawing_s:
            computing = _join(computing, self.drawing_s * scales.factor(self.drawing), OVERLAP)
        working = moving + computing if self.norm == SUM else _join(moving, computing, self.norm)
        return max(least, working)

    @property
    def names(self) -> tuple[Names, ...]:
        """Of all that its time is made of, lists that no time hangs on left out."""
        timed = (
            (self.moving_s, self.moving),
            (self.computing_s, self.computing),
            (self.drawing_s, self.drawing),
            (self.waiting_s, self.waiting),
            (self.unpacking_s + self.least_unpacking_s, self.unpacking),
        )
        return tuple(names for seconds, names in timed if seconds)

    def times(self, n: float) -> Op:
        """``n`` such operations one after another."""
        return self._replace(
            moving_s=self.moving_s * n,
            computing_s=self.computing_s * n,
            drawing_s=self.drawing_s * n,
            waiting_s=self.waiting_s * n,
            unpacking_s=self.unpacking_s * n,
            least_unpacking_s=self.least_unpacking_s * n,
            n_bytes=self.n_bytes * n,
            flop=self.flop * n,
        )


class Times(NamedTuple):
    """How often bytes are moved and FLOPs computed: more than once where one device waits for another."""

    moving: float = 1.0
    computing: float = 1.0
    inputs: Mapping[str, float] = {}


ONCE = Times()


def _join(one: float, other: float, norm: float) -> float:
    """(one^norm + other^norm)^(1/norm), without overflow."""
    low, high = (one, other) if one < other else (other, one)
    joined: float = high * (1.0 + (low / high) ** norm) ** (1.0 / norm)
    return joined


def multiplies(name: str) -> bool:
    """Whether a coefficient lengthens time as it grows (seconds, factors of time), or shortens it."""
    return name.endswith(("_s", "_time"))


class Scales:
    """What names come to under one calibration: each tuple of names is looked up once."""

    __slots__ = ("_factors", "_guessed", "_kinds", "_missing", "coefficients")

    def __init__(self, coefficients: Mapping[str, Coefficient]) -> None:
        self.coefficients = coefficients
        self._factors: dict[Names, float] = {}
        self._missing: dict[Names, tuple[str, ...]] = {}
        self._kinds: dict[Names, int] = {}
        self._guessed: dict[Names, tuple[str, ...]] = {}

    def factor(self, names: Names) -> float:
        """What a data-sheet time is multiplied by. Raises NotModelled when the base is missing."""
        known = self._factors.get(names)
        if known is not None:
            return known
        if names and names[0] not in self.coefficients:
            raise NotModelled("speed", f"the calibration has no {names[0]}")
        product = 1.0
        for name in names:
            coefficient = self.coefficients.get(name)
            if coefficient is not None:
                product = product * coefficient.value if multiplies(name) else product / coefficient.value
        self._factors[names] = product
        return product

    def missing(self, names: Names) -> tuple[str, ...]:
        """Names of one architecture, engine or type that no measurement informed."""
        known = self._missing.get(names)
        if known is None:
            known = tuple(n for n in names if n not in self.coefficients and _names_a_kind(n))
            self._missing[names] = known
        return known

    def guessed(self, *lists: Names) -> set[str]:
        """Of all names those that stand at a guess, with no measurement behind it."""
        found: set[str] = set()
        for names in lists:
            known = self._guessed.get(names)
            if known is None:
                mine = ((n, self.coefficients[n]) for n in names if n in self.coefficients)
                known = tuple(n for n, c in mine if not c.n_setups and c.source.kind == "assumed")
                self._guessed[names] = known
            found.update(known)
        return found

    def moved(self, name: str, factor: float) -> Scales:
        """The same with one coefficient ``factor`` times as large."""
        moved = replace(self.coefficients[name], value=self.coefficients[name].value * factor)
        return Scales({**self.coefficients, name: moved})

    def worst_kind(self, names: Names) -> int:
        """Index in ``KINDS`` of the least trustworthy source among ``names``; -1 without any."""
        known = self._kinds.get(names)
        if known is None:
            kinds = [KINDS.index(self.coefficients[n].source.kind) for n in names if n in self.coefficients]
            known = self._kinds[names] = max(kinds, default=-1)
        return known


def scales_of(calibration: Calibration) -> Scales:
    """The scales of ``calibration``; those of the last few are kept, as a search asks again and again."""
    for scales in _recent:
        if scales.coefficients is calibration.coefficients:
            return scales
    scales = Scales(calibration.coefficients)
    _recent.insert(0, scales)
    del _recent[_KEPT:]
    return scales


_KEPT = 4
_recent: list[Scales] = []


def _names_a_kind(name: str) -> bool:
    """Whether ``name`` is of one architecture, engine or type, not of a class of them."""
    if name.startswith(("local.cpu.", "host.")):
        return False
    return ".engine." in name or ".quant." in name or name.count(".") == 3
