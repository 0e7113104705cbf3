"""What a user asks for, before anything is resolved: names, options, flags. None means "not said"."""

from __future__ import annotations

from typing import Literal

from moeplan.domain.value import Value

RamBasis = Literal["theoretical", "measured", "stated", "assumed"]


class MachineFlags(Value):
    """The options that describe a machine or change one.

    ``gpu`` may join unlike GPUs with ``+`` and repeat one as ``2x-rtx-3090``. Sizes may be text with a
    unit; plain numbers are in the unit of the field's name (GB/s = 10^9 bytes per second).
    """

    gpu: str | None = None
    n_gpus: int | None = None
    cpu: str | None = None
    ram_gib: str | float | None = None
    ram_gbs: str | float | None = None
    ram_basis: RamBasis = "stated"
    pcie: str | None = None
    link: str | None = None
    storage_gbs: str | float | None = None
    reserve_vram_gib: str | float | None = None


class EstimateRequest(Value):
    """Everything `moeplan estimate` can be asked; the names are those of the options."""

    model: str
    hardware: str | None = None
    machine: MachineFlags = MachineFlags()
    quant: str | None = None
    engine: str | None = None
    context: int | Literal["max"] | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    batch: int | Literal["max"] | None = None
    kv_type: str | None = None
    ubatch: int | None = None
    flash_attention: bool | None = None
    gpu_layers: int | Literal["all"] | None = None
    cpu_moe: int | Literal["all"] | None = None
    placement: str | None = None
    tensor_parallel: int | None = None
    expert_parallel: int | None = None
    """GPUs of the tensor-parallel group that share routed experts as whole ones: all of them, or 1."""
    threads: int | None = None
    slots: int | None = None
    """Sequences that the server lays its cache out for; None: as many as decode together."""
    kv_unified: bool = False
    """All sequences share the cells of one cache."""
    swa_full: bool = False
    """Window layers cache the whole context."""
    output_rows: int | None = None
    """Rows of a micro-batch whose logits are reserved; None: all of them."""
    calibration: str | None = None
    level: float = 0.8
    depth_tokens: int = 0
    memory_utilization: float | None = None
    """Share of device memory the engine may take; None: the engine's own."""
    mmap: bool | None = None
    """Whether weights in RAM are mapped from the file, so that what does not fit is read from disk again
    and again; None: as the engine does by itself."""
    repack: bool | None = None
    """Whether the CPU may keep a second, rearranged copy of 4-bit matrices; None: as the engine does."""
    kv_offload: bool | None = None
    """Whether the cache of layers on a GPU is there too, not in RAM; None: as the engine does."""
    mla: int | None = None
    """ik_llama.cpp's way with latent attention, 0 to 3; None: as it does by itself (3)."""
