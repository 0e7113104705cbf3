"""An Estimate written by hand, for the tests of its renderers: every figure is chosen, none computed."""

from __future__ import annotations

from typing import Any

from moeplan.domain.graph import ParamCounts
from moeplan.domain.hardware import CpuSpec, GpuSpec, HardwareSpec, HostSpec, StorageSpec
from moeplan.domain.model import Block, GqaAttention, ModelSpec, MoeFfn
from moeplan.domain.result import Confidence, DeviceMemory, Estimate, MemoryReport, PhaseTime, Range, Support
from moeplan.domain.workload import Placement, Workload
from moeplan.provenance import Source, Term

GIB = 2**30
N_LAYERS = 32

MODEL = ModelSpec(
    id="mixtral-8x7b",
    name="Mixtral 8x7B",
    architecture="mixtral",
    hidden_size=4096,
    vocab_size=32000,
    context_tokens=32768,
    blocks=(
        Block(
            name="moe",
            mixer=GqaAttention(n_heads=32, n_kv_heads=8, head_dim=128, v_head_dim=128),
            ffn=MoeFfn(n_experts=8, n_active=2, expert_intermediate=14336),
        ),
    ),
    layout=(0,) * N_LAYERS,
)
GPU = GpuSpec(
    id="rtx-4090",
    name="GeForce RTX 4090",
    vendor="nvidia",
    segment="consumer",
    architecture="Ada",
    memory_bytes=24 * GIB,
    bandwidth_bytes_per_s=1.008e12,
    peak_flop_per_s={"fp16": 165.2e12},
)
CPU = CpuSpec(
    id="ryzen-9-7950x",
    name="AMD Ryzen 9 7950X",
    segment="desktop",
    sockets=1,
    cores=16,
    threads=32,
    isa=("avx2",),
)
HOST = HostSpec(
    cpu=CPU,
    ram_bytes=64 * GIB,
    ram_bytes_per_s=80e9,
    ram_basis="stated",
    storage=StorageSpec(id="nvme-gen4", name="NVMe Gen4 x4", read_bytes_per_s=7.3e9),
)
EXPLAIN = Term(
    "decode step",
    0.08,
    "s",
    "sum of the parts",
    {},
    Source("fitted", "residuals"),
    (
        Term(
            "ram experts",
            0.06,
            "s",
            "bytes / (bandwidth x efficiency)",
            {"bytes": 3_360_000_000, "bandwidth": "80 GB/s", "efficiency": 0.7},
            Source("fitted", "calibration of 2026-11", "2026-11-20"),
        ),
        Term("gpu0 weights", 0.02, "s", source=Source("datasheet", "NVIDIA data sheet")),
    ),
)


def gpu_memory(device: str, weights_gib: float = 10.0) -> DeviceMemory:
    """A GPU with 1 GiB of cache, 0.75 of buffers, 0.5 of overhead and 24 of capacity."""
    return DeviceMemory(
        device=device,
        name=GPU.name,
        weights_bytes=int(weights_gib * GIB),
        kv_bytes=GIB,
        state_bytes=0,
        compute_bytes=GIB * 3 // 4,
        output_bytes=0,
        overhead_bytes=GIB // 2,
        capacity_bytes=24 * GIB,
    )


RAM = DeviceMemory(
    device="ram",
    name="RAM",
    weights_bytes=15 * GIB,
    kv_bytes=0,
    state_bytes=0,
    compute_bytes=GIB // 4,
    output_bytes=125 * 1024,
    overhead_bytes=20 * 2**20,
    capacity_bytes=62 * GIB,
)


def sample(*, gpus: tuple[float, ...] = (10.0,), n_sequences: int = 1, **changes: Any) -> Estimate:
    """An estimate of Mixtral with its experts in RAM; ``gpus`` lists GiB of weights on each GPU."""
    memory = MemoryReport(devices=(*(gpu_memory(f"gpu{i}", w) for i, w in enumerate(gpus)), RAM))
    values: dict[str, Any] = {
        "model": MODEL,
        "quant": "q4_k_m",
        "params": ParamCounts(
            total=46_702_792_704,
            active=12_879_925_248,
            active_no_input_embedding=12_748_853_248,
            active_no_embeddings=12_617_781_248,
            routed_experts=45_097_156_608,
            by_role={},
        ),
        "weights_bytes": 25 * GIB,
        "hardware": HardwareSpec(id="rtx-4090", name="GeForce RTX 4090", gpus=(GPU,) * len(gpus), host=HOST),
        "workload": Workload(
            context_tokens=8192,
            prompt_tokens=512,
            output_tokens=128,
            n_sequences=n_sequences,
            kv_type_k="f16",
            kv_type_v="f16",
            engine="llama.cpp",
            ubatch_tokens=512,
            batch_tokens=2048,
            flash_attention=True,
        ),
        "placement": Placement(
            kind="experts",
            dense_tiers=("gpu0",) * N_LAYERS,
            expert_tiers=("ram",) * 20 + ("gpu0",) * 12,
            embedding_tier="ram",
            head_tier="gpu0",
            gpu_layers=33,
            cpu_moe=20,
        ),
        "memory": memory,
        "fits": memory.fits,
        "fix": "" if memory.fits else "--cpu-moe 26",
        "level": 0.8,
        "decode": PhaseTime(
            seconds=0.08,
            bound="ram experts",
            terms=(("ram experts", 0.06), ("gpu0 weights", 0.02)),
            badge="fitted",
            flop=25.8e9,
            bytes_read=7.5e9,
        ),
        "decode_step_s": Range(low=0.0625, expected=0.08, high=0.1),
        "prefill": PhaseTime(
            seconds=1.28,
            bound="pcie",
            terms=(("pcie", 1.0), ("gpu0", 0.28)),
            badge="fitted",
            flop=13.1e12,
            bytes_read=9e9,
        ),
        "prefill_s": Range(low=1.024, expected=1.28, high=1.6),
        "load_s": 4.1,
        "flop_prefill": 13.1e12,
        "flop_decode_per_token": 25.8e9,
        "experts_touched_per_layer": 2.0,
        "confidence": Confidence(
            badge="fitted",
            regime="decode/experts/moe",
            n_reference_setups=14,
            extrapolated=False,
            engine_status="measured",
            prefill=Support(regime="prefill/experts/moe", n_reference_setups=23, extrapolated=False),
        ),
        "not_modelled": ("MTP heads are not loaded",),
        "assumptions": ("context 8,192 tokens", "RAM bandwidth 80 GB/s: the usual memory of this CPU"),
        "explain": (EXPLAIN,),
    }
    return Estimate(**(values | changes))
