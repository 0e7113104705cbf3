"""The cost law: time of one step from its work, the machine and a set of coefficients.

On a GPU, weights and arithmetic of a group of alike operations overlap: time is the larger of the two. On a
CPU they do not: time is their sum (measured on a 2-core AVX-512 machine: 6% mean error against 12% for the
larger of the two). A step is the sum over groups, plus transfers, plus what the engine adds per step.
"""

from __future__ import annotations

from collections.abc import Mapping

from moeplan.cost.rates import Rates, gpu_rates, host_rates
from moeplan.cost.work import LayerGroup, LayerWork, Step, layer_groups, layer_work
from moeplan.domain.calibration import Calibration, Coefficient
from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import HardwareSpec
from moeplan.domain.model import MoeFfn
from moeplan.domain.result import PhaseTime
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.kv import kv_shard
from moeplan.engines.traits import EngineTraits
from moeplan.errors import NotModelled
from moeplan.provenance import KINDS, NULL_LEDGER, Ledger, NullLedger, Source, SourceKind

_ACTIVATION_BYTES = 4
_HOST_TIERS = ("ram", "disk")


def step_time(
    graph: ModelGraph,
    hardware: HardwareSpec,
    workload: Workload,
    placement: Placement,
    engine: EngineTraits,
    calibration: Calibration,
    step: Step,
    ledger: Ledger = NULL_LEDGER,
    *,
    name: str = "step",
    n_steps: float = 1.0,
) -> PhaseTime:
    """Expected time of ``n_steps`` equal steps. Raises NotModelled where a needed rate is unknown."""
    clock = _Clock(graph, hardware, workload, placement, engine, calibration, step)
    for group in layer_groups(graph, placement):
        clock.add_layers(group, layer_work(group.block, group.weights, step, workload))
    clock.add_head()
    clock.add_disk()
    clock.add_fixed()
    seconds = sum(term.seconds for term in clock.terms.values())
    _explain(clock, seconds, n_steps, name, ledger)
    return PhaseTime(
        seconds=seconds * n_steps,
        bound=max(clock.terms, key=lambda key: clock.terms[key].seconds),
        terms=tuple((key, term.seconds * n_steps) for key, term in clock.terms.items()),
        badge=_badge(clock, seconds),
        flop=clock.flop * n_steps,
        bytes_read=clock.bytes_read * n_steps,
    )


class _Term:
    """A named part of a step while it is being summed."""

    __slots__ = ("coefficients", "flop", "formula", "inputs", "n_bytes", "seconds")

    def __init__(
        self, formula: str, inputs: Mapping[str, object], coefficients: tuple[Coefficient, ...]
    ) -> None:
        self.seconds = self.n_bytes = self.flop = 0.0
        self.formula = formula
        self.inputs = inputs
        self.coefficients = coefficients


