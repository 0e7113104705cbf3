"""Data-sheet rates of a tier, and the names of the coefficients that turn them into real ones.

Names go from the general to the particular: a class of devices, an architecture, an engine, a
quantisation, a kind of operation. What is particular multiplies what is general.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from moeplan.cost.gpu_units import quantises_inputs, score_flop_per_s, tile_rows_of, unit_of, unpack_per_s_of
from moeplan.cost.ops import OVERLAP, PARTLY, SUM, Names
from moeplan.cost.type_groups import quant_group, takes_integers, unpacking_group
from moeplan.domain.hardware import GpuSpec
from moeplan.engines.builds import before
from moeplan.engines.launches import launch_marks, narrow_attention, scalar_loads
from moeplan.engines.traits import EngineTraits

# llama.cpp runs up to 8 rows through its matrix-vector kernels (ggml-cuda MMVQ_MAX_BATCH_SIZE). Most of
# their FP32 work is widening the weights, which rows share: with three tenths for each further row, ten
# series of 1 to 8 rows on five GPUs are met to 9% relative to one row (docs/design/003). 16-bit types
# share all of it. Tables in llama.cpp PRs 5351, 5434, 8215, 14262, 15131, 23227 and 28912, read
# 2026-11-30; in no fit.
_VECTOR_ROWS, _OWN_FRAC = 8.0, 0.3
# A full micro-batch has so much to multiply that widening hides behind it.
_HIDING_ROWS = 512.0


# Chips whose cores are others than those of their architecture: GA100 has an integer lane for each FP32 lane,
# as Volta, other Amperes one for two (CUDA C++ Programming Guide, recalled 2026-11-30 and not re-read).
_CORES = {("Ampere", "8.0"): "ga100"}
# Apple's cores that issue integers and FP32 in turn ("does not have dual-dispatch for F32 and I32", of the M1
# and the A15, philipturner/metal-benchmarks; later ones in parallel, llama.cpp PR 23114). What takes many
# integers a weight is bound by them: a core of an M1 Pro, M2 Max or M2 Ultra unpacks 11 to 12 weights of
# Q4_K_M a cycle (llama.cpp PRs 2290, 10491, 16074), more than 20 of Q4_0. Tables in no fit.
_IN_TURN = frozenset({"m1", "m2"})


# Blackwell Ultra is Blackwell with more FP4 and memory (compute capability 10.3 beside 10.0, one family of
# code, sm_100f): what is known of one holds for the other.
_REVISION = "-ultra"


class Norms(NamedTuple):
    """How moving and computing join for each kind of work: 1 one after the other, 4 close to the larger."""

    weights: float
    experts: float
    cache: float

    def of(self, what: str) -> float:
        """The norm of weights, experts or a cache."""
        return {"weights": self.weights, "experts": self.experts}.get(what, self.cache)


_ALWAYS_OVERLAP, ONE_AFTER_THE_OTHER = Norms(OVERLAP, OVERLAP, OVERLAP), Norms(SUM, SUM, SUM)
# Matrix-vector kernels, by held-out error (docs/design/003): a discrete GPU hides part of its arithmetic,
# Apple's all but that of small experts.
_VECTOR_NORMS = {
    "gpu": Norms(PARTLY, PARTLY, SUM),
    "apple": Norms(OVERLAP, SUM, SUM),
    "unified": ONE_AFTER_THE_OTHER,
}


class Widened(NamedTuple):
    """Widening of weights beside a product: see ``Op.unpacking`` and ``Op.least_unpacking_s``."""

    elements: float = 0.0
    seconds: float = 0.0
    names: Names = ()
    norm: float = SUM
    least_s: float = 0.0
    least_norm: float = SUM


class Rates(NamedTuple):
    """One tier: rates as on paper, and the coefficients of weights, experts and cache on it."""

    bytes_per_s: float
    flop_per_s: float
    score_flop_per_s: float
    """Of attention, which computes in 16 bits whatever the weights are."""
    watts: float | None
    """Board power where known, of all GPUs together."""
    drawing: Names
    norms: Norms
    weights: tuple[Names, Names]
    """Names for (moving, computing)."""
    experts: tuple[Names, Names]
    cache: tuple[Names, Names]
    fixed: Names
    """Of the fixed time of one layer."""
    routed: Names
    """The same of an FFN with experts."""
    inputs: dict[str, object]
    unpack_per_s: float | None = None
    """Elements that the FP32 units would widen at one FLOP each, where they have to."""
    unpacking: Names = ()
    vector: bool = False
    """Whether these are kernels for one row, which unpack and multiply on the FP32 units."""
    own_frac: float = 0.0
    """Of one row's work on the FP32 units, what each further row adds."""
    architecture: str = ""
    """What names of this architecture begin with."""
    tile_rows: int = 1
    """Rows that the matrix units work on at least: fewer take as long."""

    def names(self, what: str) -> tuple[Names, Names]:
        """Names for (moving, computing) of weights, experts or a cache."""
        return {"weights": self.weights, "experts": self.experts}.get(what, self.cache)

    def widenings(self, rows: float, step_rows: float) -> float:
        """Times one row's work on the FP32 units that a GPU kernel for ``rows`` of them does beside reading.

        Kernels for more than 8 rows are chosen where they are no slower than those for 8; the more rows
        meet a matrix (``step_rows``; of an expert those sent to it), the more of it hides behind their
        arithmetic.
        """
        hidden = (step_rows - _VECTOR_ROWS) / (_HIDING_ROWS - _VECTOR_ROWS)
        at_once = min(max(rows, 1.0), _VECTOR_ROWS)
        return (1.0 + self.own_frac * (at_once - 1.0)) * (1.0 - min(max(hidden, 0.0), 1.0))

    def widened(self, what: str, rows: float, step_rows: float, elements: float) -> Widened:
        """Widening ``elements`` weights for kernels that multiply several rows on other units.

        They do it as those for one row, whose rates these are. ``rows`` meet each matrix, ``step_rows`` all
        of the step.
        """
        passes = self.widenings(rows, rows if what == "experts" else step_rows)
        least_rows, least_norm = self.least(what, rows)
        return Widened(
            elements * passes,
            2.0 * elements * passes / self.flop_per_s,
            self.names(what)[1],
            self.widening_norm(what, step_rows),
            2.0 * elements * self.widenings(least_rows, 1.0) / self.flop_per_s,
            least_norm,
        )

    def least(self, what: str, rows: float) -> tuple[float, float]:
        """(rows, norm) of a smaller step that one in which ``rows`` meet each matrix takes no less time than.

        Widening that hides behind arithmetic is still done: without enough of it a step would become shorter
        with every row. Where one row's kernels do one after the other, that one row; of experts, which are
        more with every row, as many rows as kernels widen for.
        """
        one = self.norms.of(what)
        if what != "experts" and one < PARTLY:
            return 1.0, one
        return min(max(rows, 1.0), _VECTOR_ROWS), max(one, PARTLY)

    def widening_norm(self, what: str, rows: float) -> float:
        """How reading and widening join in a step of ``rows``: as for one row, ever more of it apart up to 8.

        Kernels for several rows keep tiles, and fetch some while they widen others. The way there is gradual,
        or a second row would shorten a step where one row's kernels do one after the other.
        """
        alone = self.norms.of(what)
        share = (min(max(rows, 1.0), _VECTOR_ROWS) - 1.0) / (_VECTOR_ROWS - 1.0)
        return max(alone, alone + share * (PARTLY - alone))


