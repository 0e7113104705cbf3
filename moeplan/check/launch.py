"""From the settings of an engine's command line to what moeplan is asked.

What the file states is taken as it stands; what it leaves out follows the engine's own default, and every
such step is told. Numbers that decide the size keep the place where they are written.
"""

from __future__ import annotations

from typing import Any

from moeplan.check.override import moved_layers
from moeplan.check.stated import Stated
from moeplan.check.stated_types import kv_type, quant
from moeplan.domain.deployment import Launch, ServeSettings
from moeplan.domain.model import ModelSpec
from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.domain.value import Value
from moeplan.errors import NotModelled

# What llama-server opens by itself, on a unified cache (tools/server/server.cpp, November 2026).
_AUTO_SLOTS = 4


class Sizing(Value):
    """A launch as moeplan is asked about it."""

    launch: Launch
    settings: ServeSettings
    request: EstimateRequest
    static_frac: float | None = None
    """SGLang: most of a device that weights and cache may take together."""
    least_context: int = 0
    """With ``context="max"`` the engine shortens the context by itself, but not below this."""
    impossible: str = ""
    """Why the file contradicts itself; empty where it does not."""
    impossible_line: int = 0
    notes: tuple[str, ...] = ()

    def line_of(self, *meanings: str) -> int:
        """The line of the first of these settings that the file states, else the launch's own."""
        stated = (self.settings.get(means) for means in meanings)
        return next((s.word.line for s in stated if s is not None and s.word.line), self.launch.line)


def sizing_of(
    launch: Launch,
    settings: ServeSettings,
    spec: ModelSpec,
    *,
    model: str,
    named_quant: str | None,
    hardware: str | None,
    machine: MachineFlags,
    n_machine_gpus: int | None,
    has_quant: bool,
) -> Sizing:
    """The question that a launch asks.

    ``named_quant`` is what the model's name says of its quantisation; ``n_machine_gpus`` is None where the
    machine is a kind of GPU whose count the file decides; ``has_quant`` is True for weight files.
    """
    return _Builder(launch, settings, spec, named_quant, n_machine_gpus, has_quant).build(
        model, hardware, machine
    )


