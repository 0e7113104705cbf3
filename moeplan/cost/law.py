"""The cost law: time of one step from its work, the machine and a set of coefficients.

On a GPU, weights and arithmetic of a group of alike operations overlap: time is about the larger of the
two. On a CPU they do not: time is their sum (measured on a 2-core AVX-512 machine: 6% mean error against
12% for the larger of the two). A step is the sum over groups, plus transfers, plus what the engine adds.
"""

from __future__ import annotations

import math

from msgspec.structs import replace

from moeplan.cost.activations import activations_op
from moeplan.cost.attention import Ways, attention_parts, cache_copies_op
from moeplan.cost.collectives import all_reduce_work, joined
from moeplan.cost.coverage import busiest_rank, expected_experts
from moeplan.cost.hops import expert_hop_ops, hand_over_ops, logits_ops
from moeplan.cost.host_rates import host_rates
from moeplan.cost.launch_waits import add_waits
from moeplan.cost.layer_names import mixing_names, prompt_halves, routing_names
from moeplan.cost.ops import ONCE, SUM, Names, Op, Times
from moeplan.cost.paging import disk_ops, unified_memory_ops
from moeplan.cost.products import idle_expert_op, product_op
from moeplan.cost.rates import Rates, Widened, engine_eras, gpu_rates
from moeplan.cost.recurrent import delta_marks, delta_rule_ops
from moeplan.cost.row_kernels import attention_marks
from moeplan.cost.stored_types import type_shares
from moeplan.cost.streams import stream_op, streams
from moeplan.cost.tiled_kernels import tiles_of
from moeplan.cost.widening import library_names, widening_op
from moeplan.cost.work import LayerGroup, LayerWork, Step, layer_groups, layer_work, main_type, running
from moeplan.domain.graph import ModelGraph
from moeplan.domain.hardware import GpuSpec, HardwareSpec
from moeplan.domain.model import MoeFfn
from moeplan.domain.workload import Placement, Workload
from moeplan.engines.blas import widens_weights
from moeplan.engines.eager import HALF_LAYER_KERNELS, ffn_kernels
from moeplan.engines.fused import can_fuse
from moeplan.engines.offload import Batch
from moeplan.engines.traits import EngineTraits
from moeplan.engines.vendored import as_vendored

_REDUCED_BYTES = 2
_HOST_TIERS = frozenset({"ram", "disk"})


def step_ops(
    graph: ModelGraph,
    hardware: HardwareSpec,
    workload: Workload,
    placement: Placement,
    engine: EngineTraits,
    step: Step,
) -> tuple[list[Op], float, float]:
    """(operations of one step, FLOPs, bytes read). Raises NotModelled where a needed rate is unknown."""
    graph, placement = running(graph, placement, step)
    clock = _Clock(graph, hardware, workload, placement, engine, step)
    architecture = graph.spec.architecture
    for group in layer_groups(graph, placement):
        clock.add_layers(group, layer_work(group.block, group.weights, step, workload, architecture))
    clock.add_head()
    clock.add_paging()
    clock.add_step()
    return clock.ops, clock.flop, clock.bytes_read