def gpu_rates(
    gpu: GpuSpec,
    engine: EngineTraits,
    date: str,
    quant: str,
    n_shards: int = 1,
    *,
    vector: bool = False,
    fused: bool = True,
) -> Rates:
    """Rates of one GPU, or of ``n_shards`` working on the same operation under tensor parallelism.

    ``date``: of the engine's build, YYYY-MM or longer, "" for now. ``vector``: matrix-vector kernels, which
    unpack and multiply on the FP32 units while they read. ``fused``: attention keeps its scores in a kernel.
    """
    at = _Labels.of(gpu, engine, date)
    unit, peak = unit_of(gpu, engine, quant, vector=vector, date=date)
    vector = unit == "vector"  # where the FP32 rate is unknown the matrix units stand for it
    moving, unpack = _moving(at, gpu, n_shards), unpack_per_s_of(gpu, engine, quant)
    old = scalar_loads(engine, gpu, date) if vector and quant_group(quant) == "plain" else ()
    quantises = quantises_inputs(gpu, engine, quant)
    slow = narrow_attention(engine, gpu, date) if fused and not vector else ()
    weights = (
        (*moving, f"{at.family}.quant.{quant}.bandwidth"),
        (*_computing(at, gpu, unit, quant), *(f"{at.family}.{mark}.vector" for mark in old)),
    )
    # Kernels of experts unpack as those of matrices do, which is all that counts where that sets the pace.
    paced = f"{at.place}.in-turn.{unit}" in weights[1]
    made = (at.architecture,) if at.family == "local" and not vector else ()
    owners = () if paced else (at.family, at.place, *made, at.run)
    experts = tuple(f"{name}.experts.{unit}" for name in owners)
    return Rates(
        bytes_per_s=gpu.data_bytes_per_s * n_shards,
        flop_per_s=peak * n_shards,
        score_flop_per_s=(peak if vector else score_flop_per_s(gpu, engine)) * n_shards,
        watts=gpu.tdp_w * n_shards if gpu.tdp_w and not vector and not gpu.unified_memory else None,
        drawing=_drawing(at, unit, quant if quantises else ""),
        norms=_VECTOR_NORMS[at.kind] if vector else _ALWAYS_OVERLAP,
        weights=weights,
        experts=((*weights[0], f"{at.family}.experts.bandwidth"), (*weights[1], *experts)),
        cache=(
            (*moving, *(f"{name}.cache.bandwidth" for name in (at.family, at.place, at.run))),
            (
                *_attending(at, "vector" if vector else "compute", unfused=not fused and not engine.eager),
                *(f"{at.family}.{mark}.compute" for mark in slow),
            ),
        ),
        fixed=_fixed(at, engine, quant, launch_marks(engine, gpu, date, routed=False), quantises=quantises),
        routed=_fixed(at, engine, quant, launch_marks(engine, gpu, date, routed=True), quantises=quantises),
        inputs={
            "bandwidth_bytes_per_s": gpu.data_bytes_per_s,
            f"peak_flop_per_s.{unit}": peak,
            "n_gpus": n_shards,
        },
        unpack_per_s=unpack * n_shards if unpack else None,
        tile_rows=tile_rows_of(_generation(gpu), at.family, narrow=unpack is not None) if not vector else 1,
        unpacking=tuple(f"{n}.unpack" for n in (at.family, at.run, f"{at.family}.quant.{quant}")),
        vector=vector,
        architecture=at.architecture,
        own_frac=0.0 if quant_group(quant) == "plain" else _OWN_FRAC,
    )