class _Clock:
    """Adds up the terms of one step."""

    def __init__(
        self,
        graph: ModelGraph,
        hardware: HardwareSpec,
        workload: Workload,
        placement: Placement,
        engine: EngineTraits,
        calibration: Calibration,
        step: Step,
    ) -> None:
        self.graph, self.hardware, self.workload = graph, hardware, workload
        self.placement, self.engine, self.calibration, self.step = placement, engine, calibration, step
        self.terms: dict[str, _Term] = {}
        self.flop = self.bytes_read = 0.0
        self._rates: dict[str, Rates] = {}

    # ── parts of a step ──────────────────────────────────────────────────────────────────────────

    def add_layers(self, group: LayerGroup, work: LayerWork) -> None:
        """A group of identical layers: weights, experts, attention, and the hops between tiers."""
        n = group.n_layers
        self.flop += n * (work.dense_flop + work.expert_flop + work.attention_flop)
        self.bytes_read += n * (work.dense_bytes + work.expert_bytes + work.kv_bytes)
        self._matmul(group.dense_tier, "weights", n * work.dense_bytes, n * work.dense_flop, n)
        if work.expert_flop:
            self._matmul(group.expert_tier, "experts", n * work.expert_bytes, n * work.expert_flop, n, group)
        if work.kv_bytes or work.attention_flop:
            shard = kv_shard(group.block, self.placement.tensor_parallel)
            # Rates of a sharded tier are those of all its GPUs; a cache that splits less is read slower.
            repeat = self.placement.tensor_parallel / shard
            self._attention(group.dense_tier, n * work.kv_bytes * repeat, n * work.attention_flop)
        if work.expert_flop and group.expert_tier in _HOST_TIERS and group.dense_tier not in _HOST_TIERS:
            self._expert_hops(n)

    def add_head(self) -> None:
        """The output head, once a step."""
        flop = 2.0 * self.graph.head_elements * self.step.n_head_rows
        self.flop += flop
        self.bytes_read += self.graph.head_bytes
        self._matmul(self.placement.head_tier, "output head", self.graph.head_bytes, flop, 1)

    def add_disk(self) -> None:
        """Pages of a mapped file that RAM cannot keep are read again, step after step.

        Measured under a memory limit: a dense file is re-read whole as soon as a tenth of it does not
        fit (pages leave in the order they will be needed); a MoE reads several times the missed bytes
        (readahead brings neighbours).
        """
        if self.placement.kind != "disk":
            return
        storage = self.hardware.host.storage
        n_bytes = 0.0
        if self.graph.spec.is_moe:
            factor = self.calibration.coefficients["local.disk.moe_read_factor"]
            for group in layer_groups(self.graph, self.placement):
                work = layer_work(group.block, group.weights, self.step, self.workload)
                missed = work.expert_bytes if group.expert_tier == "disk" else 0.0
                missed += work.dense_bytes if group.dense_tier == "disk" else 0.0
                n_bytes += group.n_layers * missed * factor.value
            coefficients: tuple[Coefficient, ...] = (factor,)
        else:
            n_bytes = float(self._host_bytes())
            coefficients = ()
        inputs = {"storage_bytes_per_s": storage.read_bytes_per_s, "storage": storage.id}
        term = self._term("disk reads", "bytes re-read / storage bandwidth", inputs, coefficients)
        term.seconds += n_bytes / storage.read_bytes_per_s
        term.n_bytes += n_bytes

    def _host_bytes(self) -> int:
        """Weights that are mapped: those of every layer in RAM or on disk, and the head if it is there."""
        graph, placement = self.graph, self.placement
        homes = zip(graph.layers, placement.dense_tiers, placement.expert_tiers, strict=True)
        held = sum(
            (w.dense_bytes if d in _HOST_TIERS else 0) + (w.expert_bytes if e in _HOST_TIERS else 0)
            for w, d, e in homes
        )
        return held + (graph.head_bytes if placement.head_tier in _HOST_TIERS else 0)

    def add_fixed(self) -> None:
        """What an engine adds to every step whatever its size: launches, routing, synchronisation."""
        moe = self.graph.spec.is_moe
        if self.engine.family == "server":
            coefficient = self.calibration.coefficients["server.layer_s"]
            term = self._term("layer overhead", "layers x s per layer", {"layers": self.graph.spec.n_layers},
                              (coefficient,))  # fmt: skip
            term.seconds += coefficient.value * self.graph.spec.n_layers
            return
        coefficient = self.calibration.coefficients[f"local.step_{'moe' if moe else 'dense'}_s"]
        term = self._term("step overhead", "s per step", {}, (coefficient,))
        term.seconds += coefficient.value

    # ── helpers ──────────────────────────────────────────────────────────────────────────────────

    def _matmul(
        self, tier: str, what: str, n_bytes: float, flop: float, n: int, group: LayerGroup | None = None
    ) -> None:
        if tier in _HOST_TIERS and self._streams(group):
            self._stream(n_bytes)
            tier = "gpu0"
        rates = self._at(tier)
        key = f"{_label(tier)} {what}"
        formula = (
            "max(bytes / bandwidth, FLOP / rate)" if rates.overlaps else "bytes / bandwidth + FLOP / rate"
        )
        term = self._term(key, formula, rates.inputs, rates.coefficients)
        term.seconds += rates.seconds(n_bytes, flop, experts=what == "experts")
        term.n_bytes += n_bytes
        term.flop += flop

    def _attention(self, tier: str, n_bytes: float, flop: float) -> None:
        if tier in _HOST_TIERS and self.placement.streamed:
            self._stream(n_bytes)
            tier = "gpu0"
        rates = self._at(tier)
        formula = (
            "max(bytes / bandwidth, FLOP / rate)" if rates.overlaps else "bytes / bandwidth + FLOP / rate"
        )
        term = self._term(f"{_label(tier)} KV cache", formula, rates.inputs, rates.coefficients)
        term.seconds += rates.cache_seconds(n_bytes, flop)
        term.n_bytes += n_bytes
        term.flop += flop

    def _streams(self, group: LayerGroup | None) -> bool:
        """Whether weights in RAM are copied to the GPU for this step instead of computed on the CPU."""
        if self.placement.streamed:
            return True
        least = self.engine.stream_prefill_min_tokens
        if least is None or self.placement.head_tier in _HOST_TIERS:
            return False  # nothing runs on a GPU
        ffn = group.block.ffn if group else None
        if self.engine.stream_scales_with_experts and isinstance(ffn, MoeFfn):
            least = round(least * ffn.n_experts / ffn.n_active)
        return self.step.n_tokens >= least

    def _stream(self, n_bytes: float) -> None:
        link = self.hardware.pcie
        if link is None:
            raise NotModelled("streaming weights to the GPU", "this machine has no link from host to GPU")
        inputs = {"link": link.id, "effective_bytes_per_s": link.effective_bytes_per_s}
        term = self._term("weights over PCIe", "bytes / effective link bandwidth", inputs, ())
        term.seconds += n_bytes / link.effective_bytes_per_s
        term.n_bytes += n_bytes

    def _expert_hops(self, n_layers: int) -> None:
        """Activations to the CPU and back around its experts, and the wait for both."""
        sync = self.calibration.coefficients["local.cpu_moe_layer_s"]
        term = self._term("CPU expert synchronisation", "layers x s per layer", {}, (sync,))
        term.seconds += n_layers * sync.value
        if self.hardware.pcie is not None:
            n_bytes = 2.0 * n_layers * self.step.n_tokens * self.graph.spec.hidden_size * _ACTIVATION_BYTES
            link = self.hardware.pcie.effective_bytes_per_s
            hop = self._term("activations over PCIe", "2 x tokens x hidden x 4 B x layers / link", {}, ())
            hop.seconds += n_bytes / link
            hop.n_bytes += n_bytes

    def _at(self, tier: str) -> Rates:
        rates = self._rates.get(tier)
        if rates is None:
            if tier in _HOST_TIERS:
                rates = host_rates(self.hardware, self.workload.threads, self.calibration)
            else:
                gpu = self.hardware.gpus[int(tier[3:])]
                rates = gpu_rates(gpu, self.engine, self.calibration, self.placement.tensor_parallel)
            self._rates[tier] = rates
        return rates

    def _term(
        self, key: str, formula: str, inputs: Mapping[str, object], coefficients: tuple[Coefficient, ...]
    ) -> _Term:
        term = self.terms.get(key)
        if term is None:
            term = self.terms[key] = _Term(formula, inputs, coefficients)
        return term


