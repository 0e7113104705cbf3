"""What each inference engine does with memory and placement, as far as predictions need it.

llama.cpp's behaviour is measured (its own allocation logs); that of the others is reasoned from their
documentation and marked so in every answer.
"""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from moeplan.domain.value import Value
from moeplan.domain.workload import PlacementKind
from moeplan.errors import UnknownName, nearest

Status = Literal["measured", "reasoned", "not modelled"]


class EngineTraits(Value):
    """One engine. ``family`` picks the coefficient set of the cost law."""

    id: str
    status: Status
    family: Literal["local", "server"]
    kv_block_tokens: int
    """The cache is allocated in multiples of this many tokens per sequence."""
    window_cache: Literal["padded", "hybrid", "full"]
    """Sliding-window layers keep window + micro-batch cells ("padded"), the pages of the window and of one
    scheduled batch ("hybrid"), or the whole context ("full")."""
    splits: frozenset[PlacementKind]
    multi_gpu: Literal["layer-split", "tensor-parallel"]
    gguf: bool
    """Reads GGUF files: type names that both worlds use (f16, mxfp4) mean the GGUF layout."""
    mmap: bool
    """Weights in RAM are mapped from the file, so that they may exceed free RAM (slowly)."""
    repacks_on_cpu: bool
    """CPU-only runs keep a second, rearranged copy of 4-bit matrices."""
    stream_prefill_min_tokens: int | None
    """From this many tokens a batch, CPU-resident weights are copied to the GPU and computed there;
    None: never. For MoE layers multiplied by n_experts / n_active where ``stream_scales_with_experts``."""
    stream_scales_with_experts: bool
    ubatch_tokens: int
    memory_utilization_frac: float
    """Share of device memory the engine takes at most."""
    rotates_quantised_cache: bool = False
    """Keys and values are multiplied by a Hadamard matrix before a quantised cache takes them."""
    fuses_up_gate: bool = False
    """The experts' up and gate products and their activation are one node of the graph, and so is a norm
    with its weights (ik_llama.cpp)."""
    expands_latent: bool = False
    """Keys and values of all heads are rebuilt from an MLA cache for a pass over many tokens
    (ik_llama.cpp's -mla 2 and 3)."""
    scores_latent: bool = False
    """On a GPU the scores of an MLA cache are not flash attention (ik_llama.cpp's -mla 1, March 2025)."""
    casts_mask: bool = False
    """The mask of flash attention arrives in f32 and is cast to f16 on the device (2024 and 2025)."""
    reserves_embeddings: bool = True
    """Room for embeddings given instead of tokens is part of the graph (llama.cpp since 2025)."""
    mixes_inputs: bool = False
    """Tokens and embeddings may be mixed in one batch: two more copies of the
    hidden state are reserved and never used again (builds of October 2026)."""
    crops_late: frozenset[str] = frozenset()
    """Architectures whose last layer runs for every row; those asked for are picked behind it."""
    chunks_prefill: bool = True
    """A long prompt goes through in micro-batches; without, all its rows are alive at once."""
    eager: bool = False
    """Operations are launched one by one from Python while the GPU works, and the cache of grouped heads is
    copied and expanded in every step (transformers: DynamicCache.update, repeat_kv)."""
    streams_whole_layers: bool = False
    """Layers in RAM are copied to the GPU with all their experts, whichever a token needs."""
    expert_parallel: bool = False
    """Tensor-parallel GPUs can share routed experts as whole ones; attention and its sums stay the same."""
    hosts_any_layer: bool = True
    """Experts of any number of layers can be in RAM; else those of all layers or of none."""
    prompts_first: bool = False
    """Prompts that wait are worked through, in batches of their own, before any answer goes on."""
    pipeline_copies: int = 1
    """Copies of a graph's inputs on each of several GPUs, so that micro-batches overlap."""
    chooses_attention: bool = False
    """Flash attention can be turned on and off."""
    shares_memory: bool = False
    """The share of device memory is an option."""
    latent_modes: bool = False
    """There are several ways with MLA (ik_llama.cpp's -mla)."""
    kv_types: frozenset[str] | None = None
    """Types that the cache can have; None: any."""
    fuses_experts: bool = False
    """All experts of a layer are one parameter, which belongs to no linear module: bitsandbytes passes it
    over and leaves it in 16 bit (transformers 5.24, integrations.bitsandbytes)."""
    mxfp4_tile: int = 1
    """Rows of 4-bit experts (not of their scales) are padded to multiples of this."""
    makers: frozenset[str] | None = None
    """Makers of GPUs that it has kernels for; None: any. "gaudi" is not one of Intel's GPUs here."""
    least_capability: float = 0.0
    """The oldest CUDA compute capability that it is built for."""
    cpu_tiles: Literal["", "types", "amx"] = ""
    """Prompts on a CPU go through kernels that unpack any type into tiles first (ik_llama.cpp, and
    llamafile's in ktransformers); "amx": those, and AMX ones for types that are not GGUF's."""
    interleaves_at_load: bool = False
    """Tensors in RAM are repacked to interleaved rows while they are read (ik_llama.cpp's -rtr)."""
    fused_modules: bool = False
    """Layers are replaced by ones that merge projections, write the cache in place and read it once
    (fuse_layers of AutoAWQ 0.2.9: QuantAttentionFused, WindowedCache and flash_attn_with_kvcache)."""
    backend: str = ""
    """What its kernels are written in where that is known and not the maker's own: "vulkan"."""

    @property
    def asked(self) -> str:
        """The name that answers show and ``find_engine`` finds it by, backend and all: llama.cpp (Vulkan)."""
        way = self.backend.capitalize() or ("rtr" if self.interleaves_at_load else "")
        way = "AutoAWQ" if self.fused_modules else way
        return f"{self.id} ({way})" if way else self.id