class _Labels(NamedTuple):
    """What the names of a GPU's coefficients begin with, from the general to the particular."""

    family: str
    kind: str
    """Class of device."""
    place: str
    architecture: str
    run: str
    """The engine."""
    dated: Names
    """The engine in the years that have coefficients of their own and had not passed."""

    @classmethod
    def of(cls, gpu: GpuSpec, engine: EngineTraits, date: str) -> _Labels:
        family, kind, eras = engine.family, device_class(gpu, engine.family), engine_eras(date, engine.family)
        place, run = f"{family}.{kind}", f"{family}.engine.{engine.id}"
        return cls(family, kind, place, f"{place}.{_generation(gpu)}", run, tuple(run + e for e in eras))

    @property
    def general(self) -> Names:
        """Without the year."""
        return (self.family, self.place, self.architecture, self.run)


def _moving(at: _Labels, gpu: GpuSpec, n_shards: int) -> Names:
    """Names of the bandwidth, whatever is read."""
    names = tuple(f"{name}.bandwidth" for name in at.general)
    if at.kind == "apple" and (chip := _apple_chip(gpu)):
        names += (f"{at.place}.{chip[1]}.bandwidth",)
    names += tuple(f"{year}.bandwidth" for year in at.dated)
    return names + (f"{at.family}.shards.bandwidth",) * doublings(n_shards)


def _computing(at: _Labels, gpu: GpuSpec, unit: str, quant: str) -> Names:
    """Names of the rate of ``unit`` on weights of type ``quant``; FP32 units unpack them on the way."""
    vector = unit == "vector"
    if vector and at.kind == "apple" and _generation(gpu) in _IN_TURN and takes_integers(quant):
        # FP32 rates of other cores and types say nothing of this one.
        whose = (f"{at.place}.in-turn", at.architecture, at.run, at.dated)
        return tuple(f"{name}.{unit}" for name in whose if name)
    core = _CORES.get((gpu.architecture, gpu.compute_capability)) if vector else None
    cores = f"{at.place}.{core}" if core else at.architecture
    names: Names = tuple(f"{name}.{unit}" for name in (at.family, at.place, cores, at.run))
    names += tuple(f"{year}.{unit}" for year in at.dated)
    sort = unpacking_group(quant) if vector else quant_group(quant)
    names += (f"{at.family}.quants.{sort}.{unit}", f"{at.family}.quant.{quant}.{unit}")
    return (*names, f"{at.architecture}.{sort}.{unit}") if vector and at.kind != "gpu" else names


