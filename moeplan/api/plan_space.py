"""What a plan may choose from: engines, quantisations, cache types, micro-batches, batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from moeplan.api.workload import build_workload
from moeplan.domain.plan import PlanRequest, Rejected
from moeplan.engines.formats import unreadable
from moeplan.engines.machines import lacks
from moeplan.engines.options import has_cache
from moeplan.engines.traits import ENGINES, EngineTraits, find_engine
from moeplan.errors import NotModelled, OptionError, SpecError
from moeplan.predict.notes import TIGHT_BYTES
from moeplan.search.search import Variant
from moeplan.units import fmt_bytes

if TYPE_CHECKING:
    from moeplan.api.resolve import Session
    from moeplan.domain.hardware import HardwareSpec
    from moeplan.domain.request import EstimateRequest
    from moeplan.predict.problem import Problem

GGUF_QUANTS = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")
"""The sizes that publishers of GGUF files offer most."""
SERVER_QUANTS = ("bf16", "fp8", "awq-int4-g128")
LEAST_QUANT, LEAST_BITS = "q4_k_m", 4.0
"""Without --min-quant: the narrowest GGUF type, and the fewest bits per weight of a server's. Narrower types
cost quality that most people notice. A choice, not physics."""
UBATCHES = (512, 1024, 2048, 4096)
# 31 is the most for which ggml leaves weights in RAM to the CPU (engines/offload.py): a step of one sequence
# more can take many times as long.
BATCHES = (1, 2, 4, 8, 16, 24, 31, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class Space:
    """The choices of one request on one machine. Reads each quantisation once."""

    def __init__(
        self, session: Session, request: PlanRequest, hardware: str | None, *, roomy: bool = True
    ) -> None:
        """``roomy``: a little of each GPU is kept free, unless something else was said."""
        self.session, self.request, self.hardware_name = session, request, hardware
        self.assumptions: list[str] = []
        self.not_modelled: list[str] = []
        self._base: EstimateRequest = replace(request.base, hardware=hardware, context=self._context())
        self.source = session.source(request.base.model)
        self.hardware = self._hardware()
        self.engines = self._engines()
        self._roomy = roomy and self._keep_room()
        self._name_order()
        self.choices = [
            choice for engine in self.engines for choice in self._quantised(engine, self._quants(engine))
        ]

    def variants(
        self,
        *,
        context: int | None = None,
        kv_types: tuple[str, ...] = (),
        hardware: HardwareSpec | None = None,
        narrower: bool = False,
    ) -> Iterator[Variant]:
        """Every combination, least memory last. ``narrower`` adds the types below the floor."""
        for problem, bits in self.choices:
            engine = problem.engine
            if not narrower and bits < self._floor(engine):
                continue
            machine = hardware or problem.hardware
            for kv in kv_types or self.request.kv_types or (self._base.kv_type or "f16",):
                if not has_cache(engine, kv):
                    continue
                for batch in self._batches():
                    for ubatch in self._ubatches(engine, problem):
                        base = replace(
                            self._base,
                            context=context or problem.workload.context_tokens,
                            kv_type=kv,
                            batch=batch,
                            ubatch=ubatch,
                        )
                        if context is not None:
                            base = _shortened(base, context)
                        workload = build_workload(base, problem.graph.spec, engine, [])
                        trial = problem._replace(workload=workload, hardware=machine)
                        yield Variant(trial, bits)

    # ── one after the other ──────────────────────────────────────────────────────────────────────

    def _context(self) -> int | None:
        asked, least = self.request.base.context, self.request.limits.min_context_tokens
        if asked == "max":
            asked = None
        if asked is None and least is None:
            return None
        return max(asked or 0, least or 0)

    def _hardware(self) -> HardwareSpec:
        """The machine, before any engine is chosen for it."""
        from moeplan.hw.detect import detect
        from moeplan.readers.hardware import resolve_hardware

        return resolve_hardware(self._base.hardware, self._base.machine, self.session.catalog, detect=detect)

    def _engines(self) -> tuple[EngineTraits, ...]:
        asked = self.request.engines or ((self._base.engine,) if self._base.engine else ())
        if asked:
            return tuple(dict.fromkeys(find_engine(name) for name in asked))
        gpus = self.hardware.gpus
        if self.source.kind == "safetensors":
            return (ENGINES["vllm"],)
        servers = (
            bool(gpus)
            and self.source.kind != "gguf"
            and all(gpu.segment == "datacenter" and not gpu.unified_memory for gpu in gpus)
            and not lacks(ENGINES["vllm"], self.hardware)
        )
        names = ("vllm",) if servers else ("llama.cpp",)
        self.assumptions.append(f"engine {names[0]}: what people run on such a machine")
        return tuple(ENGINES[name] for name in names)

    def _keep_room(self) -> bool:
        """Whether room was kept on every GPU: nobody said how much, and the engine leaves none itself."""
        hardware = self.hardware
        asked = self._base.machine.reserve_vram_gib is not None or hardware.reserve_vram_bytes > 0
        own = all(engine.family == "server" for engine in self.engines)
        if asked or own or not hardware.gpus or any(gpu.unified_memory for gpu in hardware.gpus):
            return False
        machine = replace(self._base.machine, reserve_vram_gib=f"{TIGHT_BYTES}B")
        self._base = replace(self._base, machine=machine)
        self.hardware = self._hardware()
        each = " of each GPU" if len(hardware.gpus) > 1 else " of VRAM"
        self.assumptions.append(
            f"{fmt_bytes(TIGHT_BYTES)}{each} kept free for other programs (--reserve-vram-gib)"
        )
        return True

    def _name_order(self) -> None:
        """Say which GPU is which: a split for unlike ones is wrong in another order.

        CUDA_DEVICE_ORDER is FASTEST_FIRST by default (CUDA C++ Programming Guide, environment variables).
        """
        names = [gpu.name for gpu in self.hardware.gpus]
        if len(set(names)) > 1 and any(engine.gguf for engine in self.engines):
            order = ", ".join(f"gpu{i} {name}" for i, name in enumerate(names))
            shown = "CUDA puts the fastest first, llama-server --list-devices shows it"
            self.assumptions.append(f"order of the GPUs: {order}; {shown}")

    def hinted(self, missed: Rejected) -> Rejected:
        """``missed``, with a word where only the room kept free stands in its way."""
        short = missed.need_bytes - missed.have_bytes
        if self._roomy and missed.device.startswith("gpu") and short <= TIGHT_BYTES:
            return replace(missed, hint="--reserve-vram-gib 0 would do")
        return missed

    def fallback(self) -> Space | None:
        """What else may have a plan: another engine, or VRAM used to the last byte; None where nothing."""
        if (other := self.without_server()) is not None:
            return other
        return Space(self.session, self.request, self.hardware_name, roomy=False) if self._roomy else None

    def without_server(self) -> Space | None:
        """The same with llama.cpp, which can keep weights in RAM; None where that is no change."""
        if self.request.engines or self.request.base.engine or self.engines[0].id != "vllm":
            return None
        if self.source.kind == "safetensors":
            return None
        base = replace(self.request.base, engine="llama.cpp")
        space = Space(self.session, replace(self.request, base=base), self.hardware_name)
        space.assumptions.append("engine llama.cpp: vllm has no plan here")
        return space

    def _quants(self, engine: EngineTraits) -> tuple[str, ...]:
        asked = self.request.quants or ((self._base.quant,) if self._base.quant else ())
        if asked:
            return self._read_by(engine, asked)
        if self.source.file_quant is not None and (self.source.kind == "gguf") == engine.gguf:
            return (str(self.source.file_quant),)
        native = self.source.spec.native_quant
        scheme = self.session.quants.find(native)
        if engine.gguf:
            # Trained in 4 bits: the other types would only unpack it.
            return (scheme.as_gguf,) if native == "mxfp4" and scheme.as_gguf else GGUF_QUANTS
        if native == "mxfp4":
            return (native,)
        return tuple(
            dict.fromkeys((native, *(q for q in SERVER_QUANTS if native != "fp8-block" or q != "bf16")))
        )

    def _read_by(self, engine: EngineTraits, asked: tuple[str, ...]) -> tuple[str, ...]:
        """Of several formats those that ``engine`` reads; a single pair is left to be refused."""
        why = {quant: unreadable(engine, self.session.quants.find(quant)) for quant in asked}
        if len(self.engines) == 1 and all(why.values()):
            return asked
        for quant in filter(why.get, asked):
            self._gap(f"{quant} with {engine.id}: it {why[quant]}")
        return tuple(quant for quant in asked if not why[quant])

    def _quantised(self, engine: EngineTraits, quants: tuple[str, ...]) -> Iterator[tuple[Problem, float]]:
        stated = bool(self.request.quants or self._base.quant)
        for quant in quants:
            notes: list[str] = []
            ubatch = self._base.ubatch or engine.ubatch_tokens  # chosen later, no default
            try:
                problem = self.session.problem(
                    replace(self._base, quant=quant, engine=engine.asked, batch=None, ubatch=ubatch), notes
                )
            except (NotModelled, SpecError) as error:
                if stated or (isinstance(error, OptionError) and len(self.engines) == 1):
                    raise
                self._gap(f"{quant} with {engine.id}: {error}")
                continue
            self.assumptions += [note for note in notes if note not in self.assumptions]
            yield problem, problem.graph.file_bytes * 8 / problem.graph.params.total

    def _gap(self, text: str) -> None:
        if text not in self.not_modelled:
            self.not_modelled.append(text)

    def _floor(self, engine: EngineTraits) -> float:
        stated = self.request.quants or self._base.quant or self.source.file_quant
        least = self.request.limits.min_quant or (LEAST_QUANT if engine.gguf and not stated else None)
        if self.request.limits.min_quant is None and self.source.spec.native_quant == "mxfp4":
            least = None  # trained in it
        if least is not None:
            scheme = self.session.quants.find(least, gguf=engine.gguf)
            graph = self.session.graph(self.request.base.model, scheme.id, gguf=engine.gguf)
            return graph.weights_bytes * 8 / graph.params.total - 1e-9
        return 0.0 if stated else LEAST_BITS

    def _batches(self) -> tuple[int | None, ...]:
        batch = self._base.batch
        if batch == "max" or (batch is None and self.request.objective == "throughput"):
            return BATCHES
        return (batch,)

    def _ubatches(self, engine: EngineTraits, problem: Problem) -> tuple[int, ...]:
        """Micro-batches worth trying: beyond the prompt a larger one costs memory and gains nothing."""
        asked = self.request.ubatches or ((self._base.ubatch,) if self._base.ubatch else ())
        if asked:
            return asked
        if engine.family == "server" or not engine.gguf:
            return (engine.ubatch_tokens,)
        prompt = problem.workload.prompt_tokens
        return tuple(u for i, u in enumerate(UBATCHES) if i == 0 or UBATCHES[i - 1] < prompt)


def _shortened(base: EstimateRequest, context: int) -> EstimateRequest:
    """``base`` at another context, prompt and answer cut to what it holds."""
    room = max(2, context - base.depth_tokens)
    prompt = base.prompt_tokens and min(base.prompt_tokens, room // 2)
    output = base.output_tokens and min(base.output_tokens, room - (prompt or room // 2))
    return replace(base, prompt_tokens=prompt, output_tokens=output)
