"""Memory and time of many layouts from few calls of the functions that `estimate` uses.

Both are sums over layers plus a part that depends only on which kinds of layers are where (buffers, fixed
times). So each kind of layer is priced once per pair of places, by the difference that one more such layer
makes in `memory_report`, `decode_time` and `prefill_time`; the rest of a layout is taken from a full call for
the first layout with the same kinds in the same places. Sums over runs are differences of prefix sums.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from moeplan.domain.graph import EXPERT_ROLES, LayerWeights, ModelGraph, Tensor
from moeplan.domain.result import DeviceMemory, MemoryReport
from moeplan.domain.workload import Placement, PlacementKind
from moeplan.memory.report import memory_report
from moeplan.predict.phases import decode_time, overlap_frac, prefill_time
from moeplan.predict.problem import Problem
from moeplan.search.layout import RAM, Layout, to_placement


class Priced(NamedTuple):
    """Bytes that each device needs (the order of ``Table.devices``) and expected seconds of both phases."""

    need_bytes: tuple[float, ...]
    decode_s: float
    prefill_s: float


class Sums(NamedTuple):
    """Prefix sums over the layers, all of them in one pair of places; bytes by index of the device."""

    bytes_by_device: tuple[tuple[int, list[float]], ...]
    decode_s: list[float]
    prefill_s: list[float]

    def bytes_on(self, device: int) -> list[float]:
        """Those of one device."""
        return dict(self.bytes_by_device).get(device) or [0.0] * len(self.decode_s)


class _Common(NamedTuple):
    """What the buffers of every device depend on."""

    kind: PlacementKind
    in_ram: int
    """The sequence of sorts of the layers in RAM as a whole."""
    whole: int
    """Kinds of layers in RAM as a whole, as bits."""
    away: int
    """Kinds of layers with experts in RAM, as bits."""


class Table:
    """Prices of layouts of one problem. Times are asked for only where memory suffices."""

    def __init__(self, problem: Problem, max_vram_bytes: int | None = None) -> None:
        self.problem = problem
        self.devices = (*(f"gpu{g}" for g in range(len(problem.hardware.gpus))), RAM)
        self._index = {device: i for i, device in enumerate(self.devices)}
        self._max_vram_bytes = max_vram_bytes
        self._kinds, self._kind_of = _kinds(problem.graph)
        self._options: dict[tuple[str, str], Sums] = {}
        self._moe_kinds = sum(1 << k for k, weights in enumerate(self._kinds) if weights.expert_bytes)
        self._buffers: dict[object, float] = {}
        self._fixed_s: dict[object, tuple[float, float, float]] = {}
        self._spans: dict[tuple[int, int], tuple[int, int]] = {}
        self._sequences: dict[tuple[int, ...], int] = {}
        self.capacity_bytes = self._capacities()
        self._slim = problem._replace(graph=_slim(problem.graph))

    def need(self, layout: Layout) -> list[float]:
        """Bytes that each device needs."""
        total = self.buffers(layout)
        for start, end, dense, experts in layout:
            option = self._options.get((dense, experts)) or self.sums(dense, experts)
            for device, prefix in option.bytes_by_device:
                total[device] += prefix[end] - prefix[start]
        return total

    def buffers(self, layout: Layout) -> list[float]:
        """Bytes of each device that are not a sum over its layers."""
        keys = self._buffer_keys(layout)
        buffers = self._buffers
        if not all(key in buffers for key in keys):
            self._play(layout, keys)
        total = [0.0] * len(self.devices)
        for key in keys:
            total[key[0]] = buffers[key]
        return total

    def kind(self, layout: Layout) -> PlacementKind:
        """The kind of placement that ``layout`` is."""
        return self._common(layout).kind

    def fits(self, need_bytes: list[float]) -> bool:
        """Whether every device has that much."""
        return all(need <= have for need, have in zip(need_bytes, self.capacity_bytes, strict=True))

    def seconds(self, layout: Layout) -> tuple[float, float]:
        """Expected seconds of one decode step and of the prompt."""
        decode_s, prefill_s, share = self.fixed(layout)
        for start, end, dense, experts in layout:
            option = self._options.get((dense, experts)) or self.sums(dense, experts)
            decode_s += option.decode_s[end] - option.decode_s[start]
            prefill_s += (option.prefill_s[end] - option.prefill_s[start]) * share
        return decode_s, prefill_s

    def fixed(self, layout: Layout) -> tuple[float, float, float]:
        """Seconds that are not a sum over layers: (decode, prefill, share of the sum that prefill takes)."""
        key = (self.kind(layout), *((run[2], run[3]) for run in layout))
        fixed = self._fixed_s.get(key)
        if fixed is None:
            fixed = self._fixed_s[key] = self._beside_layers(layout)
        return fixed

    def price(self, layout: Layout) -> Priced | None:
        """Memory and time of ``layout``; None where it does not fit."""
        need = self.need(layout)
        if not self.fits(need):
            return None
        return Priced(tuple(need), *self.seconds(layout))

    def layer_bytes(self, dense: str, experts: str, start: int, end: int) -> dict[str, float]:
        """Bytes that layers ``start`` to ``end`` in these places add to each device."""
        option = self.sums(dense, experts)
        return {self.devices[d]: prefix[end] - prefix[start] for d, prefix in option.bytes_by_device}

    def placement(self, layout: Layout) -> Placement:
        """``layout`` as a placement."""
        return to_placement(layout, self.problem.graph, self.problem.engine)

    def exact(self, placement: Placement) -> Priced | None:
        """Any placement, priced by the full functions; None where it does not fit."""
        memory = exact_memory(self.problem, placement)
        limits = dict(zip(self.devices, self.capacity_bytes, strict=True))
        need = {device.device: float(needed_bytes(device)) for device in memory.devices}
        if not memory.fits or any(need[device] > limits.get(device, need[device]) for device in need):
            return None
        return Priced(
            tuple(need.get(device, 0.0) for device in self.devices), *exact_seconds(self.problem, placement)
        )

    # ── what a layout has beyond the sum over its layers ─────────────────────────────────────────

    def _common(self, layout: Layout) -> _Common:
        in_ram, whole, away, hosted = -1, 0, 0, False
        gpus = set()
        for start, end, dense, experts in layout:
            sequence, kinds = self._spans.get((start, end)) or self._span(start, end)
            if dense == RAM:
                in_ram, whole = sequence, kinds
            else:
                gpus.add(dense)
                hosted = hosted or (experts == RAM and bool(kinds & self._moe_kinds))
            if experts == RAM:
                away |= kinds
        if hosted:
            kind: PlacementKind = "mixed" if in_ram >= 0 else "experts"
        elif in_ram >= 0:
            kind = "layers"
        else:
            kind = "gpu" if len(gpus) == 1 else "layer-split"
        return _Common(kind, in_ram, whole, away)

    def _buffer_keys(self, layout: Layout) -> list[tuple[int, object, bool, _Common]]:
        """One key per device that holds something; devices with equal keys have equal buffers.

        Buffers depend on the sorts of layers a device runs one after the other, on what comes twice and what
        comes last (memory/passes.py), on what is copied over from RAM, and on whether the head is there.
        """
        common = self._common(layout)
        runs: dict[str, tuple[tuple[str, int], ...]] = {}
        for start, end, dense, experts in layout:
            runs[dense] = (*runs.get(dense, ()), (experts, self._spans[start, end][0]))
        runs.pop(RAM, None)
        head = layout[-1].dense if layout[-1].dense != RAM else "gpu0"
        runs.setdefault(head, ())
        keys: list[tuple[int, object, bool, _Common]] = [
            (self._index[device], own, device == head, common) for device, own in runs.items()
        ]
        keys.append((self._index[RAM], (), False, common))
        return keys

    def _play(self, layout: Layout, keys: list[tuple[int, object, bool, _Common]]) -> None:
        """Ask `memory_report` for this layout, and keep what is not the sum over its layers."""
        need = [0.0] * len(self.devices)
        for device in exact_memory(self._slim, self.placement(layout)).devices:
            need[self._index[device.device]] += needed_bytes(device)
        for start, end, dense, experts in layout:
            for index, prefix in self.sums(dense, experts).bytes_by_device:
                need[index] -= prefix[end] - prefix[start]
        for key in keys:
            self._buffers[key] = need[key[0]]

    def _beside_layers(self, layout: Layout) -> tuple[float, float, float]:
        # GPUs that work on micro-batches in turn take fewer passes than one alone, for which the sums are.
        placement = self.placement(layout)
        decode_s, prefill_s = exact_seconds(self.problem, placement)
        share = overlap_frac(self.problem.graph.spec, self.problem.workload, placement, self.problem.engine)
        for start, end, dense, experts in layout:
            option = self.sums(dense, experts)
            decode_s -= option.decode_s[end] - option.decode_s[start]
            prefill_s -= (option.prefill_s[end] - option.prefill_s[start]) * share
        return decode_s, prefill_s, share

    def _span(self, start: int, end: int) -> tuple[int, int]:
        """(number of the sequence of blocks, its repeats left out; kinds of layers as bits)."""
        seen: dict[int, int] = {}
        sequence, kinds = [], 0
        for i in range(start, end):
            kind = self._kind_of[i]
            block = self._kinds[kind].block
            seen[block] = seen.get(block, 0) + 1
            if seen[block] <= 2 or i == end - 1:
                sequence.append(block)
            kinds |= 1 << kind
        number = self._sequences.setdefault(tuple(sequence), len(self._sequences))
        self._spans[start, end] = number, kinds
        return number, kinds

    # ── one more layer of a kind ─────────────────────────────────────────────────────────────────

    def sums(self, dense: str, experts: str) -> Sums:
        """What the layers add, all of them in this pair of places."""
        option = self._options.get((dense, experts))
        if option is not None:
            return option
        adds = [self._one_layer(kind, dense, experts) for kind in range(len(self._kinds))]
        devices = sorted({device for need, _, _ in adds for device in need})
        option = Sums(
            tuple(
                (self._index[d], _prefix([adds[k][0].get(d, 0.0) for k in self._kind_of])) for d in devices
            ),
            _prefix([adds[k][1] for k in self._kind_of]),
            _prefix([adds[k][2] for k in self._kind_of]),
        )
        self._options[dense, experts] = option
        return option

    def _one_layer(self, kind: int, dense: str, experts: str) -> tuple[dict[str, float], float, float]:
        """What one more layer of this kind adds: bytes by device, seconds of decode and of prefill."""
        weights = self._kinds[kind]
        before, after = (exact_memory(*self._probe((), (weights,) * n, dense, experts)) for n in (2, 3))
        held = {d.device: _layer_parts(d) for d in before.devices}
        # The margin of engines that are only reasoned about is a share of all that a device holds.
        more = {
            d.device: (_layer_parts(d) - held.get(d.device, 0)) * needed_bytes(d) / max(1, d.resident_bytes)
            for d in after.devices
        }
        # Rates may depend on the type that most of the model has: its layers stay beside the one more.
        layers = self.problem.graph.layers
        (decode_1, prefill_1), (decode_2, prefill_2) = (
            exact_seconds(*self._probe(layers, (weights,) * n, dense, experts)) for n in (1, 2)
        )
        added = {device: n for device, n in more.items() if n}
        return added, decode_2 - decode_1, prefill_2 - prefill_1

    def _probe(
        self,
        layers: tuple[LayerWeights, ...],
        more: tuple[LayerWeights, ...],
        dense: str,
        experts: str,
    ) -> tuple[Problem, Placement]:
        """``layers`` and ``more``, all of them in one pair of places."""
        from msgspec.structs import replace

        graph, every = self.problem.graph, (*layers, *more)
        spec = replace(graph.spec, layout=tuple(weights.block for weights in every))
        moe = any(weights.expert_bytes for weights in every)
        placement = Placement(
            kind="layers" if dense == RAM else "experts" if moe and dense != experts else "gpu",
            dense_tiers=(dense,) * len(every),
            expert_tiers=tuple(experts if weights.expert_bytes else dense for weights in every),
            embedding_tier=RAM,
            head_tier=dense if dense != RAM else "gpu0",
            gpu_layers=1 if dense == RAM else len(every) + 1,
        )
        return self.problem._replace(graph=replace(graph, layers=every, spec=spec, tensors=())), placement

    def _capacities(self) -> tuple[float, ...]:
        from moeplan.memory.capacity import gpu_capacity_bytes, ram_capacity_bytes

        hardware, engine = self.problem.hardware, self.problem.engine
        most = float("inf") if self._max_vram_bytes is None else self._max_vram_bytes
        gpus = [min(most, gpu_capacity_bytes(gpu, hardware, engine)) for gpu in hardware.gpus]
        return (*gpus, float(ram_capacity_bytes(hardware)))


def exact_memory(problem: Problem, placement: Placement) -> MemoryReport:
    """`memory_report` of ``placement``."""
    return memory_report(problem.graph, problem.hardware, problem.workload, placement, problem.engine)


def exact_seconds(problem: Problem, placement: Placement) -> tuple[float, float]:
    """Expected seconds of a decode step and of the prompt, by `decode_time` and `prefill_time`."""
    args = (problem.graph, problem.hardware, problem.workload, placement, problem.engine, problem.calibration)
    return decode_time(*args).seconds, prefill_time(*args).seconds


def needed_bytes(device: DeviceMemory) -> int:
    """Bytes a device must have: what must be resident, and the margin kept free."""
    return device.resident_bytes + device.margin_bytes


def _slim(graph: ModelGraph) -> ModelGraph:
    """``graph`` with the largest tensors of each layer alone: all that a device's buffers ask of them."""
    from msgspec.structs import replace

    largest: dict[tuple[int, bool], Tensor] = {}
    for tensor in graph.tensors:
        key = (tensor.layer, tensor.role in EXPERT_ROLES)
        if tensor.owner == "base" and tensor.n_bytes > getattr(largest.get(key), "n_bytes", -1):
            largest[key] = tensor
    return replace(graph, tensors=tuple(largest.values()))


def _layer_parts(device: DeviceMemory) -> int:
    return device.weights_bytes + device.kv_bytes + device.state_bytes


def _kinds(graph: ModelGraph) -> tuple[list[LayerWeights], list[int]]:
    """Distinct layers, and the index of every layer's kind."""
    index: dict[LayerWeights, int] = {}
    kind_of = [index.setdefault(weights, len(index)) for weights in graph.layers]
    return list(index), kind_of


def _prefix(values: list[float]) -> list[float]:
    return [0.0, *accumulate(values)]