_LLAMA_SPLITS: frozenset[PlacementKind] = frozenset(
    {"gpu", "unified", "cpu", "layers", "experts", "mixed", "disk", "layer-split", "stream"}
)
# Servers take auto, 16 bit or fp8 (--kv-cache-dtype of vLLM, SGLang and TGI, KvCacheConfig of TensorRT-LLM).
_SERVER_KV_TYPES = frozenset({"f16", "bf16", "fp8"})
_GGUF_KV_TYPES = frozenset(
    {"f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"}
)  # common/arg.cpp, kv_cache_types
_SERVER_SPLITS: frozenset[PlacementKind] = frozenset({"gpu", "unified", "tensor-parallel"})

# ggml's backends for GPUs: CUDA, HIP, SYCL, Metal, Vulkan (llama.cpp docs/build.md). Servers, libraries: what
# their installation pages list, none of it Apple's GPUs (recalled 2026-11-30, not re-read).
_NVIDIA = frozenset({"nvidia"})
_GGML_MAKERS = frozenset({"nvidia", "amd", "intel", "apple"})
_SERVER_MAKERS = frozenset({"nvidia", "amd", "intel", "gaudi", "google", "aws"})
# vLLM and its kin are built for compute capability 7.0 and later (vLLM installation page, 2026).
SERVER_COMPUTE_CAPABILITY = 7.0


# Graphs that keep every row for a draft head (embeddings_nextn_masked in src/models/*.cpp, November 2026).
_CROPS_LATE = frozenset(
    {
        "gpt_oss", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "gemma4_text", "nemotron_h", "hy_v3",
        "step3p7",
    }
)  # fmt: skip


def _llama(id: str, status: Status = "measured", *, ik: bool = False) -> EngineTraits:
    # llama.cpp (ggml 0.25): cache cells padded to 256, windows to window + n_ubatch, op offload of
    # CPU-resident matrices from 32 tokens a batch (ggml_backend_cuda_device_offload_op), n_ubatch 512,
    # four copies of a graph's inputs when layers are split over GPUs (GGML_SCHED_MAX_COPIES).
    # ik_llama.cpp: whole contexts for windows, experts' up and gate fused (-fmoe), no copy at loading,
    # an offload threshold that grows with n_experts / n_active (its README and allocation logs, 2025).
    return EngineTraits(
        id=id,
        status=status,
        family="local",
        kv_block_tokens=256,
        window_cache="full" if ik else "padded",
        splits=_LLAMA_SPLITS,
        multi_gpu="layer-split",
        gguf=True,
        mmap=True,
        repacks_on_cpu=not ik,
        stream_prefill_min_tokens=32,
        stream_scales_with_experts=ik,
        ubatch_tokens=512,
        memory_utilization_frac=1.0,
        rotates_quantised_cache=not ik,
        fuses_up_gate=ik,
        expands_latent=ik,
        casts_mask=ik,
        reserves_embeddings=not ik,
        crops_late=frozenset() if ik else _CROPS_LATE,
        pipeline_copies=4,
        chooses_attention=True,
        latent_modes=ik,
        cpu_tiles="types" if ik else "",
        kv_types=_GGUF_KV_TYPES,
        makers=_GGML_MAKERS,
    )