class _Clock:
    """Collects the operations of one step."""

    def __init__(
        self,
        graph: ModelGraph,
        hardware: HardwareSpec,
        workload: Workload,
        placement: Placement,
        engine: EngineTraits,
        step: Step,
    ) -> None:
        if workload.flash_attention and not can_fuse(engine, graph.spec.architecture):
            workload = replace(workload, flash_attention=False)
        self.graph, self.hardware, self.placement, self.step = graph, hardware, placement, step
        self.batch = Batch.of(engine, workload, hardware, graph.spec, step.n_tokens)
        self.engine, self.workload = as_vendored(engine, workload)
        self.quant, self.eras = main_type(graph), engine_eras(self.workload.engine_date, engine.family)
        self.ops: list[Op] = []
        self.flop = self.bytes_read = 0.0
        self._rates: dict[tuple[str, bool, bool, str], Rates] = {}

    # ── parts of a step ──────────────────────────────────────────────────────────────────────────

    def add_layers(self, group: LayerGroup, work: LayerWork) -> None:
        """A group of identical layers: weights, experts, attention, and the hops between tiers."""
        n = group.n_layers
        self.flop += n * (work.dense_flop + work.expert_flop + work.attention_flop + work.cross_flop)
        self.bytes_read += n * (work.dense_bytes + work.expert_bytes + work.kv_bytes + work.cross_bytes)
        tier = self._runs_on(group.dense_tier, None, n * work.dense_bytes)
        elements = n * work.dense_flop / (2.0 * self.step.n_tokens)
        layer_at = len(self.ops)
        self._work(tier, "weights", n * work.dense_bytes, n * work.dense_flop, elements)
        self._unpack(tier, elements)
        if work.expert_flop:
            elements = n * work.expert_elements
            self._add_experts(group, n * work.expert_bytes, n * work.expert_flop, elements)
        if work.kv_bytes or work.attention_flop:
            self._add_attention(group, work)
        if tier in _HOST_TIERS:
            date = self.workload.engine_date
            self.ops += delta_rule_ops(group.block.mixer, n, self.step, self.engine, date)
        # On a GPU ggml's engines compute one operation after the other, each to memory and back.
        if tier not in _HOST_TIERS and self.engine.gguf and self.step.tokens_per_sequence > 1:
            hidden, rates = self.graph.spec.hidden_size, self._at(tier)
            rows, family = self.step.n_tokens, self.engine.family
            self.ops.append(activations_op(rates, tier, family, group.block, n, hidden, rows))
        self._add_fixed(tier, group, layer_at)
        whole = group.block.mixer is not None or group.block.ffn is not None
        if self.placement.tensor_parallel > 1 and whole:
            self._all_reduce(n)

    def _add_attention(self, group: LayerGroup, work: LayerWork) -> None:
        """Scores and values over the cache, and over what an encoder put out."""
        # Attention has no weights: it runs where its neighbours do, on a GPU where theirs were copied there
        # (ggml-backend.cpp, "expand gpu up": the CPU is used only where no GPU operation is next).
        home = group.dense_tier
        if home in _HOST_TIERS and self._streams(None):
            home = self._runs_on(home, None, group.n_layers * work.kv_bytes)
        gpu = self._gpu(home)
        ways = Ways(self.engine, self.workload, self.placement.tensor_parallel, gpu)
        for part in attention_parts(group, work, self.step, ways):
            what = "weights" if part.streams else "KV cache"
            self._work(home, what, part.n_bytes, part.flop, times=part.times, label=part.label)
        if gpu is not None and (copies := cache_copies_op(home, self._at(home), group, work, ways)):
            self.ops.append(copies)

    def _add_experts(self, group: LayerGroup, n_bytes: float, flop: float, elements: float) -> None:
        held = float(group.n_layers * group.weights.expert_bytes)
        copied = held if self.placement.streamed and self.engine.streams_whole_layers else n_bytes
        tier = self._runs_on(group.expert_tier, group, copied)
        hybrid = group.dense_tier not in _HOST_TIERS and tier in _HOST_TIERS
        ffn, ranks, times = group.block.ffn, self.placement.expert_parallel, ONCE
        if ranks > 1 and isinstance(ffn, MoeFfn):  # all wait for the rank with the most to do
            most = busiest_rank(ffn.n_experts, ffn.n_active, self.step.n_tokens, ranks)
            inputs = {"times_mean_bytes_of_busiest_gpu": most[0], "times_mean_rows": most[1]}
            times = Times(*most, inputs)
        more: Names = ("local.hybrid.ram_bandwidth",) if hybrid else ()
        if ranks > 1:
            more += (f"{self.engine.family}.expert_parallel.bandwidth",)
        n_experts = ffn.n_experts if isinstance(ffn, MoeFfn) else 0
        self._work(tier, "experts", n_bytes, flop, elements, more=more, times=times, n_experts=n_experts)
        self._unpack(tier, elements * times.moving)
        if isinstance(ffn, MoeFfn) and tier not in _HOST_TIERS:
            one_each = product_op(
                self.engine, self.hardware.gpus[int(tier[3:])], self.workload.engine_date, self.quant, ffn,
                group.n_layers, self.step.n_tokens, self.graph.spec.architecture,
            )  # fmt: skip
            idle = idle_expert_op(
                self.engine, self.workload.engine_date, self.quant, ffn, group.n_layers, ranks
            )
            self.ops += [op for op in (one_each, idle) if op]
        if hybrid:
            rows, hidden = self.step.n_tokens, self.graph.spec.hidden_size
            self.ops += expert_hop_ops(self.hardware, self.engine.id, group.n_layers, rows, hidden)

    def add_head(self) -> None:
        """The output head, once a step that puts out tokens."""
        if not self.step.n_head_rows:
            return
        flop = 2.0 * self.graph.head_elements * self.step.n_head_rows
        self.flop += flop
        self.bytes_read += self.graph.head_bytes
        tier = self._runs_on(self.placement.head_tier, None, self.graph.head_bytes)
        elements = float(self.graph.head_elements)
        self._work(tier, "weights", self.graph.head_bytes, flop, elements, label="output head")
        if self.engine.gguf and tier not in _HOST_TIERS:
            self.ops += logits_ops(self.hardware, self.step.n_head_rows, self.graph.spec.vocab_size)

    def add_paging(self) -> None:
        """Weights that come back in pages, from a mapped file or over PCIe, step after step."""
        groups = layer_groups(self.graph, self.placement)
        architecture = self.graph.spec.architecture
        works = [layer_work(g.block, g.weights, self.step, self.workload, architecture) for g in groups]
        layers = tuple(zip(groups, works, strict=True))
        self.ops += disk_ops(self.graph, self.hardware, self.placement, layers)
        prompt = self.step.tokens_per_sequence > 1
        self.ops += unified_memory_ops(self.graph, self.hardware, self.placement, layers, prompt=prompt)

    def add_step(self) -> None:
        """What an engine adds to every step whatever its size."""
        run = f"{self.engine.family}.engine.{self.engine.id}"
        dated = tuple(f"{run}{era}.step_time" for era in self.eras)
        names = (f"{self.engine.family}.step_s", f"{run}.layer_time", *dated)
        self.ops.append(Op("step overhead", 1.0, names, formula="s per step"))
        self.ops += hand_over_ops(self.engine.family, self.placement.dense_tiers)

    def _add_fixed(self, tier: str, group: LayerGroup, layer_at: int) -> None:
        """Launches, routing and synchronisation of a layer, half for its mixer and half for its FFN.

        An eager engine's GPU works on the layer (operations from ``layer_at`` on) while its host launches it.
        """
        halves = prompt_halves(self._halves(tier, group), self.engine, self._gpu(tier), self.step)
        if self.engine.eager and tier not in _HOST_TIERS:
            date, n_layers = self.workload.engine_date, group.n_layers
            add_waits(self.ops, layer_at, tier, halves, self.quant, date, n_layers)
            return
        formula = "halves of layers x s per layer"
        for n, names in halves:
            self.ops.append(Op("layer overhead", n, names, formula=formula, inputs={"layers": n}))

    def _halves(self, tier: str, group: LayerGroup) -> list[tuple[float, Names]]:
        rates, family, half = self._at(tier), self.engine.family, group.n_layers / 2
        fixed, mixer, ffn = rates.fixed, group.block.mixer, group.block.ffn
        halves = []
        if mixer is not None:
            mixing = mixing_names(mixer, family, rates.architecture)
            if tier not in _HOST_TIERS:
                mixing += delta_marks(mixer, rates.architecture, self.engine, self.workload.engine_date)
            halves.append((half, (*fixed, *mixing)))
        if ffn is not None:
            halves.append(self._routed(tier, half, ffn) if isinstance(ffn, MoeFfn) else (half, fixed))
        return halves

    def _routed(self, tier: str, half: float, ffn: MoeFfn) -> tuple[float, Names]:
        """Routing, gather and scatter beside the experts' products; from Python a kernel at a time."""
        fixed, family, backend = self._at(tier).routed, self.engine.family, self.engine.backend
        own = f"{family}.engine.{self.engine.id}.moe.layer_time"
        if self.engine.eager:
            hit = expected_experts(ffn.n_experts, ffn.n_active, self.step.n_tokens)
            kernels = ffn_kernels(ffn.n_experts, hit, self.workload.engine_date, self.quant)
            return half * kernels / HALF_LAYER_KERNELS, (*fixed, own)
        names = (*fixed, *routing_names(ffn, family), own)
        on_backend = backend and tier not in _HOST_TIERS
        return half, (*names, f"{family}.{backend}.moe.layer_time") if on_backend else names

    # ── helpers ──────────────────────────────────────────────────────────────────────────────────

    def _gpu(self, tier: str) -> GpuSpec | None:
        return None if tier in _HOST_TIERS else self.hardware.gpus[int(tier[3:])]

    def _work(
        self,
        tier: str,
        what: str,
        n_bytes: float,
        flop: float,
        n_elements: float = 0.0,
        *,
        more: Names = (),
        label: str = "",
        times: Times = ONCE,
        quant: str = "",
        ways: Names = (),
        n_experts: int = 0,
    ) -> None:
        cache = what == "KV cache"
        if tier in _HOST_TIERS and not cache and not quant:
            each = flop / (2.0 * n_elements) if n_elements else self.step.n_tokens
            prompt, cpu = self.step.tokens_per_sequence > 1, self.hardware.host.cpu
            for share in type_shares(self.graph, label or what):
                part = n_bytes * share.bytes_frac, flop * share.flop_frac
                kernels = tiles_of(
                    self.engine, self.workload.engine_date, cpu, share.qtype, each, prompt=prompt
                )
                self._work(
                    tier, what, *part, more=more, label=label, times=kernels.times(times), quant=share.qtype,
                    ways=kernels.names,
                )  # fmt: skip
            return
        # Each sequence has a cache of its own: however many decode together, each is read for one row.
        rates = self._at(tier, self.step.tokens_per_sequence if cache else self.step.n_tokens, quant=quant)
        rows_each = flop / (2.0 * n_elements) if n_elements else 0.0
        widened = self._widens(tier, rows_each, n_experts)
        if widened:
            first, n_bytes = widening_op(rates, tier, self.engine.family, n_bytes, n_elements, times)
            self.ops.append(first)
            rates = self._at(tier, widened=True)
        # Grouped kernels of experts use the narrow instruction everywhere (vLLM fused_moe: BLOCK_SIZE_M 16).
        rows = min(rates.tile_rows, 16) if what == "experts" else rates.tile_rows
        computed, inputs = flop * times.computing, rates.inputs
        tiles = 2.0 * n_elements * times.moving * rows
        if rows > 1 and tiles > computed:
            computed, inputs = tiles, {**inputs, "FLOP of whole tiles": tiles}
        moving, computing = rates.names(what)
        computing += ways
        if widened:
            gpu, date = self.hardware.gpus[int(tier[3:])], self.workload.engine_date
            computing += library_names(gpu, self.engine.family, date)
        norm = rates.norms.of(what)
        # Kernels for several rows multiply on other units, but widen weights as those for one row do; they
        # keep tiles of them: some are fetched while others are widened, whatever the memory is.
        alone, unpacked = self._at(tier, 1), Widened()
        if n_elements and alone.vector and not rates.vector and not widened:
            unpacked = alone.widened(what, rows_each, self.step.n_tokens, n_elements * times.moving)
        formula = f"bytes / bandwidth {'+' if norm == SUM else f'overlapping (norm {norm:g})'} FLOP / rate"
        if unpacked.seconds:
            formula = "bytes / bandwidth with 2 x elements / FP32 rate, both overlapping FLOP / rate"
            inputs = {**alone.inputs, **inputs, "elements": unpacked.elements}
        watts = None if cache else rates.watts
        if watts:
            formula, inputs = f"{formula}, itself overlapping FLOP / (W x FLOP per J)", {**inputs, "W": watts}
        self.ops.append(
            Op(
                f"{'CPU' if tier in _HOST_TIERS else tier} {label or what}",
                n_bytes * times.moving / rates.bytes_per_s,
                (*moving, *more) if more else moving,
                computed / (rates.score_flop_per_s if cache else rates.flop_per_s),
                computing,
                flop * times.computing / watts if watts else 0.0,
                rates.drawing,
                norm,
                n_bytes,
                flop,
                formula,
                {**inputs, **times.inputs} if times.inputs else inputs,
                unpacking_s=unpacked.seconds,
                unpacking=unpacked.names,
                unpacking_norm=unpacked.norm,
                least_unpacking_s=unpacked.least_s,
                least_norm=unpacked.least_norm,
            )
        )

    def _widens(self, tier: str, rows: float, n_experts: int) -> bool:
        """Whether a library multiplies ``rows`` rows with weights that were widened to 16 bits."""
        if (gpu := self._gpu(tier)) is None or self.step.n_tokens <= 1:
            return False
        stored = main_type(self.graph, stored=True)
        return widens_weights(self.engine, gpu, self.workload.engine_date, stored, rows, n_experts)

    def _unpack(self, tier: str, n_elements: float) -> None:
        """Widening packed weights: each of them once a step, however many rows they meet."""
        rates = self._at(tier)
        if rates.unpack_per_s is None:
            return
        inputs = {"elements": n_elements, "fp32_flop_per_s": rates.unpack_per_s}
        seconds, formula = n_elements / rates.unpack_per_s, "packed elements / FP32 rate"
        self.ops.append(Op(f"{tier} unpacking", seconds, rates.unpacking, formula=formula, inputs=inputs))

    def _runs_on(self, tier: str, group: LayerGroup | None, n_bytes: float) -> str:
        """Where weights that live on ``tier`` are computed; copying them there is noted."""
        if tier not in _HOST_TIERS or not self._streams(group):
            return tier
        self.ops.append(stream_op(self.hardware, self.engine, self.workload, self.placement, n_bytes))
        return "gpu0"

    def _streams(self, group: LayerGroup | None) -> bool:
        """Whether weights in RAM are copied to the GPU for this step instead of computed on the CPU."""
        return streams(self.placement, self.batch, group)

    def _all_reduce(self, n_layers: int) -> None:
        """Two sums over all GPUs a layer: waits for each other, and the bytes that the links carry."""
        n, family = self.placement.tensor_parallel, self.engine.family
        direct, link = joined(self.hardware, n)
        n_bytes = self.step.n_tokens * self.graph.spec.hidden_size * _REDUCED_BYTES
        waits, moved = all_reduce_work(n, n_bytes, direct=direct)
        names: Names = (f"{family}.all_reduce_s",)
        if family == "server" and direct:
            at = self._at("gpu0").architecture, f"{family}.engine.{self.engine.id}"
            names += tuple(f"{name}.all_reduce_time" for name in at)
        formula, counts = "2 x layers x waits x s", {"layers": n_layers, "n_gpus": n, "waits": waits}
        op = Op("all-reduce latency", 2.0 * n_layers * waits, names, formula=formula, inputs=counts)
        self.ops.append(op)
        if link is None:
            return
        rate = self.hardware.gpus[0].peer_bytes_per_s if direct else None
        rate = rate or link.effective_bytes_per_s
        formula = "2 x layers x bytes that each GPU sends for one sum / link"
        inputs = {"link": link.id, "bytes_per_s": rate}
        moved *= 2.0 * n_layers
        names = (f"{family}.all_reduce.bandwidth",)
        self.ops.append(Op("all-reduce", moved / rate, names, n_bytes=moved, formula=formula, inputs=inputs))

    def _at(self, tier: str, rows: float = math.inf, *, widened: bool = False, quant: str = "") -> Rates:
        """Rates for kernels of that many rows, ``widened`` to 16 bits or, on a CPU, of ``quant``."""
        key = tier, rows <= 1, widened, quant
        rates = self._rates.get(key)
        if rates is None:
            if tier in _HOST_TIERS:
                decode = self.step.tokens_per_sequence <= 1
                rates = host_rates(
                    self.hardware, self.workload.threads, self.engine, self.eras, quant or self.quant,
                    decode=decode, rows=self.step.n_tokens,
                    attention=attention_marks(self.engine, self.workload, self.graph.spec, decode=decode),
                )  # fmt: skip
            else:
                first, shards = int(tier[3:]), self.placement.tensor_parallel
                # All wait for the slowest that has a shard.
                gpus = self.hardware.gpus[first : first + shards]
                gpu = min(gpus, key=lambda gpu: gpu.bandwidth_bytes_per_s)
                vector = self.engine.family == "local" and rows <= 1
                rates = gpu_rates(
                    gpu, self.engine, self.workload.engine_date, "f16" if widened else self.quant, shards,
                    vector=vector, fused=self.workload.flash_attention,
                )  # fmt: skip
            self._rates[key] = rates
        return rates
