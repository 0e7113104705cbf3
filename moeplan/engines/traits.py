"""What each inference engine does with memory and placement, as far as predictions need it.

llama.cpp's behaviour is measured (its own allocation logs); that of the others is reasoned from their
documentation and marked so in every answer.
"""

from __future__ import annotations

from typing import Literal

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
    window_cache: Literal["padded", "full"]
    """Sliding-window layers keep window + micro-batch cells ("padded") or the whole context ("full")."""
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


_LLAMA_SPLITS: frozenset[PlacementKind] = frozenset(
    {"gpu", "unified", "cpu", "layers", "experts", "mixed", "disk", "layer-split", "stream"}
)
_SERVER_SPLITS: frozenset[PlacementKind] = frozenset({"gpu", "unified", "tensor-parallel"})


def _llama(id: str, status: Status = "measured", *, scales: bool = False) -> EngineTraits:
    # llama.cpp (ggml 0.25): cache cells padded to 256, windows to window + n_ubatch, op offload of
    # CPU-resident matrices from 32 tokens a batch (ggml_backend_cuda_device_offload_op), n_ubatch 512.
    return EngineTraits(
        id=id,
        status=status,
        family="local",
        kv_block_tokens=256,
        window_cache="padded",
        splits=_LLAMA_SPLITS,
        multi_gpu="layer-split",
        gguf=True,
        mmap=True,
        repacks_on_cpu=True,
        stream_prefill_min_tokens=32,
        stream_scales_with_experts=scales,
        ubatch_tokens=512,
        memory_utilization_frac=1.0,
    )


def _server(id: str, *, block: int, utilization: float) -> EngineTraits:
    return EngineTraits(
        id=id,
        status="reasoned",
        family="server",
        kv_block_tokens=block,
        window_cache="full",
        splits=_SERVER_SPLITS,
        multi_gpu="tensor-parallel",
        gguf=False,
        mmap=False,
        repacks_on_cpu=False,
        stream_prefill_min_tokens=None,
        stream_scales_with_experts=False,
        ubatch_tokens=2048,
        memory_utilization_frac=utilization,
    )


def _library(id: str, *, splits: frozenset[PlacementKind], stream: bool) -> EngineTraits:
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
        stream_scales_with_experts=False,
        ubatch_tokens=2048,
        memory_utilization_frac=1.0,
    )


def _build() -> dict[str, EngineTraits]:
    kt: frozenset[PlacementKind] = frozenset({"gpu", "experts", "cpu"})
    hf: frozenset[PlacementKind] = frozenset({"gpu", "unified", "cpu", "layers", "stream", "layer-split"})
    gpu_only: frozenset[PlacementKind] = frozenset({"gpu", "unified", "layer-split", "tensor-parallel"})
    engines = (
        _llama("llama.cpp"),
        # ik_llama.cpp scales its offload threshold with n_experts / n_active (its README, -op/offload).
        _llama("ik_llama.cpp", scales=True),
        _llama("ollama", "reasoned"),
        _llama("lm-studio", "reasoned"),
        _llama("koboldcpp", "reasoned"),
        # vLLM: 16-token pages, gpu_memory_utilization 0.9 (EngineArgs defaults, v0.11 to v0.24).
        _server("vllm", block=16, utilization=0.9),
        # SGLang: page size 1, mem_fraction_static about 0.88 on one GPU (server_args.py).
        _server("sglang", block=1, utilization=0.88),
        # TensorRT-LLM: 64-token blocks of late, free_gpu_memory_fraction 0.9 (KvCacheConfig).
        _server("tensorrt-llm", block=64, utilization=0.9),
        _library("ktransformers", splits=kt, stream=False),
        _library("transformers", splits=hf, stream=True),
        _library("exllamav2", splits=gpu_only, stream=False),
        _library("exllamav3", splits=gpu_only, stream=False),
        _library("mlx", splits=frozenset({"unified"}), stream=False),
    )
    return {engine.id: engine for engine in engines}


ENGINES = _build()

_ALIASES = {
    "llamacpp": "llama.cpp", "llama-cpp": "llama.cpp", "llama-server": "llama.cpp",
    "llama.cpp (vulkan)": "llama.cpp", "ik_llama": "ik_llama.cpp", "ik-llama.cpp": "ik_llama.cpp",
    "lmstudio": "lm-studio", "trtllm": "tensorrt-llm", "trt-llm": "tensorrt-llm",
    "hf": "transformers", "hf transformers": "transformers", "accelerate": "transformers",
    "hf accelerate (naive)": "transformers", "exllama": "exllamav2", "mlx-lm": "mlx",
    "ktransformers kt-kernel + sglang": "ktransformers",
}  # fmt: skip


def find_engine(name: str) -> EngineTraits:
    """The traits of engine ``name`` (case ignored, common spellings accepted). Raises UnknownName."""
    key = name.strip().casefold()
    engine = ENGINES.get(_ALIASES.get(key, key))
    if engine is None:
        raise UnknownName("engine", name, nearest(name, ENGINES))
    return engine


def default_engine(quant_kind: str) -> str:
    """llama.cpp for the GGUF types, vLLM for everything else."""
    return "llama.cpp" if quant_kind.startswith("gguf") else "vllm"
