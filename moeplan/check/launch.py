"""From the settings of an engine's command line to what moeplan is asked.

What the file states is taken as it stands; what it leaves out follows the engine's own default, and every
such step is told. Numbers that decide the size keep the place where they are written.
"""

from __future__ import annotations

from typing import Any

from moeplan.check.override import moved_layers
from moeplan.domain.deployment import Launch, ServeSettings
from moeplan.domain.model import ModelSpec
from moeplan.domain.request import EstimateRequest, MachineFlags
from moeplan.domain.value import Value
from moeplan.errors import NotModelled, SpecError

# What llama-server opens by itself, on a unified cache (tools/server/server.cpp, November 2026).
_AUTO_SLOTS = 4
_KV_NAMES = {"auto": "", "bfloat16": "bf16", "float16": "f16", "half": "f16"}
# What a method named on the command line makes of a 16-bit checkpoint. vLLM 0.33 and SGLang 0.5
# (bitsandbytes: 4-bit NF4), TGI 3.3 (bitsandbytes: 8 bits).
_METHODS = {
    "fp8": "fp8", "awq": "awq", "awq_marlin": "awq", "gptq": "gptq", "gptq_marlin": "gptq", "marlin": "gptq",
    "bitsandbytes": "bnb-nf4", "mxfp4": "mxfp4", "mxfp8": "mxfp8", "w8a8_int8": "int8",
    "w8a8_fp8": "fp8-channel",
    "bitsandbytes-nf4": "bnb-nf4", "bitsandbytes-fp4": "bnb-fp4", "eetq": "int8", "moe_wna16": "gptq",
}  # fmt: skip
# These only name the format of the checkpoint; its name has to tell the widths.
_FORMATS = frozenset(
    {"compressed-tensors", "modelopt", "modelopt_fp4", "modelopt_fp8", "gguf", "auto-round", "exl2", "quark"}
)
_TYPES = {"float32": "f32", "float": "f32"}


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


class _Builder:
    def __init__(
        self,
        launch: Launch,
        settings: ServeSettings,
        spec: ModelSpec,
        named_quant: str | None,
        n_machine_gpus: int | None,
        has_quant: bool,
    ) -> None:
        self.launch = launch
        self.settings = settings
        self.spec = spec
        self.named_quant = named_quant
        self.n_machine_gpus = n_machine_gpus
        self.has_quant = has_quant
        self.table = settings.table
        self.llama = settings.table.engine in ("llama.cpp", "ollama")
        self.notes: list[str] = list(launch.notes)
        self.impossible = ""
        self.impossible_line = 0

    def value(self, means: str) -> Any:
        """The value of a setting, or None."""
        setting = self.settings.get(means)
        return None if setting is None else setting.value

    def error(self, means: str, message: str, hint: str | None = None) -> SpecError:
        """A SpecError at the setting that means ``means``."""
        setting = self.settings.get(means)
        word = setting.word if setting else None
        return SpecError(
            message,
            path=self.launch.path,
            line=(word.line if word else 0) or self.launch.line,
            column=word.column if word else None,
            hint=hint,
        )

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
            quant=self.quant(),
            engine=self.table.engine,
            context=context,
            batch=batch,
            kv_type=self.kv_type(),
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

    def flag(self, means: str) -> str:
        """The option that means ``means``, as the file writes it or as the engine calls it."""
        from moeplan.engines.flags import long_flag, option_that_means

        setting = self.settings.get(means)
        option = option_that_means(self.table, means)
        return setting.flag if setting and setting.flag else (long_flag(option) if option else means)

    def line(self, means: str) -> int:
        """Where the setting stands, else where the GPUs do, else where the launch does."""
        setting = self.settings.get(means)
        return (setting.word.line if setting else 0) or self.launch.gpus_line or self.launch.line

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

    def kv_type(self) -> str | None:
        """One name, or K and V apart."""
        k, v = self.value("kv_type_k"), self.value("kv_type_v")
        if k or v:
            return f"{k or 'f16'},{v or 'f16'}"
        name = self.value("kv_type")
        if name is None:
            return None
        name = _KV_NAMES.get(str(name), str(name))
        return ("fp8" if name.startswith("fp8") else name) or None

    def quant(self) -> str | None:
        """The quantisation: the name of the model says it, else the options, else the model's own."""
        if self.has_quant:
            return None
        method = self.value("quant_method")
        if self.named_quant is not None:
            return self.named_quant
        if method is not None and method in _FORMATS:
            raise self.error(
                "quant_method", f"{method} does not say how many bits, nor does the model's name"
            )
        if method is not None and str(method) != "none":
            if self.table.id == "tgi" and method == "bitsandbytes":
                return "bnb-int8"
            return _METHODS.get(str(method), str(method))
        if self.llama:
            return self.llama_quant()
        dtype = _TYPES.get(str(self.value("dtype")))
        return dtype if dtype and self.spec.native_quant in ("bf16", "f16") else None

    def llama_quant(self) -> str:
        """What a GGUF name without a type means: a default where the engine has one, else nothing."""
        model = self.settings.get("model")
        if self.table.default_quant and model is not None and not str(model.value).endswith(".gguf"):
            self.notes.append(
                f"quantisation {self.table.default_quant}: what {self.table.id} takes without a tag"
            )
            return self.table.default_quant
        if (
            model is not None
            and model.flag.startswith(("-hf", "--hf", "LLAMA_ARG_HF"))
            and "model_file" not in self.settings.settings
        ):
            # gpt-oss is published as one MXFP4 file; elsewhere llama.cpp looks for Q4_K_M
            quant = "mxfp4" if self.spec.native_quant == "mxfp4" else "q4_k_m"
            self.notes.append(f"quantisation {quant}: what llama.cpp takes of a repository by itself")
            return quant
        raise self.error(
            "model",
            "the name of the model file does not tell its quantisation",
            "name it as it was published, such as Mixtral-8x7B-Q4_K_M.gguf",
        )

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
