"""The reference decoder with part of its weights in host memory, as engines place models that do not fit.

- ``experts on the CPU``: attention on the accelerator, chosen experts computed by the CPU where they lie.
- ``experts streamed``: all experts of the next layer are copied to the device while a layer computes.
- ``layers on the CPU``: the last half of the layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod
from typing import Any

from msgspec.structs import replace

from moeplan.domain.graph import Tensor
from moeplan.domain.model import ModelSpec
from moeplan.domain.profile import Sample
from moeplan.graph.inventory import build_tensors
from moeplan.measure.device import Device
from moeplan.measure.layout import make_joined
from moeplan.measure.micro import Job
from moeplan.measure.reference import Reference, Run, dense_shape, moe_shape, random_weights

PLACEMENTS = ("device", "experts on the CPU", "experts streamed", "layers on the CPU")


class Lane:
    """Where copies to the device run beside its computing: a second stream, or in turn on a CPU."""

    def __init__(self, device: Device) -> None:
        self.torch = device.torch
        self.side = None if device.is_cpu else self.torch.Stream(device.name)

    def mark(self) -> Any:
        """The point that computing has reached, to be waited for."""
        return None if self.side is None else self.torch.accelerator.current_stream().record_event()

    def copy(self, target: Any, source: Any, after: Any) -> Any:
        """Start a copy to the device once ``after`` is reached; the point at which it is done."""
        if self.side is None:
            target.copy_(source)
            return None
        if after is not None:
            self.side.wait_event(after)
        with self.side:
            target.copy_(source, non_blocking=True)
        return self.side.record_event()

    def wait(self, point: Any) -> None:
        """What is computed from now on starts after ``point``; the host itself goes on."""
        if point is not None:
            self.torch.accelerator.current_stream().wait_event(point)


class Stream:
    """Experts from host memory through two buffers on the device, each layer's always through the same one.

    While a layer computes, the next one (after the last, the first) is copied into the other buffer.
    """

    def __init__(self, host: dict[int, Any], buffers: tuple[Any, Any], lane: Lane) -> None:
        """``host``: all experts of a layer as one flat tensor, layers in order of use."""
        self.lane, self.host, self.buffers = lane, host, buffers
        self.order = list(host)
        self.there: dict[int, Any] = {}
        """Layers in a buffer or on their way, and the point at which they are there."""
        self.last_use: list[Any] = [None, None]
        """Of each buffer."""

    def bring(self, layer: int) -> None:
        """What is computed from now on finds the experts of ``layer``; those of the next layer set out."""
        if layer not in self.there:
            self._fetch(layer)
        self.lane.wait(self.there[layer])
        following = self.order[(self.order.index(layer) + 1) % len(self.order)]
        # with an odd number of layers the first has the buffer of the last, and comes when that is done
        if following not in self.there and self._buffer(following) != self._buffer(layer):
            self._fetch(following)

    def release(self, layer: int) -> None:
        """The buffer of ``layer`` may be overwritten once what was started until now is done."""
        self.last_use[self._buffer(layer)] = self.lane.mark()
        del self.there[layer]

    def _fetch(self, layer: int) -> None:
        at = self._buffer(layer)
        for left in [other for other in self.there if self._buffer(other) == at]:
            del self.there[left]  # by a forward pass that was broken off
        source = self.host[layer]
        self.there[layer] = self.lane.copy(self.buffers[at][: source.numel()], source, self.last_use[at])

    def _buffer(self, layer: int) -> int:
        return self.order.index(layer) % 2


def place(
    spec: ModelSpec, placement: str, device: Device, threads: int, lane: Lane | None = None
) -> Reference:
    """The reference model of ``spec`` with its weights where ``placement`` has them.

    Raises MeasurementError where the host or the device has too little memory.
    """

    def home(t: Tensor) -> str:
        on_cpu = t.layer >= spec.n_layers // 2 if placement == "layers on the CPU" else t.expert_stacked
        return "cpu" if on_cpu else device.name

    weights = random_weights(spec, device, joined=True, home=home if placement != "device" else None)
    stream = _stream(spec, weights, device, lane) if placement == "experts streamed" else None
    reference = Reference(spec, device, threads, weights=weights)
    reference.model.stream = stream
    return reference


def _stream(spec: ModelSpec, weights: dict[str, Any], device: Device, lane: Lane | None) -> Stream:
    """The experts as a stream; in ``weights`` the buffers take their names."""
    layers: dict[int, dict[str, tuple[int, ...]]] = {}
    for t in build_tensors(spec):
        if t.expert_stacked:
            layers.setdefault(t.layer, {})[t.name] = t.shape
    sizes = {layer: sum(prod(shape) for shape in shapes.values()) for layer, shapes in layers.items()}
    options = {"dtype": weights["token_embd.weight"].dtype}
    buffers = [device.torch.empty(max(sizes.values()), device=device.name, **options) for _ in range(2)]
    host = {}
    for turn, (layer, shapes) in enumerate(layers.items()):
        host[layer] = device.torch.empty(sizes[layer], pin_memory=_page_locked(device), **options)
        for name, view in _lay(shapes, host[layer]).items():
            view.copy_(weights[name])
        weights |= _lay(shapes, buffers[turn % 2])
    return Stream(host, (buffers[0], buffers[1]), lane or Lane(device))


def _page_locked(device: Device) -> bool:
    """What an accelerator copies is kept from being paged: the copy runs beside the computing then."""
    return not device.is_cpu


def _lay(shapes: dict[str, tuple[int, ...]], flat: Any) -> dict[str, Any]:
    """Tensors of these shapes one after the other in ``flat``, those that are joined within each other."""
    used = 0

    def make(name: str, shape: tuple[int, ...]) -> Any:
        nonlocal used
        used += prod(shape)
        return flat[used - prod(shape) : used].view(shape)

    return make_joined(shapes, make)


def jobs(device: Device, threads: int, *, quick: bool = False) -> Iterator[tuple[str, float, Job]]:
    """Decode and prefill of every placement beside an accelerator; nothing where the CPU is the device."""
    if device.is_cpu:
        return
    for placement in PLACEMENTS[1:]:
        spec = moe_shape() if placement != "layers on the CPU" else dense_shape(1024 if quick else 2048)
        runs = [Run("decode", 1, 128), Run("prefill", 1, 128 if quick else 512)]
        yield f"{placement}: {spec.id}", 1.0, partial(_measure, spec, placement, device, threads, runs)


def _measure(
    spec: ModelSpec, placement: str, device: Device, threads: int, runs: list[Run], budget_s: float
) -> list[Sample]:
    reference = place(spec, placement, device, threads)
    samples = [reference.measure(run, budget_s / len(runs)) for run in runs]
    return [
        replace(s, name=s.name.replace("reference", "placed"), setup={**s.setup, "placement": placement})
        for s in samples
    ]