def _drawing(at: _Labels, unit: str, narrow: str) -> Names:
    """Names of the FLOPs that a joule pays for; ``narrow``: the type of products of 8 or 4 bits, else ""."""
    names: Names = (at.family, at.architecture, f"{at.family}.{unit}")
    if narrow:
        names += (f"{at.family}.quantised_inputs",)
    if narrow.startswith("nvfp4"):
        names += (f"{at.family}.fp4_inputs",)
    return tuple(f"{name}.flop_per_joule" for name in names)


def _attending(at: _Labels, scores: str, *, unfused: bool) -> Names:
    """Names of the rate of attention, on the units that compute ``scores``."""
    names = tuple(f"{name}.attention.{scores}" for name in (at.family, at.place, at.architecture))
    if unfused and at.family == "local":
        names += (f"{at.family}.unfused.{scores}",)
    return (*names, f"{at.run}.attention.{scores}")


def _fixed(at: _Labels, engine: EngineTraits, quant: str, marks: Names, *, quantises: bool) -> Names:
    """Names of the fixed time of a layer; ``marks``: how its kernels are launched."""
    own = at.place if at.kind == "apple" else at.family
    if engine.eager:  # Python launches at the pace of the host, whatever the GPU and its graphs.
        names: Names = (f"{at.family}.eager_layer_s", f"{at.run}.layer_time")
    elif at.kind == "apple":  # Metal has no graphs to replay: its launches have nothing of CUDA's.
        names = (f"{own}.layer_s", f"{at.architecture}.layer_time", f"{at.run}.layer_time")
    else:
        names = (f"{own}.layer_s", *(f"{name}.layer_time" for name in (at.place, at.architecture, at.run)))
    names += tuple(f"{year}.layer_time" for year in at.dated)
    names += tuple(f"{own}.{mark}.layer_time" for mark in marks)
    if quantises:
        names += (f"{at.family}.quantised_inputs.layer_time",)
    if engine.fused_modules:
        names += (f"{at.family}.fused_modules.layer_time",)
    return (*names, f"{at.run}.quants.{quant}.layer_time") if engine.eager else names


def device_class(gpu: GpuSpec, family: str) -> str:
    """Apple's GPUs reach twice the share of their peak in prefill that other unified machines do."""
    if not gpu.unified_memory:
        return "gpu"
    return "apple" if gpu.vendor == "apple" and family == "local" else "unified"


def engine_eras(date: str, family: str = "local") -> tuple[str, ...]:
    """Which dated sets of coefficients apply: what 2024 gained a build of 2023 has not either; () is later.

    No row of a server is of 2023. They were no faster then, so those of 2024 stand for them.

    >>> engine_eras("2023-10"), engine_eras("2023-10", "server"), engine_eras("2025-01")
    (('.2024', '.2023'), ('.2024',), ())
    """
    years = ("2024",) if family == "server" else ("2024", "2023")
    return tuple(f".{year}" for year in years if before(date, str(int(year) + 1)))


def doublings(n: int) -> int:
    """How often one is doubled to reach ``n``."""
    return round(math.log2(n)) if n > 1 else 0


def _generation(gpu: GpuSpec) -> str:
    """The architecture; Apple's by chip generation (m1 ... m5)."""
    if gpu.vendor == "apple":
        chip = _apple_chip(gpu)
        return chip[0] if chip else "unknown"
    return _slug(gpu.architecture).removesuffix(_REVISION)


def _apple_chip(gpu: GpuSpec) -> tuple[str, str] | None:
    """(generation, size) that the id tells: the more memory channels, the less of them one GPU may reach."""
    found = re.search(r"\b(m\d+)(?:-(pro|max|ultra))?\b", gpu.id)
    return (found[1], found[2] or "base") if found else None


def _slug(text: str) -> str:
    return text.casefold().replace(" ", "-") or "unknown"