def _server(
    id: str,
    *,
    block: int,
    utilization: float,
    hybrid: bool = False,
    expert_parallel: bool = True,
    mxfp4_tile: int = 1,
    prompts_first: bool = False,
    makers: frozenset[str] = _SERVER_MAKERS,
    least_capability: float = SERVER_COMPUTE_CAPABILITY,
) -> EngineTraits:
    return EngineTraits(
        id=id,
        status="reasoned",
        family="server",
        kv_block_tokens=block,
        window_cache="hybrid" if hybrid else "full",
        splits=_SERVER_SPLITS,
        multi_gpu="tensor-parallel",
        gguf=False,
        mmap=False,
        repacks_on_cpu=False,
        stream_prefill_min_tokens=None,
        stream_scales_with_experts=False,
        ubatch_tokens=2048,
        memory_utilization_frac=utilization,
        expert_parallel=expert_parallel,
        mxfp4_tile=mxfp4_tile,
        prompts_first=prompts_first,
        shares_memory=True,
        kv_types=_SERVER_KV_TYPES,
        makers=makers,
        least_capability=least_capability,
    )


def _library(
    id: str,
    *,
    splits: frozenset[PlacementKind],
    stream: bool,
    chunks: bool = True,
    eager: bool = False,
    hosts_any_layer: bool = True,
    fuses_experts: bool = False,
    chooses_attention: bool = False,
    shares_memory: bool = False,
    cpu_tiles: Literal["", "types", "amx"] = "",
    kv_types: frozenset[str] | None = None,
    makers: frozenset[str] | None = None,
) -> EngineTraits:
    return EngineTraits(
        id=id,
        status="reasoned",
        family="local",
        kv_block_tokens=1,
        window_cache="full",
        splits=splits,
        multi_gpu="layer-split",
        gguf=False,
        mmap=False,
        repacks_on_cpu=False,
        stream_prefill_min_tokens=1 if stream else None,
        streams_whole_layers=stream,
        stream_scales_with_experts=False,
        ubatch_tokens=2048,
        memory_utilization_frac=1.0,
        chunks_prefill=chunks,
        eager=eager,
        hosts_any_layer=hosts_any_layer,
        fuses_experts=fuses_experts,
        chooses_attention=chooses_attention,
        shares_memory=shares_memory,
        cpu_tiles=cpu_tiles,
        kv_types=kv_types,
        makers=makers,
    )


def _build() -> dict[str, EngineTraits]:
    kt: frozenset[PlacementKind] = frozenset({"gpu", "experts", "cpu"})
    hf: frozenset[PlacementKind] = frozenset({"gpu", "unified", "cpu", "layers", "stream", "layer-split"})
    gpu_only: frozenset[PlacementKind] = frozenset({"gpu", "unified", "layer-split"})
    engines = (
        _llama("llama.cpp"),
        _llama("ik_llama.cpp", ik=True),
        _llama("ollama", "reasoned"),
        _llama("lm-studio", "reasoned"),
        _llama("koboldcpp", "reasoned"),
        # vLLM: 16-token pages, gpu_memory_utilization 0.9 (EngineArgs defaults, v0.11 to v0.24), pages behind
        # the window given back (disable_hybrid_kv_cache_manager is off by default). Its Triton kernel pads
        # one side of MXFP4 values to whole tiles: from 53.39 GiB of values and 60.77 of weights follow 64.33
        # GiB for gpt-oss-120b on an H100; logged: 64.38 (vllm issue 33155, v0.14.1, January 2026). FlashInfer
        # on Blackwell pads both sides.
        _server("vllm", block=16, utilization=0.9, hybrid=True, mxfp4_tile=256),
        # SGLang: page size 1, mem_fraction_static about 0.88 on one GPU, no mixed chunks (server_args.py:
        # enable_mixed_chunk is off by default).
        _server("sglang", block=1, utilization=0.88, prompts_first=True),
        # TGI: pages of one token with prefix caching (its default, flashinfer), all memory left after a
        # warm-up (cuda_memory_fraction 1.0; launcher.md, v3.3).
        _server("tgi", block=1, utilization=1.0, expert_parallel=False),
        # TensorRT-LLM: 64-token blocks of late, free_gpu_memory_fraction 0.9 (KvCacheConfig), Ampere and
        # later (its page "Supported Hardware", 2026).
        _server("tensorrt-llm", block=64, utilization=0.9, makers=_NVIDIA, least_capability=8.0),
        # --kt-num-gpu-experts is one number for every layer (kt-kernel README, 2026); SGLang serves it.
        _library(
            "ktransformers",
            splits=kt,
            stream=False,
            hosts_any_layer=False,
            shares_memory=True,
            cpu_tiles="amx",
            kv_types=_SERVER_KV_TYPES,
            makers=frozenset({"nvidia", "amd", "intel"}),
        ),
        # attn_implementation of from_pretrained
        _library(
            "transformers",
            splits=hf,
            stream=True,
            chunks=False,
            eager=True,
            fuses_experts=True,
            chooses_attention=True,
            kv_types=frozenset({"f32", "f16", "bf16"}),
        ),
        # -nfa, --no_flash_attn (exllamav2/model_init.py)
        _library(
            "exllamav2",
            splits=gpu_only,
            stream=False,
            chooses_attention=True,
            makers=frozenset({"nvidia", "amd"}),
        ),
        _library("exllamav3", splits=gpu_only, stream=False, makers=_NVIDIA),
        _library("mlx", splits=frozenset({"unified"}), stream=False, makers=frozenset({"apple"})),
    )
    return {engine.id: engine for engine in engines}


