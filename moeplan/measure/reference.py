"""Forward passes of the reference decoder: random weights, fewer layers, extrapolated and checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from msgspec.structs import replace

from moeplan.domain.graph import Tensor
from moeplan.domain.model import Block, DenseFfn, GqaAttention, ModelSpec, MoeFfn
from moeplan.domain.profile import Sample
from moeplan.errors import MeasurementError
from moeplan.graph.inventory import build_tensors
from moeplan.measure.decoder import Decoder
from moeplan.measure.device import Device, cpu_device
from moeplan.measure.layout import make_joined
from moeplan.measure.linear import linear_kernel
from moeplan.measure.micro import Job, torch_threads
from moeplan.measure.timing import repeat, time_sample
from moeplan.measure.work import work_of
from moeplan.units import fmt_bytes

_NOISE_ELEMENTS = 1 << 22
_STD = 0.02
# Steps between which decode meets fresh tokens, so that a MoE does not run through the same experts.
_FRESH_TOKENS = 64
# After so many times its budget a model's other runs are left out.
_PATIENCE = 1.25


def dense_shape(hidden: int = 2048, layers: int = 4, vocab: int = 8192) -> ModelSpec:
    """A llama-like model: grouped queries, a gated MLP of 8/3 of the hidden width."""
    width = hidden * 8 // 3 // 64 * 64
    block = Block(name="dense", mixer=_attention(hidden), ffn=DenseFfn(intermediate=width))
    return _spec(f"reference-dense-{hidden}", block, hidden, layers, vocab)


def moe_shape(
    hidden: int = 1024, layers: int = 4, n_experts: int = 32, n_active: int = 4, width: int = 1024,
    vocab: int = 8192,
) -> ModelSpec:  # fmt: skip
    """A Mixtral-like model; the active size does not depend on ``n_experts``."""
    ffn = MoeFfn(n_experts=n_experts, n_active=n_active, expert_intermediate=width)
    block = Block(name="moe", mixer=_attention(hidden), ffn=ffn)
    return _spec(f"reference-moe-{n_experts}x{width}-{hidden}", block, hidden, layers, vocab)


def _attention(hidden: int) -> GqaAttention:
    heads = hidden // 64
    return GqaAttention(n_heads=heads, n_kv_heads=max(1, heads // 4), head_dim=64, v_head_dim=64)


def _spec(id_: str, block: Block, hidden: int, layers: int, vocab: int) -> ModelSpec:
    return ModelSpec(
        id=id_, name=id_, architecture="llama", hidden_size=hidden, vocab_size=vocab, context_tokens=32768,
        blocks=(block,), layout=(0,) * layers,
    )  # fmt: skip


def random_weights(
    spec: ModelSpec,
    device: Device,
    dtype: str = "float32",
    *,
    joined: bool = False,
    home: Callable[[Tensor], str] | None = None,
) -> dict[str, Any]:
    """Every tensor of ``spec`` on the device, or where ``home`` has it (the device or ``cpu``).

    Raises MeasurementError when they would take more than allowed.

    Matrices repeat one block of noise (cheap to make; no two rows of a tensor are aligned), routers are
    drawn one by one, so that experts are chosen evenly. ``joined``: matrices that meet the same row lie one
    under the other.
    """
    torch = device.torch
    kind = getattr(torch, dtype)
    tensors = {t.name: t for t in build_tensors(spec)}
    homes = {name: home(t) if home else device.name for name, t in tensors.items()}
    for place in sorted(set(homes.values())):
        may_hold = device.budget_bytes if place == device.name else cpu_device().budget_bytes
        need = sum(t.n_elements for name, t in tensors.items() if homes[name] == place) * kind.itemsize
        if need > may_hold:
            raise MeasurementError(
                f"{spec.id} with {spec.n_layers} layers takes {fmt_bytes(need)}, "
                f"more than the {fmt_bytes(may_hold)} that may be used"
            )
    generator = torch.Generator().manual_seed(1)
    noise = (torch.randn(_NOISE_ELEMENTS - 61, generator=generator) * _STD).to(kind)
    noises = {place: noise.to(place) for place in set(homes.values())}

    def make(name: str, shape: tuple[int, ...]) -> Any:
        role, place = tensors[name].role, homes[name]
        if role == "norm":
            return torch.ones(shape, dtype=kind, device=place)
        if role in ("router", "bias", "embedding"):
            std = {"router": shape[-1] ** -0.5, "bias": 0.0, "embedding": 1.0}[role]
            return (torch.randn(shape, generator=generator) * std).to(kind).to(place)
        return _tiled(torch, noises[place], shape)

    shapes = {name: t.shape for name, t in tensors.items()}
    return make_joined(shapes, make) if joined else {name: make(name, s) for name, s in shapes.items()}


def _tiled(torch: Any, noise: Any, shape: tuple[int, ...]) -> Any:
    out = torch.empty(shape, dtype=noise.dtype, device=noise.device)
    flat = out.view(-1)
    for at in range(0, flat.numel(), noise.numel()):
        part = flat[at : at + noise.numel()]
        part.copy_(noise[: part.numel()])
    return out


class Run(NamedTuple):
    """One thing to measure on a reference model."""

    phase: str
    """decode or prefill."""
    batch: int
    depth: int
    """Tokens in the cache before a decode step; length of the prompt in prefill."""


def active_bytes(spec: ModelSpec, experts_touched: float, itemsize: int) -> float:
    """Bytes of weights that a step reads when its MoE layers touch ``experts_touched`` experts each;
    rows of the embedding are left out."""
    moe = {i: b.ffn for i, b in enumerate(spec.layer_blocks()) if isinstance(b.ffn, MoeFfn)}
    total = 0.0
    for t in build_tensors(spec):
        if t.role == "embedding" and not spec.tied_embeddings:
            continue
        total += t.n_elements * (experts_touched / moe[t.layer].n_experts if t.expert_stacked else 1.0)
    return total * itemsize


def active_flop(spec: ModelSpec, n_tokens: int, n_head_rows: int) -> float:
    """2 x matrix elements x rows, experts by what each row chooses, the head for its rows only."""
    moe = {i: b.ffn for i, b in enumerate(spec.layer_blocks()) if isinstance(b.ffn, MoeFfn)}
    total = 0.0
    for t in build_tensors(spec):
        if t.role in ("embedding", "norm", "bias"):
            continue
        share = moe[t.layer].n_active / moe[t.layer].n_experts if t.expert_stacked else 1.0
        total += 2.0 * t.n_elements * share * (n_head_rows if t.role == "head" else n_tokens)
    return total


class Reference:
    """A reference model in memory, ready to be timed."""

    def __init__(
        self,
        spec: ModelSpec,
        device: Device,
        threads: int,
        dtype: str = "float32",
        weights: dict[str, Any] | None = None,
    ) -> None:
        self.spec, self.device, self.threads, self.dtype = spec, device, threads, dtype
        self.itemsize: int = getattr(device.torch, dtype).itemsize
        weights = weights or random_weights(spec, device, dtype, joined=True)
        self.model = Decoder(spec, weights, linear=linear_kernel())
        generator = device.torch.Generator().manual_seed(2)
        self.tokens = device.torch.randint(0, spec.vocab_size, (_FRESH_TOKENS * 64,), generator=generator)
        self.tokens = self.tokens.to(device.name)
        self._next = 0

    def measure(self, run: Run, budget_s: float) -> Sample:
        """Time of one decode step or one prompt; the sample also says what it read and computed."""
        with torch_threads(self.device.torch, self.threads), self.device.torch.inference_mode():
            work = self._decode(run) if run.phase == "decode" else self._prefill(run)
            choices: list[Any] = []
            self.model.choices = choices
            span = repeat(work, budget_s=budget_s, sync=self.device.sync, min_n=3)
            self.model.choices = None
            touched = _experts_touched(choices)
        n_tokens = run.batch if run.phase == "decode" else run.batch * run.depth
        setup: dict[str, str | int | float] = {
            "device": self.device.name, "model": self.spec.id, "layers": self.spec.n_layers,
            "dtype": self.dtype, "batch": run.batch, "depth": run.depth,
            "bytes": active_bytes(self.spec, touched, self.itemsize),
            "flop": active_flop(self.spec, n_tokens, run.batch),
        }  # fmt: skip
        if self.threads:
            setup["threads"] = self.threads
        if touched:
            setup["experts_touched"] = round(touched, 3)
        setup |= work_of(self.spec, run.phase, run.batch, run.depth, touched).setup()
        return time_sample(f"reference {run.phase}", setup, span)

    def cut(self, n_layers: int) -> Reference:
        """The same model with fewer layers, in the same memory."""
        moved = {
            f"blk.{old}.": f"blk.{new}." for new, old in enumerate(_picked(self.spec.n_layers, n_layers))
        }
        weights = {}
        for name, tensor in self.model.weights.items():
            layer = name[: name.index(".", 4) + 1] if name.startswith("blk.") else ""
            if not layer or layer in moved:
                weights[moved.get(layer, "") + name.removeprefix(layer)] = tensor
        return Reference(with_layers(self.spec, n_layers), self.device, self.threads, self.dtype, weights)

    def _decode(self, run: Run) -> Any:
        cache = self.model.new_cache(run.batch, run.depth + 1)

        def step() -> None:
            self.model.forward(self._fresh(run.batch, 1), cache, at=run.depth, last_only=True)

        return step

    def _prefill(self, run: Run) -> Any:
        cache = self.model.new_cache(run.batch, run.depth)

        def prompt() -> None:
            self.model.forward(self._fresh(run.batch, run.depth), cache, last_only=True)

        return prompt

    def _fresh(self, batch: int, rows: int) -> Any:
        n = batch * rows
        if self._next + n > len(self.tokens):
            self._next = 0
        chosen = self.tokens[self._next : self._next + n]
        self._next += n
        return chosen.view(batch, rows)


def _experts_touched(choices: list[Any], enough: int = 200) -> float:
    """Distinct experts that a MoE layer read in a step, by the router's real choices; 0 without a router."""
    latest = choices[-enough:]
    return sum(len(chosen.unique()) for chosen in latest) / max(1, len(latest))


