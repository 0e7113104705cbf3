"""How much of a device an engine may fill, and what it takes for itself."""

from __future__ import annotations

from moeplan.domain.hardware import GpuSpec, HardwareSpec
from moeplan.engines.traits import EngineTraits
from moeplan.units import GIB, MIB

# Driver context, libraries' workspaces and graphs of one process on a discrete GPU. Assumed: tools that
# publish a constant use 0.4-0.55 GiB for llama.cpp-like engines; vLLM-like servers capture CUDA graphs too.
LOCAL_GPU_OVERHEAD_BYTES = 512 * MIB
SERVER_GPU_OVERHEAD_BYTES = 1536 * MIB
# Peak resident size of llama.cpp beyond its own buffers, measured on 38 runs (November 2026): 9-20 MiB with
# a vocabulary of 32,000, 53 MiB with one of 262,144. The line lies above all of them.
HOST_PROCESS_BYTES = 15 * MIB
HOST_PROCESS_BYTES_PER_TOKEN = 173
# Operating system and other programs of a running machine. Assumed.
HOST_RESERVE_BYTES = 2 * GIB


def gpu_capacity_bytes(gpu: GpuSpec, hardware: HardwareSpec, engine: EngineTraits) -> int:
    """Bytes of one GPU that model and engine may use together.

    Starts from what the driver reports (ECC, the share of unified memory the system lets the GPU hold)
    where the catalog knows it, else from the nominal size. A memory shared with the host also has to hold
    the system, and what was asked to be kept free of RAM.
    """
    usable = gpu.usable_bytes
    if gpu.unified_memory:
        if gpu.visible_bytes is None:
            usable -= HOST_RESERVE_BYTES
        usable -= hardware.reserve_vram_bytes
        return max(0, min(usable, ram_capacity_bytes(hardware)) if hardware.unified else usable)
    return max(0, int(usable * engine.memory_utilization_frac) - hardware.reserve_vram_bytes)


def host_process_bytes(vocab_size: int) -> int:
    """Bytes the engine's process takes beside its buffers: code, tokenizer, graph."""
    return HOST_PROCESS_BYTES + HOST_PROCESS_BYTES_PER_TOKEN * vocab_size


def ram_capacity_bytes(hardware: HardwareSpec) -> int:
    """Bytes of RAM left for the model."""
    return max(0, hardware.host.ram_bytes - HOST_RESERVE_BYTES - hardware.reserve_ram_bytes)


def gpu_overhead_bytes(gpu: GpuSpec, engine: EngineTraits) -> int:
    """Bytes an engine's process takes on a GPU before any model is loaded."""
    if engine.family == "server":
        return SERVER_GPU_OVERHEAD_BYTES
    return HOST_PROCESS_BYTES if gpu.unified_memory else LOCAL_GPU_OVERHEAD_BYTES