ENGINES = _build()

# The earliest build whose buffers were seen to hold room for mixed batches (a load log, October 2026).
_MIXES_SINCE_BUILD = 11434

_VULKAN, _INTERLEAVING = (" (vulkan)", " vulkan", "-vulkan"), " (rtr)"
_FUSED_MODULES = frozenset({"autoawq", "transformers (autoawq)", "hf transformers (autoawq)"})
_ALIASES = {
    "llamacpp": "llama.cpp", "llama-cpp": "llama.cpp", "llama-server": "llama.cpp",
    "ik_llama": "ik_llama.cpp", "ik-llama.cpp": "ik_llama.cpp",
    "text-generation-inference": "tgi", "lmstudio": "lm-studio", "trtllm": "tensorrt-llm",
    "trt-llm": "tensorrt-llm",
    "hf": "transformers", "hf transformers": "transformers", "accelerate": "transformers",
    "hf accelerate (naive)": "transformers", "litgpt": "transformers", "exllama": "exllamav2",
    "mlx-lm": "mlx",
    "ktransformers kt-kernel + sglang": "ktransformers",
}  # fmt: skip


def find_engine(name: str) -> EngineTraits:
    """The traits of engine ``name`` (case ignored, common spellings accepted). Raises UnknownName."""
    key = name.strip().casefold()
    for ending in _VULKAN:
        if key.endswith(ending):
            return _on_vulkan(find_engine(key.removesuffix(ending)), name)
    if key.endswith(_INTERLEAVING):
        plain = find_engine(key.removesuffix(_INTERLEAVING))
        return replace(plain, interleaves_at_load=plain.stream_scales_with_experts)
    if key in _FUSED_MODULES:
        return replace(ENGINES["transformers"], fused_modules=True)
    engine = ENGINES.get(_ALIASES.get(key, key))
    if engine is None and " " in key:
        # "vLLM 0.21", "llama.cpp b8125": a version behind the name
        word, version = key.rsplit(" ", 1)
        if version.lstrip("bv")[:1].isdigit():
            number = version.removeprefix("b")
            return as_built(find_engine(word), int(number) if number.isdigit() else 0)
    if engine is None:
        raise UnknownName("engine", name, nearest(name, ENGINES))
    return engine


def _on_vulkan(engine: EngineTraits, name: str) -> EngineTraits:
    """``engine``, asked for as ``name``, with kernels in Vulkan. Raises UnknownName for one that has none."""
    if not engine.gguf:
        raise UnknownName("engine", name, (engine.id, "llama.cpp (Vulkan)"))
    return replace(engine, backend="vulkan")


def as_built(engine: EngineTraits, build: int) -> EngineTraits:
    """``engine`` as that build behaves, where builds are known to differ; 0 is an unknown one."""
    mixes = engine.id == "llama.cpp" and build >= _MIXES_SINCE_BUILD
    return replace(engine, mixes_inputs=True) if mixes else engine


def default_engine(quant_kind: str) -> str:
    """llama.cpp for the GGUF types, vLLM for everything else."""
    return "llama.cpp" if quant_kind.startswith("gguf") else "vllm"