def with_layers(spec: ModelSpec, n_layers: int) -> ModelSpec:
    """The same model cut to ``n_layers``, every kind of layer kept in its share and order."""
    if n_layers >= spec.n_layers:
        return spec
    return replace(spec, layout=tuple(spec.layout[i] for i in _picked(spec.n_layers, n_layers)))


def _picked(n_all: int, n: int) -> list[int]:
    return sorted({round(i * (n_all - 1) / max(1, n - 1)) for i in range(n)})


def layers_that_fit(spec: ModelSpec, device: Device, itemsize: int = 4) -> int:
    """The most layers of ``spec`` that the device may hold; MeasurementError when not even one fits."""
    tensors = build_tensors(spec)
    outside = sum(t.n_elements for t in tensors if t.layer < 0) * itemsize
    layer = max(sum(t.n_elements for t in tensors if t.layer == i) * itemsize for i in range(spec.n_layers))
    n = int((device.budget_bytes - outside) // layer)
    if n < 1:
        raise MeasurementError(
            f"one layer of {spec.id} and its embeddings take {fmt_bytes(outside + layer)}, "
            f"more than the {fmt_bytes(device.budget_bytes)} that may be used"
        )
    return min(n, spec.n_layers)


def jobs(
    device: Device, threads: int, *, full: bool = False, quick: bool = False
) -> Iterator[tuple[str, float, Job]]:
    """Dense and MoE decode and prefill; layers at two counts, so that the time per layer is checked."""
    runs = [Run("decode", 1, 128), Run("prefill", 1, 128), Run("decode", 8, 128)]
    if not quick:
        runs += [Run("decode", 1, 2048), Run("decode", 4, 128), Run("prefill", 1, 512)]
    # a quick run cannot spend its time on filling memory
    shapes = (
        [dense_shape(1024), moe_shape(n_experts=16, width=512)] if quick else [dense_shape(), moe_shape()]
    )
    if full:
        shapes += [dense_shape(1024), moe_shape(n_experts=8), moe_shape(n_experts=128)]
    for spec in shapes:
        yield f"forward passes of {spec.id}", 4.0, _job(spec, device, threads, runs)


def model_jobs(spec: ModelSpec, device: Device, threads: int) -> Iterator[tuple[str, float, Job]]:
    """A model of the catalog, cut to the layers that fit, and to half as many as the check."""
    n = layers_that_fit(spec, device)
    runs = [Run("decode", 1, 128), Run("decode", 8, 128), Run("prefill", 1, 128)]
    what = f"{n} of {spec.n_layers} layers of {spec.id}"
    yield what, 4.0, _job(with_layers(spec, n), device, threads, runs)


def _job(spec: ModelSpec, device: Device, threads: int, runs: list[Run]) -> Job:
    """The first of ``runs``, the same with half of the layers, and the others as far as the time goes."""

    def job(budget_s: float) -> list[Sample]:
        started = time.perf_counter()
        reference = Reference(spec, device, threads)
        plan = [(reference, run) for run in runs]
        if spec.n_layers > 1:
            plan.insert(1, (reference.cut(spec.n_layers // 2), runs[0]))
        each_s = max(budget_s / 2, budget_s - (time.perf_counter() - started)) / len(plan)
        samples: list[Sample] = []
        for model, run in plan:
            if samples and time.perf_counter() - started > _PATIENCE * budget_s:
                break
            samples.append(model.measure(run, each_s))
        return samples

    return job


def extrapolated_s(shorter: Sample, longer: Sample, n_layers: int) -> float:
    """Time with ``n_layers`` from two measured depths of the same model: a straight line."""
    n0, n1 = float(shorter.setup["layers"]), float(longer.setup["layers"])
    per_layer = (longer.median - shorter.median) / (n1 - n0)
    return shorter.median + per_layer * (n_layers - n0)


def bandwidth_sample(sample: Sample) -> Sample:
    """A decode sample seen as bytes of weights per second."""
    n_bytes = float(sample.setup["bytes"])
    return replace(
        sample, unit="B/s", median=n_bytes / sample.median, low=n_bytes / sample.high,
        high=n_bytes / sample.low, best=n_bytes / sample.best,
    )  # fmt: skip