def _label(tier: str) -> str:
    return "CPU" if tier in _HOST_TIERS else tier


def _source(key: str, term: _Term, clock: _Clock) -> Source:
    """Where a term comes from: its least trustworthy coefficient, or the bandwidth it assumes."""
    if key.startswith("CPU") and clock.hardware.host.ram_basis == "assumed":
        return Source("assumed", "RAM bandwidth of a typical machine of this class")
    sources = [coefficient.source for coefficient in term.coefficients]
    catalog = Source("datasheet", "rates of the hardware catalog")
    return max(sources, key=lambda source: KINDS.index(source.kind), default=catalog)


def _badge(clock: _Clock, seconds: float) -> SourceKind:
    # Over many GPUs no term carries a tenth: then the largest ones speak for the sum.
    share = min(0.1, max((t.seconds for t in clock.terms.values()), default=0.0) / seconds if seconds else 0.0)
    kinds = [_source(k, t, clock).kind for k, t in clock.terms.items() if t.seconds >= share * seconds]
    return max(kinds, key=KINDS.index)


def _explain(clock: _Clock, seconds: float, n_steps: float, name: str, ledger: Ledger) -> None:
    if isinstance(ledger, NullLedger):
        return  # nothing below changes a number
    ledger.open()
    for key, term in clock.terms.items():
        inputs = {"bytes": term.n_bytes * n_steps, "FLOP": term.flop * n_steps, **term.inputs}
        shown = {k: v for k, v in inputs.items() if v != 0.0}
        ledger.note(key, term.seconds * n_steps, "s", term.formula, shown, _source(key, term, clock))
    formula = "sum of the parts" if n_steps == 1 else f"sum of the parts over {n_steps:g} equal steps"
    ledger.close(name, seconds * n_steps, "s", formula)