class _Builder(Stated):
    def __init__(
        self,
        launch: Launch,
        settings: ServeSettings,
        spec: ModelSpec,
        named_quant: str | None,
        n_machine_gpus: int | None,
        has_quant: bool,
    ) -> None:
        super().__init__(launch, settings, spec)
        self.named_quant = named_quant
        self.n_machine_gpus = n_machine_gpus
        self.has_quant = has_quant
        self.impossible = ""
        self.impossible_line = 0

    def build(self, model: str, hardware: str | None, machine: MachineFlags) -> Sizing:
        """Everything put together."""
        from msgspec.structs import replace

        n_gpus, tensor_parallel = self.gpus()
        context, batch, least = self.context()
        flags = machine
        if self.n_machine_gpus is None or n_gpus < self.n_machine_gpus:
            flags = replace(machine, n_gpus=max(1, n_gpus))
        if self.llama and self.launch.ram_bytes is not None:
            flags = replace(flags, ram_gib=f"{self.launch.ram_bytes}B")
        gpu_layers, cpu_moe = self.layers(n_gpus)
        request = EstimateRequest(
            model=model,
            hardware=hardware,
            machine=flags,
            quant=None if self.has_quant else quant(self, self.named_quant),
            engine=self.table.engine,
            context=context,
            batch=batch,
            kv_type=kv_type(self),
            ubatch=self.value("ubatch"),
            flash_attention=self.value("flash_attention"),
            gpu_layers=gpu_layers,
            cpu_moe=cpu_moe,
            tensor_parallel=tensor_parallel,
            expert_parallel=self.expert_parallel(tensor_parallel),
            threads=self.value("threads"),
            memory_utilization=self.utilization(),
            mmap=self.mmap(),
            **self.cache(),
        )
        return Sizing(
            launch=self.launch,
            settings=self.settings,
            request=request,
            static_frac=self.value("static_fraction"),
            least_context=least,
            impossible=self.impossible,
            impossible_line=self.impossible_line,
            notes=tuple(self.notes),
        )

    # ── GPUs ──────────────────────────────────────────────────────────────────────────────────

    def gpus(self) -> tuple[int, int | None]:
        """(GPUs used, tensor parallelism asked of the engine)."""
        given = self.launch.n_gpus
        stated = given if isinstance(given, int) else self.n_machine_gpus
        if isinstance(given, int) and self.n_machine_gpus is not None and given > self.n_machine_gpus:
            self.refuse(
                f"the file asks for {given} GPUs, the machine has {self.n_machine_gpus}",
                self.launch.gpus_line,
            )
            stated = self.n_machine_gpus
        if self.llama:
            return self.llama_gpus(stated), None
        wanted = self.value("tensor_parallel")
        if wanted is None:
            shards = self.table.gpus == "all" and str(self.value("sharded") or "true").lower() != "false"
            wanted = (stated or 1) if shards else 1
        if stated is not None and wanted > stated:
            flag = self.flag("tensor_parallel")
            gets = "none" if stated == 0 else str(stated)
            self.refuse(
                f"{flag} {wanted} needs {wanted} GPUs, and it gets {gets}", self.line("tensor_parallel")
            )
            wanted = max(stated, 1)
        elif stated is not None and stated > wanted:
            self.notes.append(f"uses {wanted} of the {stated} GPUs it gets ({self.flag('tensor_parallel')})")
        return wanted, wanted

    def expert_parallel(self, tensor_parallel: int | None) -> int | None:
        """GPUs that share whole experts: a switch means all of them. Part of them is not priced apart."""
        wanted = self.value("expert_parallel")
        if not wanted or tensor_parallel is None or tensor_parallel < 2 or not self.spec.is_moe:
            return None
        return tensor_parallel if wanted is True or wanted == tensor_parallel else None

    def llama_gpus(self, stated: int | None) -> int:
        """GPUs that llama.cpp spreads over: all it sees, unless told otherwise."""
        n = stated if stated is not None else 1
        if self.launch.n_gpus is None and self.is_cpu_image():
            self.notes.append("the image has no GPU support: computed on the CPU")
            return 0
        device = self.value("device")
        if device is not None:
            n = 0 if device == "none" else min(n, len(str(device).split(",")))
        if self.value("split_mode") == "none":
            n = min(n, 1)
        if self.value("split_mode") in ("row", "tensor"):
            raise self.error(
                "split_mode", f"not modelled: {self.flag('split_mode')} {self.value('split_mode')}"
            )
        shares = str(self.value("tensor_split") or "").replace("/", ",").split(",")
        if len({share.strip() for share in shares}) > 1:
            raise self.error(
                "tensor_split", "not modelled: an uneven split over GPUs", "leave it out or make it even"
            )
        return n

    def is_cpu_image(self) -> bool:
        """Whether the container's image is llama.cpp's build without a GPU backend."""
        image = self.launch.image
        tag = image.rpartition(":")[2] if image is not None and ":" in image else ""
        return bool(tag) and not any(
            kind in tag for kind in ("cuda", "rocm", "vulkan", "musa", "intel", "sycl")
        )

    def refuse(self, why: str, line: int) -> None:
        """Remember the first contradiction."""
        if not self.impossible:
            self.impossible, self.impossible_line = why, line or self.launch.line

    # ── sizes ─────────────────────────────────────────────────────────────────────────────────

    def context(self) -> tuple[int | Any, int, int]:
        """(tokens of one sequence or "max", sequences, least context when the engine adapts it)."""
        if self.llama:
            return self.llama_context()
        context = self.value("context")
        if context == "max":
            return "max", 1, 1
        if context is None and self.table.id == "tgi":
            self.notes.append(f"no {self.flag('context')}: TGI takes as much as fits")
            return "max", 1, (self.value("max_input") or 0) + 1
        if context is None:
            context = self.spec.context_tokens
            self.notes.append(f"no {self.flag('context')}: the model's own {context:,} tokens")
        total = self.value("context_total")
        return context, max(1, int(total) // int(context)) if total else 1, 0

    def llama_context(self) -> tuple[int | Any, int, int]:
        """llama.cpp divides its context among its slots; unset, it takes the model's and may lower it."""
        slots = int(self.value("batch") or 1)
        total = self.value("context_total") or self.value("context") or self.table.default_context_tokens
        if total is None and self.value("fit") is False:
            total = self.spec.context_tokens * slots
            self.notes.append(
                f"no {self.flag('context_total')}: the model's own {self.spec.context_tokens:,} tokens"
            )
        if total is None:
            least = min(int(self.value("fit_context") or 4096), self.spec.context_tokens)
            self.notes.append(
                f"no {self.flag('context_total')}: llama.cpp takes the model's context and shortens it to "
                f"what fits, down to {least:,} tokens (--fit)"
            )
            return "max", slots, least
        if self.value("context") is None and self.value("context_total") is None:
            self.notes.append(f"no num_ctx: {self.table.id} takes {total:,} tokens")
        if int(total) // slots < 2:
            raise self.error("batch", f"{slots} slots share a context of {total} tokens")
        return int(total) // slots, slots, 0

    def cache(self) -> dict[str, Any]:
        """How the engine lays out its cache; llama-server keeps one row of logits a slot."""
        program = self.launch.argv[0] if self.launch.argv else ""
        if self.table.engine == "vllm":
            return {"swa_full": bool(self.value("full_window_cache"))}
        if self.table.id != "llama.cpp" or program.rpartition("/")[2].startswith("llama-cli"):
            return {}
        told = self.value("batch")
        slots = int(told or _AUTO_SLOTS)
        if told is None:
            self.notes.append(f"no {self.flag('batch')}: {slots} slots share one cache")
        return {
            "slots": slots,
            "kv_unified": told is None or bool(self.value("kv_unified")),
            "swa_full": bool(self.value("full_window_cache")),
            "output_rows": slots,
        }

    def utilization(self) -> float | None:
        """The share of memory; SGLang's is of weights and cache alone and is judged apart."""
        return 1.0 if self.value("static_fraction") is not None else self.value("memory_utilization")

    # ── placement ─────────────────────────────────────────────────────────────────────────────

    def layers(self, n_gpus: int) -> tuple[Any, Any]:
        """(GPU layers, layers with experts in RAM) of llama.cpp; None where it is left open."""
        if not self.llama:
            return None, None
        if n_gpus == 0:
            return 0, None
        gpu_layers: Any = self.value("gpu_layers")
        cpu_moe: Any = "all" if self.value("cpu_moe_all") else self.value("cpu_moe")
        patterns = self.value("override_tensor")
        if patterns is not None:
            try:
                cpu_moe = moved_layers(str(patterns), self.spec)
            except NotModelled as error:
                raise self.error("override_tensor", str(error)) from None
        if not self.spec.is_moe and cpu_moe is not None:
            self.notes.append("experts in RAM: the model has none")
            cpu_moe = None
        if cpu_moe == 0:
            cpu_moe = None
        if gpu_layers is None and self.value("fit") is False:
            gpu_layers = "all"
        return gpu_layers, cpu_moe

    def mmap(self) -> bool | None:
        """False where the file keeps weights resident: --no-mmap, --mlock and their like."""
        if not self.llama:
            return None
        mode = str(self.value("load_mode") or "")
        if self.value("mmap_off") or self.value("mlock") or self.value("use_mlock"):
            return False
        if self.value("use_mmap") is False or (mode and mode not in ("auto", "mmap")):
            return False
        return None
