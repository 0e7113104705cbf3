"""How much of a device an engine may fill, and what it takes for itself."""

from __future__ import annotations

from moeplan.domain.hardware import GpuSpec, HardwareSpec
from moeplan.engines.traits import EngineTraits
from moeplan.units import GIB, MIB

# Driver context, libraries' workspaces and graphs of one process on a discrete GPU. Assumed: tools that
# publish a constant use 0.4-0.55 GiB for llama.cpp-like engines; vLLM-like servers capture CUDA graphs too.
LOCAL_GPU_OVERHEAD_BYTES = 512 * MIB
SERVER_GPU_OVERHEAD_BYTES = 1536 * MIB
# Peak resident size of llama.cpp beyond its own buffers: 8-20 MiB measured on 38 runs.
HOST_PROCESS_BYTES = 20 * MIB
# Operating system and other programs of a running machine. Assumed.
HOST_RESERVE_BYTES = 2 * GIB
# macOS lets the GPU wire about two thirds of memory up to 36 GiB and three quarters above
# (recommendedMaxWorkingSetSize as Metal reports it; raised with sysctl iogpu.wired_limit_mb).
APPLE_SMALL_BYTES = 36 * GIB


def gpu_capacity_bytes(gpu: GpuSpec, hardware: HardwareSpec, engine: EngineTraits) -> int:
    """Bytes of one GPU that model and engine may use together."""
    if gpu.unified_memory:
        return unified_capacity_bytes(gpu, hardware)
    return max(0, int(gpu.memory_bytes * engine.memory_utilization_frac) - hardware.reserve_vram_bytes)


def unified_capacity_bytes(gpu: GpuSpec, hardware: HardwareSpec) -> int:
    """Bytes of shared memory the GPU may use."""
    memory = gpu.memory_bytes
    if gpu.vendor == "apple":
        memory = memory * 2 // 3 if memory <= APPLE_SMALL_BYTES else memory * 3 // 4
        return max(0, memory - hardware.reserve_vram_bytes)
    return max(0, memory - HOST_RESERVE_BYTES - hardware.reserve_vram_bytes)


def ram_capacity_bytes(hardware: HardwareSpec) -> int:
    """Bytes of RAM left for the model."""
    return max(0, hardware.host.ram_bytes - HOST_RESERVE_BYTES - hardware.reserve_ram_bytes)


def gpu_overhead_bytes(gpu: GpuSpec, engine: EngineTraits) -> int:
    """Bytes an engine's process takes on a GPU before any model is loaded."""
    if gpu.unified_memory:
        return HOST_PROCESS_BYTES
    return SERVER_GPU_OVERHEAD_BYTES if engine.family == "server" else LOCAL_GPU_OVERHEAD_BYTES
